"""The sentences of a comparison's report are computed: other numbers, other sentences."""

import copy

import pytest
from compare_example import EXAMPLE

from minilm.experiments.compare_report import QUESTIONS
from minilm.experiments.findings import FINDINGS, findings, over_axes


@pytest.fixture
def results():
    return copy.deepcopy(EXAMPLE)


def test_every_finding_stands_under_a_section_of_the_report():
    assert FINDINGS.keys() <= QUESTIONS.keys()


def test_an_arm_is_better_than_counting_words_only_below_their_line(results):
    said = findings(results)["Learning curves"]
    assert "triples of words: none." in said and "causal (causal) 0.50." in said
    results["lines"]["trigram"] = 5.1
    assert "triples of words: causal." in findings(results)["Learning curves"]


def test_arms_are_compared_where_they_have_spent_the_same(results):
    points = results["axes"]["points"]
    results["arms"].append("masked")
    for share, accuracy in ((0.5, 0.5), (1.0, 0.6)):  # thrice the seconds, a third of the targets
        points.append(dict(arm="masked", seed=0, share=share, tokens=245760 * share,
                           targets=81920 * share, flops=2.1e12 * share, seconds=90 * share,
                           accuracy=accuracy))  # fmt: skip
    said = over_axes(results)
    assert "with 100 labels" in said
    assert "of tokens masked (60.0%); of targets masked (60.0%); of flops masked (60.0%)" in said
    assert "of seconds causal (50.0%)." in said  # masked has 41.7 % after 30 of its 90 seconds


def test_one_number_says_what_pretraining_saves(results):
    said = findings(results)["Accuracy by number of labels"]
    assert said == ("Best with 100 labels: causal, +12.5 points beside scratch, which needs about "
                    "173 labels to be as good.")  # fmt: skip
    results["label_curve"]["labels_saved"]["causal"][0]["scratch_needs"] = None
    assert "more than the 300 tried labels" in findings(results)["Accuracy by number of labels"]


def test_the_best_net_stands_beside_the_best_baseline(results):
    said = findings(results)["The final test"]
    assert "causal with 75.0%" in said and "majority class, has 50.0%" in said


def test_a_difference_is_called_real_where_its_verdict_is(results):
    assert findings(results)["Which differences are real"] == (
        "Of 1 pairs of nets 0 can be told apart."
    )
    results["verdicts"][0]["verdict"] = "real"
    assert (
        "1 can be told apart: causal over scratch by 12.5 points."
        in (findings(results)["Which differences are real"])
    )


def test_a_rate_at_the_edge_is_said_to_be(results):
    assert findings(results)["Learning rate of pretraining"].endswith("what was tried: causal.")
    results["pretraining_sweep"]["rates"].append(14e-3)
    assert findings(results)["Learning rate of pretraining"] == "Chosen: causal 0.007."


def test_a_reading_is_measured_by_the_better_way_of_counting(results):
    assert "1 of 1 readings do better" in findings(results)["Grammar"]
    results["pairs"]["rows"]["trigram"]["a and an"] = 1.0
    results["pairs"]["rows"]["trigram"]["order of words"] = 1.0
    assert "0 of 1 readings" in findings(results)["Grammar"]
    results["pairs"] = {}
    assert "Grammar" not in findings(results)


def test_too_sure_and_not_sure_enough_are_told_apart(results):
    title = "Is it right as often as it is sure?"
    assert "not sure enough by 0.0" in findings(results)[title]
    results["analyses"]["causal"]["calibration"]["bins"][0]["confidence"] = 0.8
    assert "too sure by 10.0" in findings(results)[title]


def test_a_change_is_said_only_where_its_interval_does_not_hold_zero(results):
    assert findings(results)["Who is spoken of"].endswith("none found.")
    results["analyses"]["causal"]["fairness"]["change_interval"] = [-0.03, -0.01]
    assert findings(results)["Who is spoken of"].endswith("noise: causal.")


def test_the_best_layer_pooling_and_distance_are_named(results):
    said = findings(results)
    assert "causal layer 2 (75.0%)" in said["Where the label lives"]
    assert "causal mean and bidirectional" in said["Pooling and attention"]
    assert "causal (causal) 0.2 of 0.2" in said["What each sees"]
