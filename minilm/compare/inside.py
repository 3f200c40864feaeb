"""What can be looked at: how each arm goes on with a sentence and fills it in, and how far its
attention reaches."""

import itertools

import numpy as np
import torch

from minilm.compare.plan import Arm
from minilm.data import draws
from minilm.generate import fill_masks, sample
from minilm.model import Transformer, attention, visibility
from minilm.tokenizer import Tokenizer
from minilm.view.recording import recorded

PROMPT, CONTINUATION = 8, 20  # tokens that are given, and that follow
WINDOWS, LENGTH = 16, 64  # of held-out text whose attention is measured
TOP = 3  # candidates for a masked token


def choose_sentence(tokenizer: Tokenizer, texts: list[np.ndarray]) -> np.ndarray:
    """The first of some framed texts with 14 to 30 tokens (else the first), without its frame."""
    fitting = (text for text in texts if 14 <= len(text) - 2 <= 30)
    return next(fitting, texts[0])[1:-1].astype(np.int64)


def masked_places(tokens: np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """Two places of a sentence to fill in, neither first nor next to each other: of the tokens that
    begin with a blank and three letters the second and the fourth, as far as there are."""
    words = [i for i in range(1, len(tokens)) if len(tokenizer.token_bytes[tokens[i]].strip()) > 2]
    return words[1:4:2] or words[:1]


def continuation(model: Transformer, arm: Arm, tokens: np.ndarray, tokenizer: Tokenizer) -> str:
    """What follows a sentence's first tokens: sampled; or, from an arm that only fills in, by
    putting a mask at the end, filling it in with the likeliest token, and so on."""
    special, prompt = tokenizer.special, tokens[:PROMPT]
    if "causal" in arm.reads:
        found = list(sample(model, prompt, CONTINUATION, special, temperature=0.7, seed=0))
        return tokenizer.decode(found)
    text = prompt
    for _ in range(CONTINUATION):
        asked = np.append(text, special.mask)
        (best,) = fill_masks(model, asked, special, causal=False, shift=arm.shift, top=1)
        text = np.append(text, best[0][0])
    return tokenizer.decode(text[len(prompt) :])


def fillings(model: Transformer, arm: Arm, tokens: np.ndarray, tokenizer: Tokenizer) -> list:
    """For each of `masked_places` the candidates [(text, probability)]; a causal arm sees only what
    stands to the left."""
    asked, both = tokens.copy(), "masked" in arm.reads
    places = masked_places(tokens, tokenizer)
    asked[places] = tokenizer.special.mask
    shift = arm.shift if both else 1
    found = fill_masks(model, asked, tokenizer.special, causal=not both, shift=shift, top=TOP)
    return [[(tokenizer.decode([token]), p) for token, p in place] for place in found]


@torch.inference_mode()
def attention_distance(model: Transformer, windows: np.ndarray, causal: bool) -> list[float]:
    """For each layer the mean distance in tokens from a position to what it attends to, Σ_j a_ij
    |i - j|, over heads, positions and windows (B, T)."""
    model.eval()
    text = torch.from_numpy(windows).to(model.embedding.weight.device)
    usual, model.visibility = model.visibility, visibility  # the book's mask, for its attention
    try:
        with recorded(model) as kept:
            model(text, causal=causal)
    finally:
        model.visibility = usual
    at = torch.arange(text.shape[1], device=text.device)
    far = (at[:, None] - at).abs().float()  # (T, T)
    return [float((weights.float() * far).sum(-1).mean()) for weights in kept.weights]


def even_distance(length: int, causal: bool) -> float:
    """The same where every visible position gets as much: what to compare with."""
    zero = torch.zeros(1, 1, length, 1)
    weights = attention(zero, zero, torch.eye(length)[None, None], visibility(length, 0, causal))
    at = torch.arange(length)
    return float((weights * (at[:, None] - at).abs()).sum(-1).mean())


def attention_windows(tokens: np.ndarray, length: int) -> np.ndarray:
    """Some windows of held-out text, (B, T)."""
    T = min(LENGTH, length, len(tokens))
    n = min(WINDOWS, len(tokens) // T)
    starts = sorted(draws(0, 1, "resample").permutation(len(tokens) // T)[:n])
    return np.stack([tokens[i * T : (i + 1) * T] for i in starts]).astype(np.int64)


def pieces(tokens: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    """Each token's text; what is no character by itself joins the next that completes one."""
    found, ends = [], [len(tokenizer.decode(tokens[: i + 1])) for i in range(len(tokens))]
    text = tokenizer.decode(tokens)
    for start, end in itertools.pairwise([0, *ends]):
        found.append(text[start:end])
    return found
