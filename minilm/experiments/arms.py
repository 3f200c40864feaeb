"""The arms of a comparison: what each reads at a step, how many steps its budget is, and its
pretraining, which is that of train_pretrain.py but for the arm's Task."""

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minilm import checkpoint
from minilm.config import ModelConfig, PretrainConfig, UserError
from minilm.data import PreparedText, Windows, draws, evaluation_windows
from minilm.device import Machine, synchronize
from minilm.evaluation import bytes_per_token, evaluate_language_model
from minilm.experiments.compare_config import RATIOS, CompareConfig
from minilm.experiments.estimate import mean_mask_rate
from minilm.model import Transformer, training_flops
from minilm.objectives import IGNORE, Objective, Task, causal
from minilm.progress import Progress
from minilm.runs import Run
from minilm.training import Trainer, language_model_trainer, train

SPARSE = 0.15  # of the positions have a target in the sparse-causal arm
WINDOWS = 64  # of validation text at each evaluation
EVALUATIONS = 6  # of a pretraining, evenly spaced; even, so that one is half-way
FACTORS = (0.5, 1.0, 2.0)  # of the size's learning rate: what each arm may choose from
TRIAL = 6  # the part of an arm's steps, one in so many, that each of these rates is tried for


@dataclass(frozen=True)
class Bench:
    """What all arms share."""

    config: CompareConfig
    pretrain: PretrainConfig  # for the causal arm, all defaults filled in
    text: PreparedText
    machine: Machine

    @property
    def shape(self) -> ModelConfig:
        """The net's shape."""
        return self.pretrain.model(self.text.tokenizer.vocab_size)


def thin(task: Task, share: float, rng: np.random.Generator) -> Task:
    """The same Task with a target at a random share of its positions only: what is left of next
    token where as few words are asked for as in masked token. At least one target a row."""
    u = rng.random(task.targets.shape)
    u[np.arange(len(u)), u.argmin(axis=1)] = 0.0
    return task._replace(targets=np.where(u < share, task.targets, IGNORE))


def objective_of(arm: str) -> str:
    """The objective whose readings an arm's weights are used with."""
    if arm in RATIOS:
        return "hybrid"
    return "masked" if "masked" in arm else "causal"


def share_of_targets(arm: str, mask_rate: float) -> float:
    """The expected share of positions that have something to say; mask_rate: its mean."""
    if arm in RATIOS:
        return 1 - RATIOS[arm] * (1 - mask_rate)
    return {"causal": 1.0, "sparse-causal": SPARSE}.get(arm, mask_rate)


def task_of(bench: Bench, arm: str, seed: int, steps: int) -> Callable[[int], Task]:
    """What an arm reads and must say at each step. The windows are the same for every arm."""
    config, vocab_size = bench.pretrain, bench.text.tokenizer.vocab_size
    windows = Windows(bench.text.train, config.max_length, seed)
    objective = Objective(objective_of(arm), vocab_size, seed, RATIOS.get(arm, 0.5))

    def task(step: int) -> Task:
        """The Task of one step."""
        batch = windows.batch(step, config.batch_size)
        if arm == "sparse-causal":
            return thin(causal(batch), SPARSE, draws(seed, step, "masks"))
        return objective.task(batch, step, config.mask_rate * (1 - 0.5 * step / steps))

    return task


def step_cost(bench: Bench, arm: str) -> float:
    """What a step of an arm costs on the axis that is held: tokens, targets, FLOPs, or seconds as
    measured now."""
    config, axis = bench.pretrain, bench.config.budget
    tokens = config.batch_size * config.max_length
    targets = tokens * share_of_targets(arm, mean_mask_rate(config))
    if axis == "flops":
        return training_flops(bench.shape, tokens, targets, config.max_length)
    if axis == "seconds":
        trainer = make_trainer(bench, arm, 0, 10_000, config.learning_rate)
        return seconds_of_a_step(trainer)
    return tokens if axis == "tokens" else targets


def seconds_of_a_step(trainer: Trainer, steps: int = 8) -> float:
    """The mean time of a few steps, after two that find memory not yet at hand. The mean: a hybrid
    step is of one kind or the other."""
    trainer.step(0), trainer.step(1)
    start = time.perf_counter()
    for step in range(2, 2 + steps):
        trainer.step(step)
    synchronize(trainer.machine.device)
    return (time.perf_counter() - start) / steps


def plan_steps(bench: Bench) -> dict[str, int]:
    """How many steps each arm's budget is: the causal arm's steps, or what costs as much as they
    do. A multiple of EVALUATIONS, so that all are evaluated at the same shares of the budget."""
    cost: dict[str, float] = {}

    def cost_of(arm: str) -> float:
        """`step_cost`, once an arm."""
        if arm not in cost:
            cost[arm] = step_cost(bench, arm)
        return cost[arm]

    def steps_for(arm: str) -> int:
        """The whole budget spent on an arm."""
        share = cost_of("causal") / cost_of(arm) if bench.config.budget != "tokens" else 1.0
        return EVALUATIONS * max(1, round(share * bench.pretrain.steps / EVALUATIONS))

    arms = bench.config.arms
    steps = {arm: steps_for(arm) for arm in arms if arm not in ("scratch", "causal-then-masked")}
    if "causal-then-masked" in arms:  # half of the budget on each
        steps["causal-then-masked"] = steps_for("causal") // 2 + steps_for("masked") // 2
    return steps


