"""The ids of a vocabulary that stand for no word of a text."""

from typing import NamedTuple


class Special(NamedTuple):
    """What a vocabulary puts around a text, and where its ordinary words are."""

    pad: int  # beside a text that is shorter than others
    mask: int | None  # in the place of a hidden word; GPT-2 has none
    begin: int  # before a text
    end: int  # after it
    words: range  # from which random words are drawn, none of them special
