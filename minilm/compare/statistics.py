"""Is a difference real? One error for each, from seeds and rows at once, and a correction for
asking often.

An outcome is a table, one value for each seed (a pretraining) and row (a test text, a pair):

    y_sn = μ + seed_s + row_n + noise_sn

Other seeds would have given another mean, and so would other rows. With S seeds and N rows

    error² = (σ²_seed + σ²_noise / N) / S + σ²_row / N  =  (MS_seed + MS_row - MS_noise) / (S N)

where MS are the mean squares of a two-way analysis of variance. A difference of two arms is such a
table too, paired by seed and row. What follows is on the safe side of the formula:

- MS_noise is not subtracted, so the rows alone keep an interval from vanishing where seeds agree.
- Three seeds know their own variance badly, and by chance it comes out far too small. So MS_seed of
  a difference is never taken for less than MS_noise times the mean of MS_seed / MS_noise over all
  differences that are asked for; and that mean, from A arms, has (A - 1)(S - 1) degrees of freedom.
- The degrees of freedom of the sum are Satterthwaite's (1946).

`tests/machinery/test_compare_statistics.py` proves by simulation what comes of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minilm.config import UserError

FEWEST_SEEDS = 3  # for a verdict
NEEDS = 'a comparison needs scipy, scikit-learn and jinja2: pip install "minilm[compare]"'


class Squares(NamedTuple):
    """What is computed of tables (..., S, N): each an array (...)."""

    mean: np.ndarray
    seed: np.ndarray  # mean square of the seeds; not a number for a single seed
    row: np.ndarray
    noise: np.ndarray


class Estimate(NamedTuple):
    """A mean, its 95 % interval, and how likely chance alone gets as far from zero; None and None
    under three seeds."""

    mean: float
    interval: tuple[float, float] | None
    p: float | None


class Verdict(NamedTuple):
    """One declared comparison: arm a minus arm b in an outcome, corrected for all of its family."""

    outcome: str
    a: str
    b: str
    estimate: Estimate
    corrected: float | None  # p after Holm's correction
    real: bool | None  # None: no verdict under three seeds


def squares(tables: np.ndarray) -> Squares:
    """The mean squares of tables (..., S, N)."""
    S, N = tables.shape[-2:]
    mean = tables.mean((-2, -1))
    by_seed, by_row = tables.mean(-1), tables.mean(-2)  # (..., S), (..., N)
    of_seeds = ((by_seed - mean[..., None]) ** 2).sum(-1) * N
    of_rows = ((by_row - mean[..., None]) ** 2).sum(-1) * S
    rest = ((tables - mean[..., None, None]) ** 2).sum((-2, -1)) - of_seeds - of_rows
    few = max(S - 1, 1)
    # Rows that all agree still leave room for one in N that would not.
    row = np.maximum(of_rows / max(N - 1, 1), 1 / N)
    return Squares(mean, of_seeds / few, row, np.maximum(rest, 0) / (few * max(N - 1, 1)))


def errors(found: Squares, shape: tuple[int, int], arms: int) -> tuple[np.ndarray, np.ndarray]:
    """The standard error of each difference of a family, and its degrees of freedom. `found`: those
    of the differences (..., differences) of tables of this shape (S, N); arms: that have seeds."""
    (S, N), (_, seed, row, noise) = shape, found
    ratios = np.where(noise > 1e-9, seed / np.maximum(noise, 1e-9), 0.0)
    ratio = ratios.sum(-1) / np.maximum((noise > 1e-9).sum(-1), 1)  # (...)
    seed = np.maximum(seed, np.maximum(ratio, 1.0)[..., None] * noise)
    freedom = max(arms - 1, 1) * (S - 1)
    satterthwaite = (seed + row) ** 2 / (seed**2 / freedom + row**2 / max(N - 1, 1))
    return np.sqrt((seed + row) / (S * N)), satterthwaite


def p_values(mean: np.ndarray, error: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Two-sided, by Student's t."""
    return 2 * student().sf(np.abs(mean) / error, freedom)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction (1979) of p (..., M): where these are below a level, the chance that any of
    the M is called real though none is lies below that level too.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, axis=-1)
    left = p.shape[-1] - np.arange(p.shape[-1])  # how many are not yet decided
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * left, axis=-1)
    corrected = np.empty_like(p)
    np.put_along_axis(corrected, order, np.minimum(stepped, 1.0), -1)
    return corrected


def estimates(tables: Sequence[np.ndarray], arms: int) -> list[Estimate]:
    """What is known of each of a family of tables (S, N), which share the knowledge of how much
    seeds matter. Under three seeds there is neither interval nor p."""
    S, N = tables[0].shape
    stacked = np.stack([np.asarray(table, dtype=float) for table in tables])  # (M, S, N)
    found = squares(stacked)
    if S < FEWEST_SEEDS:
        return [Estimate(float(mean), None, None) for mean in found.mean]
    error, freedom = errors(found, (S, N), arms)
    half, p = student().ppf(0.975, freedom) * error, p_values(found.mean, error, freedom)
    return [
        Estimate(float(m), (float(m - h), float(m + h)), float(q))
        for m, h, q in zip(found.mean, half, p, strict=True)
    ]


def verdicts(
    outcomes: dict[str, dict[str, np.ndarray]], pairs: list[tuple[str, str]], level: float
) -> list[Verdict]:
    """All declared comparisons of all outcomes, {outcome: {arm: (S, N)}}, as one family. A baseline
    without seeds is (1, N) and is compared with each seed of the other."""
    asked = []
    for outcome, of_arms in outcomes.items():
        S = max(len(values) for values in of_arms.values())
        full = {arm: np.broadcast_to(v, (S, v.shape[1])) for arm, v in of_arms.items()}
        there = [(a, b) for a, b in pairs if a in full and b in full]
        differences = [full[a].astype(float) - full[b] for a, b in there]
        with_seeds = sum(len(values) > 1 for values in of_arms.values())
        found = estimates(differences, with_seeds) if there else []
        asked += [(outcome, a, b, e) for (a, b), e in zip(there, found, strict=True)]
    if not asked or any(e.p is None for *_, e in asked):
        return [Verdict(*a, None, None) for a in asked]
    corrected = holm(np.array([e.p for *_, e in asked]))
    return [Verdict(*a, float(c), bool(c <= level)) for a, c in zip(asked, corrected, strict=True)]


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed, with Student's interval."""
    n, mean = len(values), float(np.mean(values))
    if n < FEWEST_SEEDS:
        return Estimate(mean, None, None)
    half = float(student().ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Estimate(mean, (mean - half, mean + half), None)


def student():
    """Student's t. Raises UserError where scipy is missing."""
    try:
        from scipy.stats import t
    except ImportError:
        raise UserError(NEEDS) from None
    return t
