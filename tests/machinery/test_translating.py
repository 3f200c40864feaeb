"""Beam search finds what it should, and a cache changes nothing."""

import itertools

import numpy as np
import torch

from minilm.model import Transformer
from minilm.objectives import prefix, prefix_nll
from minilm.optim import make_optimizers
from minilm.runs.translating import beam_search
from tests.book.small import DOC, PAD, SPECIAL, V, make_model, random_tokens
from tests.book.test_heads_tasks import SOURCES, TARGETS, prefix_states, tensors


def test_cached_decoding_equals_uncached():
    """Greedy, token by token, each from the whole text anew."""
    sources = random_tokens(3, 4)
    for source, found in zip(sources, beam_search(make_model(), sources, SPECIAL, 1), strict=True):
        text = []
        while len(text) < 10:
            state = prefix_states(source, np.array(text, dtype=np.int64))[-1:]
            logits = make_model().logits(state)[0]
            logits[[PAD, 1]] = -torch.inf
            if (token := int(logits.argmax())) == DOC:
                break
            text.append(token)
        assert found.tolist() == text


def test_a_beam_as_wide_as_all_texts_finds_the_best_of_them():
    """With few tokens and a short text, every translation can be scored without a cache."""
    few = SPECIAL._replace(ordinary=range(3, 6))
    for seed in range(4):
        model, source = make_model(), random_tokens(1, 3, seed=seed)
        found = {
            p: beam_search(model, source, few, width=30, penalty=p, most=3)[0] for p in (0.0, 4.0)
        }

        def nats(text, model=model, source=source[0]):
            states = prefix_states(source, np.array(text, dtype=np.int64))
            states = states[len(source) + 1 :]
            logits = model.logits(states).detach()
            logits[:, [i for i in range(V) if i not in (DOC, 3, 4, 5)]] = -torch.inf
            chosen = [*text, DOC][:3]
            return sum(logits.log_softmax(-1)[range(len(chosen)), chosen]).item()

        texts = [t for n in range(4) for t in itertools.product((3, 4, 5), repeat=n)]
        assert tuple(found[0.0]) == max(texts, key=nats)
        assert len(found[4.0]) >= len(found[0.0])  # the penalty is on short ones


def test_three_pairs_can_be_learnt_by_heart_and_are_then_translated():
    model = Transformer(make_model(d_model=32).config)
    inputs, targets, seen = prefix(SOURCES, TARGETS, SPECIAL)
    (optimizer,) = make_optimizers(model, "adamw", 0.02, weight_decay=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        loss, count = prefix_nll(model, *tensors(inputs, targets), torch.from_numpy(seen))
        (loss / count).backward()
        optimizer.step()
    for width in (1, 4):
        for source, target in zip(SOURCES, TARGETS, strict=True):
            (found,) = beam_search(model, source[None], SPECIAL, width)
            assert found.tolist() == target.tolist()
