"""A model and its training step sooner: attention, the loss over a vocabulary, Muon's iteration, in
which precision, and compiled or not.

Attention is PyTorch's kernel, which never stores the scores and, where the mask is just the causal
one, skips what it hides; in bfloat16 on a CPU, where the kernel is slower in training, the book's
plain products. Any other mask is a term, made once for all layers. The loss finds its targets
before they reach the device, and the logits, a training step's largest tensor by far, are never all
there at once on a CPU, and fused into one kernel on CUDA.

bfloat16 are copies of the weights, which activations and products are computed with, and so these.
Float32 stay the weights themselves, their gradients once they are added up, the optimizer's state,
and, inside the kernels, the statistics of layer norm, the softmax and the loss.

torch.compile fuses on a card what lies between the products: in the blocks, which all share one
program, so that it is made in seconds; in the loss; and in Muon."""

import copy
import functools
import importlib.util
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minilm.config import UserError
from minilm.model import FAR, Transformer, visibility
from minilm.objectives import IGNORE, Batch, token_nll
from minilm.optim import orthogonalise

CAUSAL = "causal"  # stands for the mask of a causal window without padding
ROUND = {"cpu": 64, "cuda": 1024}  # the number of targets becomes a multiple of it
compile_once = functools.cache(torch.compile)  # one program for all who ask
# A context in which compiled blocks run as written: for evaluation, with its many shapes.
eager = functools.partial(torch.compiler.set_stance, "force_eager")


def fast_visibility(length, start, causal, is_real=None, device=None, **more):
    """As `visibility`, but what to add to the scores, 0 or FAR, or the word CAUSAL where a kernel
    knows that mask by itself."""
    whole = causal and start == 0 and length > 1
    if whole and all(value is None for value in (is_real, *more.values())):
        return CAUSAL
    mask = visibility(length, start, causal, is_real, device, **more)
    return None if mask is None else as_term(mask, torch.get_default_dtype())


def as_term(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What to add to the scores: 0 where a bool mask is True, else FAR. A term stays one."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, FAR)


def fast_attention(q: Tensor, k: Tensor, v: Tensor, mask) -> Tensor:
    """softmax(Q Kᵀ / √d + mask) V: `attention`, with a mask of `fast_visibility`'s, by PyTorch's
    kernel; but by plain products in bfloat16 on a CPU, where they are faster."""
    plain = q.device.type == "cpu" and q.dtype == torch.bfloat16
    if isinstance(mask, str):
        if not plain:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        mask = visibility(q.shape[2], 0, causal=True)
    if mask is not None:
        mask = as_term(mask, q.dtype)
    if not plain:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q / q.shape[-1] ** 0.5) @ k.transpose(-2, -1)  # (B, H, T, S)
    return torch.softmax(scores if mask is None else scores + mask, dim=-1) @ v


def use_fast_attention(model: Transformer) -> Transformer:
    """Put both in their place in a model, and return it. A family with local windows makes more of
    the mask, and keeps the book's."""
    model.attend = fast_attention
    if not hasattr(model.config, "local_window"):
        model.visibility = fast_visibility
    return model


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
            h, real = hidden[rows], targets[rows] != IGNORE  # (n, D), (n,)
            y = targets[rows, None].clamp(min=0)  # (n, 1)
            logits = h @ E.T  # (n, V)
            p = logits.softmax(-1, dtype=exact)  # one exponential an entry; log_softmax takes two
            log_p = p.gather(1, y).log()  # (n, 1)
            if log_p.min() < -80:  # where p nears the least float32, log p does not
                log_p = logits.to(exact).log_softmax(-1).gather(1, y)
            loss_sum -= log_p[real].sum()
            d_logits = p.scatter_add_(1, y, -torch.ones_like(log_p)).to(E.dtype)  # p - y, (n, V)
            if not real.all():
                d_logits[~real] = 0
            d_hidden[rows] = d_logits @ E  # (n, D)
            d_E += d_logits.T @ h  # (V, D)
        ctx.save_for_backward(d_hidden, d_E.to(E.dtype))
        return loss_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        """The chain rule's last factor, a number."""
        d_hidden, d_E = ctx.saved_tensors
        return grad * d_hidden, grad * d_E, None


def whole_nll(hidden: Tensor, E: Tensor, targets: Tensor) -> Tensor:
    """The same in one piece, to be compiled: the float32 logits stay inside one kernel."""
    return token_nll(F.linear(hidden, E), targets)[0]


