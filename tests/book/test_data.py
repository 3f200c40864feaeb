"""From tokens to batches: nothing lost, nothing mixed, and every draw a function of its step."""

import numpy as np
import pytest

from minilm import data
from minilm.config import UserError
from minilm.data import PURPOSES, Windows, draws, evaluation_windows
from tests.book.small import DOC, SPECIAL

LENGTH = 8


def test_draws_differ_by_seed_step_and_purpose_and_come_again():
    different = [(n % 2, n // 2, purpose) for n in range(4) for purpose in PURPOSES]
    numbers = [tuple(draws(*key).integers(0, 2**62, 4)) for key in different]
    assert len(set(numbers)) == len(different)
    assert numbers == [tuple(draws(*key).integers(0, 2**62, 4)) for key in different]


@pytest.mark.parametrize(
    ("n_tokens", "length"), [(9, 8), (10, 8), (16, 8), (17, 8), (24, 8), (100, 8), (384, 128)]
)
def test_an_epochs_windows_lie_side_by_side_and_over_the_epochs_every_token_is_read(
    n_tokens, length
):
    windows, read = Windows(np.arange(n_tokens).astype(np.uint16), length, seed=0), set()
    assert windows.per_epoch >= max(1, (n_tokens - 1) // length - 1)
    for epoch in range(10 * length):
        found = windows.batch(epoch, batch_size=windows.per_epoch)
        assert found.shape == (windows.per_epoch, length + 1) and found.dtype == np.int64
        assert (np.diff(found, axis=1) == 1).all()  # stretches of the text
        assert set(np.diff(np.sort(found[:, 0]))) <= {length}
        read |= set(found.flat)
    assert read == set(range(n_tokens))


def test_order_and_cuts_differ_between_epochs_and_between_seeds():
    windows = [Windows(np.arange(1000), LENGTH, seed) for seed in (0, 1)]
    n = windows[0].per_epoch
    epochs = [windows[seed].batch(epoch, n)[:, 0] for seed in (0, 1) for epoch in range(10)]
    assert len({frozenset(starts) for starts in epochs}) > LENGTH
    assert len({tuple(starts) for starts in epochs}) == 20
    assert 0.4 < (np.diff(np.concatenate(epochs)) > 0).mean() < 0.6


def test_the_batch_of_a_step_does_not_depend_on_what_was_asked_before():
    history = Windows(np.arange(200), LENGTH, seed=0)  # batches of 5 cross from epoch to epoch
    in_order = [history.batch(step, batch_size=5) for step in range(30)]
    for step in (29, 3, 14, 4):
        data._epoch_order.cache_clear()
        assert np.array_equal(Windows(np.arange(200), LENGTH, 0).batch(step, 5), in_order[step])


@pytest.mark.parametrize("n_tokens", [2, 8, 9, 10, 42, 256])
def test_validation_counts_every_token_but_the_first_as_a_target_once(n_tokens):
    parts = evaluation_windows(np.arange(n_tokens).astype(np.uint16), LENGTH)
    targets = [target for part in parts for window in part for target in window[1:]]
    assert targets == list(range(1, n_tokens))
    assert all(part.dtype == np.int64 and (np.diff(part) == 1).all() for part in parts)
    assert all(part.shape[1] == LENGTH + 1 for part in parts[:-1])
    assert len(parts) <= 2 and parts[-1].shape[1] > 1


def test_a_long_validation_text_is_sampled_evenly():
    (few,) = evaluation_windows(np.arange(42), LENGTH, most=2)
    assert few.shape == (2, LENGTH + 1) and few[:, 0].tolist() == [0, 16]


def test_a_text_too_short_to_learn_from_is_refused():
    Windows(np.arange(LENGTH + 1), LENGTH, 0), evaluation_windows(np.arange(2), LENGTH)
    for cut in (lambda: Windows(np.arange(8), LENGTH, 0), lambda: evaluation_windows([7], LENGTH)):
        with pytest.raises(UserError, match=r"has \d tokens.* give more text"):
            cut()


def test_a_frame_keeps_the_head_and_the_tail_of_a_text_that_is_too_long():
    assert data.frame(np.arange(4), 6, SPECIAL).tolist() == [DOC, 0, 1, 2, 3, DOC]
    assert data.frame(np.arange(20), 8, SPECIAL).tolist() == [DOC, 0, 15, 16, 17, 18, 19, DOC]
    assert data.frame(np.arange(20), 10, SPECIAL).tolist() == [DOC, 0, 1, 14, *range(15, 20), DOC]
    assert data.frame(np.array([]), 10, SPECIAL).tolist() == [DOC, DOC]
    assert data.frame(np.arange(4), 2, SPECIAL).tolist() == [DOC, DOC]
    with pytest.raises(UserError, match="max_length is 1"):
        data.frame(np.arange(4), 1, SPECIAL)


@pytest.mark.parametrize(
    ("how", "width"), [(dict(), 16), (dict(multiple=2), 6), (dict(most=12), 12), (dict(most=3), 5)]
)
def test_padding_stands_at_the_end_and_rounds_up_to_no_more_than_the_models_window(how, width):
    tokens, is_real = data.pad([np.array([5, 6]), np.array([7, 8, 9, 10, 11])], 39, **how)
    assert tokens.shape == is_real.shape == (2, width) and tokens.dtype == np.int64
    assert is_real.sum(1).tolist() == [2, 5] and is_real[0, :2].all() and is_real[1, :5].all()
    assert tokens[is_real].tolist() == [*range(5, 12)] and (tokens[~is_real] == 39).all()


def test_chunks_hold_every_row_in_order_and_none_is_too_large():
    windows = [np.arange(10).reshape(5, 2), np.arange(10, 13).reshape(1, 3)]
    chunks = [rows.tolist() for rows in data.in_chunks(windows, 2)]
    assert chunks == [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9]], [[10, 11, 12]]]


def test_an_epochs_batches_hold_every_text_once_and_texts_of_like_length_together():
    lengths = np.random.default_rng(1).integers(1, 500, 1000)
    keys = [(0, 0), (0, 1), (1, 0), (0, 0)]
    first, *others, again = (data.epoch_batches(lengths, 8, seed, epoch) for seed, epoch in keys)
    assert all(map(np.array_equal, first, again))
    for batches in (first, *others):
        assert sorted(np.concatenate(batches)) == list(range(1000)) and len(batches) == 125
        assert np.mean([np.ptp(lengths[batch]) for batch in batches]) < 20
        rising = np.diff([lengths[batch].mean() for batch in batches]) > 0
        assert 0.35 < rising.mean() < 0.65  # but in no order
    assert len({frozenset(map(frozenset, batches)) for batches in (first, *others)}) == 3
