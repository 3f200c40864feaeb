"""From tokens to batches: nothing lost, nothing mixed, and every draw a function of its step."""

import numpy as np
import pytest

from minilm.config import UserError
from minilm.data import (
    PURPOSES,
    Windows,
    _epoch_order,
    draws,
    epoch_batches,
    evaluation_windows,
    frame,
    pad,
)  # fmt: skip
from tests.book.small import DOC, SPECIAL

LENGTH = 8


def test_draws_differ_by_seed_step_and_purpose_and_come_again():
    different = [
        (seed, step, purpose) for seed in (0, 1) for step in (0, 1) for purpose in PURPOSES
    ]
    numbers = [tuple(draws(*key).integers(0, 2**62, 4)) for key in different]
    assert len(set(numbers)) == len(different)
    assert numbers == [tuple(draws(*key).integers(0, 2**62, 4)) for key in different]


@pytest.mark.parametrize("n_tokens", [9, 10, 16, 17, 24, 25, 100, 384])
def test_an_epochs_windows_lie_side_by_side_and_over_the_epochs_every_token_is_read(n_tokens):
    windows, read = Windows(np.arange(n_tokens).astype(np.uint16), LENGTH, seed=0), set()
    assert windows.per_epoch >= max(1, (n_tokens - 1) // LENGTH - 1)
    for epoch in range(60):
        found = windows.batch(epoch, batch_size=windows.per_epoch)
        assert found.shape == (windows.per_epoch, LENGTH + 1) and found.dtype == np.int64
        assert (np.diff(found, axis=1) == 1).all()  # stretches of the text
        assert set(np.diff(np.sort(found[:, 0]))) <= {LENGTH}
        read |= set(found.flat)
    assert read == set(range(n_tokens))


def test_order_and_cuts_differ_between_epochs_and_between_seeds():
    def epoch(seed, number):
        windows = Windows(np.arange(1000), LENGTH, seed)
        return windows.batch(number, batch_size=windows.per_epoch)[:, 0]

    epochs = [epoch(0, number) for number in range(20)] + [epoch(1, 0)]
    assert len({frozenset(starts) for starts in epochs}) > LENGTH
    assert 0.4 < (np.diff(np.concatenate(epochs)) > 0).mean() < 0.6


def test_the_batch_of_a_step_does_not_depend_on_what_was_asked_before():
    history = Windows(np.arange(200), LENGTH, seed=0)  # 5 cross from epoch to epoch
    in_order = [history.batch(step, batch_size=5) for step in range(30)]
    for step in (29, 3, 14, 4):
        _epoch_order.cache_clear()
        assert np.array_equal(Windows(np.arange(200), LENGTH, 0).batch(step, 5), in_order[step])


@pytest.mark.parametrize("n_tokens", [2, 8, 9, 10, 42, 256])
def test_validation_counts_every_token_but_the_first_as_a_target_once(n_tokens):
    parts = evaluation_windows(np.arange(n_tokens).astype(np.uint16), LENGTH)
    assert [target for part in parts for window in part for target in window[1:]] == list(
        range(1, n_tokens)
    )
    assert all(part.dtype == np.int64 and (np.diff(part) == 1).all() for part in parts)
    assert all(part.shape[1] == LENGTH + 1 for part in parts[:-1]) and len(parts) <= 2


def test_a_long_validation_text_is_sampled_evenly_and_to_its_end():
    (few,) = evaluation_windows(np.arange(42), LENGTH, most=2)
    assert few.shape == (2, LENGTH + 1) and few[:, 0].tolist() == [0, 16]


def test_a_text_too_short_to_learn_from_is_refused():
    Windows(np.arange(LENGTH + 1), LENGTH, 0), evaluation_windows(np.arange(2), LENGTH)
    for cut in (lambda n: Windows(np.arange(n), n, 0), lambda n: evaluation_windows([7], n)):
        with pytest.raises(UserError, match=r"has \d tokens.* give more text"):
            cut(LENGTH)


def test_a_frame_keeps_the_head_and_the_tail_of_a_text_that_is_too_long():
    assert frame(np.arange(10, 14), 6, SPECIAL).tolist() == [DOC, 10, 11, 12, 13, DOC]
    assert frame(np.arange(10, 30), 10, SPECIAL).tolist() == [
        DOC, 10, 11, 24, 25, 26, 27, 28, 29, DOC
    ]  # fmt: skip
    assert frame(np.array([]), 10, SPECIAL).tolist() == [DOC, DOC]
    assert frame(np.arange(10, 30), 10, SPECIAL).dtype == np.uint16


@pytest.mark.parametrize(
    ("how", "width"), [(dict(), 16), (dict(multiple=2), 6), (dict(most=12), 12), (dict(most=3), 5)]
)
def test_padding_stands_at_the_end_and_rounds_up_to_no_more_than_the_models_window(how, width):
    texts = [np.array([5, 6]), np.array([7, 8, 9, 10, 11])]
    tokens, is_real = pad(texts, 39, **how)
    assert tokens.shape == is_real.shape == (2, width) and tokens.dtype == np.int64
    assert is_real.sum(1).tolist() == [2, 5] and is_real[:, :2].all()
    assert tokens[is_real].tolist() == [5, 6, 7, 8, 9, 10, 11] and (tokens[~is_real] == 39).all()


def test_an_epochs_batches_hold_every_text_once_and_texts_of_like_length_together():
    lengths = np.random.default_rng(1).integers(1, 500, 1000)
    epochs = [epoch_batches(lengths, 8, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for batches in epochs:
        assert sorted(np.concatenate(batches)) == list(range(1000)) and len(batches) == 125
        assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 20
        means = np.array([lengths[batch].mean() for batch in batches])
        assert 0.35 < (np.diff(means) > 0).mean() < 0.65  # but in no order
    assert len({tuple(np.concatenate(batches)) for batches in epochs}) == 3
    assert {frozenset(b) for b in epochs[0]} != {frozenset(b) for b in epochs[1]}
    again = epoch_batches(lengths, 8, 0, 1)
    assert all(map(np.array_equal, again, epochs[1]))
