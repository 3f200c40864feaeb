"""A label for a text: no head start, blind to padding, and able to learn."""

import math

import numpy as np
import pytest
import torch

from minilm.device import Machine
from minilm.evaluation import label_probabilities
from minilm.heads import ClassificationLoss, Classifier, pool
from minilm.labelled import LabelledTexts, pad
from minilm.model import Transformer
from minilm.optim import make_optimizers

POOLINGS = ("mean", "last", "first")
TEXTS = [np.random.default_rng(n).integers(3, 40, n).astype(np.uint16) for n in (5, 1, 12, 3)]
MACHINE = Machine(torch.device("cpu"), bfloat16=False, why="a test")

every_pooling = pytest.mark.parametrize("pooling", POOLINGS)
both_readings = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])


def make_classifier(transformer, pooling):
    """One whose head is random, so that its logits tell texts apart."""
    classifier = Classifier(transformer, 4, pooling).double()
    classifier.head.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    return classifier


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [("mean", [[2.0, 3.0], [9.0, 9.0]]), ("last", [[3.0, 4.0], [9.0, 9.0]]),
     ("first", [[1.0, 2.0], [9.0, 9.0]])],
)  # fmt: skip
def test_pooling_counts_real_tokens_only(pooling, expected):
    padding = [1000.0, -1000.0]
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], padding], [[9.0, 9.0], padding, padding]])
    is_real = torch.tensor([[True, True, False], [True, False, False]])
    assert pool(hidden, is_real, pooling).tolist() == expected


@every_pooling
@both_readings
def test_a_text_gets_the_same_label_alone_and_padded_in_a_batch(make_model, pooling, causal):
    classifier = make_classifier(make_model(), pooling)
    together = classifier(*map(torch.from_numpy, pad(TEXTS)), causal)
    for text, logits in zip(TEXTS, together, strict=True):
        alone = classifier(*map(torch.from_numpy, pad([text])), causal)[0]
        torch.testing.assert_close(logits, alone, rtol=0, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 0.1  # and texts do differ


def test_probabilities_come_in_the_order_of_the_texts_however_they_were_batched(make_model):
    classifier = make_classifier(make_model(), "mean")
    data = LabelledTexts(TEXTS, np.zeros(4, dtype=np.int64), 0.0)
    found = label_probabilities(classifier, data, False, MACHINE, batch_size=3)
    logits = classifier(*map(torch.from_numpy, pad(TEXTS)), causal=False)
    np.testing.assert_allclose(found, logits.softmax(1).detach().numpy(), rtol=1e-5)


@every_pooling
@pytest.mark.parametrize("n_classes", [2, 7])
def test_the_first_loss_is_ln_c(make_model, pooling, n_classes):
    loss = ClassificationLoss(Classifier(make_model(), n_classes, pooling).double(), causal=False)
    labels = torch.tensor([0, 1, 1, 0])
    loss_sum, count = loss(*map(torch.from_numpy, pad(TEXTS)), labels)
    assert (loss_sum.item(), count) == (pytest.approx(4 * math.log(n_classes), rel=1e-12), 4)


@both_readings
def test_the_loss_is_a_sum_over_texts_read_in_the_way_that_was_asked_for(make_model, causal):
    classifier = make_classifier(make_model(), "mean")
    batch, labels = [*map(torch.from_numpy, pad(TEXTS))], torch.tensor([3, 0, 2, 1])
    p = classifier(*batch, causal).softmax(1).detach().numpy()
    by_hand = -sum(math.log(p[text, label]) for text, label in enumerate(labels))
    loss_sum, count = ClassificationLoss(classifier, causal)(*batch, labels)
    assert (loss_sum.item(), count) == (pytest.approx(by_hand, rel=1e-12), 4)


@every_pooling
@both_readings
def test_eight_texts_can_be_learnt_by_heart(make_model, pooling, causal):
    rng = np.random.default_rng(3)
    first = rng.permutation(8) + 3  # so that causal reading with "first" has something to go by
    texts = [np.append(word, rng.integers(3, 40, rng.integers(1, 10))) for word in first]
    batch = [*map(torch.from_numpy, pad(texts)), torch.arange(8) % 4]
    classifier = Classifier(Transformer(make_model().config), 4, pooling)
    (optimizer,) = make_optimizers(classifier, "adamw", 0.02, weight_decay=0.0)
    loss = ClassificationLoss(classifier, causal)
    for _ in range(60):
        optimizer.zero_grad()
        loss_sum, count = loss(*batch)
        (loss_sum / count).backward()
        optimizer.step()
    assert loss_sum.item() / count < 0.05
