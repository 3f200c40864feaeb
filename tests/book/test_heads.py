"""A label for a text: no head start, and blind to padding."""

import math

import pytest
import torch

from minilm.data import pad
from minilm.heads import Classifier, classification_nll, pool
from tests.book.small import PAD, make_model, random_tokens

TEXTS = [random_tokens(n, seed=n) for n in (5, 1, 12, 3)]
BATCH = [torch.from_numpy(array) for array in pad(TEXTS, PAD)]

every_pooling = pytest.mark.parametrize("pooling", ["mean", "last", "first"])


def test_pooling_counts_real_tokens_only():
    wrong, is_real = [1e3, -1e3], torch.tensor([[True, True, False], [True, False, False]])
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], wrong], [[9.0, 9.0], wrong, wrong]])
    for pooling, expected in dict(mean=[2, 3], last=[3, 4], first=[1, 2]).items():
        assert pool(hidden, is_real, pooling).tolist() == [expected, [9, 9]]


@every_pooling
@pytest.mark.parametrize("causal", [True, False])
def test_a_text_gets_the_same_logits_alone_and_padded_in_a_batch(pooling, causal):
    classifier = Classifier(make_model(), 4, pooling).double()
    classifier.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    together = classifier(*BATCH, causal)
    for text, logits in zip(TEXTS, together, strict=True):
        alone = classifier(torch.from_numpy(text)[None], torch.ones(1, len(text)).bool(), causal)
        torch.testing.assert_close(logits, alone[0], rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 0.1  # and texts do differ


@every_pooling
@pytest.mark.parametrize("n_classes", [2, 7])
def test_the_first_loss_is_ln_c(pooling, n_classes):
    logits = Classifier(make_model(), n_classes, pooling).double()(*BATCH)
    loss_sum, count = classification_nll(logits, torch.tensor([0, 1, 1, 0]))
    assert (loss_sum.item(), count) == (pytest.approx(4 * math.log(n_classes), rel=1e-12), 4)


def test_by_default_a_text_is_the_mean_of_what_sees_all_of_it_behind_the_models_dropout():
    model = make_model(dropout=0.5).eval()
    classifier = Classifier(model, 16).double()
    classifier.head.weight.data.copy_(torch.eye(16))
    expected = pool(model(BATCH[0], False, BATCH[1]), BATCH[1], "mean")
    torch.testing.assert_close(classifier.eval()(*BATCH), expected, rtol=0, atol=1e-12)
    classifier.dropout.train()
    dropped = classifier(*BATCH) == 0
    assert 0.3 < dropped.double().mean() < 0.7
