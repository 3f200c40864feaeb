"""Sampling: the cache changes nothing but the time, and the filters keep what they should."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from minilm.generate import fill, filter_logits, generate, generate_batch
from minilm.tokenizer import DOC, MASK, N_SPECIAL, PAD

LENGTH = 16  # max_length of conftest's models


def steer(model, **scores):
    """Replace the model's scores for some special tokens, at every position."""
    original, ids = model.logits, dict(PAD=PAD, MASK=MASK, DOC=DOC)

    def logits(hidden):
        result = original(hidden).clone()
        for name, score in scores.items():
            result[:, ids[name]] = score
        return result

    model.logits = logits
    return model


@pytest.fixture
def endless(make_model):
    """A random model that never ends a text."""
    return steer(make_model(), DOC=-torch.inf)


class Recorder:
    """Stands in for a model: notes what it is asked to read, and answers every position with the
    same scores, or (without any) with the number of the position."""

    def __init__(self, scores=None, max_length=LENGTH):
        self.config = SimpleNamespace(max_length=max_length)
        self.embedding = SimpleNamespace(weight=torch.zeros(1))
        self.scores, self.read, self.causal = scores, [], []

    def eval(self):
        pass

    def __call__(self, tokens, causal, cache=None):
        self.read.append(tokens[0].tolist())
        self.causal.append(causal)
        B, T = tokens.shape
        return torch.arange(T).view(1, T, 1).expand(B, T, 1)  # hidden (B, T, 1): the position

    def logits(self, hidden):
        if self.scores is not None:
            return torch.tensor(self.scores).expand(len(hidden), -1)
        return 10.0 * torch.nn.functional.one_hot(N_SPECIAL + hidden[:, 0], 40)


def prompt_of(length):
    return np.random.default_rng(length).integers(N_SPECIAL, 40, length)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("length", [0, 1, LENGTH - 1, LENGTH, 3 * LENGTH])
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_cache_changes_no_word(make_model, length, temperature, positions):
    model = steer(make_model(positions=positions), DOC=-torch.inf)
    with_cache, without = (
        list(generate(model, prompt_of(length), 2 * LENGTH + 3, temperature=temperature, cached=c))
        for c in (True, False)
    )
    assert with_cache == without
    assert len(with_cache) == 2 * LENGTH + 3
    assert temperature == 0 or len(set(with_cache)) > 10  # the likeliest may repeat itself


def test_a_window_that_is_full_is_read_anew_from_its_later_half():
    model = Recorder(scores=[0.0] * 40, max_length=6)
    words = list(generate(model, np.array([10, 11]), 5, seed=1))
    text = [DOC, 10, 11, *words]
    alone = [[word] for word in text]
    # Three positions, then one at a time until six are read; the seventh does not fit.
    assert model.read == [text[:3], *alone[3:6], text[4:7]]
    assert all(model.causal)


def test_temperature_zero_is_the_likeliest_word_each_time(endless):
    words = prompt_of(3)
    text = [DOC, *words]
    for word in generate(endless, words, LENGTH - 4, temperature=0):
        with torch.no_grad():
            logits = endless.logits(endless(torch.tensor([text]), causal=True)[0, -1:])[0]
        logits[[PAD, MASK]] = -torch.inf
        assert word == logits.argmax()
        text.append(word)
    assert len(text) == LENGTH


@pytest.mark.parametrize("only", [dict(top_k=1), dict(top_p=0.0), dict(top_k=1, top_p=1.0)])
def test_only_the_best_word_left_equals_temperature_zero(endless, only):
    greedy = list(generate(endless, prompt_of(2), 20, temperature=0))
    options = dict(top_k=None, top_p=None) | only
    assert list(generate(endless, prompt_of(2), 20, temperature=1.5, **options)) == greedy


@pytest.mark.parametrize(
    "top_k, top_p, kept",
    [
        (None, None, [1, 2, 3, 4]),
        (2, None, [1, 3]),
        (9, None, [1, 2, 3, 4]),
        (None, 0.45, [1]),
        (None, 0.75, [1, 3]),  # 0.5 is too little, 0.5 + 0.3 is enough
        (None, 0.9, [1, 3, 4]),
        (None, 1.0, [1, 2, 3, 4]),
        (2, 0.6, [1]),  # of the two that top_k leaves, 0.5 is more than 0.6
        (3, 0.6, [1, 3]),
    ],
)
def test_the_filters_keep_the_fewest_words_by_hand(top_k, top_p, kept):
    probabilities = torch.tensor([0.0, 0.5, 0.05, 0.3, 0.15])  # of words 0 to 4
    both = torch.stack([probabilities, probabilities.flip(0)]).log()  # each row is filtered alone
    mirrored = [4 - word for word in reversed(kept)]
    rows = zip(filter_logits(both, top_k, top_p), both, (kept, mirrored), strict=True)
    for row, before, expected in rows:
        assert row.isfinite().nonzero()[:, 0].tolist() == expected
        assert torch.equal(row[expected], before[expected])


