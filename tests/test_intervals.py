"""Is a difference real? Intervals over rows and seeds, and the verdict from both."""

import math

import numpy as np
import pytest

from minilm.experiments.intervals import (
    compare,
    labels_needed,
    mcnemar,
    row_interval,
    seed_interval,
    student_t,
)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (4, 2.776), (11, 2.201), (30, 2.042), (1000, 1.962)]
)
def test_the_quantile_of_students_t_is_that_of_the_books(freedom, expected):
    assert student_t(freedom) == pytest.approx(expected, abs=6e-4)


def test_a_seed_interval_holds_the_truth_19_times_in_20():
    rng = np.random.default_rng(0)
    held = [low <= 0 <= high for low, high in (seed_interval(list(rng.normal(size=3)))
                                               for _ in range(4000))]  # fmt: skip
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


def test_one_seed_measures_no_noise():
    assert seed_interval([0.7]) is None


def test_a_row_interval_is_as_wide_as_a_shares_standard_error_says():
    right = np.arange(400) < 320
    low, high = row_interval(right)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert (low, high) == (pytest.approx(0.8 - half, abs=0.01), pytest.approx(0.8 + half, abs=0.01))


def test_mcnemar_counts_only_the_rows_where_one_alone_is_right():
    a = np.array([True] * 5 + [False] * 1 + [True] * 100)
    b = np.array([False] * 5 + [True] * 1 + [True] * 100)
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(a, a) == 1.0


def right(shares, rows=1000):
    return np.array([np.arange(rows) < share * rows for share in shares])


def test_a_clear_difference_in_rows_and_seeds_is_real():
    found = compare(right([0.80, 0.81, 0.80]), right([0.70, 0.71, 0.71]))
    assert found["verdict"] == "real" and found["difference"] == pytest.approx(0.0967, abs=1e-3)


def test_seeds_that_disagree_leave_a_difference_undecided():
    found = compare(right([0.80, 0.60, 0.80]), right([0.70, 0.71, 0.70]))
    assert found["verdict"] == "undecided"


def test_few_rows_leave_a_difference_undecided_however_the_seeds_agree():
    a, b = right([0.8, 0.8, 0.8], rows=10), right([0.7, 0.7, 0.7], rows=10)
    found = compare(a, b)
    assert found["seeds"] == pytest.approx([0.1, 0.1]) and found["verdict"] == "undecided"


def test_one_seed_alone_decides_nothing():
    assert compare(right([0.9]), right([0.1]))["verdict"] == "undecided"


def test_a_baseline_of_one_seed_meets_each_seed_of_the_other():
    found = compare(right([0.80, 0.81, 0.80]), right([0.70]))
    assert len(found["mcnemar"]) == 3 and found["verdict"] == "real"


def test_the_verdict_does_not_depend_on_who_stands_first():
    a, b = right([0.80, 0.81, 0.80]), right([0.70, 0.71, 0.71])
    one, other = compare(a, b), compare(b, a)
    assert one["verdict"] == other["verdict"]
    assert one["difference"] == -other["difference"]
    assert one["rows"] == pytest.approx([-bound for bound in reversed(other["rows"])])


def test_labels_are_found_between_the_points_of_a_curve_or_nowhere():
    sizes, accuracy = [100, 400, 1600], [0.5, 0.7, 0.8]
    assert labels_needed(sizes, accuracy, 0.75) == 800
    assert labels_needed(sizes, accuracy, 0.4) == 100
    assert labels_needed(sizes, accuracy, 0.9) is None
