"""The book's loop as a run needs it: resumed, logged, evaluated, saved and stopped. An interrupted
and resumed run ends with the bits of one that was never interrupted, and an evaluation leaves no
trace in the training."""

import contextlib
import functools
import math
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minilm import training as book
from minilm.config import NonFiniteError, UserError
from minilm.fast import compute
from minilm.io.durable import damage, sync
from minilm.io.terminal import printable
from minilm.optim import make_optimizers
from minilm.runs import checkpoint
from minilm.runs.device import Machine
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
    KeyboardInterrupt where that may be `at_once`; a second one acts as if this were not here."""
    stop = SimpleNamespace(number=None, at_once=False)
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
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


class Progress:
    """What a person sees: a bar where the output is a terminal, else a plain line every few
    seconds. A display that fails (a closed terminal, a broken pipe) is given up, and ends nothing.
    """

    def __init__(self, steps: int, start: int, shown: bool):
        self.steps, self.shown = steps, shown
        self.tokens, self.losses, self.best, self.last_line = 0, [], "", -60.0
        self.begun, how = time.perf_counter(), dict(total=steps, unit="step", leave=False)
        bar = self._try(tqdm, initial=start, disable=None, **how)  # None: where this is no terminal
        self.bar = bar or tqdm(disable=True)

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Show that steps were done up to this one, whose loss is given, and `tokens` read."""
        self.losses.append(loss)
        self.tokens += tokens
        now = time.perf_counter()
        rate = f"{self.tokens / (now - self.begun):,.0f} tokens/s{self.best}"
        if not self.bar.disable:
            text = f"loss {loss:.3f} {curve(self.losses)}, {rate}"
            self._try(self.bar.set_postfix_str, text, refresh=False)
            self._try(self.bar.update, step - self.bar.n)
        elif now - self.last_line > 10:
            self.last_line = now
            self.say(f"step {step}/{self.steps}  loss {loss:.3f}  {rate}")

    def say(self, text: str) -> None:
        """Print a text without breaking the bar."""
        self._try(lambda: (tqdm.write(printable(text), file=sys.stdout), sys.stdout.flush()))

    def close(self) -> None:
        """Remove the bar."""
        self._try(self.bar.close)

    def _try(self, show, *args, **options):
        try:
            return show(*args, **options) if self.shown else None
        except Exception:  # whatever the terminal cannot do
            self.shown = False


def curve(values: list[float], width: int = 12) -> str:
    """A curve of one line of text, of means where there are more values than it has room for.

    >>> curve([8, 6, 4, 2, 1, 1])
    '█▆▄▂▁▁'
    """
    parts = np.array_split(values[-4096:], min(width, len(values)))
    means = np.array([part.mean() for part in parts])
    heights = (means - means.min()) / max(np.ptp(means), 1e-9)  # 0 to 1
    return "".join("▁▂▃▄▅▆▇█"[round(7 * height)] for height in heights)
