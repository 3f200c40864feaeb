"""What a position sees and what it must say: the rules of each objective, and the loss."""

import math

import numpy as np
import pytest
import torch

from minilm.device import Machine
from minilm.model import Transformer
from minilm.objectives import (
    IGNORE,
    LanguageModelLoss,
    Objective,
    causal,
    corrupt,
    masked,
    masked_next,
    target_logits,
    token_nll,
)
from minilm.optim import make_optimizers
from minilm.tokenizer import DOC, MASK, N_SPECIAL
from minilm.training import Plan, StepBatch, Trainer, share_out

V = 40


def some_words(*shape, vocab_size=V, first=N_SPECIAL):
    return np.random.default_rng(1).integers(first, vocab_size, shape)


def make_task(name, windows, rate=0.4):
    """A Task by its name; the same draws at every call."""
    if name == "causal":
        return causal(windows)
    make = masked if name == "masked" else masked_next
    return make(windows, rate, V, np.random.default_rng(2))


every_task = pytest.mark.parametrize("name", ["causal", "masked", "masked_next"])
both_masked = pytest.mark.parametrize("name", ["masked", "masked_next"])


def test_the_causal_target_is_the_word_that_comes_next():
    inputs, targets, looks_back_only = causal(np.array([[11, 12, 13], [21, 22, 23]]))
    assert inputs.tolist() == [[11, 12], [21, 22]]
    assert targets.tolist() == [[12, 13], [22, 23]]
    assert looks_back_only


@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_of_the_chosen_words_80_percent_are_hidden_10_random_and_10_kept(rate):
    words = some_words(100, 1000, vocab_size=50_000)  # a random word is hardly ever the same one
    corrupted, chosen = corrupt(words, rate, 50_000, np.random.default_rng(3))

    def assert_share(found, n, share):
        assert abs(found - n * share) < 3 * math.sqrt(n * share * (1 - share))

    n = int(chosen.sum())
    assert_share(n, words.size, rate)
    assert_share((corrupted[chosen] == MASK).sum(), n, 0.8)
    assert_share((corrupted[chosen] == words[chosen]).sum(), n, 0.1)
    assert np.array_equal(corrupted[~chosen], words[~chosen])


def test_special_tokens_are_neither_chosen_nor_inserted():
    words = some_words(100, 100, vocab_size=8, first=0)  # three of eight are special
    corrupted, chosen = corrupt(words, 0.9, 8, np.random.default_rng(4))
    special = words < N_SPECIAL
    assert not chosen[special].any()
    inserted = corrupted[(corrupted != words) & (corrupted != MASK)]
    assert set(inserted.tolist()) == set(range(N_SPECIAL, 8))  # every ordinary word, and no other


@pytest.mark.parametrize("first", [0, 1])
def test_every_row_has_a_target_however_small_the_rate(first):
    words = some_words(200, 6, vocab_size=5, first=0)
    words[0] = DOC
    _, chosen = corrupt(words, 1e-9, 5, np.random.default_rng(5), first)
    possible = (words >= N_SPECIAL)[:, first:].any(axis=1)
    assert chosen.sum(axis=1).tolist() == possible.astype(int).tolist()
    assert 0 < possible.sum() < 200


@both_masked
def test_only_chosen_words_are_targets_and_only_they_are_altered(name):
    windows = some_words(50, 21)
    task = make_task(name, windows)
    shift = 1 if name == "masked_next" else 0
    says = windows[:, shift : 20 + shift]
    has_target = task.targets != IGNORE
    assert 0 < task.count == has_target.sum() < has_target.size
    assert np.array_equal(task.targets[has_target], says[has_target])
    asked = np.zeros(windows.shape, dtype=bool)
    asked[:, shift : 20 + shift] = has_target
    assert np.array_equal(task.inputs[~asked[:, :20]], windows[:, :20][~asked[:, :20]])
    assert (task.inputs[asked[:, :20]] == MASK).any()
    assert not task.causal


