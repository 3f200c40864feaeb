"""The book's loop as a run needs it: resumed, logged, evaluated, saved and stopped. An interrupted
and resumed run ends with the bits of one that was never interrupted, and an evaluation leaves no
trace in the training."""

import contextlib
import functools
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from minilm import training as book
from minilm.config import NonFiniteError, UserError
from minilm.fast import compute
from minilm.io.durable import damage, sync
from minilm.optim import make_optimizers
from minilm.runs import checkpoint
from minilm.runs.device import Machine, keep_freed_memory
from minilm.runs.progress import Progress
from minilm.runs.run import Run

READ_EVERY = {"cuda": 10}  # steps; to read a loss is to wait for the device, which a CPU never does


class Stopped(UserError):
    """Ctrl-C or SIGTERM, after everything was saved."""

    def __init__(self, number: int | None, step: int, folder: Path):
        super().__init__(f"stopped: step {step} is saved, go on with --run {folder} --resume")
        self.number, self.step = number, step
        self.status = 128 + (number or signal.SIGTERM)


@contextlib.contextmanager
def noting_signals():
    """Within this context the first SIGINT or SIGTERM is only noted as `number`, or raises
    KeyboardInterrupt where that may be `at_once`; a second one acts as if this were not here. Only
    the main thread may do so: in another one nothing is changed."""
    stop = SimpleNamespace(number=None, at_once=False)
    own = (signal.SIGINT, signal.SIGTERM)
    own = own if threading.current_thread() is threading.main_thread() else ()
    before = {s: signal.getsignal(s) for s in own}
    restore = lambda: [signal.signal(s, handler) for s, handler in before.items()]

    def note(number, frame) -> None:
        stop.number = number
        restore()
        if stop.at_once:
            raise KeyboardInterrupt

    try:
        for s in before:
            signal.signal(s, note)
        yield stop
    finally:
        restore()


class Training:
    """A model on a machine's device, its loss, and what updates its weights, as the options say. A
    subclass has the `plan`, and

        batch(step)       this process's micro-batches of a step: the arguments of `formula`
        evaluate()        a score, lower is better, and all that was measured: {name: number}
        show()            a text for people, which may fail
        evaluate_every    steps; and at the end
        patience          evaluations without a better score, after which training ends; or None
    """

    patience: int | None = None

    def __init__(self, model: nn.Module, formula, config, machine: Machine, compiled: bool,
                 orthogonalise=compute.fast_orthogonalise, layer_decay: float = 1.0):  # fmt: skip
        keep_freed_memory()
        self.model, self.config, self.machine = model.to(machine.device), config, machine
        self.loss = compute.MixedPrecision(self.model, formula, machine.dtype)
        if compiled:
            compute.compile_blocks(self.loss.copy)
        rule = config.optimizer, config.learning_rate, config.weight_decay, layer_decay
        orthogonalise = functools.partial(orthogonalise, dtype=machine.dtype)
        self.optimizers = make_optimizers(self.model, *rule, orthogonalise=orthogonalise)

    def show(self) -> str:
        """Nothing, unless a subclass knows better."""
        return ""


def prefetched(batch: Callable[[int], list]) -> Callable[[int], list]:
    """batch(step), made while the device computes the step before it: the same, for it is a
    function of the step alone."""
    pool, waiting = ThreadPoolExecutor(1, thread_name_prefix="batches"), {}

    def ahead(step: int) -> list:
        future = waiting.pop(step, None) or pool.submit(batch, step)
        waiting[step + 1] = pool.submit(batch, step + 1)
        return future.result()

    return ahead


