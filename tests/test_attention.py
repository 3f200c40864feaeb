"""What a position looks at: the weights are those the net used, and their distance and spread."""

import math

import numpy as np
import pytest
import torch

from minilm import model as model_module
from minilm.experiments import attention
from minilm.tokenizer import DOC, Tokenizer

TOKENS = np.random.default_rng(0).integers(3, 40, (2, 7))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_the_recorded_weights_are_those_the_net_mixed_values_with(make_model, causal, monkeypatch):
    model, mixed = make_model(), []
    plain = model_module.fused_attention

    def note(q, k, v, mask):
        mixed.append((v, plain(q, k, v, mask)))
        return mixed[-1][1]

    monkeypatch.setattr(model_module, "fused_attention", note)
    found = attention.weights(model, TOKENS, causal)
    assert found.shape == (2, 2, 2, 7, 7) and len(mixed) == 2
    for layer, (v, out) in enumerate(mixed):
        by_hand = torch.from_numpy(found[:, layer]).double() @ v
        torch.testing.assert_close(by_hand, out, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    assert (np.triu(found, 1).max() == 0) == causal


def test_to_record_changes_nothing(make_model):
    model, text = make_model(), torch.from_numpy(TOKENS)
    with torch.inference_mode():
        before = model(text, causal=True)
        with attention.Recorder():
            within = model(text, causal=True)
    assert torch.equal(before, within)


def test_distance_and_entropy_of_looks_known_by_hand():
    at_oneself, before = np.eye(4), np.eye(4)[[0, 0, 1, 2]]
    assert attention.distance(at_oneself) == attention.entropy(at_oneself) == 0
    assert attention.distance(before) == pytest.approx(3 / 4)
    assert attention.entropy(attention.even(8, causal=False)) == pytest.approx(math.log(8))
    by_hand = (0 + math.log(2) + math.log(3)) / 3
    assert attention.entropy(attention.even(3, causal=True)) == pytest.approx(by_hand)
    assert attention.distance(attention.even(3, causal=True)) == pytest.approx((0 + 0.5 + 1) / 3)


def test_a_sentence_is_looked_at_in_every_reading_that_was_taught(make_model):
    tokenizer = Tokenizer([])
    model = make_model(vocab_size=tokenizer.vocab_size)
    texts = np.full((3, 20), DOC)  # longer than the window of 16
    found = attention.look(model, tokenizer, ["causal", "masked"], "a cat", texts)
    assert list(found) == ["causal", "masked"]
    assert found["causal"]["words"] == ["<doc>", "a", " ", "c", "a", "t"]
    assert np.shape(found["masked"]["maps"]) == (2, 2, 6, 6)
    assert np.shape(found["masked"]["entropy"]) == (2, 2)
    assert found["masked"]["even_entropy"] == pytest.approx(math.log(16))
