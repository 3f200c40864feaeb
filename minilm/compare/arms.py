"""Pretraining an arm: what it sees at each step, how many steps its budget is, and the run."""

import functools
import itertools
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minilm.cli.options import PretrainConfig
from minilm.compare.outcomes import Swaps, swapped
from minilm.compare.plan import ARMS, MASK_RATE, PLACES, SPARSE, Arm, CompareOptions
from minilm.config import ModelConfig
from minilm.corpora.tokens import PreparedText
from minilm.data import Windows, evaluation_windows
from minilm.model import Transformer
from minilm.objectives import IGNORE, Batch, causal, masked
from minilm.runs import checkpoint, loop
from minilm.runs.device import Machine, synchronize
from minilm.runs.estimate import training_flops
from minilm.runs.pretraining import Pretraining
from minilm.runs.run import Run, make_model
from minilm.tokenizer import SpecialTokens

WINDOWS, ON_THE_WAY = 64, 400  # of validation text, and swapped pairs, at each evaluation


def arm_batch(
    arm: Arm, windows: np.ndarray, rate: float, rng: np.random.Generator, special: SpecialTokens
) -> Batch:
    """What an arm sees and must predict at a step. Where two arms mask, they mask the same
    positions of the same windows (B, T + 1)."""
    hidden, share = masked(windows, rate, rng, special, arm.shift), arm.masked_share
    if arm.name == "causal-then-masked":  # the second half: the rate has lost half of its fall
        share = float(rate <= 0.75 * MASK_RATE)
    if rng.random() < share:
        return hidden
    batch = causal(windows)
    if arm.name == "sparse-causal":  # a random share of the targets, one a row at least
        u = rng.random(batch.targets.shape)
        u[np.arange(len(u)), u.argmin(axis=1)] = 0.0
        batch = batch._replace(targets=np.where(u < SPARSE, batch.targets, IGNORE))
    return batch


@dataclass(frozen=True)
class Bench:
    """What all pretrainings share."""

    text: PreparedText
    shape: ModelConfig
    options: CompareOptions
    machine: Machine
    swaps: Swaps

    def training(self, arm: Arm, seed: int, steps: int, rate: float) -> tuple[Pretraining, tuple]:
        """A pretraining as train_pretrain.py does it, but for the batches; and what `loop.train`
        takes of it."""
        options, (_, batch_size) = self.options, self.options.pace()
        config = PretrainConfig(
            objective="hybrid" if len(arm.reads) > 1 else arm.reads[0], size=options.size,
            steps=steps, batch_size=batch_size, learning_rate=rate, compile=options.compile,
            seed=seed, shift=arm.shift, mask_rate=MASK_RATE, evaluations=PLACES,
            **asdict(self.shape),
        ).with_defaults()  # fmt: skip
        windows = Windows(self.text.train, self.shape.max_length, seed)
        model = make_model(self.shape, seed).to(self.machine.device)
        training = Pretraining(model, config, windows, self.text.tokenizer, self.machine)
        training.objective = functools.partial(arm_batch, arm)
        rule = model, training.loss, training.batch, training.optimizers, training.plan
        return training, rule

    def budgets(self, arms: list[Arm], steps: int, budget: str) -> dict[str, int]:
        """The steps of each arm: the causal arm's, or as many as cost the same; a multiple of
        PLACES, so that all are evaluated at the same shares of the budget."""
        length = self.shape.max_length
        tokens = self.options.pace()[1] * length

        def cost(arm: Arm) -> float:
            targets = tokens * arm.target_share
            if budget == "seconds":
                return self.seconds_of_a_step(arm)
            if budget == "flops":
                return training_flops(self.shape, tokens, targets, length)
            return targets if budget == "targets" else 1.0

        places = steps * cost(ARMS["causal"]) / PLACES
        return {a.name: PLACES * max(1, round(places / cost(a))) for a in arms if a.objective}

    def seconds_of_a_step(self, arm: Arm, steps: int = 10) -> float:
        """The mean time of some steps, after two that find memory not at hand; of steps spread over
        the training, for there are arms with two kinds."""
        _, (model, loss, batch, *rest) = self.training(arm, 0, 2 * (steps + 2), 1e-4)
        rule, read = (model, loss, lambda step: batch(2 * step), *rest), dict(tokens=0, targets=0)
        run = loop.steps(*rule, self.machine, 0, read)
        next(run), next(run)
        began = time.perf_counter()
        list(itertools.islice(run, steps))
        synchronize(self.machine.device)
        return (time.perf_counter() - began) / steps

    def pretrain(
        self, arm: Arm, seed: int, steps: int, rate: float, folder: Path, advance: Callable
    ) -> dict:
        """Pretrain an arm in a run of its own, or go on with it. Returns {"rate", "steps",
        "tokens", "targets", "flops", "seconds", "curve": [{"tokens", "targets", "flops", "seconds",
        "score", "swapped", and losses}]}, where "swapped" is the share right of some pairs."""
        run, text, length = Run(folder), self.text, self.shape.max_length
        training, rule = self.training(arm, seed, steps, rate)
        validation = evaluation_windows(text.valid, length, WINDOWS)
        some = Swaps(*(rows[:ON_THE_WAY] for rows in self.swaps))

        def evaluate() -> tuple[float, dict]:
            score, values = training.evaluate(validation)
            right = swapped(rule[0], arm, some, text.tokenizer.special)[arm.reads[0]]
            return score, values | {"swapped": float(np.mean(right))}

        there = (folder / "config.json").exists()
        run.claim(there)
        if not there:
            facts = dict(kind="pretrain", family="ours", model=asdict(self.shape), arm=arm.name)
            run.create({**facts, "flags": asdict(training.config)}, text.tokenizer)
        quiet, where = lambda *_: None, (run, self.machine, evaluate, steps // PLACES)
        bar = SimpleNamespace(say=quiet, close=quiet,  # a part of the whole's
                              update=lambda step, *_: advance(step / steps))  # fmt: skip
        spent = loop.train(*rule, *where, progress=bar)
        run.release()
        for older in sorted(folder.glob("step-*"))[:-1]:
            shutil.rmtree(older)
        curve = [line for line in run.metrics() if "score" in line]
        for at in [spent, *curve]:
            at["flops"] = training_flops(self.shape, at["tokens"], at["targets"], length)
        return {"rate": rate, "steps": steps, **spent, "curve": curve}

    def model(self, arm: Arm, seed: int, folder: Path) -> Transformer:
        """An arm's model after its pretraining in `folder`: its last step, for every arm alike."""
        model = make_model(self.shape, seed)
        if arm.objective:
            model.load_state_dict(checkpoint.newest(folder).read("model"))
        return model.to(self.machine.device)
