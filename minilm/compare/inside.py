"""What can be looked at: how each arm goes on with a sentence and fills it in, and how far its
attention reaches."""

import numpy as np
import torch

from minilm.compare.plan import Arm
from minilm.generate import fill_masks, sample
from minilm.model import Transformer, attention, visibility
from minilm.tokenizer import Tokenizer
from minilm.view.recording import recorded

PROMPT, CONTINUATION = 8, 20  # tokens that are given, and that follow
WINDOWS, LENGTH = 16, 64  # of held-out text whose attention is measured
TOP = 3  # candidates for a masked token


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
    T = min(LENGTH, model.config.max_length, len(tokens))
    n = min(WINDOWS, len(tokens) // T)
    starts = np.arange(n) * (len(tokens) // T) // n * T
    windows = tokens[starts[:, None] + np.arange(T)].astype(np.int64)  # (n, T)
    text = torch.from_numpy(windows).to(model.embedding.weight.device)
    usual, model.visibility = model.visibility, visibility  # the book's mask, for its attention
    try:
        with recorded(model) as kept:
            model(text, causal=causal)
    finally:
        model.visibility = usual
    zero = torch.zeros(1, 1, T, 1)
    even = attention(zero, zero, torch.eye(T)[None, None], visibility(T, 0, causal))
    at = torch.arange(T)
    far = (at[:, None] - at).abs()  # (T, T)
    return [float((w.float().cpu() * far).sum(-1).mean()) for w in [*kept.weights, even]]
