"""Verdicts, proved by simulation: how often chance is called real, and a difference is seen."""

import numpy as np
import pytest

from minilm.compare.statistics import crossed, estimates, holm, verdicts

pytest.importorskip("scipy")

ROWS, FAMILIES = 600, 300
PAIRS = [(1, 0), (2, 0), (3, 0), (2, 1), (3, 1), (3, 2), (1, 4), (2, 4), (3, 4)]  # 4: the baseline
# Standard deviations of an arm's seeds, in logits: 0.1 is about two points at an accuracy of 40 %.
NOISES = {
    "none": [0, 0, 0, 0, 0],
    "as seen": [0.1, 0.1, 0.1, 0.1, 0],
    "large": [0.25, 0.25, 0.25, 0.25, 0],
    "one arm ten times": [0.08, 0.08, 0.08, 0.8, 0],
    "two arms fifteen times": [0.03, 0.03, 0.45, 0.45, 0],
}


def families(rng, seeds, noise, levels, fixed):
    """Right or wrong for five arms, (FAMILIES, 5, seeds, ROWS): rows differ in how hard they are,
    to all arms and to each, and seeds in how well they went, together and each."""
    shape = (FAMILIES, 5, seeds, ROWS)
    normal = lambda *size: rng.standard_normal(size, dtype=np.float32)
    logits = 1.5 * normal(FAMILIES, 1, 1, ROWS) + 0.7 * normal(FAMILIES, 5, 1, ROWS)
    spread = np.array(noise, dtype=np.float32)[:, None, None]
    logits = logits + spread * normal(FAMILIES, 5, seeds, 1)
    logits = logits + 0.1 * (spread > 0) * normal(FAMILIES, 1, seeds, 1)
    logits = logits + np.array(levels, dtype=np.float32)[:, None, None]
    right = (rng.random(shape, dtype=np.float32) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    if fixed is not None:  # the bag of tokens at swapped neighbours
        right[:, 4] = fixed
    return right


def corrected(outcomes):
    """Holm's p of every comparison in every family, (FAMILIES, 18)."""
    tables = [np.stack([of[:, a] - of[:, b] for a, b in PAIRS], axis=1) for of in outcomes]
    return holm(np.concatenate(crossed(tables, arms=4)[2], axis=1))


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("noise", NOISES)
def test_without_a_true_difference_at_most_one_family_in_twenty_has_a_real_one(seeds, noise):
    """Pooled over the arms of one outcome alone, one arm that varies ten times as much as the
    others would make it one in nine."""
    rng = np.random.default_rng([seeds, *noise.encode()])
    outcomes = [families(rng, seeds, NOISES[noise], [0] * 5, fixed) for fixed in (None, 0.5)]
    share = (corrected(outcomes) <= 0.05).any(1).mean()
    assert share <= 0.05 + 1.6 * (0.05 * 0.95 / FAMILIES) ** 0.5, f"{share:.3f}"


@pytest.mark.parametrize("seeds", [3, 5])
def test_differences_of_half_a_logit_and_of_the_size_seen_are_found_in_four_of_five(seeds):
    """Labels: half a logit apart. Swapped neighbours: 50, 98, 88, 96 and 50 %."""
    rng = np.random.default_rng(seeds)
    labels = families(rng, seeds, NOISES["as seen"], [-1.0, 0.0, -0.5, 0.5, -1.0], None)
    swapped = families(rng, seeds, NOISES["as seen"], [0, 5.5, 3.0, 4.5, 0], 0.5)
    found = dict(zip([(o, *pair) for o in ("labels", "swapped") for pair in PAIRS],
                     (corrected([labels, swapped]) <= 0.05).mean(0), strict=True))  # fmt: skip
    for arm in (1, 2, 3):  # each objective against random weights and the bag, on word order
        assert found["swapped", arm, 0] > 0.95 and found["swapped", arm, 4] > 0.95
    assert found["swapped", 2, 1] > 0.8 and found["swapped", 3, 2] > 0.8  # masked against both
    assert found["labels", 1, 0] > 0.8 and found["labels", 3, 2] > 0.8  # a logit
    half = np.mean([found["labels", 2, 0], found["labels", 2, 1], found["labels", 3, 1]])
    assert half > (0.45 if seeds == 3 else 0.8), f"{half:.2f}"


def test_seeds_that_happen_to_agree_leave_an_interval_as_wide_as_the_rows():
    rng = np.random.default_rng(0)
    row = (rng.random(500) < 0.6).astype(float)
    (found,) = estimates({"a": np.stack([row, row, row])}).values()
    low, high = found.interval
    assert high - low > 3.9 * (0.24 / 500) ** 0.5
    (found,) = estimates({"a": np.full((3, 500), 0.5)}).values()  # not even the rows differ
    assert found.interval[1] > found.interval[0]


def test_under_three_seeds_there_is_no_verdict():
    table = np.random.default_rng(0).random((3, 50))
    asked = {"a, less b": {"a": 1.0, "b": -1.0}}
    of = lambda seeds: {"labels": {"a": table[:seeds], "b": table[:seeds] / 2}}
    (two,), (three,) = (verdicts(of(seeds), asked, 0.05) for seeds in (2, 3))
    assert two.real is None and two.estimate.interval is None and three.real is not None


def test_rows_and_seeds_are_paired_and_the_family_counts():
    rng = np.random.default_rng(0)
    hard, luck = rng.random(300), 0.05 * rng.standard_normal((3, 1))
    a, b = hard + luck + 0.01 * rng.standard_normal((3, 300)), hard + luck
    arms = {"a": a, "b": b - 0.01, "bag": hard[None] - 1.0}
    asked = {"a, less b": {"a": 1, "b": -1}, "b, less bag": {"b": 1, "bag": -1},
             "?": {"nobody": 1, "a": -1}}  # fmt: skip
    one, other = verdicts({"labels": arms}, asked, 0.05)
    assert one.real and one.estimate.interval[1] - one.estimate.interval[0] < 0.01
    assert abs(other.estimate.mean - 0.99) < 0.1 and one.corrected >= one.estimate.p
