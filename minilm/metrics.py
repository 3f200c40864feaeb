"""How good is it, and how sure are we? Everything from the confusion matrix, in NumPy."""

import math

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """How often label i was taken for label j: (C, C) counts, rows the truth.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    pairs = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes)


def accuracy(confusion: np.ndarray) -> float:
    """The share of texts whose label was found."""
    return float(np.trace(confusion) / confusion.sum())


def precision_recall_f1(confusion: np.ndarray) -> np.ndarray:
    """For each label: of those called so, the share that were (precision); of those that were, the
    share called so (recall); and their harmonic mean, F1 = 2PR / (P + R). Returns (C, 3). Where a
    share has no texts to be a share of, it is 0."""
    right = np.diag(confusion).astype(float)
    called, were = confusion.sum(0), confusion.sum(1)
    precision = right / np.maximum(called, 1)
    recall = right / np.maximum(were, 1)
    return np.stack([precision, recall, 2 * right / np.maximum(called + were, 1)], axis=1)


def macro_f1(confusion: np.ndarray) -> float:
    """The mean F1 over the labels, rare ones counting as much as frequent ones."""
    return float(precision_recall_f1(confusion)[:, 2].mean())


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """A 95 % interval for a share measured on n texts (Wilson 1927).

    >>> [round(bound, 3) for bound in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    z, share = 1.959964, right / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def report(confusion: np.ndarray, classes: list[str]) -> str:
    """Accuracy with its interval, macro F1, and per class precision, recall, F1 and the confusion
    matrix, for people to read."""
    n, right = int(confusion.sum()), int(np.trace(confusion))
    low, high = wilson_interval(right, n)
    lines = [
        f"accuracy {100 * right / n:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, "
        f"{n:,} texts), macro F1 {100 * macro_f1(confusion):.1f} %"
    ]
    width = max(len(name) for name in classes)
    cells = max(5, len(str(confusion.max())) + 1)
    lines.append(
        f"{'':{width}}  precision  recall     F1   true label in rows, predicted in columns"
    )
    for name, scores, row in zip(classes, precision_recall_f1(confusion), confusion, strict=True):
        shares = "  ".join(f"{100 * score:5.1f} %" for score in scores)
        lines.append(f"{name:{width}}    {shares}  {''.join(f'{count:{cells}}' for count in row)}")
    return "\n".join(lines)
