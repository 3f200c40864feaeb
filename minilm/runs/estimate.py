"""How long will it take, and can this machine do it? What is planned is counted; how fast it goes is
measured for a few seconds, by training steps as `loop.train` does them."""

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from minilm import training
from minilm.config import ModelConfig, UserError
from minilm.model import training_flops
from minilm.runs import loop
from minilm.runs.device import Machine, matrix_rate, synchronize
from minilm.runs.run import least_parameters

BYTES_A_PARAMETER = 16  # float32: the weight, its gradient, the two moments of AdamW
BACKWARD = 2  # the backward pass needs tensors of its own, about as many as the forward pass keeps
OVERHEAD = 400_000_000  # bytes of Python, torch and its kernels


@dataclass(frozen=True)
class Estimate:
    """What a planned run takes; its evaluations, a few per cent of the time, are not in it."""

    parameters: int
    steps: int
    tokens: int
    flops: float
    start: float  # seconds that the first steps take more than others: compiling, getting memory
    seconds: float  # in all
    memory: int  # bytes that must fit at once
    machine_memory: int | None
    matrix_rate: float  # FLOP/s of this machine's matrix products

    def report(self) -> str:
        """All of it, for people to read."""
        there = f" of {_size(self.machine_memory)}: it fits" if self.machine_memory else ""
        rate = self.flops / self.seconds
        rows = {
            "parameters": f"{self.parameters:,}",
            "steps": f"{self.steps:,} of {self.tokens // self.steps:,} tokens",
            "FLOPs": f"{self.flops:.2e}",
            "memory": f"{_size(self.memory)}{there}",
            "speed": f"{self.tokens / self.seconds:,.0f} tokens/s, {rate / 1e9:,.0f} GFLOP/s, "
            f"{rate / self.matrix_rate:.0%} of what matrix products reach here",
            "time": f"{_duration(self.seconds)}, of which {self.start:.0f} s to get started",
        }
        return "\n".join(f"  {name:12}{value}" for name, value in rows.items())


def estimate(
    model: nn.Module,
    loss: training.Loss,
    batch: Callable[[int], list[tuple]],
    optimizers: list[torch.optim.Optimizer],
    plan: training.Plan,
    machine: Machine,
    config: ModelConfig,
    minutes: float | None = None,
    measure: float = 4.0,
) -> Estimate:
    """What training takes (the arguments of `loop.train`, before their first step) with `plan`, or
    with as many steps as fit into `minutes`. `measure`: for about how many seconds.

    Weights and optimizers are afterwards as they were. Raises UserError where more memory is needed
    than there is.
    """
    parameters = sum(p.numel() for p in model.parameters())
    rounds = one_of_each_kind(batch, plan.steps // 2)  # where rates that change are at their mean
    require_memory(config, machine.device)
    memory = memory_needed(model, loss, rounds[0], machine)
    _require(memory, machine.device, "a larger --accumulate or a smaller --batch-size")
    with put_back(model, optimizers):
        start, seconds, spent = measured(model, loss, rounds, optimizers, plan, machine, measure)
    if machine.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(machine.device)
    steps = max(10, int((minutes * 60 - start) / seconds)) if minutes else plan.steps
    tokens, targets = steps * spent["tokens"], steps * spent["targets"]
    length = rounds[0][0][0].shape[-1]
    return Estimate(
        parameters, steps, int(tokens), training_flops(config, tokens, targets, length), start,
        start + steps * seconds, memory, memory_of(machine.device),
        matrix_rate(machine.dtype, machine.device),
    )  # fmt: skip


def one_of_each_kind(batch: Callable[[int], list[tuple]], step: int) -> list[list[tuple]]:
    """A batch of each kind that occurs from a step on: a masked step of the hybrid objective takes
    less time than a causal one. They differ in the values that are no arrays."""
    kinds = {}
    for micro_batches in map(batch, range(step, step + 16)):
        kind = tuple(value for value in micro_batches[0] if not isinstance(value, np.ndarray))
        kinds.setdefault(kind, micro_batches)
    return list(kinds.values())


def measured(model, loss, rounds, optimizers, plan, machine, seconds: float):
    """Train for about `seconds`, in rounds of one step of each kind. The median round counts, and
    the first never: it compiles, and finds memory not yet at hand. Returns the seconds that the
    first took more, the seconds of a step, and the mean tokens and targets of a step."""
    spent, times, n = dict(tokens=0, targets=0), [], len(rounds)
    steps = loop.steps(
        model, loss, lambda step: rounds[step % n], optimizers, plan, machine, 0, spent
    )
    while len(times) < 2 or sum(times) < seconds:
        began = time.perf_counter()
        done = len(list(itertools.islice(steps, n)))
        synchronize(machine.device)
        if done < n:  # the plan is shorter
            break
        times.append(machine.agree(time.perf_counter() - began))
    count = n * len(times)
    totals = machine.total(spent["tokens"], float(spent["targets"]))
    median = statistics.median(times[1:] or times)
    means = dict(zip(spent, (total / count for total in totals), strict=True))
    return max(0.0, times[0] - median), median / n, means


@contextlib.contextmanager
def put_back(model: nn.Module, optimizers: list[torch.optim.Optimizer]):
    """Afterwards the weights are as before, and the optimizers have not begun."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(weights)
        for optimizer in optimizers:
            optimizer.state.clear()
            optimizer.zero_grad(set_to_none=True)


def memory_needed(model, loss, micro_batches: list[tuple], machine: Machine) -> int:
    """The bytes that training needs at once: weights, gradients, optimizer, and what the backward
    pass needs of the largest micro-batch, extrapolated in a line from two and three rows."""
    arrays = micro_batches[0]
    few = [kept_for_backward(model, loss, arrays, machine, rows) for rows in (2, 3)]
    kept = few[0] + (len(arrays[0]) - 2) * (few[1] - few[0])
    parameters = sum(p.numel() for p in model.parameters())
    return OVERHEAD + parameters * BYTES_A_PARAMETER + BACKWARD * kept


def kept_for_backward(model, loss, arrays: tuple, machine: Machine, rows: int) -> int:
    """The bytes that a forward pass over so many rows keeps for the backward pass, weights not
    counted. A storage that several tensors share counts once."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    few = [np.resize(a, (rows, *a.shape[1:])) if isinstance(a, np.ndarray) else a for a in arrays]
    with torch.compiler.set_stance("force_eager"), saved_tensors_hooks(note, lambda tensor: tensor):
        _result = machine.compute(loss)(*machine.tensors(few))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


def require_memory(config: ModelConfig, device: torch.device) -> None:
    """Raise UserError where a model of this shape cannot be trained on the device; can be asked
    before it is built."""
    needed = OVERHEAD + least_parameters(config) * BYTES_A_PARAMETER
    _require(needed, device, "a smaller --size or --d-model")


def memory_of(device: torch.device) -> int | None:
    """The bytes of memory that the device has; None where the platform does not say (Windows)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _require(needed: int, device: torch.device, remedy: str) -> None:
    there = memory_of(device)
    if there is not None and needed > there:
        raise UserError(
            f"this run needs about {_size(needed)} of memory, and there are {_size(there)}: "
            f"give {remedy}"
        )


def _size(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{seconds / 60:.1f} min"
