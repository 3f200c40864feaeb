"""Which part of a data set a text belongs to: decided by the text alone, so that it never moves."""

import hashlib


def normalised(text: str) -> str:
    """The text in lower case with single blanks: texts that are equal in this are one text.

    >>> normalised("One  text\\nTWICE ")
    'one text twice'
    """
    return " ".join(text.lower().split())


def fraction(text: str, purpose: str) -> float:
    """A number in [0, 1), uniform over (normalised) texts, and independent for each purpose."""
    digest = hashlib.sha256(f"{purpose}\0{normalised(text)}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
