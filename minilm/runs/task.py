"""What fine-tuning needs of a task, whichever it is, so that `train_finetune.py` is the same for
all four."""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from minilm.data import epoch_batches
from minilm.heads import Answerer, Classifier, Tagger
from minilm.model import Transformer

FEW = 2000  # rows: up to here the network from random weights is trained beside
LEAST_STEPS = 200  # of a fine-tuning: few rows are read more often


def with_head(transformer: Transformer, flags: dict, n_classes: int) -> nn.Module:
    """The network of a fine-tuning run, with a head that knows nothing yet."""
    task, pooling = flags.get("task", "classify"), flags.get("pooling", "mean")
    if task == "tag":
        return Tagger(transformer, n_classes, flags["positions"], pooling)
    if task == "answer":
        return Answerer(transformer, flags["positions"])
    return transformer if task == "translate" else Classifier(transformer, n_classes, pooling)


def task_class(name: str) -> type["Task"]:
    """The class of a task: "classify", "tag", "answer" or "translate"."""
    from minilm.runs.answering import Answering
    from minilm.runs.classify import Classify
    from minilm.runs.tagging import Tagging
    from minilm.runs.translating import Translating

    return dict(classify=Classify, tag=Tagging, answer=Answering, translate=Translating)[name]


class Task:
    """Reads the data that the options name; raises UserError where they cannot be used.

    `classes` are what the head tells apart; given, no data is read: enough to predict. `examples`
    are the parts as they came, `data` the same encoded: lists of rows. A subclass has `read`,
    `encode`, `collate`, `loss`, `predictions`, `scores`, `report`, `simpler` and `predict`.
    """

    epochs = 3  # by default, at least
    columns: tuple = ()  # of the table at the end: key, heading, format; the first one decides
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

    def controls(self) -> list[tuple[str, str, bool, "Task"]]:
        """The networks that are trained beside: name, folder, from random weights?, task."""
        asked, few = self.config.baselines, len(self.lengths) <= FEW
        if self.config.from_scratch or not (asked == "all" or (asked == "auto" and few)):
            return []
        return [("the same network from random weights", "from-scratch", True, self)]

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
        """The rows of a step, collated: the arguments of `loss` after the model."""
        return self.collate([self.data["train"][row] for row in self.rows(step)])

    def in_batches(self, model, rows: list, size: int = 64) -> Iterator[tuple[np.ndarray, list]]:
        """Yield which rows, and their tensors where the model is: rows of like length together."""
        device = next(model.parameters()).device
        order = np.argsort([len(row.tokens) for row in rows], kind="stable")
        for which in (order[i : i + size] for i in range(0, len(order), size)):
            batch = self.collate([rows[i] for i in which])
            yield which, [torch.as_tensor(array, device=device) for array in batch]

    @torch.inference_mode()
    def mean_loss(self, model, part: str) -> float:
        """Nats a target."""
        sums = torch.zeros(2, dtype=torch.float64)
        for _, batch in self.in_batches(model.eval(), self.data[part]):
            sums += torch.stack([Tensor.double(x) for x in self.loss(model, *batch)]).cpu()
        return float(sums[0] / sums[1].clamp(min=1))

    def test(self, model, part: str | None = None) -> dict:
        """The scores on a part (None: on what is tested on), and what was predicted."""
        predicted = self.predictions(model, part or self.part)
        return self.scores(predicted, part or self.part) | {"predicted": predicted}

    def evaluate(self, model, part: str) -> tuple[float, dict]:
        """How far a part is from perfect; its loss and scores."""
        values = {k: v for k, v in self.test(model, part).items() if isinstance(v, float)}
        return 1 - values[self.columns[0][0]], {"loss": self.mean_loss(model, part), **values}

    def baselines(self) -> dict[str, dict]:
        """The scores of simpler means, which might win."""
        return {name: self.scores(found, self.part) for name, found in self.simpler().items()}


@functools.lru_cache(maxsize=2)
def _epoch(task: Task, epoch: int) -> list[np.ndarray]:
    return epoch_batches(task.lengths, task.batch_size, task.config.seed, epoch)


def bootstrap(counts: np.ndarray, share, n: int = 1000) -> str:
    """A 95 % interval for share(sums) over rows drawn anew, n times (Efron 1979): counts (N, K),
    share of sums (..., K). As text, in per cent."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), n)  # (n, N)
    low, high = np.quantile(share(drawn @ counts), (0.025, 0.975))
    return f"95 % interval {low:.1%} to {high:.1%}"
