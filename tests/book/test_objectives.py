"""What a position sees and what it must predict: the rules of each objective, and the loss."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from minilm import objectives
from minilm.config import UserError
from minilm.data import draws
from minilm.objectives import IGNORE, OBJECTIVES, causal, corrupt, hybrid, masked, token_nll
from minilm.tokenizer import SpecialTokens
from tests.book.small import DOC, FIRST, MASK, SPECIAL, V, make_model, random_tokens

both_shifts = pytest.mark.parametrize("shift", [0, 1])


def rng(seed=2):
    return np.random.default_rng(seed)


def near(share, n):
    """`share`, give or take three standard deviations of a share of n."""
    return pytest.approx(share, abs=3 * math.sqrt(share * (1 - share) / n))


def test_the_causal_target_is_the_token_that_comes_next():
    inputs, targets, is_causal = causal(np.array([[11, 12, 13], [21, 22, 23]]))
    assert inputs.tolist() == [[11, 12], [21, 22]] and is_causal
    assert targets.tolist() == [[12, 13], [22, 23]]


@pytest.mark.parametrize(("rate", "width"), [(0.15, 1000), (0.5, 1000), (0.001, 2)])
def test_of_the_chosen_tokens_80_percent_are_masked_10_random_and_10_kept(rate, width):
    many = SpecialTokens(0, 1, 2, 2, range(3, 50_000))  # a random token is hardly ever the same one
    tokens = rng().integers(3, 50_000, (100_000 // width, width))
    corrupted, chosen = corrupt(tokens, rate, rng(3), many)
    n = chosen.sum()  # of the rows of two tokens, in each the one that had to be
    assert n / tokens[:, 1:].size == (1 if width == 2 else near(rate, tokens.size))
    assert (corrupted[chosen] == MASK).mean() == near(0.8, n)
    assert (corrupted[chosen] == tokens[chosen]).mean() == near(0.1, n)
    assert np.array_equal(corrupted[~chosen], tokens[~chosen])


def test_without_a_mask_token_there_is_nothing_to_mask_with():
    with pytest.raises(UserError, match="no mask token"):
        masked(random_tokens(2, 9), 0.15, rng(), SPECIAL._replace(mask=None))


def test_special_tokens_are_neither_chosen_nor_inserted():
    tokens = rng().integers(0, 10, (100, 100))
    corrupted, chosen = corrupt(tokens, 0.9, rng(4), SpecialTokens(0, 1, 2, 9, range(3, 8)))
    assert not chosen[(tokens < 3) | (tokens >= 8)].any() and not chosen[:, 0].any()
    assert set(corrupted[(corrupted != tokens) & (corrupted != MASK)]) == set(range(3, 8))


def test_every_row_has_a_target_however_small_the_rate():
    tokens = rng().integers(0, 5, (200, 6))
    tokens[0] = DOC
    _, chosen = corrupt(tokens, 1e-9, rng(5), SPECIAL)
    possible = (tokens >= FIRST)[:, 1:].any(axis=1)
    assert chosen.sum(axis=1).tolist() == possible.tolist() and not possible.all()
    assert set(chosen.argmax(axis=1)[possible]) == {1, 2, 3, 4, 5}


@both_shifts
def test_only_chosen_tokens_are_targets_and_only_they_are_altered(shift):
    windows = random_tokens(50, 21)
    corrupted, chosen = corrupt(windows, 0.4, rng(), SPECIAL)
    inputs, targets, is_causal = masked(windows, 0.4, rng(), SPECIAL, shift)
    assert np.array_equal(inputs, corrupted[:, :20] if shift else corrupted[:, 1:])
    assert np.array_equal(targets, np.where(chosen, windows, IGNORE)[:, 1:]) and not is_causal


@pytest.mark.parametrize("name", ["causal", "masked", "hybrid's masked"])
@both_shifts
def test_an_oracle_that_copies_reaches_zero_loss_at_the_objectives_own_shift(name, shift):
    windows = np.stack([rng(row).permutation(37)[:20] + FIRST for row in range(8)])
    own = 0 if name == "masked" else 1
    batch = causal(windows) if name == "causal" else masked(windows, 0.4, rng(), SPECIAL, own)
    oracle = make_model()  # certain at each position of the token that stands `shift` later
    answers = torch.from_numpy(np.roll(windows[:, 1 - own :], -shift, axis=1))[:, :19]
    oracle.forward = lambda inputs, causal: 100.0 * torch.nn.functional.one_hot(answers, V)
    oracle.logits = lambda hidden: hidden
    inputs, targets = map(torch.from_numpy, batch[:2])
    loss_sum, count = objectives.language_model_nll(oracle, inputs, targets, batch.causal)
    assert count == (targets != IGNORE).sum() > 0
    assert loss_sum.item() / count == pytest.approx(0 if shift == own else 100, abs=1e-6)


def test_from_causal_to_masked_each_step_changes_one_thing():
    windows = random_tokens(64, 65)
    how = lambda: (0.3, draws(7, 0, "masks"), SPECIAL)
    steps = [causal(windows), objectives.fewer_targets(causal(windows), windows, *how()),
             objectives.fewer_targets(objectives.masked_inputs(windows, *how()), windows, *how()),
             masked(windows, *how(), shift=1)]  # fmt: skip
    same = [[np.array_equal(*pair) for pair in zip(a, b, strict=True)] for a, b in pairwise(steps)]
    assert same == [[True, False, True], [False, True, True], [True, True, False]]
    assert np.array_equal(objectives.masked_inputs(windows, *how()).targets, windows[:, 1:])
    few = steps[1].targets
    assert (few != IGNORE).mean() == near(0.3, few.size) and (few != IGNORE).any(1).all()
    fewer = objectives.fewer_targets(steps[3], windows, 0.15, *how()[1:]).targets
    assert (fewer != IGNORE).mean() == near(0.15, fewer.size)
    assert np.array_equal(fewer, np.where(fewer == IGNORE, IGNORE, steps[3].targets))


def test_where_no_target_is_the_logits_have_no_gradient_and_elsewhere_p_minus_y():
    windows, model = random_tokens(4, 9), make_model()
    batch = objectives.fewer_targets(causal(windows), windows, 0.3, rng(), SPECIAL)
    hidden = model(torch.from_numpy(batch.inputs), causal=True).detach().requires_grad_()
    model.forward = lambda inputs, causal: hidden
    inputs, targets = map(torch.from_numpy, batch[:2])
    loss_sum, _ = objectives.language_model_nll(model, inputs, targets, batch.causal)
    loss_sum.backward()
    there = targets != IGNORE
    p_minus_y = model.logits(hidden[there]).softmax(-1) - torch.eye(V)[targets[there]]
    assert 0 < there.sum() < there.numel() and not hidden.grad[~there].any()
    assert torch.allclose(hidden.grad[there], p_minus_y @ model.embedding.weight, atol=1e-6)


@both_shifts
def test_what_lies_under_a_mask_cannot_change_a_hidden_state(shift):
    windows, model = random_tokens(8, 17), make_model()
    corrupted, _ = corrupt(windows, 0.4, rng(), SPECIAL)
    others = np.where(corrupted == MASK, FIRST + (windows + 1) % (V - FIRST), windows)
    one, other = (masked(text, 0.4, rng(), SPECIAL, shift) for text in (windows, others))
    assert not np.array_equal(one.targets, other.targets)
    assert torch.equal(*(model(torch.from_numpy(b.inputs), causal=False) for b in (one, other)))


def test_the_vocabulary_matrix_is_applied_to_targets_only():
    model, sizes = make_model(), []
    product = model.logits
    model.logits = lambda hidden: sizes.append(tuple(hidden.shape)) or product(hidden)
    inputs, targets, is_causal = masked(random_tokens(4, 17), 0.15, rng(), SPECIAL)
    tensors = torch.from_numpy(inputs), torch.from_numpy(targets)
    _, count = objectives.language_model_nll(model, *tensors, is_causal)
    assert sizes == [(count, 16)] and 0 < count < 32


def test_prefix_asks_for_the_target_alone_and_its_loss_lets_all_see_the_source():
    inputs, targets, seen = objectives.prefix([[11, 12]], [[21, 22, 23]], SPECIAL, most=7)
    assert inputs.tolist() == [[DOC, 11, 12, DOC, 21, 22, 23]]
    assert targets.tolist() == [[IGNORE, IGNORE, IGNORE, 21, 22, 23, DOC]] and seen.tolist() == [4]
    given = []
    oracle = make_model()
    oracle.forward = lambda inputs, **how: given.append(how) or make_model()(inputs, causal=True)
    loss, count = objectives.prefix_nll(oracle, *map(torch.from_numpy, (inputs, targets, seen)))
    assert given[0]["causal"] is True and given[0]["prefix"].tolist() == [4] and count == 4
    log_p = make_model().logits(make_model()(torch.from_numpy(inputs), causal=True))[0, 3:]
    expected = -log_p.log_softmax(-1)[range(4), [21, 22, 23, DOC]].sum()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("share", [0.0, 0.25, None, 1.0])
def test_each_step_of_the_hybrid_is_one_or_the_other_as_masked_share_says(share):
    windows, how, n = random_tokens(2, 9), [] if share is None else [share], 400
    batches = [hybrid(windows, 0.3, draws(7, step, "masks"), SPECIAL, *how) for step in range(n)]
    share = 0.5 if share is None else share
    assert np.mean([not batch.causal for batch in batches]) == near(share, n)
    for step, batch in enumerate(batches[:50]):
        alone = masked(windows, 0.3, draws(7, step, "masks"), SPECIAL, shift=1)
        assert all(map(np.array_equal, batch, causal(windows) if batch.causal else alone))


def test_objectives_go_by_their_names():
    windows, how = random_tokens(8, 9), [0.3, rng(), SPECIAL]
    assert list(OBJECTIVES) == ["causal", "masked", "hybrid"]
    assert OBJECTIVES["causal"](windows, *how).causal and OBJECTIVES["hybrid"] is hybrid
    found = OBJECTIVES["masked"](windows, *how)
    expected = masked(windows, 0.3, rng(), SPECIAL, shift=0)
    assert all(map(np.array_equal, found, expected))


def test_evaluation_masks_coincide_for_every_objective_and_differ_between_windows():
    windows = random_tokens(64, 65)

    def batches(name, index=0, shift=1):
        return [*objectives.evaluation_batches(name, [windows] * 2, SPECIAL, shift)][index]

    halves = {name: list(batches(name)) for name in OBJECTIVES}
    assert halves == dict(causal=["causal"], masked=["masked"], hybrid=["causal", "masked"])
    of_masked, of_hybrid = batches("masked", shift=0)["masked"], batches("hybrid")["masked"]
    training = masked(windows, 0.15, draws(15, 0, "masks"), SPECIAL)  # with the evaluation's seed
    assert np.array_equal(of_masked.targets, of_hybrid.targets)
    assert not np.array_equal(of_masked.inputs, of_hybrid.inputs)
    assert (of_masked.targets != IGNORE).mean() == near(0.15, windows.size)
    for others in (batches("masked", index=1)["masked"], training):
        assert not np.array_equal(others.targets, of_masked.targets)
    for name in ("causal", "hybrid"):
        assert all(map(np.array_equal, batches(name)["causal"], causal(windows)))


def test_the_loss_is_a_sum_over_targets_and_equals_a_hand_calculation():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(6)).double()
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    by_hand = -(math.log(p[0, 1]) + math.log(p[2, 0]) + math.log(p[3, 4]))
    loss_sum, count = token_nll(logits, torch.tensor([1, -100, 0, 4]))  # IGNORE: never a real id
    assert (loss_sum.item(), count) == (pytest.approx(by_hand, rel=1e-12), 3)
    nothing, count = token_nll(logits, torch.full((4,), IGNORE))
    assert (nothing.item(), count) == (0.0, 0)


def test_logits_in_bfloat16_are_summed_in_float32():
    logits = torch.randn(1000, 30, generator=torch.Generator().manual_seed(7)).bfloat16()
    loss_sum, _ = token_nll(logits, torch.arange(1000) % 30)
    exact, _ = token_nll(logits.double(), torch.arange(1000) % 30)
    assert (loss_sum.dtype, exact.dtype) == (torch.float32, torch.float64)
    assert loss_sum.item() == pytest.approx(exact.item(), rel=1e-6)
