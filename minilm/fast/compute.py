"""How a loss is computed: in which precision, and compiled or not.

bfloat16 are copies of the weights, which activations and products are computed with, and so these.
Float32 stay the weights themselves, their gradients once they are added up, the optimizer's state,
and, inside the kernels, the statistics of layer norm, the softmax and the loss.

torch.compile fuses on a card what lies between the products: in the blocks, which all share one
program, so that it is made in seconds; in the loss; and in Muon."""

import copy
import functools
import importlib.util
import shutil

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minilm.config import UserError


class MixedPrecision:
    """A loss whose activations and products are computed in another dtype than that of the weights,
    by a copy of the model (with the same dtype there is none):

        loss = MixedPrecision(model, formula, torch.bfloat16)
        loss_sum, count = loss(*batch)    # formula(copy of the model, *batch)
        loss_sum.backward()               # fills the gradients of `model`"""

    def __init__(self, model: nn.Module, formula, dtype: torch.dtype = torch.float32):
        self.model, self.formula, self.copy = model, formula, model
        self.weights = list(model.parameters())
        if any(weight.dtype != dtype for weight in self.weights):
            self.copy = copy.deepcopy(model).to(dtype)
        self.copies = list(self.copy.parameters())

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
            return self.formula(self.model, *batch)
        return _Computed.apply(self, batch, *self.weights)


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


@functools.cache
def compile_once(function, dynamic: bool):
    """torch.compile(function), one for all who ask."""
    return torch.compile(function, dynamic=dynamic)


def eager():
    """A context in which compiled blocks run as written: for evaluation, with its many shapes."""
    return torch.compiler.set_stance("force_eager")
