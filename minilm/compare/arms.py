"""Pretraining an arm: what it sees at each step, how many steps its budget is, and the run."""

import itertools
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minilm.cli.options import PretrainConfig
from minilm.compare.outcomes import Swaps, swapped
from minilm.compare.plan import MASK_RATE, PLACES, SPARSE, Arm, masked_share, share_of_targets
from minilm.compare.plan import arm as arm_of
from minilm.compare.work import Advance
from minilm.config import ModelConfig
from minilm.corpora.tokens import PreparedText
from minilm.data import Windows, draws, evaluation_windows
from minilm.fast.loss import gather_targets
from minilm.model import Transformer
from minilm.objectives import IGNORE, Batch, causal, masked
from minilm.runs import checkpoint, loop
from minilm.runs.device import Machine, synchronize
from minilm.runs.estimate import training_flops
from minilm.runs.pretraining import Pretraining
from minilm.runs.run import Run, make_model
from minilm.tokenizer import SpecialTokens

WINDOWS, ON_THE_WAY = 64, 400  # of validation text, and swapped pairs, at each evaluation


@dataclass(frozen=True)
class Bench:
    """What all pretrainings share."""

    text: PreparedText
    shape: ModelConfig
    size: str
    compile: bool | None
    batch_size: int
    machine: Machine
    swaps: Swaps


def arm_batch(
    arm: Arm, windows: np.ndarray, step: int, steps: int, seed: int, special: SpecialTokens
) -> Batch:
    """What an arm sees and must predict at a step. Where two arms mask, they mask the same
    positions of the same windows (B, T + 1)."""
    rng, share = draws(seed, step, "masks"), masked_share(arm.name)
    hidden = masked(windows, MASK_RATE * (1 - 0.5 * step / steps), rng, special, arm.shift)
    if share is None:
        share = float("masked" in arm.reads)
    if arm.name == "causal-then-masked":
        share = float(step >= steps // 2)
    if rng.random() < share:
        return hidden
    batch = causal(windows)
    if arm.name == "sparse-causal":  # a random share of the targets, one a row at least
        u = rng.random(batch.targets.shape)
        u[np.arange(len(u)), u.argmin(axis=1)] = 0.0
        batch = batch._replace(targets=np.where(u < SPARSE, batch.targets, IGNORE))
    return batch


class ArmPretraining(Pretraining):
    """`Pretraining` as train_pretrain.py does it, but for the batches."""

    def __init__(self, bench: Bench, arm: Arm, seed: int, steps: int, rate: float):
        self.arm, self.model = arm, make_model(bench.shape, seed).to(bench.machine.device)
        shape = {k: v for k, v in asdict(bench.shape).items() if k != "dropout"}
        config = PretrainConfig(
            objective="hybrid" if len(arm.reads) > 1 else arm.reads[0], size=bench.size,
            steps=steps, batch_size=bench.batch_size, learning_rate=rate, compile=bench.compile,
            seed=seed, shift=arm.shift, mask_rate=MASK_RATE, evaluations=PLACES, **shape,
        ).with_defaults()  # fmt: skip
        windows = Windows(bench.text.train, bench.shape.max_length, seed)
        super().__init__(self.model, config, windows, bench.text.tokenizer, bench.machine)
        self.rule = self.model, self.loss, self.batch, self.optimizers

    def batch(self, step: int) -> list[tuple]:
        """The arm's, in one micro-batch."""
        windows = self.windows.batch(step, self.config.batch_size)  # (B, T + 1)
        how = self.plan.steps, self.config.seed, self.tokenizer.special
        return [gather_targets(arm_batch(self.arm, windows, step, *how), self.machine.device)]


def budgets(bench: Bench, arms: list[Arm], steps: int, budget: str) -> dict[str, int]:
    """The steps of each arm: the causal arm's, or as many as cost the same; a multiple of PLACES,
    so that all are evaluated at the same shares of the budget."""
    tokens = bench.batch_size * bench.shape.max_length

    def cost(arm: Arm) -> float:
        targets = tokens * share_of_targets(arm.name)
        if budget == "seconds":
            return seconds_of_a_step(bench, arm)
        if budget == "flops":
            return training_flops(bench.shape, tokens, targets, bench.shape.max_length)
        return targets if budget == "targets" else 1.0

    places = steps * cost(arm_of("causal")) / PLACES
    return {a.name: PLACES * max(1, round(places / cost(a))) for a in arms if a.objective}


def seconds_of_a_step(bench: Bench, arm: Arm, steps: int = 12) -> float:
    """The mean time of some steps, after two that find memory not at hand; of steps spread over the
    training, for there are arms with two kinds."""
    training = ArmPretraining(bench, arm, 0, 2 * steps, 1e-4)
    model, loss, batch, optimizers = training.rule
    rule = model, loss, lambda step: batch(2 * step), optimizers
    run = loop.steps(*rule, training.plan, bench.machine, 0, dict(tokens=0, targets=0))
    for step, _ in itertools.islice(run, steps):
        if step == 2:
            began = time.perf_counter()
    synchronize(bench.machine.device)
    return (time.perf_counter() - began) / (steps - 2)


def pretrain(
    bench: Bench, arm: Arm, seed: int, steps: int, rate: float, folder: Path, advance: Advance
) -> dict:
    """Pretrain an arm in a run of its own, or go on with it. Returns {"rate", "steps", "tokens",
    "targets", "flops", "seconds", "curve": [{"tokens", "targets", "flops", "seconds", "score",
    "swapped", and losses}]}, where "swapped" is the share right of some pairs."""
    run, special, length = Run(folder), bench.text.tokenizer.special, bench.shape.max_length
    training = ArmPretraining(bench, arm, seed, steps, rate)
    validation = evaluation_windows(bench.text.valid, length, WINDOWS)
    some = Swaps(*(rows[:ON_THE_WAY] for rows in bench.swaps))

    def evaluate() -> tuple[float, dict]:
        score, values = training.evaluate(validation)
        right = swapped(training.model, arm, some, special)[arm.reads[0]]
        return score, values | {"swapped": float(np.mean(right))}

    there = (folder / "config.json").exists()
    run.claim(there)
    if not there:
        facts = dict(kind="pretrain", family="ours", model=asdict(bench.shape), arm=arm.name)
        run.create({**facts, "flags": asdict(training.config)}, bench.text.tokenizer)
    where, quiet = (run, bench.machine, evaluate, steps // PLACES), lambda *_: None
    bar = SimpleNamespace(say=quiet, evaluated=quiet, close=quiet,  # a part of the whole's
                          update=lambda step, *_: advance(step / steps))  # fmt: skip
    spent = loop.train(*training.rule, training.plan, *where, progress=bar)
    run.release()
    for older in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(older)
    curve = [line for line in run.metrics() if "score" in line]
    for at in [spent, *curve]:
        at["flops"] = training_flops(bench.shape, at["tokens"], at["targets"], length)
    return {"rate": rate, "steps": steps, **spent, "curve": curve}


def pretrained(bench: Bench, arm: Arm, seed: int, folder: Path) -> Transformer:
    """An arm's model after its pretraining in `folder`: its last step, for every arm alike."""
    model = make_model(bench.shape, seed)
    if arm.objective:
        model.load_state_dict(checkpoint.newest(folder).read("model"))
    return model.to(bench.machine.device)
