"""Minimal pairs: two sentences that differ in one point of grammar. Does a model hold the right one
for likelier? Unlike a loss, this can be asked of every objective (Warstadt et al. 2020, BLiMP,
arXiv 1912.00582).

The pairs are made here, from templates over words that the training text has often enough; or they
are BLiMP's own files.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from minilm.config import UserError
from minilm.corpora.decoding import read_lines
from minilm.data import draws
from minilm.model import Transformer
from minilm.objectives import IGNORE, target_logits
from minilm.tokenizer import DOC, MASK, Tokenizer

A_PHENOMENON = 60  # pairs, at most
OFTEN = 5  # times that each word of a pair must occur in the training text

# What a slot may be; nouns take an -s and verbs -s and -ed, so that both numbers are in every list.
SLOTS = {
    "noun": "function value file name line number method object string list user test error word "
    "module result element film movie actor scene character review minute",
    "verb": "return call print add check convert load need want help start follow play",
    "adjective": "new good same first long small large simple different other bad great",
    "vowel": "object error element array argument index actor action idea example event",
    "other": "file name list number string value function film movie scene character",
}
# (right, wrong). Each comes with its mirror, wherever the difference is one word against another:
# so the frequency of the two words alone gets half of the pairs.
PHENOMENA = {
    "subject and verb": [
        ("The {noun} is {adjective}.", "The {noun} are {adjective}."),
        ("The {noun}s are {adjective}.", "The {noun}s is {adjective}."),
    ],
    "verb beyond a phrase": [
        ("The {noun} of these {noun2}s is new.", "The {noun} of these {noun2}s are new."),
        ("The {noun}s of this {noun2} are new.", "The {noun}s of this {noun2} is new."),
    ],
    "this and these": [
        ("We need this {noun} for the test.", "We need these {noun} for the test."),
        ("We need these {noun}s for the test.", "We need this {noun}s for the test."),
    ],
    "a and an": [
        ("This is an {vowel}.", "This is a {vowel}."),
        ("This is a {other}.", "This is an {other}."),
    ],
    "form after an auxiliary": [
        ("The {noun} does not {verb} it.", "The {noun} does not {verb}s it."),
        ("The {noun} {verb}s it.", "The {noun} {verb} it."),
        ("The {noun} can {verb} the {noun2}.", "The {noun} can {verb}ed the {noun2}."),
        ("The {noun} has {verb}ed the {noun2}.", "The {noun} has {verb} the {noun2}."),
    ],
    "each and many": [
        ("There are many {noun}s.", "There are many {noun}."),
        ("We {verb} each {noun}.", "We {verb} each {noun}s."),
    ],
    "case of a pronoun": [
        ("They {verb} the {noun}.", "Them {verb} the {noun}."),
        ("We {verb} the {noun} for them.", "We {verb} the {noun} for they."),
    ],
    "order of words": [
        ("The {noun} of the {noun2} is {adjective}.", "The {noun} the of {noun2} is {adjective}."),
        ("We {verb} the {noun} with a {noun2}.", "We {verb} {noun} the with a {noun2}."),
    ],
}  # fmt: skip


class Pair(NamedTuple):
    """A right sentence, and what is wrong."""

    phenomenon: str
    good: str
    bad: str


def words_of(text: str) -> list[str]:
    """The words, in lower case.

    >>> words_of("The file's name, 2 lines.")
    ['the', 'file', 's', 'name', 'lines']
    """
    return re.findall("[a-z]+", text.lower())


def make_pairs(counts: Counter[str], seed: int = 0, often: int = OFTEN) -> list[Pair]:
    """Pairs of every phenomenon, A_PHENOMENON at most, whose every word counts[word] >= often. The
    same number from each template, so that mirrored ones balance; a phenomenon whose words are too
    rare has no pairs."""
    pairs = []
    for number, (phenomenon, templates) in enumerate(PHENOMENA.items()):
        rng = draws(seed, number, "sample")
        found = [_fill_in(template, counts, rng, often) for template in templates]
        each = min(A_PHENOMENON // len(templates), *map(len, found))
        pairs += [Pair(phenomenon, *pair) for of_one in found for pair in of_one[:each]]
    return pairs


def _fill_in(template: tuple[str, str], counts, rng, often: int) -> list[tuple[str, str]]:
    """Up to A_PHENOMENON different pairs of one template, in a random order."""
    slots, found = sorted(set(re.findall("{(.*?)}", template[0]))), {}
    words = {slot: SLOTS[slot.rstrip("2")].split() for slot in slots}
    for _ in range(20 * A_PHENOMENON):
        chosen = {slot: some[rng.integers(len(some))] for slot, some in words.items()}
        pair = template[0].format(**chosen), template[1].format(**chosen)
        twice = chosen.get("noun") == chosen.get("noun2", "")
        if not twice and all(counts[word] >= often for side in pair for word in words_of(side)):
            found[pair] = None
        if len(found) == A_PHENOMENON:
            break
    return list(found)


def read_blimp(folder: str) -> list[Pair]:
    """The pairs of BLiMP's .jsonl or .jsonl.gz files, the first A_PHENOMENON of each. Raises
    UserError where the folder has none, or a line is not a pair."""
    paths = sorted(Path(folder).glob("*.jsonl*"))
    if not paths:
        raise UserError(f"--blimp {folder}: no .jsonl files are there: give the folder of BLiMP's")
    pairs = []
    for path in paths:
        for number, line in zip(range(A_PHENOMENON), read_lines(path, "utf-8"), strict=False):
            try:
                row = json.loads(line)
                good, bad = row["sentence_good"], row["sentence_bad"]
            except (ValueError, LookupError, TypeError):
                raise UserError(
                    f"{path}: line {number + 1} has no sentence_good and sentence_bad: give BLiMP's"
                ) from None
            pairs.append(Pair(path.name.split(".")[0].replace("_", " "), good, bad))
    return pairs


def shares_right(pairs: list[Pair], good: np.ndarray, bad: np.ndarray) -> dict[str, float]:
    """For each phenomenon the share of pairs in which the right sentence is likelier; a tie counts
    half. good, bad (N,): log-likelihoods, equal where they differ by no more than rounding."""
    right = np.where(np.isclose(good, bad, rtol=0, atol=1e-6), 0.5, good > bad)
    names = np.array([pair.phenomenon for pair in pairs])
    return {name: float(right[names == name].mean()) for name in dict.fromkeys(names.tolist())}


def by_reading(
    model: Transformer, tokenizer: Tokenizer, objective: str | None, pairs: list[Pair]
) -> dict[str, dict[str, float]]:
    """`shares_right` for each reading that the objective ("causal", "masked", "hybrid") teaches,
    none for random weights. A pair that the model's window cannot hold is not asked; where that is
    every pair, nothing is returned."""
    room = model.config.max_length - 2
    fitting = [p for p in pairs if max(len(tokenizer.encode(s)) for s in p[1:]) <= room]
    if not fitting:
        return {}
    sides = [[tokenizer.encode(pair[side]) for pair in fitting] for side in (1, 2)]
    found = {}
    if objective in ("causal", "hybrid"):
        found["causal"] = [log_likelihood(model, side) for side in sides]
    if objective in ("masked", "hybrid"):
        shift = int(objective == "hybrid")
        starts = [[starts_word(tokenizer, sentence) for sentence in side] for side in sides]
        both = zip(sides, starts, strict=True)
        found["masked"] = [pseudo_log_likelihood(model, *side, shift) for side in both]
    return {reading: shares_right(fitting, *scores) for reading, scores in found.items()}


def log_likelihood(model: Transformer, sentences: list[np.ndarray]) -> np.ndarray:
    """Σ_i log P(w_i | w_1 … w_{i-1}; θ) of every sentence (T_i,), in nats, (N,)."""
    rows = [np.append(DOC, sentence).astype(np.int64) for sentence in sentences]
    targets = [np.append(row[1:], IGNORE) for row in rows]
    return _sums(model, rows, targets, causal=True)


def starts_word(tokenizer: Tokenizer, sentence: np.ndarray) -> np.ndarray:
    """Which tokens begin a word, (T,) bool: all but a letter that follows a letter."""
    pieces = [tokenizer.decode_bytes([token]) for token in sentence]
    is_letter = [(_is_letter(piece[0]), _is_letter(piece[-1])) for piece in pieces]
    return np.array(
        [i == 0 or not (is_letter[i][0] and is_letter[i - 1][1]) for i in range(len(pieces))]
    )


def _is_letter(byte: int) -> bool:
    return byte >= 128 or chr(byte).isalpha()  # beyond ASCII most characters are


def pseudo_log_likelihood(
    model: Transformer, sentences: list[np.ndarray], starts: list[np.ndarray], shift: int
) -> np.ndarray:
    """Σ_i log P(w_i | the sentence without w_i and the rest of its word; θ), in nats, (N,).

    To hide w_i alone would score a long word too high, whose later pieces give the first away: so
    the later pieces of the same word are hidden with it (Kauf and Ivanova 2023, arXiv 2305.10588,
    "PLL-word-l2r"). starts: for each sentence `starts_word`. shift: 1 where the model says a hidden
    word one position before it (see `masked_next`), else 0.
    """
    rows, targets, owner = [], [], []
    for number, (sentence, start) in enumerate(zip(sentences, starts, strict=True)):
        text = np.concatenate([[DOC], sentence, [DOC]]).astype(np.int64)
        begins = np.concatenate([[True], start, [True]])
        for i in range(1, len(text) - 1):
            end = i + 1 + int(begins[i + 1 :].argmax())  # where the next word begins
            row, target = text.copy(), np.full(len(text), IGNORE)
            row[i:end], target[i - shift] = MASK, text[i]
            rows.append(row)
            targets.append(target)
            owner.append(number)
    return np.bincount(owner, _sums(model, rows, targets, causal=False), len(sentences))


@torch.inference_mode()
def _sums(
    model: Transformer, rows: list[np.ndarray], targets: list[np.ndarray], causal: bool
) -> np.ndarray:
    """The log-probabilities of each row's targets, added up, (N,); rows of one length together."""
    model.eval()
    device, sums = model.embedding.weight.device, np.zeros(len(rows))
    order = np.argsort([len(row) for row in rows], kind="stable")
    lengths = np.array([len(rows[i]) for i in order])
    for same in np.split(order, np.flatnonzero(np.diff(lengths)) + 1):
        for start in range(0, len(same), 256):
            some = same[start : start + 256]
            inputs, says = (
                torch.from_numpy(np.stack([which[i] for i in some])).to(device)
                for which in (rows, targets)
            )
            logits, words = target_logits(model, inputs, says, causal)
            log_p = logits.double().log_softmax(-1).gather(1, words[:, None])[:, 0]
            of_row = (says != IGNORE).nonzero()[:, 0].cpu().numpy()
            sums[some] = np.bincount(of_row, log_p.cpu().numpy(), len(some))
    return sums