def fast_nll(
    model: Transformer, inputs, index, targets, causal: bool, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """`language_model_nll` of what `gather_targets` found: (sum of nats, number of targets)."""
    hidden = model(inputs, causal=causal).flatten(0, 1)  # (B · T, D)
    if index is not None:
        hidden = hidden.index_select(0, index)  # (N, D)
    another = type(model).logits is not Transformer.logits  # family, whose head stands before E
    if another or (hidden.device.type != "cpu" and not compiled):
        return token_nll(model.logits(hidden), targets)
    nll = compile_once(whole_nll, dynamic=True) if compiled else ChunkedNLL.apply
    return nll(hidden, model.embedding.weight, targets), (targets != IGNORE).sum()


def gram_orthogonalise(G: Tensor) -> Tensor:
    """`orthogonalise` on R = X Xᵀ: of X the iteration's factor P = a I + b R + c R² sees R alone,
    and with X <- P X goes R <- P R P. So only R and the product Q of all P are kept, smaller
    than X where m < n. In float32 the result is equal.

    G (B, m, n), m <= n. Returns G's shape."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (torch.linalg.matrix_norm(G, keepdim=True) + 1e-7)
    R = X @ X.mT  # (B, m, m)
    Q = torch.eye(R.shape[1], dtype=G.dtype, device=G.device).expand_as(R)
    for _ in range(5):
        P = torch.baddbmm(R, R, R, beta=b, alpha=c)
        P.diagonal(dim1=1, dim2=2).add_(a)
        Q, R = P @ Q, P @ R @ P
    return Q @ X


def fast_orthogonalise(G: Tensor, dtype=torch.float32, compiled: bool = False) -> Tensor:
    """Either of the two: the formula in bfloat16 on CUDA and where `dtype`, that of products, is
    bfloat16. G (B, m, n) float32. Returns G's shape, float32."""
    is_cuda, tall = G.device.type == "cuda", G.shape[1] > G.shape[2]
    wide = G.mT if tall else G
    if is_cuda or dtype == torch.bfloat16:
        fused = compiled and is_cuda
        iterate = compile_once(orthogonalise, dynamic=False) if fused else orthogonalise
        X = iterate(wide.bfloat16()).to(G.dtype)
    else:
        X = gram_orthogonalise(wide)
    return X.mT if tall else X


class MixedPrecision:
    """A loss whose activations and products are computed in another dtype than that of the weights,
    by a copy of the model (with the same dtype there is none):

        loss = MixedPrecision(model, formula, torch.bfloat16)
        loss_sum, count = loss(*batch)    # formula(copy of the model, *batch)
        loss_sum.backward()               # fills the gradients of `model`
        tokens, targets = loss.forget()   # how many it has read until here"""

    def __init__(self, model: nn.Module, formula, dtype: torch.dtype = torch.float32):
        self.model, self.formula, self.copy = model, formula, model
        self.weights = list(model.parameters())
        if any(weight.dtype != dtype for weight in self.weights):
            self.copy = copy.deepcopy(model).to(dtype)
        self.copies = list(self.copy.parameters())
        self.tokens = self.targets = 0

    def forget(self) -> tuple:
        """How many tokens (positions of the first array) and targets (a tensor: to read it is to
        wait for the device) were read since this was asked before."""
        read, self.tokens, self.targets = (self.tokens, self.targets), 0, 0
        return read

    def refresh(self) -> nn.Module:
        """The model that computes, with today's weights, in the mode (train, eval) of the other."""
        if self.copy is not self.model:
            with torch.no_grad():
                torch._foreach_copy_(self.copies, self.weights)
            self.copy.train(self.model.training)
        return self.copy

    def __call__(self, *batch) -> tuple[Tensor, Tensor]:
        """The formula's (sum of nats, number of targets)."""
        if self.refresh() is self.model:
            loss_sum, count = self.formula(self.model, *batch)
        else:
            loss_sum, count = _Computed.apply(self, batch, *self.weights)
        self.tokens, self.targets = self.tokens + batch[0].numel(), self.targets + count.detach()
        return loss_sum, count


class _Computed(torch.autograd.Function):
    """The formula with the copies, as a function of the weights: the gradients by the copies, in
    float32, are those by the weights."""

    @staticmethod
    def forward(ctx, mixed: MixedPrecision, batch: tuple, *weights: Tensor):
        with torch.enable_grad():
            loss_sum, count = mixed.formula(mixed.copy, *batch)
        ctx.mixed, ctx.loss_sum = mixed, loss_sum
        ctx.mark_non_differentiable(count)
        return loss_sum.detach(), count

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _):
        ctx.loss_sum.backward(grad)
        copies = ctx.mixed.copies
        found = [half for half in copies if half.grad is not None]
        exact = [torch.empty_like(half, dtype=torch.float32) for half in found]
        torch._foreach_copy_(exact, [half.grad for half in found])
        by_copy = dict(zip(found, exact, strict=True))
        ctx.mixed.copy.zero_grad(set_to_none=True)
        return None, None, *map(by_copy.get, copies)


def compiles(wanted: bool | None, device: torch.device) -> bool:
    """Whether to compile; None: on CUDA, where it pays, where the compilers are there. Raises
    UserError where they are not, but it was asked for."""
    found = any(map(shutil.which, ("cc", "gcc", "clang", "cl")))
    found &= device.type == "cpu" or importlib.util.find_spec("triton") is not None
    if wanted and not found:
        raise UserError(f"--compile: torch.compile needs a C compiler (and triton on CUDA), and "
                        f"finds none on {device}: leave the flag out")  # fmt: skip
    return found and device.type == "cuda" if wanted is None else wanted


def compile_blocks(model, **how) -> None:
    """Compile the blocks of a Transformer, or of the one inside a model with a head, when they are
    first used. how: options of torch.compile."""
    for block in getattr(model, "transformer", model).blocks:
        block.compile(**how)
