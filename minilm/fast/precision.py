"""The one place that says which numbers are bfloat16: the weights' copies that activations and
products are computed with, and so these. Float32 stay the weights themselves, their gradients once
they are added up, the optimizer's state, and, inside the kernels, the statistics of layer norm, the
softmax and the loss."""

import copy

import torch
from torch import Tensor, nn


class MixedPrecision:
    """A loss whose products are computed in another dtype than that of the weights.

        loss = MixedPrecision(model, formula, torch.bfloat16)
        loss_sum, count = loss(*batch)    # formula(copy of the model, *batch)
        loss_sum.backward()               # fills the gradients of `model`

    A copy of the model in that dtype computes; its weights are copied anew at each call, and its
    gradients are added to those of `model`. With float32 there is no copy."""

    def __init__(self, model: nn.Module, formula, dtype: torch.dtype = torch.float32):
        self.model, self.formula, self.dtype = model, formula, dtype
        self.copy = model
        weights = list(model.parameters())
        if all(weight.dtype == dtype for weight in weights):
            return
        self.copy = copy.deepcopy(model).to(dtype)
        for weight, half in zip(weights, self.copy.parameters(), strict=True):
            if weight.requires_grad:
                half.register_post_accumulate_grad_hook(_add_gradient_to(weight))

    def refresh(self) -> nn.Module:
        """The model that computes, with today's weights, in the mode (train, eval) of the other."""
        if self.copy is not self.model:
            with torch.no_grad():
                torch._foreach_copy_(list(self.copy.parameters()), list(self.model.parameters()))
            self.copy.train(self.model.training)
        return self.copy

    def __call__(self, *batch) -> tuple[Tensor, Tensor]:
        """The formula's (sum of nats, number of targets)."""
        return self.formula(self.refresh(), *batch)


def _add_gradient_to(weight: Tensor):
    def add(half: Tensor) -> None:
        """Runs once a backward pass, when the copy's gradient is whole."""
        gradient, half.grad = half.grad.to(weight.dtype), None
        weight.grad = gradient if weight.grad is None else weight.grad + gradient

    return add