def make_trainer(bench: Bench, arm: str, seed: int, steps: int, rate: float) -> Trainer:
    """A Trainer for an arm. The first weights are the same for every arm."""
    config = dataclasses.replace(
        bench.pretrain, steps=steps, seed=seed, evaluations=EVALUATIONS, learning_rate=rate
    )
    model = Transformer(bench.shape, seed).to(bench.machine.device)
    task = task_of(bench, arm, seed, steps)
    return language_model_trainer(config, model, task, bench.machine)


def validate(bench: Bench, arm: str, model: Transformer) -> tuple[float, dict]:
    """The mean of an arm's validation losses, and all that was measured. The masks are fixed."""
    objective = Objective(objective_of(arm), bench.text.tokenizer.vocab_size, 0)
    windows = evaluation_windows(bench.text.valid, bench.pretrain.max_length, WINDOWS)
    token_bytes = bytes_per_token(bench.text.tokenizer)
    values = evaluate_language_model(model, objective, windows, bench.machine, token_bytes)
    losses = [value for name, value in values.items() if name.endswith("_loss")]
    return sum(losses) / len(losses), values


def try_rate(bench: Bench, arm: str, steps: int, rate: float, progress: Progress) -> float:
    """The validation loss after a whole but short pretraining at a learning rate. It ranks rates
    of one arm; losses of two arms have nothing to do with each other."""
    trainer = make_trainer(bench, arm, 0, steps, rate)
    for step in range(steps):
        loss, batch = trainer.step(step)
        progress.update(loss, batch.tokens)
    return validate(bench, arm, trainer.model)[0]


def pretrain(
    bench: Bench, arm: str, seed: int, steps: int, rate: float, folder: Path, progress: Progress
) -> dict:
    """Pretrain an arm in `folder`/ARM-SEED, a run like those of train_pretrain.py, or go on with
    it. Returns an entry of "pretraining" in results.json.

    What it knew half-way, before its learning rate falls, stays in `half`, a run like it; the
    causal-then-masked arm goes on from that of causal, optimizer and all.
    """
    run = Run(folder / f"{arm}-{seed}")
    trainer = make_trainer(bench, arm, seed, steps, rate)

    def evaluate() -> tuple[float, dict, str]:
        """As in train_pretrain.py; and half-way, before the score is noted, a copy is kept."""
        here = checkpoint.newest(run.folder)
        if here.step == steps // 2:
            half = run.folder / "half"
            half.mkdir(exist_ok=True)
            _copy(here.folder, half)
            for name in ("tokenizer.json", "config.json"):
                shutil.copy(run.folder / name, half)
        return *validate(bench, arm, trainer.model), ""

    run.claim(resume=True)
    if arm == "causal-then-masked" and not checkpoint.newest(run.folder):
        inherited = checkpoint.newest(folder / f"causal-{seed}" / "half")
        if not inherited:
            raise UserError(f"{folder}/causal-{seed}/half: causal's half-way weights are missing: "
                            f"start anew")  # fmt: skip
        _copy(inherited.folder, run.folder)
    if not (run.folder / "config.json").exists():
        flags = dataclasses.replace(
            bench.pretrain, objective=objective_of(arm), steps=steps, seed=seed,
            evaluations=EVALUATIONS, learning_rate=rate, run=str(run.folder),
        )  # fmt: skip
        facts = dict(flags=dataclasses.asdict(flags), model=dataclasses.asdict(bench.shape))
        run.create(dict(kind="pretrain", **facts), bench.text.tokenizer)
    spent = train(trainer, run, evaluate, progress=progress)
    lines = run.metrics()
    if arm == "causal-then-masked":
        half = min(line["step"] for line in lines)
        lines = [x for x in Run(folder / f"causal-{seed}").metrics() if x["step"] <= half] + lines
    length = bench.pretrain.max_length
    curve = [
        {**line, "flops": training_flops(bench.shape, line["tokens"], line["targets"], length)}
        for line in lines
        if "score" in line
    ]
    return {
        "seed": seed,
        "learning_rate": rate,
        "steps": steps,
        **spent,
        "flops": training_flops(bench.shape, spent["tokens"], spent["targets"], length),
        "epochs": spent["tokens"] / len(bench.text.train),
        "run": str(run.folder),
        "curve": curve,
    }


def _copy(saved: Path, run: Path) -> None:
    """Copy a checkpoint into another run, wholly or not at all."""
    beside = run / f"{saved.name}.part"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(saved, beside)
    with contextlib.suppress(OSError):  # it is there already, from before an interruption
        os.replace(beside, run / saved.name)
