"""Using a language model: continue a text token by token, fill in masked tokens."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from minilm.config import UserError
from minilm.data import draws
from minilm.model import Transformer
from minilm.tokenizer import SpecialTokens


def filter_logits(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set to -inf all but the likeliest tokens: the top_k best, and of these the fewest that hold
    top_p of the probability (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751, eq. 2). The
    likeliest token always stays. logits (B, V). Returns (B, V)."""
    V = logits.shape[-1]
    best, tokens = logits.topk(V if top_k is None else min(top_k, V))  # (B, k), descending
    if top_p is not None:
        probability = best.softmax(-1)
        drop = probability.cumsum(-1) - probability >= top_p  # what the better ones hold already
        best = best.masked_fill(drop, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, tokens, best)


def next_token(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, u: np.ndarray
) -> Tensor:
    """Sample from softmax(logits / temperature), filtered, by the uniform draws u (B,); the
    likeliest token at temperature 0. logits (B, V). Returns (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double()  # no temperature overflows there
    scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
    below = filter_logits(scaled, top_k, top_p).softmax(-1).cumsum(-1)  # P(token <= i), (B, V)
    below = below / below[:, -1:]  # whose last is 1 exactly, above every u
    return torch.searchsorted(below, torch.from_numpy(u)[:, None], right=True)[:, 0]


def sample(
    model: Transformer, prompt: np.ndarray, n_tokens: int, special: SpecialTokens, **how
) -> Iterator[int]:
    """`sample_batch` for one prompt (T,), possibly of no tokens: yields ids until <doc>."""
    for (token,) in sample_batch(model, prompt[None], n_tokens, special, **how):
        if token == special.eos:
            return
        yield int(token)


@torch.inference_mode()
def sample_batch(
    model: Transformer, prompts: np.ndarray, n_tokens: int, special: SpecialTokens,
    temperature: float = 0.8, top_k: int | None = 50, top_p: float | None = 0.95, seed: int = 0,
    cached: bool = True,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Sample tokens one after the other, each from P(w_i | w_1 … w_{i-1}; θ), for every row of
    prompts (B, T). Yields the next token of each row, (B,); rows that <doc> has ended repeat it.

    Of a prompt the last max_length tokens count. Once the window is full, its later half is
    computed anew and the rest forgotten. `cached=False` computes the whole window for every token:
    slower, the same tokens. Raises UserError for a temperature, top_k or top_p that cannot be."""
    bad_k, bad_p = top_k is not None and top_k < 1, top_p is not None and not 0 < top_p <= 1
    if bad_k or bad_p or not temperature >= 0:  # nor nan
        raise UserError("give a temperature of 0 or more, a top_k of 1 or more, a top_p up to 1")
    model.eval()
    device, longest = model.embedding.weight.device, model.config.max_length
    never = torch.ones(model.config.vocab_size, dtype=torch.bool)  # all but text and its end
    never[special.ordinary] = never[special.eos] = False
    begin = np.full((len(prompts), 1), special.bos)  # <doc>: after the end of another document
    window = torch.from_numpy(np.hstack([begin, prompts]).astype(np.int64))[:, -longest:]
    ended = np.zeros(len(prompts), dtype=bool)
    cache, fresh = None, window  # fresh (B, t): what the cache does not hold yet
    for i in range(n_tokens):
        if window.shape[1] > longest:
            cache, window = None, window[:, -max(1, longest // 2) :]
        if cache is None or not cached:
            cache, fresh = model.new_cache(), window
        hidden = model(fresh.to(device), causal=True, cache=cache)[:, -1]  # (B, D)
        logits = model.logits(hidden).float().cpu().masked_fill(never, -torch.inf)  # (B, V)
        u = draws(seed, i, "sample").random(len(prompts))
        tokens = next_token(logits, temperature, top_k, top_p, u).numpy()
        ended |= tokens == special.eos
        tokens[ended] = special.eos
        yield tokens
        if ended.all():
            return
        fresh = torch.from_numpy(tokens)[:, None]
        window = torch.cat((window, fresh), dim=1)


@torch.inference_mode()
def fill_masks(
    model: Transformer, tokens: np.ndarray, special: SpecialTokens, causal: bool, shift: int, top=5
) -> list[list[tuple[int, float]]]:
    """For every <mask> in tokens (T,): the `top` likeliest tokens and their probabilities.

    shift 0: the model was trained to predict a masked token at its own position. shift 1: one
    position earlier, as a hybrid (causal=False) or a causal run, which sees only what stands there
    and before."""
    model.eval()
    framed = np.concatenate([[special.bos], tokens, [special.eos]])
    text = torch.from_numpy(framed.astype(np.int64))  # (T + 2,)
    hidden = model(text[None].to(model.embedding.weight.device), causal=causal)[0]  # (T + 2, D)
    positions = (text == special.mask).nonzero()[:, 0] - shift
    logits = model.logits(hidden[positions]).float().cpu()[:, special.ordinary]  # (masks, M)
    best = logits.softmax(-1).topk(min(top, logits.shape[-1]))  # (masks, top)
    ids = np.take(special.ordinary, best.indices.numpy())
    pairs = zip(ids.tolist(), best.values.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in pairs]
