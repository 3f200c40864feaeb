"""The book's loop as a run needs it: resumed, logged, evaluated, saved and stopped.

Nothing is lost and nothing is changed by that: an interrupted and resumed run ends with the bits of
one that was never interrupted, and an evaluation leaves no trace in the training.
"""

import contextlib
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minilm import training
from minilm.config import NonFiniteError, UserError
from minilm.runs import checkpoint
from minilm.runs.device import Machine
from minilm.runs.durable import require_room, sync
from minilm.runs.progress import Progress
from minilm.runs.run import Run
from minilm.runs.stopping import Stopped, StopSignal

READ_EVERY = {"cuda": 10}  # steps; to read a loss is to wait for the device, which a CPU never does


def share_out(arrays: tuple, machine: Machine, accumulate: int) -> list[tuple]:
    """This process's rows of a batch (NumPy arrays, and values that hold for all rows), in
    `accumulate` micro-batches.

    Raises UserError where there are too few rows to give every process one."""
    n = len(arrays[0])
    if n < machine.world:
        raise UserError(
            f"a batch of {n} cannot be shared by {machine.world} processes: give a larger "
            f"--batch-size"
        )
    rows = np.arange(machine.rank, n, machine.world)
    return [tuple(a[part] if isinstance(a, np.ndarray) else a for a in arrays)
            for part in np.array_split(rows, min(accumulate, len(rows)))]  # fmt: skip


