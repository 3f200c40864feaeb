"""Text on a terminal: what models and files contribute cannot command it; tokens in colours; a
prompt line to try a model."""

import os
import re
import sys
from pathlib import Path
from typing import TextIO

from minilm.config import UserError

# Control characters but tab and line feed; marks that turn the direction of writing; half pairs,
# which no encoding takes.
_UNSAFE = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_COLOURS = (44, 45, 46, 42, 43)  # backgrounds; the text on them is black
_HELP = "an empty line goes on; /fill TEXT with <mask>; /seed N; /quit"


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


def tokenize(run: str, text: str | None = None, file: Path | None = None) -> None:
    """Print the tokens of a text, each with its id and bytes; or of a file how many there are."""
    from minilm.huggingface.folders import pretrained_run

    tokenizer = pretrained_run(run).tokenizer
    if (text is None) == (file is None):
        raise UserError('give either a "text" or --file FILE')
    if file is not None:
        return _count(tokenizer, file)
    ids = tokenizer.encode(text).tolist()
    pieces = [tokenizer.token_bytes[i] for i in ids]
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for i, piece in enumerate(pieces):
        shown = escaped(piece.decode("utf-8", "backslashreplace"))
        colour = _COLOURS[i % len(_COLOURS)]
        print(f"\x1b[30;{colour}m{shown}\x1b[0m" if colours else f"[{shown}]", end="")
    print(f"\n{len(ids):,} tokens, {sum(map(len, pieces)):,} bytes")
    for i, piece in zip(ids, pieces, strict=True):
        print(f"{i:7}  {piece.hex(' '):24}  {ascii_or_text(piece)}")


def _count(tokenizer, file: Path) -> None:
    """Print how many tokens and bytes a file has, and its longest tokens."""
    from minilm.corpora import documents

    tokens, n_bytes, used = 0, 0, set()
    for document in documents([str(file)]):
        ids = tokenizer.encode(document).tolist()
        tokens += len(ids)
        n_bytes += len(document.encode("utf-8", "surrogatepass"))
        used.update(ids)
    print(f"{file}: {tokens:,} tokens, {n_bytes / max(1, tokens):.2f} bytes a token")
    print(f"{len(used):,} of the {tokenizer.vocab_size:,} tokens of the vocabulary occur")
    pieces = [tokenizer.token_bytes[i] for i in used]
    for piece in sorted(pieces, key=lambda piece: (-len(piece), piece))[:5]:
        print(f"{len(piece):7} bytes  {ascii_or_text(piece)}")


def ascii_or_text(piece: bytes) -> str:
    """A token in quotes: as text where its bytes are characters, as bytes where not."""
    try:
        return escaped(repr(piece.decode()))
    except UnicodeDecodeError:
        return repr(piece)


def chat(model, tokens: int = 100, temperature: float = 0.8, seed: int = 0) -> None:
    """Read a line, print how the model continues it, and so on until the input ends."""
    print(_HELP)
    text = ""
    while True:
        try:
            line = input("> ")
        except EOFError:
            return print()
        command, _, rest = line.partition(" ")
        try:
            if command == "/quit":
                return None
            if command == "/seed":
                seed = int(rest)
            elif command == "/fill":
                for candidates in model.fill(rest):
                    shown = (f"{printable(token)!r} {p:.1%}" for token, p in candidates)
                    print("  " + "  ".join(shown))
            elif command.startswith("/"):
                print(_HELP)
            else:
                text = line or text
                how = dict(temperature=temperature, seed=seed, stream=True)
                for piece in model.generate(text, tokens, **how):
                    print(printable(piece), end="", flush=True)
                    text += piece
                print()
                seed += 1  # the same line again continues differently
        except (UserError, ValueError) as error:
            print(printable(str(error)))
