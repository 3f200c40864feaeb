"""How good is it, how sure are we, and does evaluating change anything?"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minilm import metrics
from minilm.config import NonFiniteError
from minilm.metrics import evaluate_language_model, macro_f1
from minilm.objectives import OBJECTIVES, evaluation_batches
from minilm.tasks.classify import report
from tests.book.small import DOC, FIRST, SPECIAL, V, make_model, random_tokens

# 10 texts of "ham", 5 of "spam", 1 of "eggs"; nothing is ever taken for "eggs".
CONFUSION = np.array([[8, 2, 0], [1, 4, 0], [1, 0, 0]])


def test_precision_recall_and_f1_by_hand():
    by_hand = [[8 / 10, 8 / 10, 16 / 20], [4 / 6, 4 / 5, 8 / 11], [0, 0, 0]]
    np.testing.assert_allclose(metrics.precision_recall_f1(CONFUSION), by_hand)
    right = metrics.precision_recall_f1(np.diag([1, 3, 0]))  # the last label does not occur
    assert right.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert metrics.accuracy(CONFUSION) == pytest.approx(12 / 16)
    truth, predicted = np.repeat([0, 1, 2], [10, 5, 1]), [0] * 8 + [1] * 2 + [0] + [1] * 4 + [0]
    assert np.array_equal(metrics.confusion_matrix(truth, np.array(predicted), 3), CONFUSION)


def test_macro_f1_is_a_mean_over_the_labels_that_occur_in_truth_or_prediction():
    assert macro_f1(CONFUSION) == pytest.approx((16 / 20 + 8 / 11 + 0) / 3)
    assert macro_f1(np.diag([2, 3, 0])) == 1.0  # 0 would say that the label was missed
    assert macro_f1(np.array([[1, 1], [0, 0]])) == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize("n", [1, 7, 200])
def test_the_interval_holds_the_share_and_the_true_share_in_about_95_of_100_samples(n):
    held = {0.5: 0.0, 0.9: 0.0}
    for right in range(n + 1):
        low, high = metrics.wilson_interval(right, n)
        assert 0 <= low < high <= 1 and low - 1e-12 <= right / n <= high + 1e-12
        for share in held:
            chance = math.comb(n, right) * share**right * (1 - share) ** (n - right)
            held[share] += chance * (low <= share <= high)
    assert n < 200 or list(held.values()) == pytest.approx([0.95, 0.95], abs=0.015)


def test_the_calibration_error_by_hand():
    confidence, right = np.array([0.9, 0.85, 0.9, 0.6, 0.5]), np.array([1, 0, 1, 1, 0])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    by_hand = (abs(2 - 2.65) + abs(1 - 1.1)) / 5  # in (0.8, 1] and in (0.4, 0.6], of 5 bins
    fine = metrics.calibration_error(probabilities[[0, 3]], np.array([0, 1]))
    assert fine == pytest.approx((0.1 + 0.6) / 2)  # in bins of their own, by default
    assert metrics.calibration_error(probabilities, 1 - right, bins=5) == pytest.approx(by_hand)
    for p, labels in ((np.eye(3), [0, 1, 2]), (np.full((4, 2), 0.5), [0, 1, 0, 1])):
        assert metrics.calibration_error(p, np.array(labels)) == 0


def batches_of(name, windows, size):
    parts = [windows[i : i + size] for i in range(0, len(windows), size)]
    return list(evaluation_batches(name, parts, SPECIAL, 1))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_validation_loss_is_a_mean_over_targets_not_over_batches(name):
    windows = random_tokens(40, 13)
    windows[::3, 5] = DOC
    model, batches = make_model(dropout=0.3), batches_of(name, windows, 15)
    rows = {"causal": [], "masked": []}  # nats, right, bytes of each target
    bytes_of = lambda w: w % 7 if w >= FIRST else 0  # of a special token there is none in a text
    for half, (inputs, targets, causal) in (item for named in batches for item in named.items()):
        hidden = make_model()(torch.from_numpy(inputs), causal=causal).detach()
        log_p = (hidden @ model.embedding.weight.T).log_softmax(-1).detach().numpy()
        for p, w in zip(log_p[targets >= 0], targets[targets >= 0], strict=True):
            rows[half].append((-p[w], p.argmax() == w, bytes_of(w)))
    expected = {f"{half}_loss": np.mean(found, 0)[0] for half, found in rows.items() if found}
    if name != "masked":
        nats, _, n_bytes = np.sum(rows["causal"], 0)
        expected["bits_per_byte"] = nats / n_bytes / math.log(2)
    if name != "causal":
        expected["masked_accuracy"] = np.mean(rows["masked"], 0)[1]
        assert 0 < expected["masked_accuracy"] < 1
    before, token_bytes = torch.get_rng_state(), [b"<doc>"] * FIRST
    token_bytes += [b"x" * (i % 7) for i in range(FIRST, V)]
    tokenizer = SimpleNamespace(token_bytes=token_bytes, special=SPECIAL)
    found = evaluate_language_model(model, iter(batches), tokenizer)
    assert found == pytest.approx(expected, rel=1e-9)
    assert torch.equal(torch.get_rng_state(), before)
    assert "bits_per_byte" not in evaluate_language_model(model, batches)


def test_a_validation_loss_that_is_not_finite_is_refused():
    model = make_model()
    model.norm.weight.data.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="validation loss"):
        evaluate_language_model(model, batches_of("causal", random_tokens(2, 9), 2))


def test_the_report_has_a_row_for_each_label_with_its_own_numbers():
    head, columns, *rows = report(CONFUSION, ["ham", "spam", "eggs"]).splitlines()
    assert head == "accuracy 75.0 % (95 % interval 50.5 to 89.8, 16 texts), macro F1 50.9 %"
    assert columns.split()[:3] == ["precision", "recall", "F1"]
    assert [row.replace("%", "").split() for row in rows] == [
        ["ham", "80.0", "80.0", "80.0", "8", "2", "0"],
        ["spam", "66.7", "80.0", "72.7", "1", "4", "0"],
        ["eggs", "0.0", "0.0", "0.0", "1", "0", "0"],
    ]


def test_the_report_of_many_labels_names_the_most_confused_pairs_instead_of_the_matrix():
    many = np.eye(31, dtype=int) * 9
    many[4, 7], many[2, 1] = 6, 5
    lines = report(many, [f"label{i}" for i in range(31)]).splitlines()
    assert len(lines) == 2 + 31 + 2 and max(map(len, lines)) < 100
    assert lines[-2:] == ["6 x label4 taken for label7", "5 x label2 taken for label1"]
