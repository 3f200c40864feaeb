"""How long will it take, and can this machine do it? What is planned is counted; how fast it goes
is measured for a few seconds, by training steps as `loop.train` does them."""

import dataclasses
import itertools
import math
import os
import statistics
import time

import torch

from minilm import training
from minilm.config import ModelConfig, UserError
from minilm.runs import loop
from minilm.runs.device import Machine, matrix_rate, synchronize
from minilm.runs.run import least_parameters


def training_flops(config: ModelConfig, tokens: int, targets: int, length: int) -> float:
    """The floating-point operations that the formulas need to train on `tokens` positions in
    windows of `length`, of which `targets` are predicted (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1): two a weight and position forward, twice that backward."""
    D = config.d_model
    a_layer = 4 * D * D + 2 * D * config.d_ff + 2 * length * D  # qkv, out; up, down; QKᵀ, PV
    return 6.0 * (tokens * config.n_layers * a_layer + targets * config.vocab_size * D)


def estimate(
    model, loss: training.Loss, batch, optimizers: list, plan: training.Plan, machine: Machine,
    config: ModelConfig, minutes: float | None = None, measure: float = 4.0,
) -> tuple[int, str]:  # fmt: skip
    """The steps of `plan`, or as many as fit into `minutes`, and what they take, as lines to print,
    without evaluations. The arguments are `loop.train`'s, before the first step, and as they were
    afterwards; `measure`: for how many seconds. Raises UserError where the memory is too small."""
    rounds = one_of_each_kind(batch, plan.steps // 2)  # where a rate that falls is at its mean
    rows, length = rounds[0][0][0].shape  # of a micro-batch
    memory = require_memory(config, machine, rows * length, length)
    arguments = model, loss, rounds, optimizers, plan, machine
    start, seconds, tokens, targets = measured(*arguments, measure)
    if machine.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(machine.device)
    steps = max(10, int((minutes * 60 - start) / seconds)) if minutes else plan.steps
    seconds = start + steps * seconds  # from here on, of all steps
    rate = training_flops(config, steps * tokens, steps * targets, length) / seconds
    share = rate / matrix_rate(machine.dtype, machine.device)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    takes = f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"
    return (
        steps,
        f"""\
  parameters  {parameters:,}
  steps       {steps:,} of {tokens:,.0f} tokens
  FLOPs       {rate * seconds:.2e}
  memory      {memory / 1e9:.1f} GB at once: it fits here
  speed       {steps * tokens / seconds:,.0f} tokens/s, {rate / 1e9:,.0f} GFLOP/s, \
{share:.0%} of what matrix products reach here
  time        {takes}, of which {start:.0f} seconds to get started""",
    )


def one_of_each_kind(batch, step: int) -> list[list[tuple]]:
    """A batch of each kind that occurs from a step on: a masked step of the hybrid objective takes
    less time than a causal one. Kinds differ in a value that is True or False."""
    kinds: dict[tuple, list[tuple]] = {}
    for micro_batches in map(batch, range(step, step + 16)):
        kinds.setdefault(tuple(v for v in micro_batches[0] if isinstance(v, bool)), micro_batches)
    return list(kinds.values())


def measured(model, loss, rounds, optimizers, plan, machine, seconds: float) -> tuple:
    """Train for about `seconds`, in rounds of one step of each kind, and put everything back. The
    median round counts, and the first never: it compiles, and finds memory not yet at hand. Returns
    the seconds that the first took more, and a step's mean seconds, tokens and targets."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    read, times, n = dict(tokens=0, targets=0), [], len(rounds)
    plan = dataclasses.replace(plan, steps=10**9)  # of which the first few only warm up
    batch = lambda step: rounds[step % n]
    steps = loop.steps(model, loss, batch, optimizers, plan, machine, start=0, read=read)
    while len(times) < 2 or sum(times) < seconds:
        began, _round = time.perf_counter(), list(itertools.islice(steps, n))
        synchronize(machine.device)
        times.append(machine.agree(time.perf_counter() - began))
    model.load_state_dict(weights)
    for optimizer in optimizers:
        optimizer.state.clear()
    tokens, targets = machine.total(*map(float, read.values()))
    median, count = statistics.median(times[1:]), n * len(times)
    return max(0.0, times[0] - median), median / n, tokens / count, targets / count


def require_memory(config: ModelConfig, machine: Machine, positions=0, length=0) -> int:
    """The bytes that training needs at once, with micro-batches of so many positions in windows of
    `length`, counted before anything is built. Raises UserError where the device has less."""
    needed = 4e8 + 16 * least_parameters(config)  # Python and torch; weight, gradient, two moments
    # What the forward pass keeps for the backward pass, which needs as much again, in each block:
    # inputs and outputs of norms, products and attention, and its weights.
    weights = config.n_heads * length * (machine.device.type == "cpu")
    a_block = 11 * config.d_model + 2 * config.d_ff + weights
    needed += 2 * machine.dtype.itemsize * positions * config.n_layers * a_block
    needed += 3 * 4 * min(positions, 1024) * config.vocab_size  # a chunk of the logits
    if needed > (there := memory_of(machine.device)):
        raise UserError(f"this run needs about {needed / 1e9:.1f} GB of memory, and there are "
                        f"{there / 1e9:.1f} GB: give a smaller --size or --batch-size, or a larger "
                        f"--accumulate")  # fmt: skip
    return int(needed)


def memory_of(device: torch.device) -> float:
    """The bytes of memory that the device has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