def test_words_come_as_often_as_the_temperature_says():
    scores = np.log([1e-9] * N_SPECIAL + [0.8, 0.2]).tolist()
    raw = dict(temperature=2.0, top_k=None, top_p=None)
    words = list(generate(Recorder(scores), np.array([]), 3000, **raw))
    # p^(1/2), normalised: √0.8 : √0.2 = 2 : 1; three standard deviations are 0.026
    assert words.count(N_SPECIAL) / len(words) == pytest.approx(2 / 3, abs=0.026)


def test_the_highest_draw_is_still_a_word_however_probabilities_were_rounded(monkeypatch):
    highest = SimpleNamespace(random=lambda shape: np.full(shape, np.nextafter(1.0, 0.0)))
    monkeypatch.setattr("minilm.generate.draws", lambda *_: highest)
    rng = np.random.default_rng(1)
    for _ in range(50):
        model = Recorder(rng.normal(size=40).tolist())
        (word,) = generate_batch(model, np.zeros((1, 0)), 1, temperature=1.0)
        assert 0 <= word[0] < 40


@pytest.mark.parametrize("temperature", [5e-324, 1e-42])
def test_no_temperature_is_too_low(endless, temperature):
    greedy = list(generate(endless, prompt_of(2), 20, temperature=0))
    assert list(generate(endless, prompt_of(2), 20, temperature=temperature)) == greedy


def test_no_temperature_is_too_high(endless):
    assert len(list(generate(endless, prompt_of(2), 20, temperature=1e300))) == 20


def test_a_seed_gives_the_same_words_and_moves_no_other_generator(endless):
    before = torch.get_rng_state()
    first, again, other = (list(generate(endless, prompt_of(1), 20, seed=s)) for s in (5, 5, 6))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_padding_and_masks_are_never_said(make_model, temperature):
    model = steer(make_model(), PAD=1e4, MASK=1e4, DOC=-torch.inf)
    raw = dict(temperature=temperature, top_k=None, top_p=None)
    words = list(generate(model, prompt_of(2), 30, **raw))
    assert len(words) == 30 and min(words) >= N_SPECIAL


def test_the_end_of_the_document_ends_the_text(make_model):
    assert list(generate(steer(make_model(), DOC=1e4), prompt_of(2), 30)) == []


def test_the_rows_of_a_batch_are_texts_of_their_own(endless):
    prompts = np.stack([prompt_of(3), prompt_of(3)[::-1]])
    rows = np.stack(list(generate_batch(endless, prompts, 2 * LENGTH, temperature=0)), axis=1)
    for prompt, row in zip(prompts, rows, strict=True):
        assert row.tolist() == list(generate(endless, prompt, 2 * LENGTH, temperature=0))


def test_equal_prompts_go_on_differently(endless):
    prompts = np.stack([prompt_of(3)] * 4)
    rows = np.stack(list(generate_batch(endless, prompts, 20, temperature=1.0)), axis=1)
    assert len(set(map(tuple, rows))) == 4


def test_a_row_that_has_ended_stays_ended_while_others_go_on():
    class Ends(Recorder):
        def logits(self, hidden):  # row 0 ends at its second word, and would then go on
            end = len(self.read) == 2
            scores = torch.zeros(len(hidden), 40)
            scores[:, N_SPECIAL + 1] = 1.0
            scores[0, DOC] = 2.0 * end
            return scores

    words = list(generate_batch(Ends(), np.full((2, 1), 7), 4, temperature=0))
    word = N_SPECIAL + 1
    assert np.stack(words).tolist() == [[word, word], [DOC, word], [DOC, word], [DOC, word]]


@pytest.mark.parametrize(
    "objective, shift, causal", [("masked", 0, False), ("hybrid", 1, False), ("causal", 1, True)]
)
def test_a_mask_is_read_where_the_objective_has_taught_it(objective, shift, causal):
    model = Recorder()
    found = fill(model, np.array([MASK, 20, 21, MASK]), objective, top=1)
    assert model.read == [[DOC, MASK, 20, 21, MASK, DOC]] and model.causal == [causal]
    assert [words[0][0] - N_SPECIAL for words in found] == [1 - shift, 4 - shift]


def test_each_mask_gets_the_top_of_a_distribution_over_words(make_model):
    model = steer(make_model(), PAD=1e4, MASK=1e4, DOC=1e4)
    tokens = np.array([20, MASK, 21, MASK])
    with torch.no_grad():
        hidden = model(torch.tensor([[DOC, *tokens, DOC]]), causal=False)[0, [2, 4]]
        expected = (hidden @ model.embedding.weight.T)[:, N_SPECIAL:].softmax(-1)
    for words, row in zip(fill(model, tokens, "masked", top=5), expected, strict=True):
        best = row.sort(descending=True)
        assert [word - N_SPECIAL for word, _ in words] == best.indices[:5].tolist()
        assert [p for _, p in words] == pytest.approx(best.values[:5].tolist(), abs=1e-5)
    everything = fill(model, tokens, "masked", top=1000)
    assert [sum(p for _, p in words) for words in everything] == pytest.approx([1, 1], abs=1e-5)
