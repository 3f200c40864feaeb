"""The probabilities of labels: texts of unequal length, in batches."""

import numpy as np
import pytest
import torch

from minilm.data import pad
from minilm.heads import Classifier
from minilm.runs.classify import label_log_probabilities
from tests.book.small import make_model, random_tokens


@pytest.mark.parametrize("causal", [True, False])
def test_probabilities_come_in_the_order_of_the_texts_however_they_are_batched(causal):
    texts = [random_tokens(n, seed=n) for n in (5, 1, 11, 3, 5)]
    classifier = Classifier(make_model(max_length=11, dropout=0.5), 4).double()
    classifier.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    found = np.exp(label_log_probabilities(classifier, texts, causal, batch_size=2))
    logits = classifier.eval()(*map(torch.from_numpy, pad(texts, 0, most=11)), causal)
    np.testing.assert_allclose(found, logits.softmax(1).detach(), rtol=1e-5)


def test_a_label_that_was_called_impossible_costs_what_it_costs():
    classifier = Classifier(make_model(), 2).double()
    classifier.head.bias.data = torch.tensor([0.0, 500.0]).double()
    (row,) = label_log_probabilities(classifier, [random_tokens(3)], causal=False)
    assert row.tolist() == [-500.0, 0.0]  # and not the 27.6 nats of a probability of 1e-12
