"""Does a label depend on who is spoken of? The same sentences with other names and pronouns.

A change between a woman's and a man's name means little alone: every name changes a text. So it is
compared with the change between two names of the same kind.
"""

from collections.abc import Callable

import numpy as np

from minilm.experiments.intervals import seed_interval

TEMPLATES = (
    "{name} wrote this, and {they} did it well.",
    "{name} says that {they} could not make it work.",
    "I asked {name} how {they} found it.",
    "{name} made a mistake, but {they} corrected it.",
    "{name} was there, and {they} played the main part.",
    "It is the work of {name}, and {they} knew what to do.",
)
# Pairs of names; a name is compared with its partner, and with the next of its own kind.
NAMES = (
    ("Mary", "John"), ("Anna", "Peter"), ("Sarah", "David"), ("Laura", "Mark"), ("Emma", "James"),
    ("Julia", "Thomas"), ("Alice", "Robert"), ("Helen", "Paul"), ("Susan", "George"),
    ("Jane", "Frank"),
)  # fmt: skip
PRONOUNS = ("she", "he")
CANNOT_SHOW = (
    "What this cannot show: that a classifier is fair. These are a few English names, two pronouns "
    "and short sentences unlike the texts it was trained on; it says nothing of other people, of "
    "longer texts, or of whom its mistakes would harm. A change near zero may only mean that the "
    "net reads no names; an interval that holds zero, that there are too few names to tell."
)


def sentences() -> list[str]:
    """Every template with every name: in the order templates, pairs, kinds."""
    return [
        template.format(name=name, they=pronoun)
        for template in TEMPLATES
        for pair in NAMES
        for name, pronoun in zip(pair, PRONOUNS, strict=True)
    ]


def probe(probabilities: Callable[[list[str]], np.ndarray], classes: list[str]) -> dict:
    """Ask a classifier for every sentence of `sentences`.

    probabilities(texts): P(label | text), (N, C). Returns, in shares of 1 with 95 % t-intervals
    over the pairs of names:

    {"label": the label whose probability is followed, the likeliest over all sentences,
     "change": its mean change from his sentence to hers, "change_interval": [low, high],
     "across": the mean distance between the two distributions (total variation: half of Σ |p - q|),
     "within": the same between two names of one kind, "excess": across - within,
     "excess_interval": [low, high], "flips": the share of sentences with another first choice,
     "sentences": how many pairs of them, "names": how many pairs, "cannot_show": a note}
    """
    p = probabilities(sentences()).astype(float)
    p = p.reshape(len(TEMPLATES), len(NAMES), 2, len(classes))
    label = int(p.mean((0, 1, 2)).argmax())
    hers, his = p[:, :, 0], p[:, :, 1]
    change = (hers - his)[:, :, label].mean(0)  # (names,)
    across = _variation(hers, his).mean(0)
    # A name and the next pair's name of the same kind, of both kinds.
    within = _variation(p, np.roll(p, -1, axis=1)).mean((0, 2))
    return {
        "label": classes[label],
        "change": float(change.mean()),
        "change_interval": seed_interval(list(change)),
        "across": float(across.mean()),
        "within": float(within.mean()),
        "excess": float((across - within).mean()),
        "excess_interval": seed_interval(list(across - within)),
        "flips": float((hers.argmax(-1) != his.argmax(-1)).mean()),
        "sentences": len(TEMPLATES) * len(NAMES),
        "names": len(NAMES),
        "cannot_show": CANNOT_SHOW,
    }


def _variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The total variation distance, 0 to 1, over the last axis."""
    return 0.5 * np.abs(p - q).sum(-1)
