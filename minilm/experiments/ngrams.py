"""What counting words alone reaches: a trigram model, fitted in a second."""

import numpy as np

from minilm.tokenizer import DOC


def trigram_entropy(train: np.ndarray, valid: np.ndarray, vocab_size: int) -> float:
    """The cross-entropy of valid under an interpolated trigram model of train, in nats a token:

        P(w | u v) = Σ_k λ_k P_k(w | last k words),  k = 2, 1, 0

    with the counted shares P_k and one λ_k each, found by expectation maximisation on the first
    half of valid (Jelinek and Mercer 1980); the second half is what is measured. train (N,),
    valid (M,) of token ids; NaN where valid has fewer than six.
    """
    if len(valid) < 6 or len(train) < 3:
        return float("nan")
    train, valid = train.astype(np.int64), valid.astype(np.int64)
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    shares = [(counts / counts.sum())[valid[2:]]]
    for n in (2, 3):
        grams, seen = np.unique(_packed(train, n, vocab_size), return_counts=True)
        contexts, before = np.unique(grams // vocab_size, return_inverse=True)
        totals = np.bincount(before, weights=seen)
        asked = _packed(valid, n, vocab_size)[3 - n :]
        joint = _look_up(grams, seen, asked)
        shares.append(joint / np.maximum(_look_up(contexts, totals, asked // vocab_size), 1))
    P = np.stack(shares)  # (3, M - 2)
    half = P.shape[1] // 2
    weights = np.full(3, 1 / 3)
    for _ in range(50):
        mixed = weights[:, None] * P[:, :half]
        weights = (mixed / mixed.sum(0)).mean(1)
    return float(-np.log(weights @ P[:, half:]).mean())


def log_likelihoods(
    train: np.ndarray, sentences: list[np.ndarray], vocab_size: int
) -> dict[str, np.ndarray]:
    """How likely a unigram and a trigram model of train (N,) hold each sentence (T_i,), in nats:
    {"unigram": (N,), "trigram": (N,)}. A sentence stands between two <doc>, of which the first is
    given and the second not asked for.

    Smoothed after Witten and Bell (1991): what has been seen after a context h, of which there are
    T(h) different words, leaves T(h) / (c(h) + T(h)) to the shorter context:

        P(w | h) = (c(h w) + T(h) P(w | shorter h)) / (c(h) + T(h))
    """
    train = train.astype(np.int64)
    texts = [np.concatenate([[DOC, DOC], sentence]).astype(np.int64) for sentence in sentences]
    stream = np.concatenate(texts)
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    P = (counts / counts.sum())[stream[2:]]  # of every word, after the two before it
    found = {"unigram": P}
    for n in (2, 3):
        grams, seen = np.unique(_packed(train, n, vocab_size), return_counts=True)
        contexts, before = np.unique(grams // vocab_size, return_inverse=True)
        asked = _packed(stream, n, vocab_size)[3 - n :]
        total = _look_up(contexts, np.bincount(before, seen), asked // vocab_size)
        different = _look_up(contexts, np.bincount(before), asked // vocab_size)
        backed_off = (_look_up(grams, seen, asked) + different * P) / np.maximum(
            total + different, 1
        )
        P = np.where(total > 0, backed_off, P)
    found["trigram"] = P
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])[2:]
    own = np.concatenate([np.arange(len(text)) >= 2 for text in texts])[2:]
    return {name: np.bincount(owner[own], np.log(p[own]), len(texts)) for name, p in found.items()}


def _packed(words: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Every n words in a row as one number: (N - n + 1,)."""
    packed = words[: len(words) - n + 1]
    for i in range(1, n):
        packed = packed * vocab_size + words[i : len(words) - n + 1 + i]
    return packed


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of sorted keys, 0 for those that are missing."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