def test_the_shifted_objective_never_hides_the_first_word_which_none_could_say():
    windows = some_words(200, 9)
    task = make_task("masked_next", windows, rate=0.9)
    assert np.array_equal(task.inputs[:, 0], windows[:, 0])
    assert (task.targets[:, 0] == windows[:, 1]).mean() > 0.8  # the second word can be asked for
    last_is_asked = task.targets[:, -1] == windows[:, -1]
    assert 0.8 < last_is_asked.mean() < 1  # though it is not among the inputs


class Copyist:
    """An oracle: at position i it is certain of the word at i + shift of the original text."""

    def __init__(self, windows, shift):
        self.says = torch.from_numpy(windows[:, shift:])

    def __call__(self, inputs, causal):
        says = self.says[:, : inputs.shape[1]]
        return 100 * torch.nn.functional.one_hot(says, V).double()

    def logits(self, hidden):
        return hidden


@every_task
@pytest.mark.parametrize("shift", [0, 1])
def test_an_oracle_that_copies_reaches_zero_loss_at_the_objectives_own_shift(name, shift):
    windows = np.stack([np.random.default_rng(row).permutation(37)[:20] + 3 for row in range(8)])
    oracle, task = Copyist(windows, shift), make_task(name, windows)
    inputs, targets = map(torch.from_numpy, task[:2])
    loss_sum, count = token_nll(*target_logits(oracle, inputs, targets, task.causal))
    right = shift == (0 if name == "masked" else 1)
    assert loss_sum.item() / count == pytest.approx(0 if right else 100, abs=1e-6)


@both_masked
def test_what_lies_under_a_mask_cannot_change_a_logit(make_model, name):
    windows = some_words(8, 17)
    task = make_task(name, windows)
    hidden = np.zeros(windows.shape, dtype=bool)
    hidden[:, :16] = task.inputs == MASK
    other_windows = np.where(hidden, N_SPECIAL + (windows + 1) % (V - N_SPECIAL), windows)
    other_task = make_task(name, other_windows)
    assert not np.array_equal(task.targets, other_task.targets)
    model = make_model()
    logits = [
        target_logits(model, *map(torch.from_numpy, t[:2]), causal=False)[0]
        for t in (task, other_task)
    ]
    assert torch.equal(*logits)


@every_task
def test_the_vocabulary_matrix_is_applied_to_targets_only(make_model, name):
    task = make_task(name, some_words(4, 17))
    inputs, targets = map(torch.from_numpy, task[:2])
    logits, said = target_logits(make_model(), inputs, targets, task.causal)
    assert logits.shape == (task.count, V) and said.shape == (task.count,)
    assert task.count == 64 or (name != "causal" and 0 < task.count < 48)


def test_hybrid_is_causal_in_about_half_of_the_steps_which_only_seed_and_step_decide():
    windows = some_words(2, 9)

    def tasks(seed, steps):
        objective = Objective("hybrid", V, seed)
        return [objective.task(windows, step, rate=0.3) for step in steps]

    forward, backward = tasks(7, range(400)), tasks(7, reversed(range(400)))[::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(map(np.array_equal, a, b))
    is_causal = np.array([task.causal for task in forward])
    assert abs(is_causal.mean() - 0.5) < 3 * math.sqrt(0.25 / 400)
    assert 100 < (is_causal[1:] != is_causal[:-1]).sum() < 300  # no pattern in it
    assert [task.causal for task in tasks(8, range(400))] != is_causal.tolist()


def test_masks_are_drawn_anew_at_every_step_and_differ_between_seeds():
    windows = some_words(4, 65)
    hidden = [
        (Objective("masked", V, seed).task(windows, step, rate=0.3).inputs == MASK).tobytes()
        for seed in (0, 1)
        for step in (0, 1)
    ]
    assert len(set(hidden)) == 4


@pytest.mark.parametrize(
    ("name", "readings"),
    [("causal", ["causal"]), ("masked", ["masked"]), ("hybrid", ["causal", "masked"])],
)
def test_evaluation_masks_are_the_same_at_every_call_and_for_every_seed(name, readings):
    windows = some_words(64, 65)
    first, second = Objective(name, V, seed=0), Objective(name, V, seed=1)
    tasks = first.evaluation_tasks(windows, start=0)
    second.task(windows, step=5, rate=0.9)  # what training draws must not matter
    again = second.evaluation_tasks(windows, start=0)
    assert list(tasks) == list(again) == readings
    for reading, task in tasks.items():
        assert all(map(np.array_equal, task, again[reading]))
        assert task.causal is (reading == "causal")
    if "masked" in tasks:
        says = windows[:, 1:] if name == "hybrid" else windows[:, :-1]  # hybrid's halves share it
        assert set((tasks["masked"].targets - says)[tasks["masked"].targets != IGNORE]) == {0}
        assert 0.13 < tasks["masked"].count / tasks["masked"].targets.size < 0.17
        others = first.evaluation_tasks(windows, start=64)["masked"]
        assert not np.array_equal(tasks["masked"].inputs, others.inputs)


def test_the_loss_is_a_sum_over_targets_and_equals_a_hand_calculation():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(6)).double()
    targets = torch.tensor([1, IGNORE, 0, 4])
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    by_hand = -(math.log(p[0, 1]) + math.log(p[2, 0]) + math.log(p[3, 4]))
    loss_sum, count = token_nll(logits, targets)
    assert (loss_sum.item(), count) == (pytest.approx(by_hand, rel=1e-12), 3)
    nothing, count = token_nll(logits, torch.full((4,), IGNORE))
    assert (nothing.item(), count) == (0.0, 0)