def train(
    training: Training, run: Run, evaluated: Callable[[Run], object] | None = None,
    advance: Callable[[float], None] | None = None,
) -> dict:  # fmt: skip
    """Train to the plan's end, from the run's newest checkpoint if it has one. Returns what the run
    has spent: {"tokens", "targets", "seconds"}.

    evaluated(run) is called after each evaluation, and may fail: to draw a page. advance(the share
    done): instead of a bar of its own.

    An evaluation comes after a save, so that it can be broken off at once: a run that goes on from
    there begins with it. Ctrl-C and SIGTERM save, then raise Stopped. Raises NonFiniteError where a
    loss, a gradient, a weight or a score is not finite, UserError where the disk refuses."""
    model, optimizers, plan = training.model, training.optimizers, training.plan
    machine, loss = training.machine, training.loss
    done, scores, spent, scored = _resume(run, model, optimizers)
    if first := machine.rank == 0:
        run.cut_metrics(done, scored)
    is_cuda = machine.device.type == "cuda"
    read_every = READ_EVERY.get(machine.device.type, 1)
    log_every = max(read_every, plan.steps // 200)
    progress = Progress(plan.steps, done, shown=first and not advance)
    is_due = lambda: done % training.evaluate_every == 0 or done == plan.steps

    def on_device(step: int) -> list[tuple]:
        return [machine.tensors(arrays) for arrays in training.batch(step)]

    def save(values: dict | None = None) -> None:
        states = [optimizer.state_dict() for optimizer in optimizers]
        what = dict(model=model.state_dict(), optimizers=states)
        checkpoint.save(run.folder, done, spent, scores, values, **what)

    def evaluate_now() -> None:
        """Note a score in the checkpoint of this step, which was saved before."""
        try:
            stop.at_once = machine.world == 1
            if stop.at_once and stop.number:  # it came after the save
                raise KeyboardInterrupt
            score, values = training.evaluate()
            stop.at_once = False
        except KeyboardInterrupt:
            raise Stopped(stop.number, done, run.to_resume) from None
        if not all(map(math.isfinite, (score, *values.values()))):
            raise NonFiniteError(f"the validation score is {score} ({values})")
        scores.append([done, score])
        progress.best = f", best validation {min(value for _, value in scores):.3f}"
        try:
            sample = training.show()
        except Exception as error:  # what only shows ends no training
            sample = f"\n    no sample: {type(error).__name__}: {error}"
        progress.say(f"step {done}/{plan.steps}  validation: {_listed(values)}{sample}")
        if first:
            run.log(done, score=score, **values, **spent, sample=sample)
            sync(run.folder / "metrics.jsonl")
            save(values)
            with contextlib.suppress(Exception):  # nor does a page to look at
                evaluated(run) if evaluated else None

    generators = torch.random.fork_rng([machine.device] if is_cuda else [])  # the caller's stay
    with noting_signals() as stop, contextlib.closing(progress), generators:
        try:
            if done == plan.steps and scored:
                progress.say(f"{run.folder} was finished before: all {done} steps are done")
            if is_due() and not scored:
                evaluate_now()
            batch = prefetched(on_device) if is_cuda else on_device
            how = dict(add_up=machine.add_up, check=machine.device.type not in READ_EVERY)
            rule = model, loss, batch, optimizers, plan, done, machine.rank
            steps = book.train(*rule, **how)  # yields (step, mean loss)
            loss.forget()
            began = time.perf_counter()
            while done < plan.steps:
                found = [score for _, score in scores]
                best = found.index(min(found)) if found else 0
                if training.patience and len(found) - best > training.patience:
                    progress.say(f"no better for {training.patience} evaluations: stopping early")
                    break
                done, mean = next(steps)
                if not (done % read_every == 0 or is_due() or (stop.number and machine.world == 1)):
                    continue
                value = mean.item()  # waits for the device
                if not math.isfinite(value):
                    raise NonFiniteError(f"the loss is {value}. Try a lower --learning-rate, or "
                                         f"--precision float32")  # fmt: skip
                read = loss.forget()
                new = machine.total(*map(float, (*read, stop.number or 0)))
                tokens, targets, stopping = map(int, new)
                spent.update(tokens=tokens, targets=targets, seconds=time.perf_counter() - began)
                progress.update(done, value, tokens)
                if advance:
                    advance(done / plan.steps)
                if first and (done == 1 or done % log_every == 0):
                    run.log(done, loss=value, **spent)
                if first and (is_due() or stopping):
                    sync(run.folder / "metrics.jsonl")
                    save()
                if stopping:
                    raise Stopped(stop.number, done, run.to_resume)
                if is_due():
                    evaluate_now()
                began = time.perf_counter()
        except NonFiniteError as error:
            if not first:
                raise
            rate = max(group["lr"] for o in optimizers for group in o.param_groups)
            good = checkpoint.newest(run.folder, evaluated=True)  # from which --resume starts
            checkpoint.delete_after(run.folder, good.step if good else -1)
            last = f"the last good checkpoint is {good.file if good else 'none yet'}"
            why = f"after step {done}: {error}. The learning rate was {rate:g}; {last}"
            raise NonFiniteError(why) from None
    return dict(spent)


def _resume(run: Run, model, optimizers) -> tuple[int, list, Counter, bool]:
    """Load the newest checkpoint. Returns the step, the scores, what was spent, and whether that
    step was evaluated."""
    saved = checkpoint.newest(run.folder)
    if saved is None:
        return 0, [], Counter(tokens=0, targets=0, seconds=0.0), True
    with damage(f"{saved.file} does not fit this model and optimizer: train a new run"):
        model.load_state_dict(saved.read("model"))
        for optimizer, state in zip(optimizers, saved.read("optimizers"), strict=True):
            optimizer.load_state_dict(state)
    return saved.step, saved.scores, Counter(saved.spent), saved.score is not None


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def summary(run: Run) -> tuple[checkpoint.Checkpoint, int, str]:
    """The checkpoint that is used from now on, the step at which the run ended, and both as lines
    to print. Raises UserError where there is no checkpoint."""
    used, last = checkpoint.best(run.folder), checkpoint.newest(run.folder)
    text = f"used from now on: step {used.step} of {last.step}, {_listed(used.values)}"
    if tokens := run.config.get("train_tokens"):
        text += f"\nthe text was read {last.spent['tokens'] / tokens:.1f} times"
    if last.scores and last.scores[-1][0] > used.step:
        text += f"\nvalidation has got worse since step {used.step}: more text, more --dropout or "
        text += "fewer steps would help"
    return used, last.step, text
