"""Is a difference real? One error for each, from seeds and rows at once, and a correction for
asking often.

An outcome is a table, one value for each seed (a pretraining) and row (a test text, a pair):

    y_sn = μ + seed_s + row_n + noise_sn

Other seeds would have given another mean, and so would other rows. With S seeds and N rows

    error² = (σ²_seed + σ²_noise / N) / S + σ²_row / N  =  (MS_seed + MS_row - MS_noise) / (S N)

where MS are the mean squares of a two-way analysis of variance. A difference of arms is such a
table too, paired by seed and row. On the safe side of the formula:

- MS_noise is not subtracted, so the rows alone keep an interval from vanishing where seeds agree.
- Three seeds know their own variance badly, and by chance it comes out far too small: above all
  that of an arm whose seeds vary far more than the others', which they do in every outcome. So
  MS_seed / MS_noise of a difference is never taken for less than its mean over the outcomes, nor
  for less than the mean over all differences and outcomes. That mean, from A arms and K outcomes of
  the same pretrainings, is given (K + 1) / 2 · (A - 1)(S - 1) degrees of freedom.
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
    """One declared difference of arms in an outcome, corrected for all of its family."""

    outcome: str
    name: str
    estimate: Estimate
    corrected: float | None = None  # p after Holm's correction
    real: bool | None = None  # None: no verdict under three seeds

    def __str__(self):
        if self.real is None:
            return "no verdict"
        p = "p < 0.001" if self.corrected < 0.001 else f"p = {self.corrected:.2g}"
        return f"real, {p}" if self.real else f"undecided, {p}"


def crossed(tables: Sequence[np.ndarray], arms: int) -> np.ndarray:
    """The means, half their 95 % intervals, and p (two-sided), (3, K, ..., M), by Student's t, of
    the same M differences in K outcomes (..., M, S, N), which compare so many arms with seeds."""
    from scipy.stats import t

    parts = [_mean_squares(table) for table in tables]  # of each outcome, each (..., M)
    S = tables[0].shape[-2]
    own = np.stack([np.where(noise > 1e-9, seed / np.maximum(noise, 1e-9), 0.0)
                    for _, seed, _, noise in parts])  # (K, ..., M)  # fmt: skip
    least = np.maximum(own.mean((0, -1)), 1.0)[..., None]  # (..., 1)
    ratio = np.maximum(own.mean(0), least)  # (..., M)
    few = (len(tables) + 1) / 2 * max(arms - 1, 1) * (S - 1)
    found = []
    for table, (mean, seed, row, noise) in zip(tables, parts, strict=True):
        N = table.shape[-1]
        seed = np.maximum(seed, ratio * noise)
        freedom = (seed + row) ** 2 / (seed**2 / few + row**2 / max(N - 1, 1))
        error = np.sqrt((seed + row) / (S * N))
        found.append((mean, t.ppf(0.975, freedom) * error, 2 * t.sf(np.abs(mean) / error, freedom)))
    return np.stack(found, axis=1)


def _mean_squares(table: np.ndarray) -> tuple[np.ndarray, ...]:
    """The mean, MS_seed, MS_row and MS_noise, (..., M) each, of M differences (..., M, S, N)."""
    S, N = table.shape[-2:]
    mean = table.mean((-2, -1))
    seed = N * ((table.mean(-1) - mean[..., None]) ** 2).sum(-1)
    row = S * ((table.mean(-2) - mean[..., None]) ** 2).sum(-1)
    noise = ((table - mean[..., None, None]) ** 2).sum((-2, -1)) - seed - row
    # Rows that all agree still leave room for one in N that differs, by the largest value here.
    largest = np.abs(table).max((-3, -2, -1))[..., None]  # (..., 1)
    least = np.where(largest > 0, largest, 1.0) ** 2 / N
    noise = np.maximum(noise, 0) / ((S - 1) * max(N - 1, 1))
    return mean, seed / (S - 1), np.maximum(row / max(N - 1, 1), least), noise


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's correction (1979) of p (..., M): where these are below a level, the chance that any of
    the M is called real though none is lies below that level too.

    >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    order, left = np.argsort(p, axis=-1), np.arange(p.shape[-1], 0, -1)  # not yet decided
    stepped = np.maximum.accumulate(np.take_along_axis(p, order, -1) * left, axis=-1)
    return np.take_along_axis(np.minimum(stepped, 1.0), np.argsort(order, axis=-1), -1)


def estimates(tables: dict[str, np.ndarray]) -> dict[str, Estimate]:
    """Of tables {name: (S, N)}; of fewer than three seeds only the mean."""
    found = {name: Estimate(float(table.mean())) for name, table in tables.items()}
    if seeded := {name: t for name, t in tables.items() if len(t) >= FEWEST_SEEDS}:
        stacked = np.stack([table.astype(float) for table in seeded.values()])  # (M, S, N)
        found |= _named(seeded, crossed([stacked], len(seeded))[:, 0])
    return found


def _named(names, values: np.ndarray) -> dict[str, Estimate]:
    """Of the means, half intervals and p, (3, M)."""
    return {name: Estimate(mean, (mean - half, mean + half), p)
            for name, (mean, half, p) in zip(names, values.T.tolist(), strict=True)}  # fmt: skip


def verdicts(
    outcomes: dict[str, dict[str, np.ndarray]], asked: dict[str, dict[str, float]], level: float
) -> list[Verdict]:
    """All declared differences {name: {arm: weight}} in all outcomes, {outcome: {arm: (S, N)}}, as
    one family; those of arms that are not there are left out. A baseline without seeds is
    (1, N) and is compared with each seed of the others."""
    first = next(iter(outcomes.values()))
    asked = {name: weights for name, weights in asked.items() if weights.keys() <= first.keys()}
    S, arms = max(map(len, first.values())), sum(len(table) > 1 for table in first.values())
    stacked = []  # of each outcome, (M, S, N)
    for of in outcomes.values():
        full = {arm: np.broadcast_to(t, (S, t.shape[1])).astype(float) for arm, t in of.items()}
        stacked.append(np.stack([sum(w * full[arm] for arm, w in weights.items())
                                 for weights in asked.values()]))  # fmt: skip
    if S < FEWEST_SEEDS:
        return [Verdict(outcome, name, Estimate(float(table.mean())))
                for outcome, tables in zip(outcomes, stacked, strict=True)
                for name, table in zip(asked, tables, strict=True)]  # fmt: skip
    values = crossed(stacked, arms)  # (3, K, M)
    found = [(outcome, *item) for k, outcome in enumerate(outcomes)
             for item in _named(asked, values[:, k]).items()]  # fmt: skip
    corrected = holm(values[2].ravel()).tolist()
    return [Verdict(*one, p, p <= level) for one, p in zip(found, corrected, strict=True)]
