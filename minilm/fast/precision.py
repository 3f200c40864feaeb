"""The one place that says which numbers are bfloat16: copies of the weights, which activations and
products are computed with, and so these. Float32 stay the weights themselves, their gradients once
they are added up, the optimizer's state, and, inside the kernels, the statistics of layer norm, the
softmax and the loss."""

import copy

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class MixedPrecision:
    """A loss whose activations and products are computed in another dtype than that of the weights.

        loss = MixedPrecision(model, formula, torch.bfloat16)
        loss_sum, count = loss(*batch)    # formula(copy of the model, *batch)
        loss_sum.backward()               # fills the gradients of `model`

    A copy of the model in that dtype computes, after its weights were copied anew. With the dtype
    that the weights have, no copy is needed, and the formula's own graph is used."""

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
        model = self.refresh()
        if model is self.model:
            return self.formula(model, *batch)
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
        found = [half for half in ctx.mixed.copies if half.grad is not None]
        exact = [torch.empty_like(half, dtype=torch.float32) for half in found]
        torch._foreach_copy_(exact, [half.grad for half in found])
        by_copy = dict(zip(map(id, found), exact, strict=True))
        for half in found:
            half.grad = None
        return None, None, *(by_copy.get(id(half)) for half in ctx.mixed.copies)
