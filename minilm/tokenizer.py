"""Byte-level byte-pair encoding (being written)."""

from typing import NamedTuple


class SpecialTokens(NamedTuple):
    """The ids of a vocabulary that stand for no text, and the range of those that do."""

    pad: int
    mask: int | None
    bos: int
    eos: int
    ordinary: range
