"""The book's loop as a run needs it: resumed, logged, evaluated, saved and stopped.

Nothing is lost by that and nothing changed: an interrupted and resumed run ends with the bits of
one that was never interrupted, and an evaluation leaves no trace in the training.
"""

import contextlib
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from minilm import training
from minilm.config import NonFiniteError, UserError
from minilm.fast.prefetch import Prefetch
from minilm.runs import checkpoint
from minilm.runs.device import Machine
from minilm.runs.durable import require_room, sync
from minilm.runs.progress import Progress
from minilm.runs.run import Run
from minilm.runs.stopping import Stopped, StopSignal
from minilm.view.run_page import write_run_page

READ_EVERY = {"cuda": 10}  # steps; to read a loss is to wait for the device, which a CPU never does


def share_out(arrays: tuple, machine: Machine, accumulate: int) -> list[tuple]:
    """This process's rows of a batch (NumPy arrays, and values that hold for all rows), in
    `accumulate` micro-batches. Raises UserError where there is no row for every process."""
    if len(arrays[0]) < machine.world:
        raise UserError(f"a batch of {len(arrays[0])} cannot be shared by {machine.world} "
                        f"processes: give a larger --batch-size")  # fmt: skip
    rows = np.arange(machine.rank, len(arrays[0]), machine.world)
    return [tuple(a[part] if isinstance(a, np.ndarray) else a for a in arrays)
            for part in np.array_split(rows, min(accumulate, len(rows)))]  # fmt: skip


def steps(model, loss, batch, optimizers, plan, machine: Machine, start: int, read: dict):
    """training.train on this machine, among the other processes: yields (step, mean loss). What
    this process has read is added to read["tokens"] (the positions of each first array) and
    read["targets"] (a tensor)."""

    def on_device(step: int) -> list[tuple]:
        return [machine.tensors(arrays) for arrays in batch(step)]

    def counted(*arrays) -> tuple[Tensor, Tensor]:
        loss_sum, count = loss(*arrays)
        read["tokens"] += arrays[0].numel()
        read["targets"] = read["targets"] + count.detach()
        return loss_sum, count

    if machine.device.type == "cuda":
        on_device = Prefetch(on_device)
    how = dict(add_up=machine.add_up, check=machine.device.type not in READ_EVERY)
    return training.train(model, counted, on_device, optimizers, plan, start, machine.rank, **how)


