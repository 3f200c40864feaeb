"""How long will it take, and can my machine do it? Answered before anything is trained.

What is planned can be counted; how fast this machine does it is measured for a few seconds, by
training as train_pretrain.py does, on random tokens: no text is needed.
"""

import dataclasses
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from minilm.config import ModelConfig, PretrainConfig, UserError
from minilm.data import draws
from minilm.device import Machine, matrix_rate, synchronize
from minilm.model import Transformer, training_flops
from minilm.objectives import Task, causal, masked, masked_next
from minilm.tokenizer import N_SPECIAL
from minilm.training import Trainer, language_model_trainer

BYTES_A_PARAMETER = 16  # float32: the weight, its gradient, the two moments of AdamW
# The backward pass needs tensors of its own, about as many as the forward pass has kept for it; and
# Python, torch and its kernels need room before there is a model. So predicted, peaks measured on
# two cores came out 13 % under to 38 % over (ten runs of tiny, small and base).
BACKWARD = 2
OVERHEAD = 400_000_000  # bytes
WATTS = {"cpu": 10, "mps": 30, "cuda": 300}  # assumed: a busy CPU core, a laptop's or a large GPU
POWERCAP = Path("/sys/class/powercap")  # where Linux shows the energy counters of Intel and AMD


@dataclass(frozen=True)
class Estimate:
    """What a planned run takes. Memory in bytes; the evaluations on the way, a few per cent of the
    time, are not in it."""

    parameters: int
    steps: int
    tokens: int
    flops: float
    seconds: float
    model_memory: int  # weights, gradients and optimizer
    activation_memory: int  # of a micro-batch, forward and backward
    peak_memory: int | None  # of this process while measuring, torch and Python included
    machine_memory: int | None
    matrix_rate: float  # FLOP/s of this machine's matrix products
    watts: float
    watts_source: str

    @property
    def memory(self) -> int:
        """All that must fit at once."""
        return OVERHEAD + self.model_memory + self.activation_memory

    @property
    def flops_per_second(self) -> float:
        """What the formulas need, over the time: nothing that is computed besides counts."""
        return self.flops / self.seconds

    @property
    def watt_hours(self) -> float:
        """The energy of the run."""
        return self.watts * self.seconds / 3600

    def report(self) -> str:
        """All of it, for people to read."""
        here = f" of {_size(self.machine_memory)}: it fits" if self.machine_memory else ""
        peak = f"; measured at most {_size(self.peak_memory)}" if self.peak_memory else ""
        rows = {
            "parameters": f"{self.parameters:,}",
            "steps": f"{self.steps:,} of {self.tokens // self.steps:,} tokens",
            "FLOPs": f"{self.flops:.2e}",
            "memory": f"{_size(self.memory)}{here} (weights, gradients, optimizer "
            f"{_size(self.model_memory)}; activations {_size(self.activation_memory)}; "
            f"Python and torch {_size(OVERHEAD)}{peak})",
            "speed": f"{self.tokens / self.seconds:,.0f} tokens/s, "
            f"{self.flops_per_second / 1e9:,.0f} GFLOP/s, "
            f"{self.flops_per_second / self.matrix_rate:.0%} of what matrix products reach here",
            "time": _duration(self.seconds),
            "energy": f"{self.watt_hours:,.1f} Wh at {self.watts:.0f} W ({self.watts_source})",
        }
        return "\n".join(f"  {name:12}{value}" for name, value in rows.items())


