"""Using a language model: continue a text word by word, or fill in the words that are hidden."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from minilm.data import draws
from minilm.model import KeyValueCache, Transformer
from minilm.special import Special
from minilm.tokenizer import OURS


def filter_logits(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set to -inf all but the likeliest words: the top_k best, and of these the fewest that hold
    top_p of the probability (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751, eq. 2).

    logits (B, V). Returns (B, V). The likeliest word always stays.
    """
    V = logits.shape[-1]
    best, words = logits.topk(V if top_k is None else min(top_k, V))  # (B, k), descending
    if top_p is not None:
        probability = best.softmax(-1)
        drop = probability.cumsum(-1) - probability >= top_p  # what the better words hold already
        drop[:, 0] = False
        best = best.masked_fill(drop, -torch.inf)
    return torch.full_like(logits, -torch.inf).scatter(-1, words, best)


def generate(
    model: Transformer, prompt: np.ndarray, n_tokens: int, special: Special = OURS, **how
) -> Iterator[int]:
    """`generate_batch` for one prompt (T,), possibly of no tokens: yields ids until <doc>."""
    for (word,) in generate_batch(model, prompt[None], n_tokens, special, **how):
        if word == special.end:
            return
        yield int(word)


@torch.inference_mode()
def generate_batch(
    model: Transformer,
    prompts: np.ndarray,
    n_tokens: int,
    special: Special = OURS,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = 0.95,
    seed: int = 0,
    cached: bool = True,
) -> Iterator[np.ndarray]:
    """Sample words one after the other, each from P(w_i | w_1 … w_{i-1}), for every row of
    prompts (B, T). Yields the next word of each row, (B,); rows that <doc> has ended go on with it.

    Temperature 0 takes the likeliest word. Once the window of max_length is full, its later half is
    read anew and the rest forgotten. `cached=False` reads the whole window for every word: slower,
    the same words.
    """
    model.eval()
    device, longest = model.embedding.weight.device, model.config.max_length
    begin = np.full((len(prompts), 1), special.begin)  # <doc>: after the end of another document
    never = [i for i in (special.pad, special.mask) if i not in (None, special.end)]
    window = torch.from_numpy(np.hstack([begin, prompts]).astype(np.int64))
    ended = np.zeros(len(prompts), dtype=bool)
    cache, fresh = None, window  # fresh (B, t): what the cache does not hold yet
    for i in range(n_tokens):
        if cache is None or not cached or window.shape[1] > longest:
            if window.shape[1] > longest:
                window = window[:, -max(1, longest // 2) :]
            cache, fresh = KeyValueCache(model.config), window
        hidden = model(fresh.to(device), causal=True, cache=cache)[:, -1]  # (B, D)
        logits = model.logits(hidden).cpu().double()  # (B, V): no temperature overflows there
        logits[:, never] = -torch.inf
        if temperature == 0:
            words = logits.argmax(-1).numpy()
        else:
            scaled = (logits - logits.amax(-1, keepdim=True)) / temperature
            below = filter_logits(scaled, top_k, top_p).softmax(-1).cumsum(-1)  # P(word <= w)
            below = below / below[:, -1:]  # whose last is 1 exactly, above every u
            u = torch.from_numpy(draws(seed, i, "sample").random((len(prompts), 1)))  # (B, 1)
            words = torch.searchsorted(below, u, right=True)[:, 0].numpy()  # (B,)
        ended |= words == special.end
        words[ended] = special.end
        yield words
        if ended.all():
            return
        fresh = torch.from_numpy(words)[:, None]
        window = torch.cat((window, fresh), dim=1)


@torch.inference_mode()
def fill(
    model: Transformer,
    tokens: np.ndarray,
    objective: str,
    top: int = 5,
    special: Special = OURS,
) -> list[list[tuple[int, float]]]:
    """For every <mask> in tokens (T,): the `top` likeliest words and their probabilities.

    A model trained with the "masked" objective answers at the mask; a "hybrid" one at the position
    before it, which was taught to say what comes next; a "causal" one likewise, but it sees only
    what stands to the left.
    """
    model.eval()
    framed = np.concatenate([[special.begin], tokens, [special.end]])
    text = torch.from_numpy(framed.astype(np.int64))
    hidden = model(text[None].to(model.embedding.weight.device), causal=objective == "causal")[0]
    shift = 0 if objective == "masked" else 1
    positions = (text == special.mask).nonzero()[:, 0] - shift
    logits = model.logits(hidden[positions]).float()  # (number of masks, V)
    logits[:, : special.words.start] = logits[:, special.words.stop :] = -torch.inf
    values, words = logits.softmax(-1).topk(min(top, logits.shape[-1]))
    return [
        list(zip(row.tolist(), p.tolist(), strict=True))
        for row, p in zip(words, values, strict=True)
    ]
