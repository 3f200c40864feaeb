"""`language_model_nll` sooner: the targets are found before they reach the device, and the logits,
a training step's largest tensor by far, are never all there at once on a CPU, and fused into one
kernel on CUDA."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from minilm.fast.compute import compile_once
from minilm.model import Transformer
from minilm.objectives import IGNORE, Batch, token_nll

ROUND = {"cpu": 64, "cuda": 1024}  # N becomes a multiple of it


def gather_targets(batch: Batch, device: torch.device) -> tuple:
    """(inputs (B, T), index (N,) or None, targets (N,), causal): where among the (B · T) positions
    the targets are, so that the device need not be asked; None: everywhere.

    Masking chooses another number of positions at each step, but for each size of a product in
    bfloat16 a CPU's library builds and keeps code, and a compiler compiles anew. So N is filled up
    to a multiple of ROUND with positions whose target is IGNORE."""
    targets = batch.targets.reshape(-1)  # (B · T,)
    index = np.flatnonzero(targets != IGNORE)
    if len(index) == len(targets):
        return batch.inputs, None, targets, batch.causal
    fill = -len(index) % ROUND.get(device.type, 1)
    targets = np.concatenate([targets[index], np.full(fill, IGNORE)])
    return batch.inputs, np.append(index, np.zeros(fill, index.dtype)), targets, batch.causal


class ChunkedNLL(torch.autograd.Function):
    """`token_nll(hidden · Eᵀ, targets)`, CHUNK positions at a time: a chunk is scored, turned into
    its gradient p - y, multiplied on, and forgotten. Less memory in about the same time."""

    CHUNK = 1024

    @staticmethod
    def forward(ctx, hidden: Tensor, E: Tensor, targets: Tensor) -> Tensor:
        """hidden (N, D), E (V, D), targets (N,). Returns the sum of nats, and notes its gradients
        by hidden and E."""
        exact = torch.promote_types(E.dtype, torch.float32)
        loss_sum = torch.zeros((), dtype=exact, device=hidden.device)
        d_hidden, d_E = torch.empty_like(hidden), torch.zeros_like(E, dtype=exact)
        for start in range(0, len(hidden), ChunkedNLL.CHUNK):
            rows = slice(start, start + ChunkedNLL.CHUNK)
            h, y = hidden[rows], targets[rows, None]  # (n, D), (n, 1)
            real = y != IGNORE
            y = y.clamp(min=0)
            log_p = (h @ E.T).to(exact).log_softmax(-1)  # (n, V)
            loss_sum -= (log_p.gather(1, y) * real).sum()
            d_logits = log_p.exp_().scatter_add_(1, y, -torch.ones_like(log_p[:, :1]))
            d_logits = (d_logits * real).to(E.dtype)  # p - y, (n, V)
            d_hidden[rows] = d_logits @ E  # (n, D)
            d_E += d_logits.T @ h  # (V, D)
        ctx.save_for_backward(d_hidden, d_E.to(E.dtype))
        return loss_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        """The chain rule's last factor, a number."""
        d_hidden, d_E = ctx.saved_tensors
        return (grad * d_hidden).to(d_hidden.dtype), (grad * d_E).to(d_E.dtype), None


def whole_nll(hidden: Tensor, E: Tensor, targets: Tensor) -> Tensor:
    """The same in one piece, for a card; compiled, the float32 logits stay inside one kernel."""
    return token_nll(F.linear(hidden, E), targets)[0]


def fast_nll(
    model: Transformer, inputs, index, targets, causal: bool, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """`language_model_nll` of what `gather_targets` found: (sum of nats, number of targets)."""
    hidden = model(inputs, causal=causal).flatten(0, 1)  # (B · T, D)
    if index is not None:
        hidden = hidden.index_select(0, index)  # (N, D)
    if type(model).logits is not Transformer.logits:  # another family's head stands before E
        return token_nll(model.logits(hidden), targets)
    if compiled:
        nll = compile_once(whole_nll, dynamic=True)
    else:
        nll = ChunkedNLL.apply if hidden.device.type == "cpu" else whole_nll
    return nll(hidden, model.embedding.weight, targets), (targets != IGNORE).sum()
