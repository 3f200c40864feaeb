"""Decoding: beam search and the best span find what they should, a cache changes nothing; and what
translates without a model."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minilm.tasks.answer import best_span
from minilm.tasks.translate import Pair, beam_search, word_by_word
from tests.book.small import DOC, PAD, SPECIAL, V, make_model, random_tokens
from tests.book.test_heads_tasks import prefix_states
from tests.book.test_reference import normal


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
    few = SPECIAL._replace(ordinary=np.arange(3, 6))
    for seed in range(2):
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


class Chain(torch.nn.Module):
    """A model to which only the last token matters: P(next | last), (V, V)."""

    def __init__(self, p):
        super().__init__()
        self.embedding = torch.nn.Embedding.from_pretrained(p.log())
        self.config = SimpleNamespace(vocab_size=V, max_length=16)

    def new_cache(self):
        return []

    def forward(self, tokens, causal, cache):
        return self.embedding(tokens)

    def logits(self, hidden):
        return hidden


def test_a_translation_that_has_ended_stays_what_it_is():
    """To end at once is the second choice at first, 0.4, but more than any longer text has."""
    p = torch.zeros(V, V)
    p[:, DOC], p[:, 3:6] = 0.1, 0.3
    p[DOC, 3:6], p[DOC, 3], p[DOC, DOC] = 0.0, 0.6, 0.4  # after the source
    found = {
        width: beam_search(Chain(p), random_tokens(1, 3), SPECIAL, width, 0.0, most=3)[0].tolist()
        for width in (1, 2, 4)
    }
    assert found[1][0] == 3 and found[2] == found[4] == []


@pytest.mark.parametrize("longest", [1, 3, 9])
def test_the_best_span_is_the_best_of_all_that_begin_before_they_end(longest):
    scores = torch.from_numpy(normal(9, 2))
    scores[0] = 50.0  # "no answer", which is judged apart
    spans = [(s, e) for s in range(1, 9) for e in range(s, min(9, s + longest))]
    best = max(spans, key=lambda span: scores[span[0], 0] + scores[span[1], 1])
    assert best_span(scores, longest)[:2] == best
    expected = scores[best[0], 0] + scores[best[1], 1]
    assert best_span(scores, longest)[2] == pytest.approx(expected.item())


def test_ibm_model_1_learns_which_word_means_which():
    train = [("the house", "das Haus"), ("the book", "das Buch"), ("a book", "ein Buch")]
    found = word_by_word([Pair(*pair) for pair in train], [Pair("a new house", "")])
    assert found == ["ein new Haus"]
