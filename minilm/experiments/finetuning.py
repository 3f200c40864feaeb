"""Many short fine-tunings in one process: the texts are encoded once, nothing is saved on the way,
and nothing is validated but what a sweep of learning rates needs."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minilm import metrics
from minilm.config import FinetuneConfig, UserError
from minilm.corpora import Example
from minilm.device import Machine
from minilm.evaluation import label_probabilities
from minilm.heads import ClassificationLoss, Classifier
from minilm.labelled import (
    LabelledTexts,
    batch_of,
    encode_examples,
    epoch_batches,
    nested_indices,
    read_splits,
)
from minilm.model import Transformer
from minilm.optim import make_optimizers
from minilm.tokenizer import Tokenizer
from minilm.training import Plan, StepBatch, Trainer

LEAST_STEPS = 30  # of a fine-tuning: eight updates teach nobody anything
RATES = (3e-3, 1e-2, 3e-2)  # the sweep of peak learning rates, the same for every arm
SETTINGS = [(p, a) for a in ("bidirectional", "causal") for p in ("mean", "last", "first")]


@dataclass(frozen=True)
class LabelledTask:
    """The labelled texts, encoded, and what fine-tuning needs besides weights."""

    classes: list[str]
    examples: dict[str, list[Example]]  # "train", "valid", "test"
    encoded: dict[str, LabelledTexts]
    recipe: FinetuneConfig
    machine: Machine

    @property
    def size(self) -> int:
        """How many texts there are to train on."""
        return len(self.examples["train"])

    def sample(self, labels: int, draw: int) -> np.ndarray:
        """The train texts of a draw, nested: those of fewer labels are among those of more."""
        truth = [example.label for example in self.examples["train"]]
        return np.array(nested_indices(truth, min(labels, self.size), draw))


def subset(data: LabelledTexts, indices: np.ndarray) -> LabelledTexts:
    """Some of the texts."""
    return LabelledTexts([data.tokens[i] for i in indices], data.labels[indices], data.share_cut)


def read_labels(data: str) -> tuple[dict[str, list[Example]], list[str]]:
    """A labelled corpus: `read_splits`, with all three parts. Raises UserError where it has no
    labels, or (since validation would choose what it then tests) no test part."""
    examples, classes = read_splits(FinetuneConfig(data=data))
    if "test" not in examples:
        raise UserError(f"--data {data} has no texts to test on: choose another corpus")
    return examples, classes


def encode_task(
    examples: dict[str, list[Example]],
    classes: list[str],
    tokenizer: Tokenizer,
    length: int,
    machine: Machine,
) -> LabelledTask:
    """Encode what `read_labels` returned, every text cut to `length` tokens."""
    recipe = FinetuneConfig(max_length=length)
    encoded = {
        part: encode_examples(tokenizer, texts, classes, length) for part, texts in examples.items()
    }
    return LabelledTask(classes, examples, encoded, recipe, machine)


def finetune(
    task: LabelledTask,
    transformer: Transformer,
    indices: np.ndarray,
    epochs: int,
    learning_rate: float,
    seed: int,
    pooling: str = "mean",
    attention: str = "bidirectional",
    progress: Callable[[int], None] = lambda tokens: None,
) -> Classifier:
    """Fine-tune a Transformer, whose weights change, on the train texts with these indices, as
    train_finetune.py does but for its validation: where texts are few, in smaller batches, for
    LEAST_STEPS. progress(tokens) is called after every step. Returns the classifier."""
    batch_size, learning_rate = pace(len(indices) * epochs, task.recipe.batch_size, learning_rate)
    recipe = dataclasses.replace(task.recipe, seed=seed, batch_size=batch_size)
    data = subset(task.encoded["train"], indices)
    classifier = Classifier(transformer, len(task.classes), pooling).to(task.machine.device)
    batches = [
        batch
        for epoch in range(epochs)
        for batch in epoch_batches(data, recipe.batch_size, seed, epoch)
    ]

    def batch(step: int) -> StepBatch:
        """The texts of a step."""
        texts = batch_of(data, batches[step])
        return StepBatch([tuple(texts)], len(texts.labels), int(texts.is_real.sum()))

    optimizers = make_optimizers(
        classifier, recipe.optimizer, learning_rate, recipe.weight_decay, recipe.layer_decay
    )
    plan = Plan(len(batches), 0.1, 0.9, evaluate_every=len(batches), seed=seed)
    loss = ClassificationLoss(classifier, attention == "causal")
    trainer = Trainer(classifier, loss, optimizers, batch, plan, task.machine)
    for step in range(len(batches)):
        _, read = trainer.step(step)
        progress(read.tokens)
    return classifier


def pace(texts: int, batch_size: int, learning_rate: float) -> tuple[int, float]:
    """The batch size and learning rate with which to read so many texts in LEAST_STEPS or more,
    given those that suit many texts. The rate goes with the batch's square root (Malladi et al.
    2022, arXiv 2205.10287), so that one sweep serves all numbers of labels.

    >>> pace(10_000, 32, 0.01), pace(240, 32, 0.01)
    ((32, 0.01), (8, 0.005))
    """
    smaller = min(batch_size, max(1, texts // LEAST_STEPS))
    return smaller, learning_rate * math.sqrt(smaller / batch_size)


def tested(
    task: LabelledTask, classifier: Classifier, part: str, rows: int, attention="bidirectional"
) -> dict:
    """What a classifier says of the first `rows` texts of a part: {"accuracy", "macro_f1",
    "predicted"}."""
    data = task.encoded[part]
    data = subset(data, np.arange(min(rows, len(data.tokens))))
    probabilities = label_probabilities(classifier, data, attention == "causal", task.machine)
    return scores(data.labels, probabilities.argmax(1), len(task.classes))


def scores(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> dict:
    """{"accuracy", "macro_f1", "predicted"} of class numbers (N,)."""
    confusion = metrics.confusion_matrix(truth, predicted, n_classes)
    return {
        "accuracy": metrics.accuracy(confusion),
        "macro_f1": metrics.macro_f1(confusion),
        "predicted": [int(number) for number in predicted],
    }
