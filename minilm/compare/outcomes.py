"""What a pretrained model is asked: which of two texts is likelier (swapped neighbours, minimal
pairs), how it goes on with a sentence and fills it in, and how far its attention reaches."""

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
from minilm.data import draws, evaluation_windows
from minilm.generate import fill_masks, sample
from minilm.model import Transformer
from minilm.objectives import IGNORE
from minilm.tokenizer import SpecialTokens, Tokenizer
from minilm.view.recording import recorded

LENGTH = 24  # tokens in a window of which two are exchanged
AT_ONCE = 128  # windows in a batch
TIE = 1e-6  # nats: differences that are only rounding
A_PHENOMENON = 100  # minimal pairs of each, at most
INSIDE = re.compile(rb"[\w\x80-\xff]{2}")  # two bytes between which no word ends
PROMPT, CONTINUATION, TOP = 8, 20, 3  # tokens given, that follow, and named for a mask
FAR, FAR_WINDOWS = 64, 16  # length and number of the texts whose attention is measured


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
    different ordinary tokens stand side by side; the first token is never one of them. Raises
    UserError where the text has no such window."""
    windows = evaluation_windows(tokens, LENGTH - 1, most)[0]  # (N, 24)
    ordinary = (windows >= special.ordinary.start) & (windows < special.ordinary.stop)
    different = windows[:, 1:-1] != windows[:, 2:]
    possible = different & ordinary[:, 1:-1] & ordinary[:, 2:]  # (N, 22)
    u = draws(0, 0, "resample").random(possible.shape)
    places = np.where(possible, u, 2.0).argmin(1) + 1
    kept = possible.any(1)
    if not kept.any() or windows.shape[1] < LENGTH:
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


def likelier(good: np.ndarray, bad: np.ndarray) -> list[float]:
    """1.0 where the good side (N,) is likelier, 0.5 at a tie, [N]."""
    return np.where(np.abs(good - bad) <= TIE, 0.5, (good > bad).astype(float)).tolist()


def swapped(model: Transformer, arm: Arm, swaps: Swaps, special: SpecialTokens) -> dict:
    """{way: 1.0 for each pair whose original has the larger sum, [N]}, for each attention that the
    arm was trained with:

    causal   Σ_i log P(w_i | w_1 … w_{i-1}; θ), but for what stands before the two
    masked   log P(w_i | rest; θ) + log P(w_{i+1} | rest; θ), both places masked
    """
    rows, at, found = np.arange(len(swaps.windows)), swaps.places, {}
    pair = swaps.windows, swaps.exchanged()
    if "causal" in arm.reads:
        after = np.arange(1, LENGTH) >= at[:, None]  # (N, 23): from the first of the two on
        sides = [log_probabilities(model, windows[:, :-1], np.where(after, windows[:, 1:], IGNORE),
                                   causal=True) for windows in pair]  # fmt: skip
        found["causal"] = likelier(*sides)
    if "masked" in arm.reads:
        hidden, sides = swaps.windows.copy(), []
        hidden[rows, at] = hidden[rows, at + 1] = special.mask
        for windows in pair:
            targets = np.full_like(windows, IGNORE)
            for place in (at, at + 1):
                targets[rows, place - arm.shift] = windows[rows, place]
            sides.append(log_probabilities(model, hidden, targets, causal=False))
        found["masked"] = likelier(*sides)
    return found


def swapped_bag(swaps: Swaps, counts: np.ndarray) -> list[float]:
    """What token frequencies, counts (V,), say of each pair: 0.5, for both have the same tokens."""
    log_p = np.log((counts + 1) / (counts + 1).sum())
    return likelier(log_p[swaps.windows].sum(1), log_p[swaps.exchanged()].sum(1))


Pair = tuple[str, np.ndarray, np.ndarray]  # a phenomenon, the right sentence, the wrong one


def read_blimp(folder: str | None, tokenizer: Tokenizer, length: int) -> list[Pair]:
    """The first pairs of each of BLiMP's .jsonl files (Warstadt et al. 2020, arXiv 1912.00582) that
    fit into a window. Raises UserError where the folder has none, or a line is no pair."""
    pairs, columns = [], {"the good one": "sentence_good", "the bad one": "sentence_bad"}
    for path in sorted(Path(folder).glob("*.jsonl")) if folder else ():
        for _, row in itertools.islice(read_rows(path, columns, "utf-8"), A_PHENOMENON):
            name = str(row.get("linguistics_term") or path.stem).replace("_", " ")
            sides = [tokenizer.encode(row[column]).astype(np.int64) for column in columns.values()]
            if max(map(len, sides)) <= length - 2:
                pairs.append((name, *sides))
    if folder and not pairs:
        raise UserError(f"--blimp {folder}: no .jsonl files there: give the folder of BLiMP's")
    return pairs


def minimal_pairs(model: Transformer, arm: Arm, pairs: list[Pair], tokenizer: Tokenizer) -> list:
    """Right or not for each pair, [N], by the arm's first way of reading: the log-probability of
    the sentence, or its pseudo-log-likelihood."""
    special, sides = tokenizer.special, []
    for texts in ([good for _, good, _ in pairs], [bad for *_, bad in pairs]):
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
        pieces = [tokenizer.token_bytes[token] for token in text]
        for i in range(1, len(text) - 1):
            end = i + 1  # of the word
            while end < len(text) - 1 and INSIDE.fullmatch(pieces[end - 1][-1:] + pieces[end][:1]):
                end += 1
            row, target = text.copy(), np.full(len(text), IGNORE)
            row[i:end], target[i - shift] = special.mask, text[i]
            rows.append(row)
            targets.append(target)
            owner.append(number)
    return np.bincount(owner, log_probabilities(model, rows, targets, causal=False), len(texts))


def samples(model: Transformer, arm: Arm, tokens: np.ndarray, tokenizer: Tokenizer) -> dict:
    """{"prompt", "continuation", "asked": pieces with the masked ones None, "truth", "fillings":
    [[(text, probability)]]} of a sentence (T,).

    An arm that only fills in goes on by a mask at the end, filled with the likeliest token, and so
    on; one that only sees what stands to the left fills in by that."""
    special, prompt = tokenizer.special, tokens[:PROMPT]
    if "causal" in arm.reads:
        following = list(sample(model, prompt, CONTINUATION, special, temperature=0.7, seed=0))
    else:
        text = prompt
        for _ in range(CONTINUATION):
            asked = np.append(text, special.mask)
            (best,) = fill_masks(model, asked, special, causal=False, shift=arm.shift, top=1)
            text = np.append(text, best[0][0])
        following = text[len(prompt) :]
    # Two tokens of three letters or more, not next to each other, as far as there are.
    words = [i for i in range(1, len(tokens)) if len(tokenizer.token_bytes[tokens[i]].strip()) > 2]
    places = words[1:6:3] or words[:1] or [0]
    asked, both = tokens.copy(), "masked" in arm.reads
    asked[places] = special.mask
    shift = arm.shift if both else 1
    found = fill_masks(model, asked, special, causal=not both, shift=shift, top=TOP)
    return {
        "prompt": tokenizer.decode(prompt), "continuation": tokenizer.decode(following),
        "asked": [None if i in places else tokenizer.decode([t]) for i, t in enumerate(tokens)],
        "truth": [tokenizer.decode([tokens[i]]) for i in places],
        "fillings": [[(tokenizer.decode([t]), p) for t, p in place] for place in found],
    }  # fmt: skip


@torch.inference_mode()
def attention_distance(model: Transformer, tokens: np.ndarray, causal: bool) -> list[float]:
    """For each layer the mean distance in tokens from a position to what it attends to, Σ_j a_ij
    |i - j|, over heads, positions and windows of a text (N,); at last where all that is visible is
    attended to alike."""
    model.eval()
    T = min(FAR, model.config.max_length, len(tokens))
    windows = torch.from_numpy(evaluation_windows(tokens, T - 1, FAR_WINDOWS)[0])  # (B, T)
    with recorded(model) as kept:
        model(windows.to(model.embedding.weight.device), causal=causal)
    even = torch.ones(T, T).tril() if causal else torch.ones(T, T)
    weights = [w.float().cpu() for w in [*kept.weights, even / even.sum(-1, keepdim=True)]]
    far = (torch.arange(T)[:, None] - torch.arange(T)).abs()  # (T, T)
    return [float((w * far).sum(-1).mean()) for w in weights]
