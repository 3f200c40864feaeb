"""What fine-tuning needs of a task, whichever it is: data, model, loss, evaluation, baselines. So
`train_finetune.py` is the same for all four."""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from minilm.data import epoch_batches
from minilm.heads import Answerer, Classifier, Tagger
from minilm.model import Transformer

FEW = 2000  # texts: up to here the network from random weights is trained beside
LEAST_STEPS = 200  # of a fine-tuning: few texts are read more often


class Control(NamedTuple):
    """A network to train beside, that might do as well."""

    name: str
    folder: str
    from_scratch: bool
    task: "Task"


def with_head(transformer: Transformer, flags: dict, n_classes: int) -> nn.Module:
    """The network of a fine-tuning run, with a head that knows nothing yet."""
    task, pooling = flags.get("task", "classify"), flags.get("pooling", "mean")
    if task == "tag":
        return Tagger(transformer, n_classes, flags["positions"], pooling)
    if task == "answer":
        return Answerer(transformer, flags["positions"])
    return transformer if task == "translate" else Classifier(transformer, n_classes, pooling)


class Task:
    """Reads the data that the options name; raises UserError where they cannot be used.

    `classes` are what the head tells apart, `examples` the parts as they came, `data` the same
    encoded: lists of rows. With `classes` given no data is read: enough to predict. A subclass has
    `read`, `encode`, `collate`, `loss`, `evaluate`, `test`, `baselines`, `report`, `predict`.
    """

    epochs = 3  # by default, at least
    columns: tuple = (("loss", "loss", "{:.3f}"),)  # of the table: key, heading, format
    example = '"a text of yours"'  # of what predict takes

    def __init__(self, config, tokenizer, classes: list[str] | None = None):
        self.config, self.tokenizer, self.classes = config, tokenizer, classes
        if classes is None:
            self.load(*self.read())

    def load(self, examples: dict[str, list], classes: list[str]) -> None:
        """Take these parts as data, and plan how to learn from them."""
        self.examples, self.classes = examples, classes
        self.data = {part: self.encode(rows) for part, rows in examples.items()}
        if "train" not in examples:
            return
        self.lengths = np.array([len(text) for text in self.texts("train")])
        n = len(self.lengths)
        self.batch_size = min(self.config.batch_size, max(8, n // 16))
        self.steps_per_epoch = -(-n // self.batch_size)
        least = -(-LEAST_STEPS // self.steps_per_epoch)
        self.epochs = self.config.epochs or max(self.epochs, least)
        # With many short epochs, validation is asked a few times all the same.
        self.evaluate_every = self.steps_per_epoch * max(1, self.epochs // 10)
        self.patience = 3

    @property
    def part(self) -> str:
        """What is tested on: the test part, or validation where there is none."""
        return "test" if "test" in self.data else "valid"

    @property
    def wants_scratch(self) -> bool:
        """Whether the network from random weights is trained beside."""
        asked = self.config.baselines
        few = asked == "all" or (asked == "auto" and len(self.lengths) <= FEW)
        return not self.config.from_scratch and few

    def controls(self) -> list[Control]:
        """The networks that are trained beside."""
        name = "the same network from random weights"
        return [Control(name, "from-scratch", True, self)] if self.wants_scratch else []

    def texts(self, part: str) -> list[np.ndarray]:
        """The tokens of each row of a part."""
        return [row.tokens for row in self.data[part]]

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(rows):,} to {part}" for part, rows in self.examples.items())
        name, kinds = self.config.train or self.config.data, ", ".join(self.classes[:12])
        return f"{name}: {self.config.task}, {sizes}" + (f"; {kinds}" if kinds else "")

    def model(self, transformer: Transformer) -> nn.Module:
        """The network with a head that knows nothing yet."""
        return with_head(transformer, vars(self.config), len(self.classes))

    def rows(self, step: int) -> np.ndarray:
        """Which rows of train a step learns from."""
        epoch, i = divmod(step, self.steps_per_epoch)
        return _epoch(self, epoch)[i]

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """The rows of a step, collated."""
        return self.collate([self.data["train"][row] for row in self.rows(step)])

    def in_batches(self, model, rows: list, size: int = 64) -> Iterator[tuple[np.ndarray, list]]:
        """Yield which rows, and their tensors where the model is: rows of like length together."""
        device = next(model.parameters()).device
        order = np.argsort([len(row.tokens) for row in rows], kind="stable")
        for which in (order[i : i + size] for i in range(0, len(order), size)):
            batch = self.collate([rows[i] for i in which])
            yield which, [torch.as_tensor(array, device=device) for array in batch]

    @torch.inference_mode()
    def mean_loss(self, model, rows: list) -> float:
        """Nats a target."""
        model.eval()
        sums = sum(
            torch.stack([x.double() for x in self.loss(model, *batch)])
            for _, batch in self.in_batches(model, rows)
        )
        return float(sums[0] / sums[1].clamp(min=1))

    def loss(self, model, *batch) -> tuple[Tensor, Tensor]:
        """The formula of `heads.py` or `objectives.py`: (sum of nats, number of targets)."""
        raise NotImplementedError


@functools.lru_cache(maxsize=2)
def _epoch(task: Task, epoch: int) -> list[np.ndarray]:
    return epoch_batches(task.lengths, task.batch_size, task.config.seed, epoch)


def bootstrap(counts: np.ndarray, share, n: int = 1000) -> tuple[float, float]:
    """A 95 % interval for share(sums) over rows drawn anew, n times (Efron 1979): counts (N, K),
    share of sums (..., K)."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), n)  # (n, N)
    low, high = np.quantile(share(drawn @ counts), (0.025, 0.975))
    return float(low), float(high)


def task_class(name: str) -> type[Task]:
    """The class of a task: "classify", "tag", "answer" or "translate"."""
    from minilm.runs.answering import AnswerTask
    from minilm.runs.classify import Classify
    from minilm.runs.tagging import Tag
    from minilm.runs.translating import Translate

    return dict(classify=Classify, tag=Tag, answer=AnswerTask, translate=Translate)[name]
