"""One training loop, for pretraining and fine-tuning: it does not know which of them runs.

What is trained is a module that computes a loss, `loss(*batch) -> (sum of nats, count)`: a formula
of `objectives.py` or `heads.py` bound to a model. A step divides the sums of all its micro-batches
once, by the number of targets in all of them, so that the result does not depend on how a batch is
cut up among micro-batches or processes.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from minilm import checkpoint
from minilm.config import NonFiniteError, PretrainConfig, UserError
from minilm.data import draws
from minilm.device import Machine
from minilm.durable import require_room
from minilm.model import Transformer
from minilm.objectives import LanguageModelLoss, Task
from minilm.optim import make_optimizers, schedule, set_learning_rates
from minilm.progress import Progress
from minilm.runs import Run
from minilm.stopping import Stopped, StopSignal


@dataclass(frozen=True)
class Plan:
    """How long, how fast, and how often to look."""

    steps: int
    warmup: float  # share of the steps
    cooldown: float  # share of the steps
    evaluate_every: int  # steps
    seed: int
    clip: float = 1.0  # of the gradient's norm


class StepBatch(NamedTuple):
    """What one process reads in one step."""

    micro_batches: list[tuple]  # of NumPy arrays, the arguments of the loss
    count: int  # targets in all micro-batches of all processes
    tokens: int  # positions read in all micro-batches of all processes


def share_out(
    arrays: tuple[np.ndarray, ...], machine: Machine, accumulate: int
) -> list[tuple[np.ndarray, ...]]:
    """This process's rows of a batch, in `accumulate` micro-batches.

    Raises UserError where there are too few rows to give every process one."""
    rows = np.arange(machine.rank, len(arrays[0]), machine.world)
    if len(arrays[0]) < machine.world:
        raise UserError(
            f"a batch of {len(arrays[0])} cannot be shared by {machine.world} processes: give a "
            f"larger --batch-size"
        )
    parts = np.array_split(rows, min(accumulate, len(rows)))
    return [tuple(array[part] for array in arrays) for part in parts]


class Trainer:
    """The weights, the rule that updates them, and what they read at each step."""

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        batch: Callable[[int], StepBatch],
        plan: Plan,
        machine: Machine,
    ):
        self.model, self.optimizers = model, optimizers
        self.batch, self.plan, self.machine = batch, plan, machine
        self.loss = DistributedDataParallel(loss) if machine.world > 1 else loss

    def step(self, step: int) -> tuple[float, StepBatch]:
        """Update the weights once. Returns the mean loss in nats a target, and what was read.

        Raises NonFiniteError, before any weight changes, where loss or gradient is not finite.
        """
        set_learning_rates(
            self.optimizers,
            schedule(step, self.plan.steps, self.plan.warmup, self.plan.cooldown),
        )
        batch = self.batch(step)
        torch.manual_seed(
            int(
                draws(
                    self.plan.seed, step * self.machine.world + self.machine.rank, "dropout"
                ).integers(2**63)
            )
        )
        self.model.train()
        count = max(1, batch.count)
        total = 0.0
        for i, arrays in enumerate(batch.micro_batches):
            if self.machine.world > 1:  # exchange gradients once a step, after the last
                self.loss.require_backward_grad_sync = i == len(batch.micro_batches) - 1
            with self.machine.autocast():
                loss_sum, _ = self.loss(*self.machine.tensors(arrays))
            # DistributedDataParallel takes the mean over processes; the world undoes that.
            (loss_sum * (self.machine.world / count)).backward()
            total += loss_sum.detach().item()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.plan.clip).item()
        mean = self.machine.total(total)[0] / count
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise NonFiniteError(
                f"step {step + 1}: the loss is {mean} and the gradient's norm {norm}; the weights "
                f"were left as they were. Try a lower --learning-rate, or --precision float32"
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return mean, batch

    def states(self) -> dict:
        """What a checkpoint holds."""
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"model": self.model.state_dict(), "optimizers": optimizers}

    def load(self, saved: checkpoint.Checkpoint) -> None:
        """Put back what a checkpoint holds."""
        self.model.load_state_dict(saved.read("model"))
        for optimizer, state in zip(self.optimizers, saved.read("optimizers"), strict=True):
            optimizer.load_state_dict(state)


def language_model_trainer(
    config: PretrainConfig, model: Transformer, task: Callable[[int], Task], machine: Machine
) -> Trainer:
    """A Trainer that pretrains `model` on the Task of each step, as the flags say."""
    if config.compile:
        for block in model.blocks:
            block.compile()

    def batch(step: int) -> StepBatch:
        """This process's share of the Task of a step."""
        inputs, targets, causal = this = task(step)
        rows = share_out((inputs, targets), machine, config.accumulate)
        return StepBatch([(*row, causal) for row in rows], this.count, inputs.size)

    evaluate_every = -(-config.steps // config.evaluations)
    plan = Plan(config.steps, 0.03, 0.4, evaluate_every, config.seed)
    optimizers = make_optimizers(model, config.optimizer, config.learning_rate, config.weight_decay)
    return Trainer(model, LanguageModelLoss(model), optimizers, batch, plan, machine)


def train(
    trainer: Trainer,
    run: Run,
    evaluate: Callable[[], tuple[float, dict, str]],
    patience: int | None = None,
    progress: Progress | None = None,
) -> dict:
    """Train to the plan's end, from the run's newest checkpoint if it has one; log, evaluate and
    save on the way.

    evaluate() returns a score (lower is better), values to log, and a text to show. With
    `patience`, stop after that many evaluations without a better score. `progress`: instead of a
    bar of its own. Ctrl-C and SIGTERM save, then raise Stopped. Returns what the run has spent:
    {"tokens", "targets", "seconds"}.

    Every evaluation comes after a save, so that it can be broken off at once: a run that goes on
    from a checkpoint without a score begins with the evaluation that is due.
    """
    plan, machine = trainer.plan, trainer.machine
    start, scored, spent = 0, True, dict(tokens=0, targets=0, seconds=0.0)
    if saved := checkpoint.newest(run.folder):
        _load(trainer, saved)
        start, scored, spent = saved.step, saved.score < math.inf, saved.spent
    if machine.rank == 0:
        # Four checkpoints at a time, each the weights and what the optimizers note of them.
        weights = sum(parameter.nbytes for parameter in trainer.model.parameters())
        require_room(run.folder, (4 if saved is None else 2) * 3 * weights)
        run.cut_metrics(start, scored)
    scores = [
        line["score"]
        for line in run.metrics()
        if "score" in line and (line["step"], True) <= (start, scored)
    ]

    def look(step: int) -> None:
        """Evaluate, and note the score in the checkpoint of this step, which was saved before."""
        try:
            with stop.at_once(machine.world == 1):
                score, values, text = evaluate()
        except KeyboardInterrupt:
            raise Stopped(stop.number, step, run.folder) from None
        scores.append(score)
        progress.say(f"step {step}/{plan.steps}  {text}")
        if machine.rank == 0:
            run.log(step, score=score, **values, **spent)
            run.sync_metrics()
            checkpoint.rate(run.folder, step, score)

    def due(step: int) -> bool:
        """Whether to evaluate after this step."""
        return step % plan.evaluate_every == 0 or step == plan.steps

    progress = progress or Progress(plan.steps, start, shown=machine.rank == 0)
    if start == plan.steps and scored:
        progress.say(f"{run.folder} was finished before: all {start} steps are done")
    with StopSignal() as stop, contextlib.closing(progress), _advice(trainer, run, progress):
        if due(start) and not scored:
            look(start)
        for step in range(start + 1, plan.steps + 1):
            if patience and _evaluations_since_best(scores) >= patience:
                progress.say(f"no better for {patience} evaluations: stopping early")
                break
            began = time.perf_counter()
            loss, batch = trainer.step(step - 1)
            spent["tokens"] += batch.tokens
            spent["targets"] += batch.count
            spent["seconds"] += time.perf_counter() - began
            progress.update(loss, batch.tokens)
            if machine.rank == 0 and (step == 1 or step % max(1, plan.steps // 200) == 0):
                run.log(step, loss=loss, **spent)
            stopping = machine.total(float(stop.number or 0))[0] > 0
            if machine.rank == 0 and (due(step) or stopping):
                run.sync_metrics()
                checkpoint.save(run.folder, step, spent, **trainer.states())
            if stopping:
                raise Stopped(stop.number, step, run.folder)
            if due(step):
                look(step)
    return spent


def _load(trainer: Trainer, saved: checkpoint.Checkpoint) -> None:
    try:
        trainer.load(saved)
    except UserError:
        raise
    except Exception:  # of tensors made to do harm nothing is known
        raise UserError(
            f"{saved.folder} does not fit the model and optimizer of this run: it is of another "
            f"version, so start a new run"
        ) from None


@contextlib.contextmanager
def _advice(trainer: Trainer, run: Run, progress: Progress) -> Iterator[None]:
    """Add to a NonFiniteError what a person needs to go on."""
    try:
        yield
    except NonFiniteError as error:
        where = "" if str(error).startswith("step") else f"step {progress.step}: "
        rate = max(group["lr"] for o in trainer.optimizers for group in o.param_groups)
        good = checkpoint.newest(run.folder)
        raise NonFiniteError(
            f"{where}{error}. The learning rate was {rate:g}; the last good checkpoint is "
            f"{good.folder if good else 'none yet'}"
        ) from None


def _evaluations_since_best(scores: list[float]) -> int:
    return len(scores) - 1 - scores.index(min(scores)) if scores else 0
