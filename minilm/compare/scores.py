"""Which of two texts does a model hold for likelier? Swapped neighbours, and minimal pairs.

Unlike a loss, this can be asked of every objective with the same right answer.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from minilm.compare.plan import Arm
from minilm.config import UserError
from minilm.corpora.tables import read_rows
from minilm.data import draws
from minilm.model import Transformer
from minilm.objectives import IGNORE
from minilm.tokenizer import SpecialTokens, Tokenizer

LENGTH = 24  # tokens in a window of which two are exchanged
AT_ONCE = 128  # windows in a batch
TIE = 1e-6  # nats: differences that are only rounding
A_PHENOMENON = 100  # minimal pairs of each, at most


class Swaps(NamedTuple):
    """Held-out windows (N, 24) and the places i (N,) at which w_i and w_{i+1} are exchanged."""

    windows: np.ndarray
    places: np.ndarray

    def exchanged(self) -> np.ndarray:
        """The windows with the two tokens exchanged, (N, 24)."""
        other, rows = self.windows.copy(), np.arange(len(self.windows))
        other[rows, self.places] = self.windows[rows, self.places + 1]
        other[rows, self.places + 1] = self.windows[rows, self.places]
        return other


def make_swaps(tokens: np.ndarray, most: int, special: SpecialTokens) -> Swaps:
    """Windows of a held-out text (N,), evenly spaced, with a random place in each at which two
    different ordinary tokens stand side by side; the first token is never one of them.

    Raises UserError where the text has no such window."""
    n = len(tokens) // LENGTH
    starts = np.arange(n)[:: max(1, n // most)][:most] * LENGTH
    windows = tokens[starts[:, None] + np.arange(LENGTH)].astype(np.int64)  # (N, 24)
    ordinary = (windows >= special.ordinary.start) & (windows < special.ordinary.stop)
    a, b = windows[:, 1:-1], windows[:, 2:]
    possible = (a != b) & ordinary[:, 1:-1] & ordinary[:, 2:]  # (N, 22)
    u = draws(0, 0, "resample").random(possible.shape)
    places = np.where(possible, u, 2.0).argmin(1) + 1
    kept = possible.any(1)
    if not kept.any():
        raise UserError("the validation text has no 24 tokens in a row: give more text")
    return Swaps(windows[kept], places[kept])


@torch.inference_mode()
def log_probabilities(
    model: Transformer, rows: Sequence[np.ndarray], targets: Sequence[np.ndarray], causal: bool
) -> np.ndarray:
    """Σ log P(target) over each row's targets, (N,), in nats. rows, targets: arrays (T_i,) of token
    ids, targets IGNORE where there is none; rows of one length are computed together."""
    model.eval()
    device, sums = model.embedding.weight.device, np.zeros(len(rows))
    lengths = np.array([len(row) for row in rows])
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        for start in range(0, len(same), AT_ONCE):
            some = same[start : start + AT_ONCE]
            inputs = torch.from_numpy(np.stack([rows[i] for i in some])).to(device)  # (B, T)
            wanted = np.stack([targets[i] for i in some])
            at, place = np.nonzero(wanted != IGNORE)  # n targets, row by row
            hidden = model(inputs, causal=causal)[at, place]  # (n, D)
            tokens = torch.from_numpy(wanted[at, place]).to(device)[:, None]
            log_p = model.logits(hidden).float().log_softmax(-1).gather(1, tokens)[:, 0]
            sums[some] = np.bincount(at, log_p.double().cpu().numpy(), len(some))
    return sums


def likelier(good: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """1.0 where the good side is likelier, 0.5 at a tie, (N,)."""
    return np.where(np.abs(good - bad) <= TIE, 0.5, (good > bad).astype(float))


def swapped_causal(model: Transformer, swaps: Swaps) -> np.ndarray:
    """1.0 for each pair whose original has the larger Σ_i log P(w_i | w_1 … w_{i-1}; θ), (N,).

    What stands before the two is the same on both sides and is left out of the sums."""
    sides = []
    after = np.arange(1, LENGTH) >= swaps.places[:, None]  # (N, 23): from the first of the two on
    for windows in (swaps.windows, swaps.exchanged()):
        targets = np.where(after, windows[:, 1:], IGNORE)
        sides.append(log_probabilities(model, windows[:, :-1], targets, causal=True))
    return likelier(*sides)


def swapped_masked(
    model: Transformer, swaps: Swaps, special: SpecialTokens, shift: int
) -> np.ndarray:
    """The same by log P(w_i | rest; θ) + log P(w_{i+1} | rest; θ), both places masked, (N,)."""
    rows, sides = np.arange(len(swaps.windows)), []
    hidden = swaps.windows.copy()
    hidden[rows, swaps.places] = hidden[rows, swaps.places + 1] = special.mask
    for windows in (swaps.windows, swaps.exchanged()):
        targets = np.full_like(windows, IGNORE)
        for place in (swaps.places, swaps.places + 1):
            targets[rows, place - shift] = windows[rows, place]
        sides.append(log_probabilities(model, hidden, targets, causal=False))
    return likelier(*sides)


def swapped(model: Transformer, arm: Arm, swaps: Swaps, special: SpecialTokens) -> dict:
    """{how: right or not for each pair, (N,)}, for each attention that the arm was trained with."""
    found = {}
    if "causal" in arm.reads:
        found["causal"] = swapped_causal(model, swaps)
    if "masked" in arm.reads:
        found["masked"] = swapped_masked(model, swaps, special, arm.shift)
    return found


def swapped_bag(swaps: Swaps, counts: np.ndarray) -> np.ndarray:
    """What word frequencies say of each pair: 0.5, for both sides have the same tokens. counts
    (V,)."""
    log_p = np.log((counts + 1) / (counts + 1).sum())
    return likelier(log_p[swaps.windows].sum(1), log_p[swaps.exchanged()].sum(1))


class Pair(NamedTuple):
    """A right sentence and a wrong one that differ in one point of grammar."""

    phenomenon: str
    good: str
    bad: str


def read_blimp(folder: str | None, tokenizer: Tokenizer, length: int) -> list[Pair]:
    """The first pairs of each of BLiMP's .jsonl files (Warstadt et al. 2020, arXiv 1912.00582) that
    fit into a window. Raises UserError where the folder has none, or a line is no pair."""
    pairs, columns = [], {"the good one": "sentence_good", "the bad one": "sentence_bad"}
    for path in sorted(Path(folder).glob("*.jsonl")) if folder else ():
        for _, row in itertools.islice(read_rows(path, columns, "utf-8"), A_PHENOMENON):
            name = str(row.get("linguistics_term") or path.stem).replace("_", " ")
            pair = Pair(name, row["sentence_good"], row["sentence_bad"])
            if max(len(tokenizer.encode(side)) for side in pair[1:]) <= length - 2:
                pairs.append(pair)
    if folder and not pairs:
        raise UserError(f"--blimp {folder}: no .jsonl files there: give the folder of BLiMP's")
    return pairs


def minimal_pairs(
    model: Transformer, arm: Arm, pairs: list[Pair], tokenizer: Tokenizer
) -> np.ndarray:
    """Right or not for each pair, (N,), by the arm's first way of reading: the sentence's
    log-probability, or for a masked one its pseudo-log-likelihood."""
    special, sides = tokenizer.special, []
    for side in (1, 2):
        texts = [tokenizer.encode(pair[side]).astype(np.int64) for pair in pairs]
        if arm.reads[0] == "causal":
            rows = [np.append(special.bos, text) for text in texts]
            targets = [np.append(text, IGNORE) for text in texts]
            sides.append(log_probabilities(model, rows, targets, causal=True))
        else:
            sides.append(pseudo_log_likelihood(model, texts, tokenizer, arm.shift))
    return likelier(*sides)


def pseudo_log_likelihood(
    model: Transformer, texts: list[np.ndarray], tokenizer: Tokenizer, shift: int
) -> np.ndarray:
    """Σ_i log P(w_i | the text without w_i and the rest of its word; θ), (N,).

    To mask w_i alone would score a long word too high, whose later pieces give the first away (Kauf
    and Ivanova 2023, arXiv 2305.10588, "PLL-word-l2r")."""
    special, rows, targets, owner = tokenizer.special, [], [], []
    for number, tokens in enumerate(texts):
        text = np.concatenate([[special.bos], tokens, [special.eos]])
        pieces = [tokenizer.token_bytes[token] for token in tokens]
        inside = [False, False]  # whether a token goes on with the word before it
        for a, b in itertools.pairwise(pieces):
            inside.append(bool(re.fullmatch(rb"[\w\x80-\xff]{2}", a[-1:] + b[:1])))
        inside.append(False)
        for i in range(1, len(text) - 1):
            end = next(j for j in range(i + 1, len(text)) if not inside[j])
            row, target = text.copy(), np.full(len(text), IGNORE)
            row[i:end], target[i - shift] = special.mask, text[i]
            rows.append(row)
            targets.append(target)
            owner.append(number)
    return np.bincount(owner, log_probabilities(model, rows, targets, causal=False), len(texts))
