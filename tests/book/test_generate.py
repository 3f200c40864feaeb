"""Sampling: the cache changes nothing but the time, and the filters keep what they should."""

import math

import numpy as np
import pytest
import torch

from minilm.config import UserError
from minilm.generate import fill_masks, filter_logits, next_token, sample, sample_batch
from minilm.tokenizer import SpecialTokens
from tests.book.small import DOC, FIRST, MASK, PAD, SPECIAL, V, make_model, random_tokens

LENGTH = 16  # max_length
RAW = dict(temperature=1.0, top_k=None, top_p=None)


def steer(model, **scores):
    """Replace the model's scores for some special tokens at every position; note its inputs."""
    logits, forward, model.inputs = model.logits, model.forward, []

    def steered(hidden):
        result = logits(hidden).clone()
        for name, score in scores.items():
            result[:, dict(PAD=PAD, MASK=MASK, DOC=DOC)[name]] = score
        return result

    def noted(tokens, causal, **how):
        model.inputs.append((tokens.tolist(), causal))
        return forward(tokens, causal, **how)

    model.logits, model.forward = steered, noted
    return model


def endless(**shape):
    return steer(make_model(**shape), DOC=-torch.inf)


def draw(prompt=(), n=20, model=None, **how):
    return list(sample(model or endless(), np.array(prompt, dtype=int), n, SPECIAL, **how))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [0, 1, LENGTH - 1, LENGTH, 3 * LENGTH])
def test_a_cache_changes_no_token(length, temperature):
    prompt = random_tokens(length, seed=length)
    one, other = (draw(prompt, 35, temperature=temperature, cached=c) for c in (True, False))
    assert one == other and len(one) == 35 and (temperature == 0 or len(set(one)) > 10)


@pytest.mark.parametrize("length", [0, 1, 5, 6, 20])
def test_a_full_window_is_computed_anew_from_its_later_half(length):
    model, prompt = endless(max_length=6), random_tokens(length).tolist()
    window = [DOC, *prompt][-6:]  # of a prompt that does not fit, its end
    expected = [window]
    for token in draw(prompt, 9, model)[:-1]:
        full, window = len(window) == 6, [*window, token]
        window = window[-3:] if full else window
        expected.append(window if full else [token])
    assert model.inputs == [([tokens], True) for tokens in expected]


def test_temperature_zero_is_the_likeliest_token_each_time():
    model, text = endless(), [DOC, *random_tokens(3)]
    for token in draw(text[1:], LENGTH - 4, temperature=0):
        logits = model.logits(model(torch.tensor([text]), causal=True)[0, -1:])[0]
        assert token == FIRST + logits[FIRST:].argmax()
        text.append(token)


@pytest.mark.parametrize("only", [dict(top_k=1), dict(top_p=1e-9), dict(temperature=5e-324)])
def test_where_one_token_is_left_it_is_the_likeliest(only):
    assert draw(**RAW | only) == draw(temperature=0)
    assert len(draw(temperature=1e300)) == 20  # and no temperature is too high


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (None, None, [1, 2, 3, 4]), (2, None, [1, 3]), (9, None, [1, 2, 3, 4]),
        (None, 0.45, [1]), (None, 0.75, [1, 3]),  # 0.5 is too little, 0.5 + 0.3 is enough
        (None, 0.9, [1, 3, 4]), (2, 0.6, [1]),  # of the two that top_k leaves, 0.5 is over 0.6
    ],
)  # fmt: skip
def test_the_filters_keep_the_fewest_tokens_by_hand(top_k, top_p, kept):
    probabilities = torch.tensor([0.0, 0.5, 0.05, 0.3, 0.15])  # of tokens 0 to 4
    both = torch.stack([probabilities, probabilities.flip(0)]).log()  # each row is filtered alone
    found = filter_logits(both, top_k, top_p)
    assert found[0].isfinite().nonzero()[:, 0].tolist() == kept
    assert torch.equal(found[0][kept], both[0][kept]) and torch.equal(found[1], found[0].flip(0))


