"""Pretraining an arm: what it sees at each step, how many steps its budget is, and the run. An
`experiment` has what all arms share: options, text, shape (of the model), machine, swaps."""

import functools
from dataclasses import asdict

import numpy as np

from minilm.cli.options import PretrainConfig
from minilm.compare.outcomes import Swaps, swapped
from minilm.compare.plan import ARMS, MASK_RATE, PLACES, SPARSE, Arm
from minilm.data import Windows, evaluation_windows
from minilm.objectives import IGNORE, Batch, hybrid, masked
from minilm.runs import checkpoint, loop
from minilm.runs.pretraining import Pretraining, measured, training_flops
from minilm.runs.run import Run, make_model

WINDOWS, ON_THE_WAY = 64, 400  # of validation text, and swapped pairs, at each evaluation


def arm_batch(arm: Arm, windows: np.ndarray, rate: float, rng, special) -> Batch:
    """What an arm sees and must predict at a step. Where two arms mask, they mask the same
    positions of the same windows (B, T + 1)."""
    if arm.name == "masked":
        return masked(windows, rate, rng, special, arm.shift)
    share = arm.masked_share
    if arm.name == "causal-then-masked":  # masked from where the rate has done half of its fall
        share = float(rate <= 0.75 * MASK_RATE)
    batch = hybrid(windows, rate, rng, special, share)
    if arm.name == "sparse-causal":  # a random share of the targets, one a row at least
        u = rng.random(batch.targets.shape)
        u[np.arange(len(u)), u.argmin(axis=1)] = 0.0
        batch = batch._replace(targets=np.where(u < SPARSE, batch.targets, IGNORE))
    return batch


def make_training(experiment, arm: Arm, seed: int, steps: int, rate: float) -> Pretraining:
    """As train_pretrain.py does it, but for the batches."""
    options, shape, text = experiment.options, experiment.shape, experiment.text
    config = PretrainConfig(
        objective="hybrid" if len(arm.reads) > 1 else arm.reads[0], size=options.size,
        steps=steps, batch_size=options.pace()[1], learning_rate=rate, compile=options.compile,
        seed=seed, shift=arm.shift, mask_rate=MASK_RATE, evaluations=PLACES, **asdict(shape),
    ).with_defaults()  # fmt: skip
    windows = Windows(text.train, shape.max_length, seed)
    validation = evaluation_windows(text.valid, shape.max_length, WINDOWS)
    how = windows, text.tokenizer, experiment.machine, validation
    training = Pretraining(make_model(shape, seed), config, *how)
    training.objective = functools.partial(arm_batch, arm)
    return training


def budgets(experiment, arms: list[Arm], steps: int, budget: str) -> dict[str, int]:
    """The steps of each arm: the causal arm's, or as many as cost the same; a multiple of PLACES,
    so that all are evaluated at the same shares of the budget."""
    shape = experiment.shape
    tokens = experiment.options.pace()[1] * shape.max_length

    def cost(arm: Arm) -> float:
        if budget == "seconds":  # of steps spread over the training: some arms have two kinds
            training = make_training(experiment, arm, 0, 24, 1e-4)
            rounds = [training.batch(step) for step in range(0, 24, 2)]
            return measured(training, rounds, seconds=0.0)[1]
        targets = tokens * arm.target_share
        flops = training_flops(shape, tokens, targets, shape.max_length)
        return dict(tokens=1.0, targets=targets, flops=flops)[budget]

    places = steps * cost(ARMS["causal"]) / PLACES
    return {a.name: PLACES * max(1, round(places / cost(a))) for a in arms if a.objective}


def pretrain(experiment, arm: Arm, seed: int, steps: int, rate: float, folder, advance) -> dict:
    """Pretrain an arm in a run of its own, or go on with it. Returns {"rate", "steps", the four
    budgets, "curve": [{the four budgets, "score", "swapped" (the share right of some), losses}]}.
    """
    run, text, shape = Run(folder), experiment.text, experiment.shape
    training = make_training(experiment, arm, seed, steps, rate)
    some = Swaps(*(rows[:ON_THE_WAY] for rows in experiment.swaps))

    measure, training.evaluate_every = training.evaluate, steps // PLACES

    def evaluate() -> tuple[float, dict]:
        score, values = measure()
        right = swapped(training.model, arm, some, text.tokenizer.special)[arm.reads[0]]
        return score, values | {"swapped": float(np.mean(right))}

    there = (folder / "config.json").exists()
    run.claim(there)
    if not there:
        facts = dict(kind="pretrain", family="ours", model=asdict(shape), arm=arm.name)
        run.create({**facts, "flags": asdict(training.config)}, text.tokenizer)
    training.evaluate, training.show = evaluate, lambda: ""
    spent = loop.train(training, run, advance=advance)
    run.release()
    for older in sorted(folder.glob("step-*"))[:-1]:
        older.unlink()
    curve = [line for line in run.metrics() if "score" in line]
    for at in [spent, *curve]:
        at["flops"] = training_flops(shape, at["tokens"], at["targets"], shape.max_length)
    return {"rate": rate, "steps": steps, **spent, "curve": curve}


def pretrained(experiment, arm: Arm, seed: int, folder):
    """An arm's model after its pretraining in `folder`: its last step, for every arm alike."""
    model = make_model(experiment.shape, seed)
    if arm.objective:
        model.load_state_dict(checkpoint.newest(folder).read("model"))
    return model.to(experiment.machine.device)
