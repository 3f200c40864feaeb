"""What is to be seen in a net: calibration, a probe by layer, what it writes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minilm.corpora import Example
from minilm.experiments.analyses import (
    Pretrained,
    best_temperature,
    examples,
    gradient_times_input,
    layers,
    probe,
    reliability,
    tempered,
)
from minilm.heads import Classifier
from minilm.labelled import LabelledTexts
from minilm.tokenizer import Tokenizer

CPU = torch.device("cpu")


def test_who_is_right_as_often_as_sure_has_no_calibration_error():
    probabilities = np.array([[0.75, 0.25]] * 4)
    bins, error = reliability(probabilities, np.array([0, 0, 0, 1]))
    assert bins == [{"confidence": 0.75, "accuracy": 0.75, "texts": 4}] and error == 0


def test_who_is_always_sure_and_right_half_of_the_time_is_off_by_a_half():
    _, error = reliability(np.array([[1.0, 0.0]] * 4), np.array([0, 1, 0, 1]))
    assert error == 0.5


def test_the_temperature_undoes_a_factor_on_the_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (honest.cumsum(1) < rng.random((4000, 1))).sum(1)
    boastful = tempered(honest, 1 / 3)  # every logit times three
    assert best_temperature(boastful, labels) == pytest.approx(3, rel=0.1)
    assert reliability(tempered(boastful, 3.0), labels)[1] < 0.3 * reliability(boastful, labels)[1]


def some_texts(model, n, seed):
    """Texts whose label is whether word 20 is in them."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(3, 20, rng.integers(4, 12)).astype(np.uint16) for _ in range(n)]
    labels = np.arange(n) % 2
    for text, label in zip(texts, labels, strict=True):
        text[rng.integers(len(text))] = 20 if label else 19
    return LabelledTexts(texts, labels, 0.0)


def test_the_vectors_of_a_layer_are_means_over_real_tokens_in_the_texts_order(make_model):
    model = make_model().float()
    data = some_texts(model, 70, 1)
    vectors = layers(Pretrained(model, None, "masked"), data, CPU)
    assert [v.shape for v in vectors] == [(70, 16)] * 3
    words = model.embedding.weight[torch.from_numpy(data.tokens[66].astype(np.int64))]
    assert vectors[0][66] == pytest.approx(words.mean(0).detach().numpy(), abs=1e-5)


def test_a_probe_finds_a_label_that_one_word_gives_away(make_model):
    model = make_model().float()
    sizes = {"train": 400, "valid": 100, "test": 200}
    parts = {part: some_texts(model, n, [n, 1]) for part, n in sizes.items()}
    accuracy = probe(Pretrained(model, None, "causal"), parts, 2, CPU)
    assert len(accuracy) == 3 and accuracy[0] > 0.95
    parts["train"].labels[:] = np.random.default_rng(0).integers(0, 2, 400)
    assert probe(Pretrained(model, None, "causal"), parts, 2, CPU)[0] < 0.8


@pytest.mark.parametrize(
    ("objective", "kinds"), [("causal", {"begin"}), ("masked", {"hidden"}), (None, set()),
                             ("hybrid", {"begin", "hidden"})],
)  # fmt: skip
def test_each_does_what_its_objective_teaches(make_model, objective, kinds):
    tokenizer = Tokenizer([])
    model = make_model(vocab_size=tokenizer.vocab_size, max_length=40).float()
    task = SimpleNamespace(examples={"test": [Example("some words of a text", "a")] * 4})
    shown = examples(Pretrained(model, tokenizer, objective), task, 0)
    assert {key for entry in shown for key in ("begin", "hidden") if key in entry} == kinds


def test_an_attribution_is_how_much_a_longer_word_vector_changes_the_logit(make_model):
    classifier = Classifier(make_model(), 3).double()
    classifier.head.weight.data.normal_(0, 1, generator=torch.Generator().manual_seed(2))
    text = np.array([5, 9, 7, 12], dtype=np.uint16)
    tokens = torch.from_numpy(text.astype(np.int64))[None]
    scores = gradient_times_input(classifier, text, 1)

    def logit(factor):
        changed = classifier.transformer.embedding.weight.data
        changed[7] *= factor
        value = classifier(tokens, tokens > 0, causal=False)[0, 1].item()
        changed[7] /= factor
        return value

    assert scores[2] == pytest.approx((logit(1 + 1e-5) - logit(1 - 1e-5)) / 2e-5, rel=1e-6)
    assert all(p.grad is None for p in classifier.parameters())