def test_logits_in_bfloat16_are_summed_in_float32():
    logits = torch.randn(1000, 30, generator=torch.Generator().manual_seed(7)).bfloat16()
    targets = torch.arange(1000) % 30
    loss_sum, _ = token_nll(logits, targets)
    exact, _ = token_nll(logits.double(), targets)
    assert (loss_sum.dtype, exact.dtype) == (torch.float32, torch.float64)
    assert loss_sum.item() == pytest.approx(exact.item(), rel=1e-6)


def make_trainer(model, task, accumulate=1, learning_rate=0.1, optimizer="sgd", clip=math.inf):
    """A Trainer that reads the same Task at every step."""
    machine = Machine(torch.device("cpu"), bfloat16=False, why="a test")
    rows = share_out((task.inputs, task.targets), machine, accumulate)
    batch = StepBatch([(*row, task.causal) for row in rows], task.count, task.inputs.size)
    optimizers = make_optimizers(model, optimizer, learning_rate, weight_decay=0.0)
    plan = Plan(100, warmup=0, cooldown=0, evaluate_every=100, seed=0, clip=clip)
    return Trainer(model, LanguageModelLoss(model), optimizers, lambda step: batch, plan, machine)


@every_task
def test_micro_batches_with_unequal_numbers_of_targets_move_the_weights_as_one_batch(
    make_model, name
):
    task = make_task(name, some_words(7, 9))
    updated = []
    for accumulate in (1, 3, 7):
        trainer = make_trainer(make_model(), task, accumulate)
        loss, batch = trainer.step(0)
        updated.append((loss, trainer.model.state_dict()))
    assert name == "causal" or len({(row[1] != IGNORE).sum() for row in batch.micro_batches}) > 1
    for loss, weights in updated[1:]:
        assert loss == pytest.approx(updated[0][0], rel=1e-12)
        for weight_name, weight in weights.items():
            torch.testing.assert_close(weight, updated[0][1][weight_name], rtol=0, atol=1e-12)


@every_task
def test_one_batch_can_be_learnt_by_heart(make_model, name):
    words = np.random.default_rng(8).permutation(36) + N_SPECIAL  # each says what comes next
    task, model = make_task(name, words.reshape(4, 9)), Transformer(make_model().config)
    trainer = make_trainer(model, task, learning_rate=0.02, optimizer="adamw", clip=1.0)
    losses = [trainer.step(step)[0] for step in range(80)]
    assert losses[-1] < 0.05


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_hybrids_share_of_masked_steps_is_what_was_asked_for(share):
    objective = Objective("hybrid", V, seed=0, masked_share=share)
    tasks = [objective.task(some_words(2, 9), step, 0.3) for step in range(20)]
    assert {task.causal for task in tasks} == {share == 0.0}
