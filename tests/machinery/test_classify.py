"""The probabilities of labels: texts of unequal length, in batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minilm.data import pad
from minilm.heads import Classifier
from minilm.tasks.classify import Classify, Row
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
