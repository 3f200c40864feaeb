"""Is a difference real, or noise? Intervals over test rows and over seeds, and a verdict from both.

Two kinds of noise are in an accuracy: other test texts would have given another one, and so would
other seeds (first weights, sample of labels, order). Each has its own interval, at 95 %.
"""

import math
from statistics import NormalDist

import numpy as np

from minilm.data import draws

RESAMPLES = 2000
# The 0.975 quantile of Student's t for 1, 2, ... 10 degrees of freedom; beyond, `student_t`.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def student_t(freedom: int) -> float:
    """The 0.975 quantile of Student's t: a table, then an expansion around the normal quantile
    (Abramowitz and Stegun 1964, 26.7.5), right to 0.0005 there.

    >>> round(student_t(2), 3), round(student_t(20), 3)
    (4.303, 2.086)
    """
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def seed_interval(values: list[float]) -> list[float] | None:
    """The t-interval for the mean of one value a seed; None for a single one, which measures no
    noise.

    >>> [round(bound, 2) for bound in seed_interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
    """
    n = len(values)
    if n < 2:
        return None
    half = student_t(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return [mean - half, mean + half]


def row_interval(right: np.ndarray, seed: int = 0) -> list[float]:
    """The bootstrap interval (Efron 1979) for the mean of one value a test row: what the mean would
    have been on RESAMPLES other tests, drawn with replacement from the rows of this one.

    right (N,): a row's share of right answers, or the difference of two such shares: the same rows
    are drawn for both sides of a difference, so it is a paired bootstrap.
    """
    rng, values = draws(seed, 0, "resample"), np.asarray(right, dtype=float)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    return [float(bound) for bound in np.quantile(means, (0.025, 0.975))]


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """The exact p-value of McNemar's test (1947): of the rows where only one of two classifiers is
    right, would chance alone share them out as unevenly as this?

    a, b (N,) bool, right or not. Two-sided: twice the smaller tail of the binomial with p = 1/2.
    """
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    n, few = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(few + 1))
    return min(1.0, 2 * tail / 2**n)


def compare(a: np.ndarray, b: np.ndarray) -> dict:
    """Whether classifier a is better or worse than b: the keys of a verdict in results.json.

    a, b (S, N) bool: right or not, for each seed and test row; seed s of both saw the same labels
    in the same order. One of them may have a single seed (a baseline, which draws nothing), and is
    compared with each seed of the other.

    "real" asks for both: neither the interval over rows (seeds averaged) nor that over seeds (rows
    averaged) holds zero. So one seed alone decides nothing.
    """
    seeds = max(len(a), len(b))
    a, b = np.resize(a, (seeds, a.shape[1])), np.resize(b, (seeds, b.shape[1]))
    difference = a.astype(float) - b.astype(float)  # (S, N)
    rows, by_seed = row_interval(difference.mean(0)), seed_interval(list(difference.mean(1)))
    real = by_seed is not None and all(low > 0 or high < 0 for low, high in (rows, by_seed))
    return {
        "difference": float(difference.mean()),
        "rows": rows,
        "seeds": by_seed,
        "mcnemar": [mcnemar(one, other) for one, other in zip(a, b, strict=True)],
        "verdict": "real" if real else "undecided",
    }


def labels_needed(sizes: list[int], accuracy: list[float], wanted: float) -> int | None:
    """The number of labels at which a label curve reaches an accuracy, between its points on a
    straight line over the logarithm of the labels; None where it never does. Where its first point
    is good enough, that.

    >>> labels_needed([100, 400], [0.5, 0.7], 0.6)
    200
    """
    if accuracy[0] >= wanted:
        return sizes[0]
    for i in range(1, len(sizes)):
        if accuracy[i] >= wanted:
            share = (wanted - accuracy[i - 1]) / (accuracy[i] - accuracy[i - 1])
            return round(sizes[i - 1] * (sizes[i] / sizes[i - 1]) ** share)
    return None
