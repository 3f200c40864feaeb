"""How good a classifier is, for people to read."""

from collections.abc import Sequence

import numpy as np

from minilm.metrics import accuracy, macro_f1, precision_recall_f1, wilson_interval


def report(confusion: np.ndarray, classes: Sequence[str], most: int = 30) -> str:
    """For people to read: accuracy with its interval, macro F1, each label's scores; with up to
    `most` labels the confusion matrix, with more the ten most confused pairs."""
    n, few = int(confusion.sum()), len(classes) <= most
    low, high = (100 * bound for bound in wilson_interval(np.trace(confusion), n))
    width, cell = max(map(len, classes)), len(f"{confusion.max()}") + 2
    lines = [f"accuracy {100 * accuracy(confusion):.1f} % (95 % interval {low:.1f} to {high:.1f}, "
             f"{n:,} texts), macro F1 {100 * macro_f1(confusion):.1f} %"]  # fmt: skip
    lines.append(f"{'':{width}}  precision  recall     F1" + "   (true, predicted) counts" * few)
    for name, scores, row in zip(classes, precision_recall_f1(confusion), confusion, strict=True):
        shares = "  ".join(f"{100 * score:5.1f} %" for score in scores)
        counts = "".join(f"{count:{cell}}" for count in row) if few else ""
        lines.append(f"{name:{width}}    {shares}{counts}")
    wrong = confusion * (1 - np.eye(len(classes), dtype=int))
    pairs = [] if few else np.argsort(-wrong, axis=None, kind="stable")[:10]
    for pair in (pair for pair in pairs if wrong.flat[pair]):
        true, predicted = (classes[i] for i in divmod(pair, len(classes)))
        lines.append(f"{wrong.flat[pair]} x {true} taken for {predicted}")
    return "\n".join(lines)
