"""Pretraining an arm: what it sees at each step, how many steps its budget is, and the run."""

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minilm.compare.plan import MASK_RATE, PLACES, SPARSE, Arm, masked_share, share_of_targets
from minilm.compare.scores import Swaps, swapped
from minilm.compare.work import Told
from minilm.config import ModelConfig
from minilm.data import Windows, draws, evaluation_windows
from minilm.fast.loss import fast_nll, gather_targets
from minilm.fast.muon import fast_orthogonalise
from minilm.fast.precision import MixedPrecision
from minilm.metrics import evaluate_language_model
from minilm.model import Transformer, training_flops
from minilm.objectives import IGNORE, Batch, causal, evaluation_batches, masked
from minilm.optim import make_optimizers
from minilm.runs import checkpoint, loop
from minilm.runs.device import Machine, synchronize
from minilm.runs.run import Run, make_model
from minilm.tokenizer import SpecialTokens
from minilm.training import Plan

WEIGHT_DECAY, WARMUP, COOLDOWN = 0.1, 0.03, 0.4
WINDOWS = 64  # of validation text at each evaluation
ON_THE_WAY = 400  # swapped pairs at each evaluation


@dataclass(frozen=True)
class Bench:
    """What all pretrainings share."""

    text: object  # corpora's PreparedText
    shape: ModelConfig
    batch_size: int
    machine: Machine
    swaps: Swaps

    @property
    def special(self) -> SpecialTokens:
        """The tokenizer's special tokens."""
        return self.text.tokenizer.special