def estimate(
    config: PretrainConfig, machine: Machine, watts: float | None = None, measure: float = 4.0
) -> Estimate:
    """What the run `config` (with its defaults filled in) takes on `machine`.

    watts: what the machine draws, where it is known; `measure`: for about how many seconds.
    Raises UserError where the run needs more memory than there is.
    """
    shape = config.model(config.vocab_size)
    n, there = count_parameters(shape), memory_of(machine.device)
    model_memory = n * BYTES_A_PARAMETER
    _require(OVERHEAD + model_memory, there, "a smaller --size or --d-model")
    trainer = make_trainer(config, shape, machine)
    rows = -(-config.batch_size // config.accumulate)
    few = [
        kept_for_backward(trainer.loss, random_task(config, 0, size), machine) for size in (2, 3)
    ]
    kept = few[0] + (rows - 2) * (few[1] - few[0])  # a line: some of it is there only once
    activation_memory = BACKWARD * kept
    needed = OVERHEAD + model_memory + activation_memory
    _require(needed, there, "a larger --accumulate or a smaller --batch-size")

    before, start = energy_counters(), time.perf_counter()
    seconds = seconds_per_step(trainer, 1 + (config.objective == "hybrid"), measure)
    measured = watts_between(before, energy_counters(), time.perf_counter() - start)
    threads, kind = torch.get_num_threads(), machine.device.type
    if watts:
        source = "as given"
    elif watts := measured:
        source = "the processor's energy counter"
    else:
        watts = WATTS[kind] * (threads if kind == "cpu" else 1)
        source = f"assumed: {WATTS[kind]} W" + f" for each of {threads} cores" * (kind == "cpu")
    steps = config.steps or max(10, int(config.minutes * 60 / seconds))
    tokens = steps * config.batch_size * config.max_length
    return Estimate(
        parameters=n,
        steps=steps,
        tokens=tokens,
        flops=training_flops(shape, tokens, share_of_targets(config) * tokens, config.max_length),
        seconds=steps * seconds,
        model_memory=model_memory,
        activation_memory=activation_memory,
        peak_memory=peak_memory(machine.device),
        machine_memory=there,
        matrix_rate=matrix_rate(
            torch.bfloat16 if machine.bfloat16 else torch.float32, machine.device
        ),
        watts=watts,
        watts_source=source,
    )


def count_parameters(shape: ModelConfig) -> int:
    """How many numbers a Transformer of this shape learns, without making one."""
    D, a_norm = shape.d_model, 1 + shape.norm_bias  # numbers for each that is normalised
    norms = a_norm * (2 * D + 2 * shape.d_head * shape.normalise_qk)
    biases = shape.bias * (3 * D + D + shape.n_up + D)
    a_layer = 4 * D * D + D * (shape.n_up + shape.d_ff) + norms + biases
    around = shape.embedding_norm + (shape.norm == "before") - shape.skips_norm(0)
    positions = shape.max_length * D * (shape.positions == "learned")
    head = shape.head * (D * D + D * shape.bias + a_norm * D)
    words = shape.vocab_size * (D + shape.logits_bias)
    return words + positions + shape.n_layers * a_layer + a_norm * D * around + head


def mean_mask_rate(config: PretrainConfig) -> float:
    """Over the run: the rate falls in a line to half of what it was."""
    return 0.75 * config.mask_rate


def share_of_targets(config: PretrainConfig) -> float:
    """The expected share of positions that have something to say."""
    rate = mean_mask_rate(config)
    return {"causal": 1.0, "masked": rate, "hybrid": (1 + rate) / 2}[config.objective]


def random_task(config: PretrainConfig, step: int, batch_size: int) -> Task:
    """A Task on random tokens; for the hybrid objective a causal and a masked one by turns."""
    rng = draws(config.seed, step, "windows")
    windows = rng.integers(N_SPECIAL, config.vocab_size, (batch_size, config.max_length + 1))
    if config.objective == "causal" or (config.objective == "hybrid" and step % 2 == 0):
        return causal(windows)
    mask = masked if config.objective == "masked" else masked_next
    return mask(windows, mean_mask_rate(config), config.vocab_size, rng)


def make_trainer(config: PretrainConfig, shape: ModelConfig, machine: Machine) -> Trainer:
    """The Trainer of train_pretrain.py, on random tokens."""
    model = Transformer(shape, config.seed).to(machine.device)
    config = dataclasses.replace(config, steps=config.steps or 10_000, minutes=None)
    return language_model_trainer(
        config, model, lambda step: random_task(config, step, config.batch_size), machine
    )


def seconds_per_step(trainer: Trainer, kinds: int, seconds: float) -> float:
    """Measure for about `seconds`, in rounds of one step of each kind, since a masked step takes
    less time than a causal one. The median round counts, and the first never: it finds memory not
    yet at hand."""
    rounds: list[float] = []
    while len(rounds) < 2 or sum(rounds) * kinds < seconds:
        start = time.perf_counter()
        for step in range(len(rounds) * kinds, (len(rounds) + 1) * kinds):
            trainer.step(step)
        synchronize(trainer.machine.device)
        elapsed = trainer.machine.agree(time.perf_counter() - start)
        rounds.append(elapsed / kinds)
    return statistics.median(rounds[1:])


def kept_for_backward(loss: nn.Module, task: Task, machine: Machine) -> int:
    """The bytes that a forward pass keeps until the backward pass has used them; the weights are
    not counted. A storage that several tensors share counts once."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        """Count the storage of a tensor that is kept."""
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor), machine.autocast():
        _result = loss(*machine.tensors((task.inputs, task.targets, task.causal)))
    weights = {parameter.untyped_storage().data_ptr() for parameter in loss.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


def memory_of(device: torch.device) -> int | None:
    """The bytes of memory that the device has; None where the platform does not say (Windows)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held so far; None where the platform does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def energy_counters(folder: Path = POWERCAP) -> list[tuple[int, int]]:
    """For each processor: the microjoules it has used, and where that counter starts again. Empty
    where there is none, or where (as on many systems) only root may read it."""
    try:
        return [
            tuple(int((domain / file).read_text()) for file in ("energy_uj", "max_energy_range_uj"))
            for domain in sorted(folder.glob("intel-rapl:*"))
            if (domain / "name").read_text().startswith("package")
        ]
    except (OSError, ValueError):
        return []


def watts_between(before: list, after: list, seconds: float) -> float | None:
    """The mean power between two readings of `energy_counters`; None where there are none."""
    used = [(b - a) % limit for (a, limit), (b, _) in zip(before, after, strict=True)]
    return sum(used) / 1e6 / seconds if used else None


def _require(needed: int, there: int | None, remedy: str) -> None:
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
