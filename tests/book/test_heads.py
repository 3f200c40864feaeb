"""A label for a text: no head start, blind to padding, and able to learn."""

import math

import numpy as np
import pytest
import torch

from minilm.data import pad
from minilm.heads import Classifier, classification_nll, pool
from minilm.model import Transformer
from minilm.optim import make_optimizers
from tests.book.small import PAD, make_model, random_tokens

TEXTS = [random_tokens(n, seed=n) for n in (5, 1, 12, 3)]
HIDDEN = torch.tensor([[[1.0, 2], [3, 4], [1e3, -1e3]], [[9, 9], [1e3, -1e3], [1e3, -1e3]]])

every_pooling = pytest.mark.parametrize("pooling", ["mean", "last", "first"])
both_directions = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def batch_of(texts):
    return map(torch.from_numpy, pad(texts, PAD))


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [2.0, 3.0]), ("last", [3.0, 4.0]), ("first", [1.0, 2.0])]
)
def test_pooling_counts_real_tokens_only(pooling, expected):
    is_real = torch.tensor([[True, True, False], [True, False, False]])
    assert pool(HIDDEN, is_real, pooling).tolist() == [expected, [9.0, 9.0]]


@every_pooling
@both_directions
def test_a_text_gets_the_same_logits_alone_and_padded_in_a_batch(pooling, causal):
    classifier = Classifier(make_model(), 4, pooling).double()
    classifier.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    together = classifier(*batch_of(TEXTS), causal)
    for text, logits in zip(TEXTS, together, strict=True):
        alone = classifier(torch.from_numpy(text)[None], torch.ones(1, len(text)).bool(), causal)
        torch.testing.assert_close(logits, alone[0], rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 0.1  # and texts do differ


@every_pooling
@pytest.mark.parametrize("n_classes", [2, 7])
def test_the_first_loss_is_ln_c(pooling, n_classes):
    logits = Classifier(make_model(), n_classes, pooling).double()(*batch_of(TEXTS))
    loss_sum, count = classification_nll(logits, torch.tensor([0, 1, 1, 0]))
    assert (loss_sum.item(), count) == (pytest.approx(4 * math.log(n_classes), rel=1e-12), 4)


@every_pooling
@both_directions
def test_eight_texts_can_be_learnt_by_heart(pooling, causal):
    firsts = np.random.default_rng(3).permutation(8) + 3  # which pooling "first" can go by
    texts = [np.append(first, random_tokens(first % 5 + 1, seed=first)) for first in firsts]
    batch, labels = [*batch_of(texts)], torch.arange(8) % 4
    classifier = Classifier(Transformer(make_model().config), 4, pooling)
    (optimizer,) = make_optimizers(classifier, "adamw", 0.02, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss_sum, count = classification_nll(classifier(*batch, causal), labels)
        (loss_sum / count).backward()
        optimizer.step()
    assert loss_sum.item() / count < 0.05


def test_the_pooled_text_passes_the_dropout_of_the_config():
    model = make_model(dropout=0.5)
    model.eval()
    classifier = Classifier(model, 16, "mean").double()
    classifier.head.weight.data.copy_(torch.eye(16))
    dropped = [(classifier.train(on)(*batch_of(TEXTS)) == 0).sum() for on in (True, False)]
    assert 16 < dropped[0] < 48 and dropped[1] == 0
