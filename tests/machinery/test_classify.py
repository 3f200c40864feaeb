"""The probabilities of labels: texts of unequal length, in batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minilm.corpora.files import Example
from minilm.data import pad
from minilm.heads import Classifier
from minilm.tasks.classify import Classify, Row, report
from tests.book.small import make_model, random_tokens


def log_p(classifier, texts, attention="bidirectional"):
    config = SimpleNamespace(max_length=11, attention=attention)
    tokenizer = SimpleNamespace(special=SimpleNamespace(pad=0))
    task = Classify(config, tokenizer, ["label"] * classifier.head.out_features)
    return task.solve(classifier, [Row(tokens, 0, False) for tokens in texts], None)


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_probabilities_come_in_the_order_of_the_texts_however_they_are_batched(attention):
    texts = [random_tokens(n, seed=n) for n in (5, 1, 11, 3, 5)] * 30
    classifier = Classifier(make_model(max_length=11, dropout=0.5), 4).double()
    classifier.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    found = np.exp(log_p(classifier, texts, attention))
    batch = map(torch.from_numpy, pad(texts, 0, most=11))
    logits = classifier.eval()(*batch, attention == "causal")
    np.testing.assert_allclose(found, logits.softmax(1).detach(), rtol=1e-5)


def test_a_label_that_was_called_impossible_costs_what_it_costs():
    classifier = Classifier(make_model(), 2).double()
    classifier.head.bias.data = torch.tensor([0.0, 500.0]).double()
    (row,) = log_p(classifier, [random_tokens(3)])
    assert row.tolist() == [-500.0, 0.0]  # and not the 27.6 nats of a probability of 1e-12


def test_of_many_labels_the_most_confused_pairs_are_told():
    few, many = np.diag([5] * 10), np.diag([5] * 11)
    many[3, 7] = 2
    names = [f"label {i}" for i in range(11)]
    assert "(true, predicted) counts" in report(few, names[:10])
    assert report(many, names).splitlines()[13:] == ["2 x label 3 taken for label 7"]
    assert "counts" not in report(many, names)


def test_always_the_largest_class_is_the_best_that_a_constant_can_do():
    """In a draw in balance all classes are equally large: which one is "the" largest?"""
    config = SimpleNamespace(max_length=11, attention="bidirectional")
    task = Classify(config, SimpleNamespace(vocab_size=40), ["a", "b"])
    row = lambda label: Row(random_tokens(5), label, False)
    task.data = dict(train=[row(0), row(1)], test=[row(1), row(1), row(1), row(0)])
    task.examples = dict(test=[Example("", "ab"[r.label]) for r in task.data["test"]])
    scores = task.baselines()["always the largest class"]
    assert scores["accuracy"] == 0.75 and scores["calibration_error"] == pytest.approx(0, abs=1e-6)
    assert scores["loss"] == pytest.approx(0.75 * np.log(4 / 3) + 0.25 * np.log(4))
