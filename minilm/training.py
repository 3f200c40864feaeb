"""One training loop, for pretraining and fine-tuning: it does not know which of them runs.

What is trained is a loss, `loss(*batch) -> (sum of nats, number of targets)`: a formula of
`objectives.py` or `heads.py` bound to a model."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minilm.config import NonFiniteError
from minilm.data import draws
from minilm.optim import schedule, set_learning_rates

Loss = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Plan:
    """How long and how fast: `schedule`, and what the draws depend on."""

    steps: int
    warmup: float  # share of the steps
    cooldown: float  # share of the steps
    seed: int
    clip: float = 1.0  # of the gradient's norm


def train_step(
    loss: Loss, micro_batches: list[tuple], optimizers: list[Optimizer], clip: float = 1.0,
    add_up: Callable[[list[Tensor]], None] | None = None, check: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Loss, backward, clip, update.

    The gradients of all micro-batches are summed and divided once, by the number of targets in all
    of them, so that the result does not depend on how a batch is cut up. Where several processes
    share a batch, `add_up` sums each tensor over all of them, in place.

    Returns the mean loss in nats a target, and the norm of its gradient before clipping. Raises
    NonFiniteError, before any weight changes and without a gradient left, where one of them is not
    finite; `check=False` leaves that to the caller, who then need not wait for the device."""
    sums = 0.0
    for batch in micro_batches:
        loss_sum, count = loss(*batch)
        loss_sum.backward()
        sums = sums + torch.stack((loss_sum.detach(), count.to(loss_sum.dtype)))  # (2,)
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if add_up:
        add_up([sums, *gradients])
    loss_sum, count = sums[0], sums[1].clamp(min=1)
    for gradient in gradients:
        gradient /= count
    norm = nn.utils.clip_grad_norm_(parameters, clip)  # min(1, clip / |g|) · g
    mean = loss_sum / count
    if check and not math.isfinite(mean.item() + norm.item()):
        for parameter in parameters:
            parameter.grad = None
        raise NonFiniteError(
            f"the loss is {mean.item()} and the gradient's norm {norm.item()}; the weights were "
            f"left as they were. Try a lower --learning-rate, or --precision float32"
        )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return mean, norm


def train(
    model: nn.Module, loss: Loss, batch: Callable[[int], list[tuple]], optimizers: list[Optimizer],
    plan: Plan, start: int = 0, rank: int = 0, **how,
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """The loop: yields (step, mean loss) after each update, from start + 1 to plan.steps.

    batch(step) gives the micro-batches of a step. Dropout is drawn from (seed, step) and, where
    several processes share a batch, from the `rank` of this one. `how`: as in `train_step`, which
    raises NonFiniteError."""
    for step in range(start, plan.steps):
        set_learning_rates(optimizers, schedule(step, plan.steps, plan.warmup, plan.cooldown))
        torch.manual_seed(int(draws(plan.seed + rank, step, "dropout").integers(2**63)))
        model.train()
        mean, _ = train_step(loss, batch(step), optimizers, plan.clip, **how)
        yield step + 1, mean
