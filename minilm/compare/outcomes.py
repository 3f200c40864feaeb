"""What a pretrained model is asked: which of two texts is likelier (swapped neighbours, minimal
pairs), how it goes on with a sentence and fills it in, and how far its attention reaches."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from minilm.config import UserError
from minilm.corpora.tables import read_rows
from minilm.data import draws, evaluation_windows, frame
from minilm.generate import fill_masks, sample
from minilm.view.recording import recorded

LENGTH = 24  # tokens in a window of which two are exchanged
AT_ONCE = 128  # windows in a batch
TIE = 1e-6  # nats: differences that are only rounding
A_PHENOMENON = 100  # minimal pairs of each, at most
INSIDE = re.compile(rb"[\w\x80-\xff]{2}")  # two bytes between which no word ends
PROMPT, CONTINUATION, TOP = 8, 20, 3  # tokens given, that follow, and named for a mask
FAR, FAR_WINDOWS = 64, 16  # length and number of the texts whose attention is measured


class Swaps(NamedTuple):
    """Held-out windows (N, 24), the same with w_i and w_{i+1} exchanged, and the places i (N,)."""

    windows: np.ndarray
    exchanged: np.ndarray
    places: np.ndarray


def make_swaps(tokens: np.ndarray, most: int, special) -> Swaps:
    """Windows of a held-out text (N,), evenly spaced, with a random place in each at which two
    different ordinary tokens stand side by side; the first token is never one of them. Raises
    UserError where the text has no such window."""
    windows = evaluation_windows(tokens, LENGTH - 1, most)[0]  # (N, 24)
    ordinary = np.isin(windows, special.ordinary)
    possible = ordinary[:, 1:-1] & ordinary[:, 2:] & (windows[:, 1:-1] != windows[:, 2:])
    u, kept = draws(0, 0, "resample").random(possible.shape), possible.any(1)  # (N, 22), (N,)
    places = np.where(possible, u, 2.0).argmin(1) + 1
    if not kept.any() or windows.shape[1] < LENGTH:
        raise UserError("the validation text has no 24 tokens in a row: give more text")
    windows, places = windows[kept], places[kept]
    i, at = np.arange(LENGTH), places[:, None]
    order = i + (i == at) - 1 * (i == at + 1)  # (N, 24)
    return Swaps(windows, np.take_along_axis(windows, order, axis=1), places)


@torch.inference_mode()
def log_probabilities(model, texts, counted, shift, hidden=None, mask=None) -> np.ndarray:
    """The sum over the `counted` tokens of each text, in nats, (N,):

        Σ_i log P(w_i | w_1 … w_{i-1}; θ), or   Σ_i log P(w_i | what is not hidden; θ)

    each predicted `shift` positions earlier. texts: arrays (T_i,) of token ids; counted, hidden:
    arrays (T_i,) bool, never of the first token. Texts of one length are computed together."""
    model.eval()
    device, sums = model.embedding.weight.device, np.zeros(len(texts))
    lengths = np.array([len(text) for text in texts])
    for length in np.unique(lengths):
        same = np.flatnonzero(lengths == length)
        for some in (same[i : i + AT_ONCE] for i in range(0, len(same), AT_ONCE)):
            of_some = lambda arrays, some=some: np.stack([arrays[i] for i in some])  # (B, T)
            tokens = of_some(texts).astype(np.int64)
            inputs = tokens[:, :-1] if hidden is None else np.where(of_some(hidden), mask, tokens)
            row, i = np.nonzero(of_some(counted))  # n of them, row by row
            states = model(torch.from_numpy(inputs).to(device), causal=hidden is None)  # (B, T, D)
            log_p = model.logits(states[row, i - shift]).float().log_softmax(-1)  # (n, V)
            targets = torch.from_numpy(tokens[row, i])[:, None].to(device)
            found = log_p.gather(1, targets)[:, 0].double().cpu().numpy()
            sums[some] = np.bincount(row, found, len(some))
    return sums


def likelier(good: np.ndarray, bad: np.ndarray) -> list[float]:
    """1.0 where the good side (N,) is likelier, 0.5 at a tie, [N]."""
    return np.where(np.abs(good - bad) <= TIE, 0.5, (good > bad).astype(float)).tolist()


def swapped(model, arm, swaps: Swaps, special) -> dict:
    """{way: 1.0 for each pair whose original is the likelier, [N]}, for each attention that the arm
    was trained with: causal, by the tokens from the first of the two on; masked, by the two, both
    hidden at once."""
    i, at = np.arange(LENGTH), swaps.places[:, None]
    two = (i == at) | (i == at + 1)  # (N, 24)
    ways = {"causal": (i >= at, 1), "masked": (two, arm.shift, two, special.mask)}
    score = lambda side, way: log_probabilities(model, side, *ways[way])
    sides = swaps.windows, swaps.exchanged
    return {way: likelier(*(score(side, way) for side in sides)) for way in arm.reads}


def read_blimp(folder: str | None, tokenizer, length: int) -> list[tuple]:
    """The first pairs of each of BLiMP's .jsonl files (Warstadt et al. 2020, arXiv 1912.00582) that
    fit into a window: (phenomenon, the right sentence, the wrong one), framed. Raises UserError
    where the folder has none, or a line is no pair."""
    pairs, columns = [], {"the good one": "sentence_good", "the bad one": "sentence_bad"}
    for path in sorted(Path(folder).glob("*.jsonl")) if folder else ():
        for _, row in itertools.islice(read_rows(path, columns, "utf-8"), A_PHENOMENON):
            name = str(row.get("linguistics_term") or path.stem).replace("_", " ")
            sides = [tokenizer.encode(row[column]) for column in columns.values()]
            if max(map(len, sides)) <= length - 2:
                pairs.append((name, *(frame(side, length, tokenizer.special) for side in sides)))
    if folder and not pairs:
        raise UserError(f"--blimp {folder}: no .jsonl files there: give the folder of BLiMP's")
    return pairs


def minimal_pairs(model, arm, pairs: list[tuple], tokenizer) -> list:
    """Right or not for each pair, [N], by the arm's first way of reading: the log-probability of
    the sentence, or its pseudo-log-likelihood."""

    def score(texts: list[np.ndarray]) -> np.ndarray:
        if arm.reads[0] == "masked":
            return pseudo_log_likelihood(model, texts, tokenizer, arm.shift)
        inside = [np.pad(np.ones(len(text) - 2, dtype=bool), 1) for text in texts]
        return log_probabilities(model, texts, inside, shift=1)

    return likelier(score([good for _, good, _ in pairs]), score([bad for *_, bad in pairs]))


def pseudo_log_likelihood(model, texts: list[np.ndarray], tokenizer, shift: int) -> np.ndarray:
    """Σ_i log P(w_i | the text without w_i and the rest of its word; θ), (N,).

    To mask w_i alone would score a long word too high, whose later pieces give the first away (Kauf
    and Ivanova 2023, arXiv 2305.10588, "PLL-word-l2r")."""
    rows, counted, hidden, owner = [], [], [], []
    for number, text in enumerate(texts):
        pieces = [tokenizer.token_bytes[token] for token in text]
        starts = [not INSIDE.fullmatch(a[-1:] + b[:1]) for a, b in itertools.pairwise(pieces)]
        word = np.cumsum([0, *starts])  # the number of the word that each token is in, (T,)
        rows += [text] * (len(text) - 2)
        counted += [*np.eye(len(text), dtype=bool)[1:-1]]
        hidden += [*np.triu(word == word[:, None])[1:-1]]  # a token, and the rest of its word
        owner += [number] * (len(text) - 2)
    found = log_probabilities(model, rows, counted, shift, hidden, tokenizer.special.mask)
    return np.bincount(owner, found, len(texts))


def samples(model, arm, tokens: np.ndarray, tokenizer) -> dict:
    """{"prompt", "continuation", "asked": pieces with the masked ones None, "truth", "fillings":
    [[(text, probability)]]} of a sentence (T,).

    An arm that only fills in goes on by a mask at the end, filled with the likeliest token, and so
    on; one that only sees what stands to the left fills in by that."""
    special, prompt, both = tokenizer.special, tokens[:PROMPT], "masked" in arm.reads
    how = dict(causal=not both, shift=arm.shift if both else 1)
    if "causal" in arm.reads:
        following = list(sample(model, prompt, CONTINUATION, special, temperature=0.7, seed=0))
    else:
        text = prompt
        for _ in range(CONTINUATION):
            [[(best, _)]] = fill_masks(model, np.append(text, special.mask), special, **how, top=1)
            text = np.append(text, best)
        following = text[len(prompt) :]
    # Two tokens of three letters or more, not next to each other, as far as there are.
    words = [i for i in range(1, len(tokens)) if len(tokenizer.token_bytes[tokens[i]].strip()) > 2]
    places = words[1:6:3] or words[:1] or [0]
    asked = tokens.copy()
    asked[places] = special.mask
    found = fill_masks(model, asked, special, **how, top=TOP)
    return {
        "prompt": tokenizer.decode(prompt), "continuation": tokenizer.decode(following),
        "asked": [None if i in places else tokenizer.decode([t]) for i, t in enumerate(tokens)],
        "truth": [tokenizer.decode([tokens[i]]) for i in places],
        "fillings": [[(tokenizer.decode([t]), p) for t, p in place] for place in found],
    }  # fmt: skip


@torch.inference_mode()
def attention_distance(model, tokens: np.ndarray, causal: bool) -> list[float]:
    """For each layer the mean distance in tokens from a position to what it attends to, Σ_j a_ij
    |i - j|, over heads, positions and windows of a text (N,); at last where all that is visible is
    attended to alike."""
    model.eval()
    T = min(FAR, model.config.max_length, len(tokens))
    windows = torch.from_numpy(evaluation_windows(tokens, T - 1, FAR_WINDOWS)[0])  # (B, T)
    kept = recorded(model, windows.to(model.embedding.weight.device), causal)
    even = torch.ones(T, T).tril() if causal else torch.ones(T, T)
    weights = [w.float().cpu() for w in [*kept.weights, even / even.sum(-1, keepdim=True)]]
    far = (torch.arange(T)[:, None] - torch.arange(T)).abs()  # (T, T)
    return [float((w * far).sum(-1).mean()) for w in weights]
