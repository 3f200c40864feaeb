"""`attention` and `visibility` sooner: on CUDA the fused kernel, which never stores the scores and,
where the mask is just the causal one, skips what it hides; on a CPU the book's plain products (the
fused kernel is slower there in training) with the mask as a term, made once for all layers."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.model import FAR, Transformer, visibility

CAUSAL = "causal"  # stands for the mask of a causal window without padding


def fast_visibility(length, start, causal, is_real=None, device=None, **more):
    """As `visibility`, but what to add to the scores, 0 or FAR, and on CUDA the word CAUSAL where a
    kernel knows that mask by itself."""
    whole = causal and start == 0 and length > 1
    whole &= all(value is None for value in (is_real, *more.values()))
    if whole and torch.device(device or "cpu").type == "cuda":
        return CAUSAL
    mask = visibility(length, start, causal, is_real, device, **more)
    return None if mask is None else as_term(mask, torch.get_default_dtype())


def as_term(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to the scores: 0 where a bool mask is True, else FAR. A term stays one."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, FAR)


def fast_attention(q: Tensor, k: Tensor, v: Tensor, mask) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) V: `attention`, with a mask of `fast_visibility`'s."""
    if isinstance(mask, str):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    if mask is not None:
        mask = as_term(mask, q.dtype)
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, H, T, S)
    return torch.softmax(scores if mask is None else scores + mask, dim=-1) @ v


def use_fast_attention(model: Transformer) -> Transformer:
    """Put both in their place in a model, and return it. A family with local windows makes more of
    the mask, and keeps the book's."""
    model.attend = fast_attention
    if not hasattr(model.config, "local_window"):
        model.visibility = fast_visibility
    return model