def thin(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """The same Batch with a target at a random share of its positions: at least one a row."""
    u = rng.random(batch.targets.shape)
    u[np.arange(len(u)), u.argmin(axis=1)] = 0.0
    return batch._replace(targets=np.where(u < share, batch.targets, IGNORE))


def arm_batch(
    arm: Arm, windows: np.ndarray, step: int, steps: int, seed: int, special: SpecialTokens
) -> Batch:
    """What an arm sees and must predict at a step. Where two arms mask, they mask the same
    positions of the same windows (B, T + 1)."""
    rng = draws(seed, step, "masks")
    rate = MASK_RATE * (1 - 0.5 * step / steps)
    hidden = masked(windows, rate, rng, special, arm.shift)  # drawn by every arm
    share = masked_share(arm.name)
    if arm.name == "causal-then-masked":
        share = float(step >= steps // 2)
    elif share is None:
        share = float("masked" in arm.reads)
    if rng.random() < share:
        return hidden
    batch = causal(windows)
    return thin(batch, SPARSE, rng) if arm.name == "sparse-causal" else batch


def trainer(bench: Bench, arm: Arm, seed: int, steps: int, rate: float):
    """(model, loss, batch, optimizers, plan): the arguments of a training of an arm."""
    model = make_model(bench.shape, seed).to(bench.machine.device)
    windows = Windows(bench.text.train, bench.shape.max_length, seed)

    def batch(step: int) -> list[tuple]:
        """One micro-batch."""
        rows = windows.batch(step, bench.batch_size)
        made = arm_batch(arm, rows, step, steps, seed, bench.special)
        return [gather_targets(made, bench.machine.device)]

    loss = MixedPrecision(model, fast_nll, bench.machine.dtype)
    optimizers = make_optimizers(
        model, "muon", rate, WEIGHT_DECAY, orthogonalise=fast_orthogonalise
    )
    return model, loss, batch, optimizers, Plan(steps, WARMUP, COOLDOWN, seed)


def budgets(bench: Bench, arms: list[Arm], steps: int, budget: str) -> dict[str, int]:
    """How many steps each arm has: the causal arm's, or as many as cost the same. A multiple of
    PLACES, so that all are evaluated at the same shares of the budget."""
    tokens = bench.batch_size * bench.shape.max_length

    def cost(arm: Arm) -> float:
        """Of a step, on the axis that is held."""
        targets = tokens * share_of_targets(arm.name)
        if budget == "seconds":
            return seconds_of_a_step(bench, arm)
        if budget == "flops":
            return training_flops(bench.shape, tokens, targets, bench.shape.max_length)
        return targets if budget == "targets" else 1.0

    base = cost(Arm("causal", "", "causal", ("causal",)))
    return {
        arm.name: PLACES * max(1, round(steps * base / cost(arm) / PLACES))
        for arm in arms
        if arm.objective
    }


def seconds_of_a_step(bench: Bench, arm: Arm, steps: int = 12) -> float:
    """The mean time of some steps spread over a training, after two that find memory not at hand.
    Spread, for the arms that change half-way; the mean, for those of two kinds of steps."""
    model, loss, batch, optimizers, plan = trainer(bench, arm, 0, 2 * steps, 1e-4)
    spent: dict = dict(tokens=0, targets=0)
    run = loop.steps(
        model, loss, lambda i: batch(2 * i if i < steps else i), optimizers, plan, bench.machine,
        0, spent,
    )  # fmt: skip
    next(run), next(run)
    began = time.perf_counter()
    for _, _ in zip(range(steps - 2), run, strict=False):
        pass
    synchronize(bench.machine.device)
    return (time.perf_counter() - began) / (steps - 2)


def in_chunks(windows: list[np.ndarray], n: int) -> Iterator[np.ndarray]:
    """Some rows at a time."""
    for rows in windows:
        yield from np.split(rows, range(n, len(rows), n))


def validate(bench: Bench, arm: Arm, model: Transformer) -> dict[str, float]:
    """The losses of what the arm trains; the masks are the same for all."""
    windows = evaluation_windows(bench.text.valid, bench.shape.max_length, WINDOWS)
    kind = "hybrid" if len(arm.reads) > 1 else arm.reads[0]
    batches = (
        evaluation_batches(kind, rows, i, bench.special, arm.shift)
        for i, rows in enumerate(in_chunks(windows, 16))
    )
    return evaluate_language_model(model, batches, bench.text.tokenizer.token_bytes)


def mean_loss(values: dict[str, float]) -> float:
    """The mean of an arm's validation losses: it ranks rates of one arm, and no two arms."""
    losses = [value for name, value in values.items() if name.endswith("_loss")]
    return sum(losses) / len(losses)


def pretrain(
    bench: Bench, arm: Arm, seed: int, steps: int, rate: float, folder: Path, advance: Callable
) -> dict:
    """Pretrain an arm in a run of its own, or go on with it. Returns {"seed", "rate", "steps",
    "tokens", "targets", "flops", "seconds", "run", "curve": [{"tokens", "targets", "flops",
    "seconds", "swapped", and losses}]}, where "swapped" is the share right of some pairs."""
    run, length = Run(folder), bench.shape.max_length
    model, loss, batch, optimizers, plan = trainer(bench, arm, seed, steps, rate)
    some = Swaps(bench.swaps.windows[:ON_THE_WAY], bench.swaps.places[:ON_THE_WAY])

    def evaluate() -> tuple[float, dict]:
        """Losses, and the first primary outcome on the way."""
        values = validate(bench, arm, model)
        right = swapped(model, arm, some, bench.special)[arm.reads[0]]
        return mean_loss(values), values | {"swapped": float(right.mean())}

    there = (folder / "config.json").exists()
    with run.claim(resume=there):
        if not there:
            kind = "hybrid" if len(arm.reads) > 1 else arm.reads[0]
            flags = dict(objective=kind, shift=arm.shift, steps=steps, seed=seed,
                         batch_size=bench.batch_size, max_length=length, learning_rate=rate)  # fmt: skip
            facts = dict(kind="pretrain", family="ours", model=dataclasses.asdict(bench.shape))
            run.create({**facts, "flags": flags, "arm": arm.name}, bench.text.tokenizer)
        spent = loop.train(
            model, loss, batch, optimizers, plan, run, bench.machine, evaluate, steps // PLACES,
            progress=Told(advance, steps),
        )  # fmt: skip
    for older in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(older)
    flops = lambda at: training_flops(bench.shape, at["tokens"], at["targets"], length)  # noqa: E731
    curve = [{**line, "flops": flops(line)} for line in run.metrics() if "score" in line]
    return {"seed": seed, "rate": rate, "steps": steps, **spent, "flops": flops(spent),
            "run": folder.name, "curve": curve}  # fmt: skip


def pretrained(bench: Bench, arm: Arm, seed: int, folder: Path) -> Transformer:
    """An arm's model after its pretraining in `folder`: its last step, for every arm alike."""
    model = make_model(bench.shape, seed)
    if arm.objective:
        model.load_state_dict(checkpoint.newest(folder).read("model"))
    return model.to(bench.machine.device)


def try_rate(bench: Bench, arm: Arm, seed: int, steps: int, rate: float, advance) -> tuple:
    """A whole pretraining at a learning rate, not saved: (validation loss, model)."""
    model, loss, batch, optimizers, plan = trainer(bench, arm, seed, steps, rate)
    spent = dict(tokens=0, targets=0)
    for _ in loop.steps(model, loss, batch, optimizers, plan, bench.machine, 0, spent):
        advance(1 / steps)
    with torch.inference_mode():
        return mean_loss(validate(bench, arm, model)), model