def test_a_token_is_where_its_draw_falls_among_the_probabilities_at_a_temperature():
    logits = torch.tensor([0.8, 0.2]).log().expand(4, 2)  # at temperature 2 as √0.8 : √0.2 = 2 : 1
    u = np.array([0.0, 0.66, 0.67, np.nextafter(1.0, 0.0)])
    assert next_token(logits, 2.0, None, None, u).tolist() == [0, 0, 1, 1]
    many = torch.randn(50, V, generator=torch.Generator().manual_seed(1))
    assert next_token(many, 1.0, None, None, np.full(50, u[-1])).max() < V  # however it rounds


def test_a_seed_gives_the_same_tokens_and_moves_no_other_generator():
    model, before = endless(dropout=0.5), torch.get_rng_state()
    first, again, other = (draw(model=model, seed=seed) for seed in (5, 5, 6))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_text_and_its_end_are_ever_sampled(temperature):
    model = steer(make_model(vocab_size=50), PAD=1e4, MASK=1e4, DOC=-torch.inf)
    few = SpecialTokens(PAD, MASK, DOC, DOC, range(FIRST, 9))  # a tokenizer of fewer tokens
    how = RAW | dict(temperature=temperature)
    assert set(sample(model, random_tokens(2), 40, few, **how)) <= {*range(FIRST, 9)}
    assert draw(model=steer(make_model(), DOC=1e4)) == []


def test_the_rows_of_a_batch_are_texts_of_their_own():
    prompts = np.stack([random_tokens(3), random_tokens(3)[::-1]])
    rows = np.stack(list(sample_batch(endless(), prompts, 40, SPECIAL, temperature=0)), axis=1)
    assert rows.tolist() == [draw(prompt, 40, temperature=0) for prompt in prompts]
    same = np.stack(list(sample_batch(endless(), prompts[[0] * 4], 20, SPECIAL)), axis=1)
    assert len(set(map(tuple, same))) == 4  # and equal prompts go on differently


def test_a_row_that_has_ended_stays_ended_while_others_go_on():
    model = make_model()
    model.logits = lambda hidden: scores.pop(0)
    scores = [torch.eye(V)[ids] for ids in ([[5, 6], [DOC, 7], [8, 9], [8, DOC], [8, 8]])]
    found = list(sample_batch(model, np.full((2, 1), 7), 9, SPECIAL, temperature=0))
    assert np.stack(found).tolist() == [[5, 6], [DOC, 7], [DOC, 9], [DOC, DOC]]


def test_what_cannot_be_a_temperature_top_k_or_top_p_is_refused():
    wrong = dict(top_k=[0], temperature=[-1.0, math.nan], top_p=[0.0, 1.1])
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(UserError, match="a temperature of 0 or more, a top_k of 1 or more"):
            draw(**{name: value})
    assert len(draw(top_k=1, top_p=1.0)) == 20


@pytest.mark.parametrize(("shift", "causal"), [(0, False), (1, False), (1, True)])
def test_a_mask_is_answered_where_the_objective_has_taught_it(shift, causal):
    model, tokens = steer(make_model(), PAD=1e4, MASK=1e4, DOC=1e4), np.array([20, MASK, 21, MASK])
    found = fill_masks(model, tokens, SPECIAL, causal, shift)
    assert model.inputs == [([[DOC, *tokens, DOC]], causal)]
    places = torch.tensor([2, 4]) - shift
    hidden = model(torch.tensor([[DOC, *tokens, DOC]]), causal=causal)[0, places]
    expected = (hidden @ model.embedding.weight.T)[:, FIRST:].softmax(-1).sort(descending=True)
    for i, answers in enumerate(found):
        assert [token - FIRST for token, _ in answers] == expected.indices[i, :5].tolist()
        assert [p for _, p in answers] == pytest.approx(expected.values[i, :5].tolist(), abs=1e-5)
    everything = fill_masks(model, tokens, SPECIAL, causal, shift, top=1000)
    assert [sum(p for _, p in answers) for answers in everything] == pytest.approx([1, 1])
