"""What each position looks at: the attention weights of a net, how far they reach, how they spread.

Attention shows where a head looked, not why the net said what it said (Jain and Wallace 2019,
arXiv 1902.10186): a figure to ask questions with.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minilm.model import Transformer
from minilm.tokenizer import DOC, Tokenizer

LONGEST = 14  # tokens of the sentence whose maps are kept


class Recorder(TorchFunctionMode):
    """Inside `with Recorder() as recorder:` every call of torch's fused attention, which is what a
    Transformer makes without gradients, leaves its weights in recorder.weights, one (B, H, T, T) a
    layer."""

    def __init__(self):
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Called by torch in place of func."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k = args[:2]
            scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)
            if kwargs.get("attn_mask") is not None:
                scores = scores + kwargs["attn_mask"]
            self.weights.append(torch.softmax(scores, dim=-1))
        return func(*args, **kwargs)


@torch.inference_mode()
def weights(model: Transformer, tokens: np.ndarray, causal: bool) -> np.ndarray:
    """How much every position looks at every other, (B, layers, heads, T, T): each row adds up to
    1. tokens (B, T)."""
    model.eval()
    text = torch.from_numpy(tokens.astype(np.int64)).to(model.embedding.weight.device)
    with Recorder() as recorder:
        model(text, causal=causal)
    return torch.stack(recorder.weights, dim=1).float().cpu().numpy()


def distance(weights: np.ndarray) -> np.ndarray:
    """The mean distance, in tokens, from a position to where it looks: Σ_j a_ij |i - j|, over all
    i. weights (..., T, T). Returns (...)."""
    at = np.arange(weights.shape[-1])
    return (weights * np.abs(at[:, None] - at)).sum(-1).mean(-1)


def entropy(weights: np.ndarray) -> np.ndarray:
    """How widely a position's look is spread: - Σ_j a_ij log a_ij in nats, over all i; 0 where all
    of it goes to one position, log T where it is even. weights (..., T, T). Returns (...)."""
    return -(weights * np.log(np.maximum(weights, 1e-12))).sum(-1).mean(-1)


def even(length: int, causal: bool) -> np.ndarray:
    """The weights (T, T) of looking at all that is visible alike: what to compare with."""
    visible = np.tri(length) if causal else np.ones((length, length))
    return visible / visible.sum(-1, keepdims=True)


def look(
    model: Transformer, tokenizer: Tokenizer, readings: list[str], sentence: str, texts: np.ndarray
) -> dict[str, dict]:
    """For each reading ("causal", "masked"):

    {"words": [T], "maps": [layers][heads][T][T] of the sentence, its first LONGEST tokens,
     "distance": [layers][heads], "entropy": [layers][heads], means over texts (B, T),
     "even_distance", "even_entropy": what looking everywhere alike would give}
    """
    words = np.append(DOC, tokenizer.encode(sentence))[: min(LONGEST, model.config.max_length)]
    texts = texts[:, : model.config.max_length]
    found = {}
    for reading in readings:
        causal = reading == "causal"
        of_texts = weights(model, texts, causal)
        plain = even(texts.shape[1], causal)
        found[reading] = {
            "words": [tokenizer.decode([word]) for word in words],
            "maps": weights(model, words[None], causal)[0].round(3).tolist(),
            "distance": distance(of_texts).mean(0).round(3).tolist(),
            "entropy": entropy(of_texts).mean(0).round(3).tolist(),
            "even_distance": float(distance(plain)),
            "even_entropy": float(entropy(plain)),
        }
    return found