def steps(model, loss, batch, optimizers, plan, machine: Machine, start: int, spent: dict):
    """training.train on this machine, among the other processes: yields (step, mean loss). The
    positions read (all of a micro-batch's first array) and the targets are added to `spent`, whose
    values become tensors."""

    def on_device(step: int) -> list[tuple]:
        micro_batches = batch(step)
        spent["tokens"] += sum(arrays[0].size for arrays in micro_batches)
        return [machine.tensors(arrays) for arrays in micro_batches]

    def counted(*arrays) -> tuple[Tensor, Tensor]:
        loss_sum, count = computed(*arrays)
        spent["targets"] = spent["targets"] + count.detach()
        return loss_sum, count

    def total(sums: Tensor) -> Tensor:
        """Called after the backward pass: the sums over all processes, the gradients' too."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        machine.sum_tensors([*gradients, sums])
        return sums

    computed, check = machine.compute(loss), machine.device.type not in READ_EVERY
    how = dict(total=total, check=check, rank=machine.rank)
    return training.train(model, counted, on_device, optimizers, plan, start, **how)


def train(
    model: nn.Module,
    loss: training.Loss,
    batch: Callable[[int], list[tuple]],
    optimizers: list[torch.optim.Optimizer],
    plan: training.Plan,
    run: Run,
    machine: Machine,
    evaluate: Callable[[], tuple[float, dict]],
    evaluate_every: int,
    patience: int | None = None,
    show: Callable[[], str] | None = None,
    progress: Progress | None = None,
) -> dict:
    """Train to the plan's end, from the run's newest checkpoint if it has one.

    batch(step): this process's micro-batches, NumPy arrays (see `share_out`). evaluate(): a score
    (lower is better) and values to note, every so many steps and at the end; show(): a text for
    people, which may fail. With `patience`, stop after that many evaluations without a better
    score. `progress`: instead of a bar of its own.

    Every evaluation comes after a save, so that it can be broken off at once: a run that goes on
    from a checkpoint without a score begins with the evaluation that is due. Ctrl-C and SIGTERM
    save, then raise Stopped. Raises NonFiniteError where a loss, a gradient, a weight or a score is
    not finite, UserError where the disk refuses. Returns what the run has spent: {"tokens",
    "targets", "seconds"}.
    """
    start, scores, spent = 0, [], dict(tokens=0, targets=0, seconds=0.0)
    first = machine.rank == 0
    saved = checkpoint.newest(run.folder)
    if saved:
        load(saved, model, optimizers)
        start, scores, spent = saved.step, saved.scores, dict(saved.spent)
    if first:
        # Four checkpoints at a time, each the weights and what the optimizers note of them.
        weights = sum(parameter.nbytes for parameter in model.parameters())
        require_room(run.folder, (2 if saved else 4) * 3 * weights)
        run.cut_metrics(start, not saved or saved.score is not None)
    read_every = READ_EVERY.get(machine.device.type, 1)
    log_every = max(read_every, plan.steps // 200)
    new = dict(tokens=0, targets=0)  # since the last reading, of this process
    progress = progress or Progress(plan.steps, start, shown=first)

    def due(step: int) -> bool:
        return step % evaluate_every == 0 or step == plan.steps

    def evaluate_now(step: int) -> None:
        """Note a score in the checkpoint of this step, which was saved before."""
        try:
            with stop.at_once(machine.world == 1):
                score, values = evaluate()
        except KeyboardInterrupt:
            raise Stopped(stop.number, step, run.folder) from None
        if not math.isfinite(score) or not all(map(math.isfinite, values.values())):
            raise NonFiniteError(f"step {step}: the validation score is {score} ({values})")
        scores.append([step, score])
        text = "validation: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        try:
            text += show() if show else ""
        except Exception as error:  # what is only shown ends no training
            text += f"\n    no sample: {type(error).__name__}: {error}"
        progress.evaluated(step, min(score for _, score in scores), text)
        if first:
            run.log(step, score=score, **values, **spent)
            sync(run.folder / "metrics.jsonl")
            checkpoint.rate(run.folder, step, score, values)

    def read(step: int, mean: Tensor) -> float:
        """Wait for the device; bring `spent` up to date. Returns the loss, which is finite."""
        value = mean.item()
        if not math.isfinite(value):
            raise NonFiniteError(f"step {step}: the loss is {value}; try a lower --learning-rate, "
                                 f"or --precision float32")  # fmt: skip
        tokens, targets = machine.total(new["tokens"], float(new["targets"]))
        progress.update(step, value, tokens)
        spent.update(tokens=spent["tokens"] + int(tokens), targets=spent["targets"] + int(targets))
        new.update(tokens=0, targets=0)
        return value

    if start == plan.steps and (not saved or saved.score is not None):
        progress.say(
            f"{run.folder} was finished before: all {start} steps are done. To train its weights "
            f"further, start a new run with --init {run.folder}"
        )
    with StopSignal() as stop, contextlib.closing(progress), _advice(run, optimizers, first):
        if saved and saved.score is None and due(start):
            evaluate_now(start)
        loop = steps(model, loss, batch, optimizers, plan, machine, start, new)
        while start < plan.steps:
            if patience and _evaluations_since_best(scores) >= patience:
                progress.say(f"no better for {patience} evaluations: stopping early")
                break
            began = time.perf_counter()
            for step, mean in loop:
                if step % read_every == 0 or due(step) or stop.number and machine.world == 1:
                    break
            start, value = step, read(step, mean)
            spent["seconds"] += time.perf_counter() - began
            if first and (step == 1 or step % log_every == 0):
                run.log(step, loss=value, **spent)
            stopping = machine.total(float(stop.number or 0))[0] > 0
            if first and (due(step) or stopping):
                checkpoint.save(run.folder, step, spent, scores, **states(model, optimizers))
            if stopping:
                raise Stopped(stop.number, step, run.folder)
            if due(step):
                evaluate_now(step)
    return spent


def states(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict:
    """What a checkpoint holds."""
    return dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers])


def load(saved: checkpoint.Checkpoint, model, optimizers) -> None:
    """Put back what a checkpoint holds. Raises UserError where it is that of another model."""
    try:
        model.load_state_dict(saved.read("model"))
        for optimizer, state in zip(optimizers, saved.read("optimizers"), strict=True):
            optimizer.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        raise UserError(
            f"{saved.folder} does not fit the model and optimizer of this run: it is of another "
            f"version, so start a new run"
        ) from None


@contextlib.contextmanager
def _advice(run: Run, optimizers, first: bool):
    """Add to a NonFiniteError what a person needs to go on; what was saved after the last
    checkpoint that is known to be good goes, so that --resume starts from that one."""
    try:
        yield
    except NonFiniteError as error:
        rate = max(group["lr"] for o in optimizers for group in o.param_groups)
        good = checkpoint.good(run.folder)
        if first:
            checkpoint.delete_after(run.folder, good.step if good else -1)
        raise NonFiniteError(
            f"{error}. The learning rate was {rate:g}; the last good checkpoint is "
            f"{good.folder if good else 'none yet'}"
        ) from None


def _evaluations_since_best(scores: list) -> int:
    values = [score for _, score in scores]
    return len(values) - 1 - values.index(min(values)) if values else 0


class Summary(NamedTuple):
    """What came out of a run."""

    step: int  # of the checkpoint that is used from now on, the best
    score: float | None
    values: dict  # what its evaluation measured
    last: int  # the step at which the run ended
    passes: float | None  # how often the text was read; None where config.json does not say
    worse_since: int | None  # the step after which no evaluation was better; None: it is the last

    def lines(self) -> list[str]:
        """For people."""
        values = ", ".join(f"{name} {value:.3f}" for name, value in self.values.items())
        lines = [f"used from now on: step {self.step} of {self.last}, the best on validation: {values}"]
        if self.worse_since is not None:
            lines.append(f"validation has got worse since step {self.worse_since}: more text, more "
                         f"--dropout or fewer --steps would help")  # fmt: skip
        if self.passes is not None:
            lines.append(f"the text was read {self.passes:.1f} times")
        return lines


def summary(run: Run) -> Summary:
    """Which checkpoint of a run is used, and how the run went: from its manifests alone.

    `passes` needs "train_tokens" in config.json. Raises UserError where there is no checkpoint."""
    best, newest = checkpoint.best(run.folder), checkpoint.newest(run.folder)
    tokens = run.config.get("train_tokens")
    passes = newest.spent["tokens"] / tokens if tokens else None
    worse = best.step if newest.scores and newest.scores[-1][0] > best.step else None
    return Summary(best.step, best.score, best.values, newest.step, passes, worse)
