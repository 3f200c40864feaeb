"""What fine-tuning needs of a task, so that `train_finetune.py`, `predict` and `evaluate` are the
same for all four."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minilm.config import UserError
from minilm.corpora import splits
from minilm.corpora.tables import note
from minilm.corpora.texts import texts_in
from minilm.data import epoch_batches, pad
from minilm.model import Transformer
from minilm.runs.run import with_head

FEW = 2000  # rows: up to here the network from random weights is trained beside
LEAST_STEPS = 200  # of a fine-tuning: few rows are read more often
CHOOSE = 200  # examples to validate on: fewer choose no step, but by chance
PATIENCE = 3  # evaluations without a better one, after which training ends


class Task:
    """Reads the data that the options name; raises UserError where they cannot be used.

    `classes` are what the head tells apart; given, no data is read: enough to predict. `examples`
    are the parts as they came; `data` the same encoded, lists of rows, each with its `tokens`. A
    subclass has

        classes_of(examples)            what the head tells apart, by those of train
        encode(examples)                the rows, one or more an example
        collate(rows)                   a batch: the arguments of `loss` after the model
        loss(model, *batch)             (sum of nats, number of targets)
        solve(model, rows, examples)    what the model finds, for each example
        scores(found, examples)         how good that is: {name: number}
        report(row)                     what `test` returned, for people to read
        simpler()                       {baseline: what it finds in the part that is tested on}
        unlabelled(text)                an example of which nothing else is known
        told(text, found)               what the command `predict` prints, and the row it writes
    """

    epochs = 3  # by default, at least
    shortest = 3  # window, in tokens
    columns: tuple = ()  # of the table at the end: key, heading, format; the first one decides
    example = '"a text of yours"'  # of what predict takes
    too_long = "are longer than {} tokens and were cut"

    def __init__(self, config, tokenizer, classes: list[str] | None = None, imported=False):
        self.config, self.tokenizer, self.classes = config, tokenizer, classes
        if imported:  # weights of others learn a task sooner
            self.epochs = min(self.epochs, 4)
        if config.max_length < self.shortest:
            raise UserError(f"--max-length {config.max_length}: to {config.task} takes "
                            f"{self.shortest} tokens or more")  # fmt: skip
        if classes is None:
            self.load(*self.read())

    def read(self) -> tuple[dict[str, list], list[str]]:
        """The examples of each part, and the classes."""
        parts, c = splits.load(self.config), self.config
        return splits.divide(parts, c.labels, c.seed, c.balanced), self.classes_of(parts["train"])

    def load(self, examples: dict[str, list], classes: list[str]) -> None:
        """Take these parts as data, and plan how to learn from them."""
        self.examples, self.classes = examples, classes
        self.data = {part: self.encode(rows) for part, rows in examples.items()}
        if "train" not in examples:
            return
        lengths = np.array([len(row.tokens) for row in self.data["train"]])
        batch_size = self.config.batch_size or min(32, max(8, len(lengths) // 16))
        self.steps_per_epoch = -(-len(lengths) // batch_size)
        least = -(-LEAST_STEPS // self.steps_per_epoch)
        self.epochs = self.config.epochs or max(self.epochs, least)
        enough = len(examples["valid"]) >= CHOOSE
        self.patience = self.config.patience or (PATIENCE if enough else None)
        # With many short epochs, validation is asked a few times all the same.
        every = max(1, self.epochs // 10) if self.patience else self.epochs
        self.evaluate_every = self.steps_per_epoch * every
        draw = functools.partial(epoch_batches, lengths, batch_size, self.config.seed)
        self.epoch_rows = functools.lru_cache(maxsize=2)(draw)

    def load_tested(self, file: str | None = None, checksum: int | None = None) -> None:
        """Take as data only what is tested on: a file, or the run's own part; a warning where this
        is of other data than those (`checksum`) that it was trained on."""
        self.examples = {"test": splits.read(self.config, Path(file))} if file else self.read()[0]
        if self.part == "valid" and checksum not in (None, splits.checksum(self.examples)):
            note("warning: the data have changed since the run was trained: it may have learnt "
                 "what is validated on now")  # fmt: skip
        self.load({self.part: self.examples[self.part]}, self.classes)
        if said := self.left_out(self.data[self.part]):
            note(f"{self.part}: {said}")

    @property
    def part(self) -> str:
        """What is tested on: the test part, or validation where there is none."""
        return "test" if "test" in self.examples else "valid"

    def controls(self) -> list[tuple[str, str, bool, "Task"]]:
        """The networks that are trained beside: name, folder, from random weights?, task."""
        asked, few = self.config.baselines, len(self.data["train"]) <= FEW
        if self.config.from_scratch or not (asked == "all" or (asked == "auto" and few)):
            return []
        return [("the same network from random weights", "from-scratch", True, self)]

    def __str__(self) -> str:
        name = self.config.train or self.config.data
        n, draw = len(self.classes), "in balance" if self.config.balanced else "at random"
        drawn = f", {self.config.labels:,} labels drawn {draw}" if self.config.labels else ""
        sizes = ", ".join(f"{len(rows):,} to {part}" for part, rows in self.examples.items())
        kinds = f"; classes ({n}): {', '.join(self.classes[:12])}" if n else ""
        said = {part: self.left_out(rows) for part, rows in self.data.items()}
        cut = "".join(f"; of {part}, {what}" for part, what in said.items() if what)
        if not self.patience:
            cut += (f"\nvalid: fewer than {CHOOSE} choose by chance, so the last step is kept "
                    f"(--patience {PATIENCE} lets them choose)")  # fmt: skip
        return f"{name}: {self.config.task}{drawn}: {sizes}{kinds}{cut}"

    @property
    def room(self) -> int:
        """Tokens for which there is room."""
        return self.config.max_length

    def left_out(self, rows: list) -> str:
        """What of these does not fit into the window."""
        n = sum(row.cut for row in rows)
        said = f"{n:,} of {len(rows):,} ({n / max(len(rows), 1):.1%}) {self.too_long}"
        return said.format(self.room) if n else ""

    def model(self, transformer: Transformer) -> nn.Module:
        """The network with a head that knows nothing yet."""
        return with_head(transformer, vars(self.config), len(self.classes))

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        """What a step learns from: the arguments of `loss` after the model."""
        epoch, i = divmod(step, self.steps_per_epoch)
        return self.collate([self.data["train"][row] for row in self.epoch_rows(epoch)[i]])

    def padded(self, rows: list) -> tuple[np.ndarray, np.ndarray]:
        """tokens, is_real (B, T)."""
        texts, pad_id = [row.tokens for row in rows], self.tokenizer.special.pad
        return pad(texts, pad_id, most=self.config.max_length)

    def in_batches(self, model, rows: list) -> Iterator[tuple[np.ndarray, list]]:
        """Yield which rows, and their tensors where the model is."""
        device = next(model.parameters()).device
        for which in by_length([row.tokens for row in rows]):
            batch = self.collate([rows[i] for i in which])
            yield which, [torch.as_tensor(array, device=device) for array in batch]

    @torch.inference_mode()
    def mean_loss(self, model, part: str) -> float:
        """Nats a target."""
        nats, count = 0.0, 0
        for _, batch in self.in_batches(model.eval(), self.data[part]):
            loss_sum, n = self.loss(model, *batch)
            nats, count = nats + float(loss_sum), count + int(n)
        return nats / max(count, 1)

    def test(self, model, part: str | None = None) -> dict:
        """The scores on a part (None: on what is tested on), and what was found."""
        rows, examples = self.data[part or self.part], self.examples[part or self.part]
        found = self.solve(model, rows, examples)
        return {**self.scores(found, examples), "found": found}

    def evaluate(self, model, part: str) -> tuple[float, dict]:
        """How far a part is from perfect; its loss and scores."""
        values = {k: v for k, v in self.test(model, part).items() if isinstance(v, float)}
        if "loss" not in values:
            values = {"loss": self.mean_loss(model, part), **values}
        return 1 - values[self.columns[0][0]], values

    def baselines(self) -> dict[str, dict]:
        """The scores of simpler means, which might win."""
        examples = self.examples[self.part]
        return {name: self.scores(found, examples) for name, found in self.simpler().items()}

    def predict(self, model, texts: list) -> Sequence:
        """What the model finds in texts of which nothing else is known."""
        examples = [self.unlabelled(text) for text in texts]
        return self.solve(model, self.encode(examples), examples)

    def texts_in(self, path: Path, column: str | None = None, encoding: str | None = None) -> list:
        """What `predict` takes from a file, read as in training unless said otherwise."""
        return texts_in(path, column or self.config.text_column, encoding or self.config.encoding)

    def tell(self, model, texts: list, size: int = 512) -> Iterator[tuple[str, dict]]:
        """The same as `told`, with a bar where there are many."""
        few = True if len(texts) <= size else None  # None: where it is a terminal
        for start in tqdm(range(0, len(texts), size), unit=f" x {size} texts", disable=few):
            some = texts[start : start + size]
            yield from map(self.told, some, self.predict(model, some))
        if said := self.left_out(self.encode([*map(self.unlabelled, texts)])):
            note(said)


def by_length(texts: Sequence, size: int = 64) -> list[np.ndarray]:
    """Which texts are computed together: those of like length, for little padding."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    return [order[i : i + size] for i in range(0, len(order), size)]


def bootstrap(counts: np.ndarray, share, n: int = 1000) -> str:
    """A 95 % interval for share(sums) over rows drawn anew, n times (Efron 1979): counts (N, K),
    share of sums (..., K). As text, in per cent."""
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), n)  # (n, N)
    low, high = np.quantile(share(drawn @ counts), (0.025, 0.975))
    return f"95 % interval {low:.1%} to {high:.1%}"
