"""Pretraining as the loop needs it: a loss, what updates the weights, a batch for each step; the
evaluation on validation text, and a sample of it for people to read. And before it begins: how long
will it take, and can this machine do it?"""

import contextlib
import functools
import math
import os
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from minilm import objectives
from minilm.config import ModelConfig, UserError
from minilm.data import Windows, draws, in_chunks
from minilm.fast import compute
from minilm.generate import fill_masks, sample
from minilm.metrics import evaluate_language_model
from minilm.objectives import OBJECTIVES, Batch, evaluation_batches, masked
from minilm.runs.device import Machine, matrix_rate
from minilm.runs.loop import Training
from minilm.runs.run import least_parameters
from minilm.training import Plan, train_step


class Pretraining(Training):
    """A Transformer, and how the options (`PretrainConfig`) train it on windows of text."""

    def __init__(self, model, config, windows: Windows, tokenizer, machine: Machine, validation=()):
        """validation: arrays of windows (n, T + 1)."""
        self.windows, self.tokenizer, self.validation = windows, tokenizer, validation
        compiled = compute.compiles(config.compile, machine.device)
        formula = functools.partial(compute.fast_nll, compiled=compiled)
        orthogonalise = functools.partial(compute.fast_orthogonalise, compiled=compiled)
        super().__init__(model, formula, config, machine, compiled, orthogonalise)
        self.compiled = compiled
        self.plan_for(config.steps or 1000)
        self.objective = OBJECTIVES[config.objective]
        if config.objective == "masked":
            self.objective = functools.partial(masked, shift=config.shift)
        if config.corrupt:
            self.objective = objectives.masked_inputs

    def plan_for(self, steps: int) -> None:
        """Train for so many steps."""
        self.plan = Plan(steps, warmup=0.03, cooldown=0.4, seed=self.config.seed)
        self.evaluate_every = -(-steps // self.config.evaluations)

    def batch(self, step: int) -> list[tuple]:
        config = self.config
        falling = 1 - 0.5 * step / self.plan.steps  # to half of what it is at first
        windows = self.windows.batch(step, config.batch_size)  # (B, T + 1)
        how = lambda: (draws(config.seed, step, "masks"), self.tokenizer.special)
        whole = self.objective(windows, config.mask_rate * falling, *how())
        if config.target_share < 1:
            share = config.target_share * falling
            whole = objectives.fewer_targets(whole, windows, share, *how())
        parts = self.machine.share_out(whole, config.accumulate)
        return [compute.gather_targets(Batch(*part), self.machine.device) for part in parts]

    def evaluate(self) -> tuple[float, dict]:
        """The mean loss of what the objective trains, and all that was measured, on validation."""
        config, windows = self.config, in_chunks(self.validation, 32)
        how = config.objective, windows, self.tokenizer.special, config.shift
        with compute.eager():
            model = self.loss.refresh()
            values = evaluate_language_model(model, evaluation_batches(*how), self.tokenizer)
        losses = [value for name, value in values.items() if name.endswith("_loss")]
        return sum(losses) / len(losses), values

    def show(self) -> str:
        """The beginning of a validation text continued, or tokens of it masked and filled in,
        whichever the objective trains: lines to print."""
        model, special, text = self.loss.refresh(), self.tokenizer.special, self.validation[0][0]
        line = lambda tokens: self.tokenizer.decode(tokens).replace("\n", "⏎")
        tokens, shown = text[np.isin(text, special.ordinary)], ""
        tokens = tokens[: min(24, model.config.max_length - 2)]
        with compute.eager():
            if self.config.objective != "masked":
                more = list(sample(model, tokens[:8], 24, special))
                shown += f"\n    continued: {line(tokens[:8])}[{line(more)}]"
            if self.config.objective != "causal":
                parts = [line([token]) for token in tokens]
                tokens[4::6] = special.mask
                how = dict(causal=False, shift=self.config.shift, top=1)
                found = fill_masks(model, tokens, special, **how)
                parts[4::6] = [f"[{line([best[0][0]])}]" for best in found]
                shown += f"\n    filled in: {''.join(parts)}"
        return shown


def training_flops(config: ModelConfig, tokens: int, targets: int, length: int) -> float:
    """The floating-point operations that the formulas need to train on `tokens` positions in
    windows of `length`, of which `targets` are predicted (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1): two a weight and position forward, twice that backward."""
    D = config.d_model
    a_layer = 4 * D * D + 2 * D * config.d_ff + 2 * length * D  # qkv, out; up, down; QKᵀ, PV
    return 6.0 * (tokens * config.n_layers * a_layer + targets * config.vocab_size * D)


def estimate(training: Pretraining, minutes: float | None = None, measure=4.0) -> tuple[int, str]:
    """The steps of the plan, or as many as fit into `minutes`, and what they take, as lines to
    print, without evaluations; `measure`: for how many seconds. What is planned is counted; how
    fast it goes is measured, before the first step, and leaves all as it was. Raises UserError
    where the memory is too small."""
    machine, config = training.machine, training.model.config
    rounds = one_of_each_kind(training.batch, training.plan.steps // 2)  # rates fall: at their mean
    rows, length = rounds[0][0][0].shape  # of a micro-batch
    memory = require_memory(config, machine, rows * length, length)
    start, seconds, tokens, targets = measured(training, rounds, measure)
    if machine.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated(machine.device)
    n = max(10, int((minutes * 60 - start) / seconds)) if minutes else training.plan.steps
    seconds = start + n * seconds  # from here on, of all steps
    rate = training_flops(config, n * tokens, n * targets, length) / seconds
    share = rate / matrix_rate(machine.dtype, machine.device)
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    takes = f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"
    said = f"""\
  parameters  {parameters:,}
  steps       {n:,} of {tokens:,.0f} tokens
  FLOPs       {rate * seconds:.2e}
  memory      {memory / 1e9:.1f} GB at once: it fits here
  speed       {n * tokens / seconds:,.0f} tokens/s, {rate / 1e9:,.0f} GFLOP/s, \
{share:.0%} of what matrix products reach here
  time        {takes}, of which {start:.0f} seconds to get started"""
    return n, said


def one_of_each_kind(batch, step: int) -> list[list[tuple]]:
    """A batch of each kind that occurs from a step on: a masked step of the hybrid objective takes
    less time than a causal one. Kinds differ in a value that is True or False."""
    kinds: dict[tuple, list[tuple]] = {}
    for micro_batches in map(batch, range(step, step + 16)):
        kinds.setdefault(tuple(v for v in micro_batches[0] if isinstance(v, bool)), micro_batches)
    return list(kinds.values())


def measured(training: Pretraining, rounds: list, seconds: float) -> tuple:
    """Train for about `seconds`, in rounds of one step of each kind, and put everything back. The
    median round counts, and the first never: it compiles, and finds memory not yet at hand. Returns
    the seconds that the first took more, and a step's mean seconds, tokens and targets."""
    model, machine = training.model, training.machine
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training.loss.forget()
    times = []
    while len(times) < 2 or sum(times) < seconds:
        began = time.perf_counter()
        model.train()
        for batch in rounds:
            tensors = [machine.tensors(arrays) for arrays in batch]
            train_step(training.loss, tensors, training.optimizers, 1.0, machine.add_up, False)
        torch.get_device_module(machine.device).synchronize()
        times.append(machine.agree(time.perf_counter() - began))
    model.load_state_dict(weights)
    for optimizer in training.optimizers:
        optimizer.state.clear()
    tokens, targets = machine.total(*map(float, training.loss.forget()))
    median, count = statistics.median(times[1:]), len(rounds) * len(times)
    return max(0.0, times[0] - median), median / len(rounds), tokens / count, targets / count


def require_memory(config: ModelConfig, machine: Machine, positions=0, length=0) -> int:
    """The bytes that training needs at once, with micro-batches of so many positions in windows of
    `length`, counted before anything is built. Raises UserError where the device has less."""
    needed = 4e8 + 16 * least_parameters(config)  # Python and torch; weight, gradient, two moments
    # What the forward pass keeps for the backward pass, which needs as much again, in each block:
    # inputs and outputs of norms, products and attention; where it is no kernel, its weights.
    plain = machine.device.type == "cpu" and machine.dtype == torch.bfloat16
    weights = config.n_heads * length * plain
    a_block = 11 * config.d_model + 2 * config.d_ff + weights
    needed += 2 * machine.dtype.itemsize * positions * config.n_layers * a_block
    needed += 3 * 4 * min(positions, 1024) * config.vocab_size  # a chunk of the logits
    there = math.inf
    if machine.device.type == "cuda":
        there = torch.cuda.mem_get_info(machine.device)[1]
    elif hasattr(os, "sysconf"):  # not on Windows
        import resource

        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
            there = min(there, most)
        with contextlib.suppress(OSError, ValueError):  # no container, or without a limit
            there = min(there, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    if needed > there:
        raise UserError(f"this run needs about {needed / 1e9:.1f} GB of memory, and there are "
                        f"{there / 1e9:.1f} GB: give a smaller --size or --batch-size, or a larger "
                        f"--accumulate")  # fmt: skip
    return int(needed)
