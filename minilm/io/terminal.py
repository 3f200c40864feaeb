"""What models and files contribute cannot command a terminal."""

import re
import sys
from typing import TextIO

# Control characters but tab and line feed; marks that turn the direction of writing; half pairs,
# which no encoding takes.
_UNSAFE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escaped(text: str) -> str:
    r"""The text with every character that could act instead of being read written out.

    >>> print(escaped("clear \x1b[2J the screen"))
    clear \x1b[2J the screen
    """
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)


def printable(text: str, stream: TextIO | None = None) -> str:
    """What to print of a text that a model or a file contributed: escaped where `stream` (standard
    output, unless given) is a terminal, unchanged where it is a file or a pipe."""
    return escaped(text) if (stream or sys.stdout).isatty() else text


def note(message: str) -> None:
    """Tell the person at the terminal something on standard error, without disturbing a bar."""
    from tqdm import tqdm

    tqdm.write(printable(message, sys.stderr), file=sys.stderr)


class Escaping:
    """A terminal to which texts are written as `printable` makes them. `drawn` is the terminal
    itself, for what colours on purpose."""

    def __init__(self, drawn: TextIO):
        self.drawn = drawn

    def write(self, text: str) -> int:
        """As a stream's."""
        return self.drawn.write(escaped(text))

    def __getattr__(self, name: str):
        return getattr(self.drawn, name)
