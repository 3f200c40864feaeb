"""From tokens to batches: windows of a long text, padded batches of short ones, and the draws that
decide their order."""

import functools
from collections.abc import Iterable, Iterator

import numpy as np

from minilm.config import UserError
from minilm.tokenizer import SpecialTokens

PURPOSES = ("windows", "masks", "dropout", "validation", "labels", "batches", "sample", "resample",
            "evaluation masks")  # fmt: skip


def draws(seed: int, step: int, purpose: str) -> np.random.Generator:
    """The random draws for one purpose at one step. No other draw can move them, so that a resumed
    run draws what an uninterrupted one would have drawn."""
    return np.random.default_rng([seed, step, PURPOSES.index(purpose)])


class Windows:
    """Windows of `length` + 1 tokens in a random order, each once an epoch. Every epoch cuts the
    text at other places: its windows lie side by side from an offset on. The batch of a step is a
    function of (seed, step, batch_size) alone. Raises UserError where the text (N,) is shorter than
    one window. The first tokens of the three windows of two epochs of a text of 20:

    >>> windows = Windows(np.arange(20), length=4, seed=0)
    >>> [windows.batch(epoch, 3)[:, 0].tolist() for epoch in (0, 1)]
    [[15, 7, 11], [6, 2, 10]]
    """

    def __init__(self, tokens: np.ndarray, length: int, seed: int):
        if len(tokens) <= length:
            have = f"the text has {len(tokens)} tokens, fewer than a window of {length + 1}"
            raise UserError(f"{have}: give more text or a smaller --max-length")
        self.tokens, self.length, self.seed = tokens, length, seed
        self.per_epoch = max(1, (len(tokens) - 1) // length - 1)

    def batch(self, step: int, batch_size: int) -> np.ndarray:
        """The windows of a step, (batch_size, length + 1) int64."""
        indices = range(step * batch_size, (step + 1) * batch_size)
        return np.stack([self._window(*divmod(index, self.per_epoch)) for index in indices])

    def _window(self, epoch: int, index: int) -> np.ndarray:
        offset, order = _epoch_order(self.seed, epoch, self.per_epoch)
        spare = len(self.tokens) - self.per_epoch * self.length - 1  # tokens, for the offset
        start = offset % (spare + 1) + order[index] * self.length
        return self.tokens[start : start + self.length + 1].astype(np.int64)


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, n: int) -> tuple[int, np.ndarray]:
    rng = draws(seed, epoch, "windows")
    return int(rng.integers(2**31)), rng.permutation(n)


def evaluation_windows(tokens: np.ndarray, length: int, most: int = 256) -> list[np.ndarray]:
    """A validation text (N,) cut into windows side by side, of which every token but the first is
    once a target: an array (n, length + 1) and, if tokens are left, one of a last, shorter window
    (1, t + 1), both int64. Where there are more than `most` windows, that many evenly spaced ones.
    Raises UserError where the text has no token to predict."""
    if len(tokens) < 2:
        raise UserError(f"the validation part has {len(tokens)} tokens: give more text")
    whole = (len(tokens) - 1) // length
    rest, n = tokens[whole * length :], min(whole, most)
    starts = np.arange(n) * whole // max(n, 1) * length
    parts = [tokens[start : start + length + 1] for start in starts]
    windows = [np.stack(parts).astype(np.int64)] if parts else []
    if len(rest) > 1 and whole < most:
        windows.append(np.asarray(rest, dtype=np.int64)[None])
    return windows


def in_chunks(arrays: Iterable, size: int) -> Iterator:
    """Arrays or lists, such as those windows, cut to at most `size` rows."""
    for rows in arrays:
        yield from (rows[i : i + size] for i in range(0, len(rows), size))


def frame(tokens: np.ndarray, max_length: int, special: SpecialTokens) -> np.ndarray:
    """A text's tokens (N,) as pretraining saw documents, between two <doc>: (T <= max_length,)
    uint16. A text that is too long keeps its head and its tail, one token to three: reviews end
    with their verdict (Sun et al. 2019, arXiv 1905.05583, section 5.3.1). Raises UserError where
    not even the two <doc> fit."""
    if (room := max_length - 2) < 0:
        raise UserError(f"max_length is {max_length}: the two <doc> around a text need 2")
    if len(tokens) > room:
        head = room // 4
        tokens = np.concatenate([tokens[:head], tokens[len(tokens) - (room - head) :]])
    return np.concatenate([[special.bos], tokens, [special.eos]]).astype(np.uint16)


def pad(
    texts: list[np.ndarray], pad_id: int, multiple: int = 16, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Texts of unequal length as one array: tokens (B, T) int64, is_real (B, T) bool.

    T is the longest text's length, rounded up to a multiple, but to no more than `most`, the
    model's max_length: for each size of a product in bfloat16 the CPU's library builds and keeps
    code, so a few sizes are better than many."""
    lengths = np.array([len(text) for text in texts])
    T = -(-lengths.max() // multiple) * multiple
    T = T if most is None else max(lengths.max(), min(T, most))
    is_real = np.arange(T) < lengths[:, None]
    tokens = np.full(is_real.shape, pad_id, dtype=np.int64)
    tokens[is_real] = np.concatenate(texts)
    return tokens, is_real


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The indices of each batch of an epoch, for texts of these lengths (N,) in tokens. Random
    groups of 50 batches are sorted by length and cut into batches, and these are shuffled: little
    is computed on padding, and yet the batches differ in every epoch."""
    rng = draws(seed, epoch, "batches")
    order, batches = rng.permutation(len(lengths)), []
    for start in range(0, len(order), 50 * batch_size):
        group = order[start : start + 50 * batch_size]
        group = group[np.argsort(lengths[group], kind="stable")]
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]