def train(
    model: nn.Module, loss: training.Loss, batch: Callable[[int], list[tuple]], optimizers: list,
    plan: training.Plan, run: Run, machine: Machine, evaluate: Callable[[], tuple[float, dict]],
    evaluate_every: int, patience: int | None = None, show: Callable[[], str] | None = None,
    progress: Progress | None = None,
) -> dict:  # fmt: skip
    """Train to the plan's end, from the run's newest checkpoint if it has one.

    batch(step): this process's micro-batches (see `share_out`). evaluate(): a score (lower is
    better) and values to note, every so many steps and at the end; show(): a text for people, which
    may fail. With `patience`, stop after that many evaluations without a better score. `progress`:
    instead of a bar of its own. Returns what the run has spent: {"tokens", "targets", "seconds"}.

    Every evaluation comes after a save, so that it can be broken off at once: a run that goes on
    from a checkpoint without a score begins with the evaluation that is due. Ctrl-C and SIGTERM
    save, then raise Stopped. Raises NonFiniteError where a loss, a gradient, a weight or a score is
    not finite, UserError where the disk refuses."""
    saved, first = checkpoint.newest(run.folder), machine.rank == 0
    done, scores, spent, scored = 0, [], dict(tokens=0, targets=0, seconds=0.0), True
    if saved:
        _load(saved, model, optimizers)
        done, scores, spent = saved.step, saved.scores, dict(saved.spent)
        scored = saved.score is not None
    if first:
        run.folder.mkdir(parents=True, exist_ok=True)
        # Four checkpoints at a time, each the weights and what the optimizers note of them.
        weights = sum(parameter.nbytes for parameter in model.parameters())
        require_room(run.folder, (2 if saved else 4) * 3 * weights)
        run.cut_metrics(done, scored)
    read_every = READ_EVERY.get(machine.device.type, 1)
    log_every = max(read_every, plan.steps // 200)
    progress = progress or Progress(plan.steps, done, shown=first)

    def due(step: int) -> bool:
        return step % evaluate_every == 0 or step == plan.steps

    def evaluate_now(step: int) -> None:
        """Note a score in the checkpoint of this step, which was saved before."""
        try:
            with stop.at_once(machine.world == 1):
                score, values = evaluate()
        except KeyboardInterrupt:
            raise Stopped(stop.number, step, run.folder) from None
        if not all(map(math.isfinite, (score, *values.values()))):
            raise NonFiniteError(f"the validation score is {score} ({values})")
        scores.append([step, score])
        progress.best = f", best validation {min(value for _, value in scores):.3f}"
        try:
            sample = show() if show else ""
        except Exception as error:  # what only shows ends no training
            sample = f"\n    no sample: {type(error).__name__}: {error}"
        progress.say(f"step {step}/{plan.steps}  validation: {_listed(values)}{sample}")
        if first:
            run.log(step, score=score, **values, **spent, sample=sample)
            sync(run.folder / "metrics.jsonl")
            checkpoint.rate(run.folder, step, score, values)
            with contextlib.suppress(Exception):  # nor does a page to look at
                write_run_page(run)

    with (
        StopSignal() as stop,
        contextlib.closing(progress),
        _advice(run, optimizers, progress, first),
    ):
        if done == plan.steps and scored:
            progress.say(f"{run.folder} was finished before: all {done} steps are done")
        if due(done) and not scored:
            evaluate_now(done)
        read = dict(tokens=0, targets=0)
        loop, began = steps(model, loss, batch, optimizers, plan, machine, done, read), None
        while done < plan.steps:
            best = min(scores, key=lambda pair: pair[1], default=None)
            if patience and scores and len(scores) - 1 - scores.index(best) >= patience:
                progress.say(f"no better for {patience} evaluations: stopping early")
                break
            began = began or time.perf_counter()
            done, mean = next(loop)
            if not (done % read_every == 0 or due(done) or (stop.number and machine.world == 1)):
                continue
            value = mean.item()  # waits for the device
            if not math.isfinite(value):
                raise NonFiniteError(f"the loss is {value}. Try a lower --learning-rate, or "
                                     f"--precision float32")  # fmt: skip
            new = machine.total(*map(float, (*read.values(), stop.number or 0)))
            tokens, targets, stopping = map(int, new)
            seconds, began = time.perf_counter() - began, None
            spent = {name: spent[name] + more for name, more in
                     dict(tokens=tokens, targets=targets, seconds=seconds).items()}  # fmt: skip
            read.update(tokens=0, targets=0)
            progress.update(done, value, tokens)
            if first and (done == 1 or done % log_every == 0):
                run.log(done, loss=value, **spent)
            if first and (due(done) or stopping):
                states = [o.state_dict() for o in optimizers]
                what = dict(model=model.state_dict(), optimizers=states)
                sync(run.folder / "metrics.jsonl")
                checkpoint.save(run.folder, done, spent, scores, **what)
            if stopping:
                raise Stopped(stop.number, done, run.folder)
            if due(done):
                evaluate_now(done)
    return spent


def _load(saved: checkpoint.Checkpoint, model, optimizers) -> None:
    try:
        model.load_state_dict(saved.read("model"))
        for optimizer, state in zip(optimizers, saved.read("optimizers"), strict=True):
            optimizer.load_state_dict(state)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        raise UserError(f"{saved.folder} does not fit the model and optimizer of this run: it is "
                        f"of another version, so start a new run") from None  # fmt: skip


@contextlib.contextmanager
def _advice(run: Run, optimizers, progress: Progress, first: bool):
    """Add to a NonFiniteError what a person needs to go on. What was saved after the last good
    checkpoint goes, so that --resume starts from that one."""
    try:
        yield
    except NonFiniteError as error:
        if not first:
            raise
        rate = max(group["lr"] for o in optimizers for group in o.param_groups)
        good = checkpoint.newest(run.folder, evaluated=True)
        checkpoint.delete_after(run.folder, good.step if good else -1)
        last = good.folder if good else "none yet"
        raise NonFiniteError(f"after step {progress.step}: {error}. The learning rate was {rate:g}"
                             f"; the last good checkpoint is {last}") from None  # fmt: skip


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


class Summary(NamedTuple):
    """What came out of a run."""

    step: int  # of the checkpoint that is used from now on: the best
    score: float | None
    values: dict  # what its evaluation measured
    last: int  # the step at which the run ended
    passes: float | None  # how often the text was read; None where config.json does not say
    worse_since: int | None  # the step after which no evaluation was as good; None: it is the last

    def __str__(self):
        text = f"used from now on: step {self.step} of {self.last}, {_listed(self.values)}"
        if self.passes:
            text += f"\nthe text was read {self.passes:.1f} times"
        if self.worse_since:
            text += f"\nvalidation has got worse since step {self.worse_since}: more text, more "
            text += "--dropout or fewer steps would help"
        return text


def summary(run: Run) -> Summary:
    """Which checkpoint of a run is used, and how the run went: from its manifests alone. `passes`
    needs "train_tokens" in config.json. Raises UserError where there is no checkpoint."""
    used, last = checkpoint.best(run.folder), checkpoint.newest(run.folder)
    tokens = run.config.get("train_tokens")
    passes = last.spent["tokens"] / tokens if tokens else None
    worse_since = used.step if last.scores and last.scores[-1][0] > used.step else None
    return Summary(used.step, used.score, used.values, last.step, passes, worse_since)
