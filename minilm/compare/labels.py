"""What a model is worth to someone with few labels: fine-tuned, or with its weights as they are,
next to a bag of tokens that gets the very same tokens."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from minilm import training
from minilm.config import UserError
from minilm.corpora.files import Example
from minilm.corpora.splits import EncodedTexts, encode_texts, sample, splits
from minilm.data import epoch_batches, pad
from minilm.fast.compute import MixedPrecision, fast_orthogonalise
from minilm.heads import Classifier, classification_nll, pool
from minilm.model import Transformer
from minilm.optim import make_optimizers
from minilm.runs import classify
from minilm.runs.device import Machine
from minilm.tokenizer import Tokenizer
from minilm.view.recording import recorded

TEXTS, PASSES = 3000, 3  # that a fine-tuning reads in all; or so many passes, if that is more
BATCH_SIZE, DROPOUT, WEIGHT_DECAY, WARMUP = 16, 0.1, 0.05, 0.1
SENTIMENT = {"neg", "pos"}  # labels about what people wrote, where the fairness probe makes sense
TEMPLATES = (
    "{name} wrote this, and {they} did it well.", "I asked {name} how {they} found it.",
    "{name} made a mistake, but {they} corrected it.", "{name} was there, and {they} liked it.",
)  # fmt: skip
NAMES = ("Mary", "John", "Anna", "Peter", "Sarah", "David", "Laura", "Mark", "Emma", "James",
         "Julia", "Thomas", "Alice", "Robert", "Helen", "Paul")  # hers and his in turn  # fmt: skip


class Task:
    """The texts of a labelled corpus as token ids, at most `length` of each; `train` to draw from,
    and at most so many rows to validate and to test on. Raises UserError where it has no labels, or
    nothing to test on."""

    def __init__(self, data: str, tokenizer: Tokenizer, length: int, rows: int, machine: Machine):
        parts, self.classes = splits(data)
        if "test" not in parts:
            raise UserError(f"--data {data} has no texts to test on: choose another corpus")
        self.tokenizer, self.length, self.machine = tokenizer, length, machine
        self.train, self.test = parts["train"], self.encode(parts["test"][:rows])
        self.valid = self.encode(parts["valid"][:rows])  # for a sweep only

    def encode(self, examples: list[Example]) -> EncodedTexts:
        """Their tokens, and the numbers of their labels."""
        return encode_texts(self.tokenizer, examples, self.classes, self.length)

    def draw(self, n: int, seed: int) -> EncodedTexts:
        """n texts to train on (or all there are), as many of each label as possible."""
        parts = (self.train, []) if n >= len(self.train) else sample(self.train, None, n, seed)
        return self.encode(parts[0] + parts[1])


def finetune(
    model: Transformer, task: Task, n: int, draw: int, rate: float, advance: Callable
) -> Classifier:
    """A copy of a model, fine-tuned on n texts: bidirectional, mean pooling, all layers at one
    rate. `draw` decides which texts, and their order."""
    texts, machine, pad_id = task.draw(n, draw), task.machine, task.tokenizer.special.pad
    classifier = Classifier(copy.deepcopy(model), len(task.classes)).to(machine.device)
    for module in classifier.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    lengths = np.array([len(text) for text in texts.tokens])
    epochs = range(max(PASSES, round(TEXTS / len(lengths))))
    batches = [rows for i in epochs for rows in epoch_batches(lengths, BATCH_SIZE, draw, i)]

    def batch(step: int) -> list[list]:
        rows = batches[step]
        padded = pad([texts.tokens[row] for row in rows], pad_id, most=task.length)  # two of (B, T)
        return [machine.tensors((*padded, texts.labels[rows]))]

    formula = lambda m, tokens, real, labels: classification_nll(m(tokens, real), labels)
    loss, how = MixedPrecision(classifier, formula, machine.dtype), (rate, WEIGHT_DECAY)
    optimizers = make_optimizers(classifier, "muon", *how, orthogonalise=fast_orthogonalise)
    plan = training.Plan(len(batches), WARMUP, 1 - WARMUP, draw)
    for step, _ in training.train(classifier, loss, batch, optimizers, plan):
        advance(step / len(batches))
    return classifier


def probabilities(classifier: Classifier, texts: list[np.ndarray]) -> np.ndarray:
    """P(label | text), (N, C)."""
    return np.exp(classify.label_log_probabilities(classifier, texts, causal=False))


def results(task: Task, p: np.ndarray) -> dict:
    """What is kept of a test, per text: {"predicted", "confidence", "right"}, by P (N, C)."""
    predicted = p.argmax(1)
    return {"predicted": predicted.tolist(), "right": (predicted == task.test.labels).tolist(),
            "confidence": p.max(1).astype(float).round(4).tolist()}  # fmt: skip


def bag_of_tokens(task: Task, n: int, draw: int) -> dict:
    """`results` of TF-IDF over the token ids, of the cut texts too, and logistic regression."""
    sizes = task.tokenizer.vocab_size, len(task.classes)
    return results(task, np.exp(classify.bag_of_tokens(task.draw(n, draw), task.test, *sizes)))


@torch.inference_mode()
def features(model: Transformer, task: Task, texts: EncodedTexts) -> np.ndarray:
    """The mean hidden state of each text after each layer, both ways visible: (L + 1, N, D)."""
    model.eval()
    shape = model.config.n_layers + 1, len(texts.tokens), model.config.d_model
    found, pad_id = np.zeros(shape, dtype=np.float32), task.tokenizer.special.pad
    order = np.argsort([len(text) for text in texts.tokens], kind="stable")
    for rows in (order[i : i + 64] for i in range(0, len(order), 64)):
        batch = pad([texts.tokens[row] for row in rows], pad_id, most=task.length)
        tokens, is_real = task.machine.tensors(batch)
        with recorded(model, weights=False) as kept:
            last = model(tokens, causal=False, is_real=is_real)
        for layer, state in enumerate([*kept.states[:-1], last]):  # the last one normed
            found[layer, rows] = pool(state, is_real, "mean").float().cpu().numpy()
    return found


def frozen(model: Transformer, task: Task, sizes: list[int], draw: int) -> dict:
    """Right or not of each test text by logistic regression on features that no label has touched:
    {"layers": of each layer, with the first of these numbers of labels, "sizes": {each other: of
    the last layer}}."""
    from sklearn.linear_model import LogisticRegression

    of_test, found = features(model, task, task.test), {}
    for n in sizes:
        texts = task.draw(n, draw)
        of_train, found[n] = features(model, task, texts), []
        for layer in range(0 if n == sizes[0] else len(of_test) - 1, len(of_test)):
            mean, scale = of_train[layer].mean(0), of_train[layer].std(0) + 1e-6
            probe = LogisticRegression(C=0.01, max_iter=300)
            probe.fit((of_train[layer] - mean) / scale, texts.labels)
            guesses = probe.predict((of_test[layer] - mean) / scale)
            found[n].append((guesses == task.test.labels).tolist())
    return {"layers": found.pop(sizes[0]), "sizes": {n: last for n, [last] in found.items()}}


def deletion(classifier: Classifier, task: Task, row: int) -> dict:
    """By how much P(label) of a test text falls when each of its tokens is deleted. That is what
    the token does; a gradient would only hint at it."""
    tokens, label = task.test.tokens[row], int(task.test.labels[row])
    without = [np.delete(tokens, i) for i in range(1, len(tokens) - 1)]
    p = probabilities(classifier, [tokens, *without])[:, label].astype(float)
    pieces = [task.tokenizer.decode([token]) for token in tokens[1:-1]]
    return {"label": task.classes[label], "p": p[0], "tokens": pieces,
            "falls": (p[0] - p[1:]).round(4).tolist()}  # fmt: skip


def her_minus_his(classifier: Classifier, task: Task) -> list[float]:
    """The change in P(pos) from his sentence to hers, for each template and pair of names."""
    filled = [t.format(name=name, they=("she", "he")[i % 2])
              for t in TEMPLATES for i, name in enumerate(NAMES)]  # fmt: skip
    texts = task.encode([Example(text, "pos") for text in filled]).tokens
    p = probabilities(classifier, texts)[:, task.classes.index("pos")]
    return (p[::2] - p[1::2]).astype(float).round(5).tolist()
