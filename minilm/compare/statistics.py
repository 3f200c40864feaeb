"""Is a difference real? One error for each, from seeds and rows at once, and a correction for
asking often.

An outcome is a table, one value for each seed (a pretraining) and row (a test text, a pair):

    y_sn = μ + seed_s + row_n + noise_sn

Other seeds would have given another mean, and so would other rows. With S seeds and N rows

    error² = (σ²_seed + σ²_noise / N) / S + σ²_row / N  =  (MS_seed + MS_row - MS_noise) / (S N)

where MS are the mean squares of a two-way analysis of variance. A difference of two arms is such a
table too, paired by seed and row. On the safe side of the formula:

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

FEWEST_SEEDS = 3  # for an interval and a verdict


class Estimate(NamedTuple):
    """A mean, its 95 % interval, and how likely chance gets as far from 0: None under 3 seeds."""

    mean: float
    interval: tuple[float, float] | None = None
    p: float | None = None


class Verdict(NamedTuple):
    """One declared comparison: arm a minus arm b in an outcome, corrected for all of its family."""

    outcome: str
    a: str
    b: str
    estimate: Estimate
    corrected: float | None = None  # p after Holm's correction
    real: bool | None = None  # None: no verdict under three seeds

    def __str__(self):
        if self.real is None:
            return "no verdict"
        p = "p < 0.001" if self.corrected < 0.001 else f"p = {self.corrected:.2g}"
        return f"real, {p}" if self.real else f"undecided, {p}"


def crossed(tables: np.ndarray, arms: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The means, half their 95 % intervals, and p (two-sided), (..., M) each, of a family of M
    tables (..., M, S, N) that compares so many arms with seeds, by Student's t."""
    from scipy.stats import t

    S, N = tables.shape[-2:]
    mean = tables.mean((-2, -1))
    seed = N * ((tables.mean(-1) - mean[..., None]) ** 2).sum(-1)
    row = S * ((tables.mean(-2) - mean[..., None]) ** 2).sum(-1)
    noise = ((tables - mean[..., None, None]) ** 2).sum((-2, -1)) - seed - row
    noise = np.maximum(noise, 0) / ((S - 1) * max(N - 1, 1))
    # Rows that all agree still leave room for one in N that differs, by the largest value here.
    largest = np.abs(tables).max((-3, -2, -1))[..., None]  # (..., 1)
    least = np.where(largest > 0, largest, 1.0) ** 2 / N
    seed, row = seed / (S - 1), np.maximum(row / max(N - 1, 1), least)
    ratios = np.where(noise > 1e-9, seed / np.maximum(noise, 1e-9), 0.0)
    ratio = ratios.sum(-1) / np.maximum((noise > 1e-9).sum(-1), 1)  # (...)
    seed = np.maximum(seed, np.maximum(ratio, 1.0)[..., None] * noise)
    few = max(arms - 1, 1) * (S - 1)
    freedom = (seed + row) ** 2 / (seed**2 / few + row**2 / max(N - 1, 1))
    error = np.sqrt((seed + row) / (S * N))
    return mean, t.ppf(0.975, freedom) * error, 2 * t.sf(np.abs(mean) / error, freedom)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction (1979) of p (..., M): where these are below a level, the chance that any of
    the M is called real though none is lies below that level too.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order, left = np.argsort(p, axis=-1), np.arange(p.shape[-1], 0, -1)  # not yet decided
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * left, axis=-1)
    return np.take_along_axis(np.minimum(stepped, 1.0), np.argsort(order, axis=-1), -1)


def estimates(tables: dict, arms: int | None = None) -> dict:
    """{name: Estimate} of a family of tables {name: (S, N)} that compares so many arms (default:
    each is one); of a table with fewer than three seeds only the mean."""
    found = {name: Estimate(float(table.mean())) for name, table in tables.items()}
    seeded = {name: table for name, table in tables.items() if len(table) >= FEWEST_SEEDS}
    if seeded:
        stacked = np.stack([table.astype(float) for table in seeded.values()])  # (M, S, N)
        values = (array.tolist() for array in crossed(stacked, arms or len(seeded)))
        for name, mean, half, p in zip(seeded, *values, strict=True):
            found[name] = Estimate(mean, (mean - half, mean + half), p)
    return found


def verdicts(
    outcomes: dict[str, dict[str, np.ndarray]], pairs: list[tuple[str, str]], level: float
) -> list[Verdict]:
    """All declared comparisons of all outcomes, {outcome: {arm: (S, N)}}, as one family. A baseline
    without seeds is (1, N) and is compared with each seed of the other."""
    found = {}
    for outcome, of_arms in outcomes.items():
        S = max(map(len, of_arms.values()))
        full = {a: np.broadcast_to(t, (S, t.shape[1])).astype(float) for a, t in of_arms.items()}
        asked = {(outcome, a, b): full[a] - full[b] for a, b in pairs if {a, b} <= full.keys()}
        found |= estimates(asked, sum(len(table) > 1 for table in of_arms.values()))
    if any(e.p is None for e in found.values()):
        return [Verdict(*key, e) for key, e in found.items()]
    corrected = holm(np.array([e.p for e in found.values()])).tolist()
    return [Verdict(*key, e, p, p <= level)
            for (key, e), p in zip(found.items(), corrected, strict=True)]  # fmt: skip


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one value a seed, with Student's interval."""
    from scipy.stats import t

    n, mean = len(values), float(np.mean(values))
    if n < FEWEST_SEEDS:
        return Estimate(mean)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Estimate(mean, (mean - half, mean + half))
