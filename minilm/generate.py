"""Using a language model: continue a text word by word, or fill in the words that are hidden."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from minilm.data import draws
from minilm.model import KeyValueCache, Transformer
from minilm.tokenizer import DOC, MASK, N_SPECIAL, PAD


def filter_logits(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Set to -inf all but the likeliest words: the top_k best, and of these the fewest that hold
    top_p of the probability (nucleus sampling, Holtzman et al. 2020, arXiv 1904.09751, eq. 2).

    logits (V,). Returns (V,). The likeliest word always stays.
    """
    ordered, order = logits.sort(descending=True)
    drop = torch.zeros_like(ordered, dtype=torch.bool)
    if top_k is not None:
        drop[top_k:] = True
    if top_p is not None:
        probability = ordered.masked_fill(drop, -torch.inf).softmax(-1)
        drop |= probability.cumsum(-1) - probability >= top_p  # what the better words hold already
    drop[0] = False
    return logits.index_fill(0, order[drop], -torch.inf)


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt: np.ndarray,
    n_tokens: int,
    temperature: float = 0.8,
    top_k: int | None = 50,
    top_p: float | None = 0.95,
    seed: int = 0,
    cached: bool = True,
) -> Iterator[int]:
    """Sample words one after the other, each from P(w_i | w_1 … w_{i-1}); stops at <doc>.

    prompt (T,) token ids, possibly none. Temperature 0 takes the likeliest word. Once the window of
    max_length is full, its later half is read anew and the rest forgotten. `cached=False` reads the
    whole window for every word: slower, the same words.
    """
    model.eval()
    device = model.embedding.weight.device
    window = [DOC, *prompt.tolist()]  # a document begins after the end of another
    longest = model.config.max_length
    cache, fresh = None, window
    for i in range(n_tokens):
        if cache is None or not cached or len(window) > longest:
            if len(window) > longest:
                window = window[-max(1, longest // 2) :]
            cache, fresh = KeyValueCache(model.config), window
        tokens = torch.tensor([fresh], device=device)
        hidden = model(tokens, causal=True, cache=cache)[0, -1:]  # (1, D)
        logits = model.logits(hidden)[0].cpu().double()  # (V,): no temperature overflows there
        logits[[PAD, MASK]] = -torch.inf
        if temperature == 0:
            token = int(logits.argmax())
        else:
            scaled = (logits - logits.max()) / temperature
            p = filter_logits(scaled, top_k, top_p).softmax(-1).numpy()
            token = int(draws(seed, i, "sample").choice(len(p), p=p / p.sum()))
        if token == DOC:
            return
        yield token
        window, fresh = [*window, token], [token]


@torch.inference_mode()
def fill(
    model: Transformer, tokens: np.ndarray, objective: str, top: int = 5
) -> list[list[tuple[int, float]]]:
    """For every <mask> in tokens (T,): the `top` likeliest words and their probabilities.

    A model trained with the "masked" objective answers at the mask; a "hybrid" one at the position
    before it, which was taught to say what comes next; a "causal" one likewise, but it sees only
    what stands to the left.
    """
    model.eval()
    text = torch.from_numpy(np.concatenate([[DOC], tokens, [DOC]]).astype(np.int64))
    hidden = model(text[None].to(model.embedding.weight.device), causal=objective == "causal")[0]
    shift = 0 if objective == "masked" else 1
    positions = (text == MASK).nonzero()[:, 0] - shift
    logits = model.logits(hidden[positions]).float()  # (number of masks, V)
    logits[:, :N_SPECIAL] = -torch.inf
    values, words = logits.softmax(-1).topk(min(top, logits.shape[-1]))
    return [
        list(zip(row.tolist(), p.tolist(), strict=True))
        for row, p in zip(words, values, strict=True)
    ]
