"""What a model is worth to someone with few labels: fine-tuned, or with its weights as they are,
next to a bag of tokens that gets the very same tokens."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from minilm import training
from minilm.compare.work import Advance
from minilm.config import UserError
from minilm.corpora.files import Example
from minilm.corpora.splits import EncodedTexts, encode_texts, sample, splits
from minilm.data import epoch_batches, pad
from minilm.fast.compute import MixedPrecision
from minilm.fast.muon import fast_orthogonalise
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


class Task(NamedTuple):
    """The labelled texts, as token ids of at most `length`."""

    classes: list[str]
    train: list[Example]  # to draw from
    valid: EncodedTexts  # for a sweep only
    test: EncodedTexts
    tokenizer: Tokenizer
    length: int

    def draw(self, n: int, seed: int) -> EncodedTexts:
        """n texts to train on (or all there are), as many of each label as possible."""
        parts = (self.train, []) if n >= len(self.train) else sample(self.train, None, n, seed)
        return encode_texts(self.tokenizer, parts[0] + parts[1], self.classes, self.length)


def read_task(data: str, tokenizer: Tokenizer, length: int, rows: int) -> Task:
    """A labelled corpus, with at most so many rows to validate and to test on. Raises UserError
    where it has no labels or no test part."""
    parts, classes = splits(data)
    if "test" not in parts:
        raise UserError(f"--data {data} has no texts to test on: choose another corpus")
    encode = lambda part: encode_texts(tokenizer, parts[part][:rows], classes, length)
    return Task(classes, parts["train"], encode("valid"), encode("test"), tokenizer, length)


def finetune(
    model: Transformer, task: Task, texts: EncodedTexts, rate: float, seed: int, machine: Machine,
    advance: Advance,
) -> Classifier:  # fmt: skip
    """Fine-tune a copy of a model: bidirectional, mean pooling, all layers at one rate."""
    classifier = Classifier(copy.deepcopy(model), len(task.classes)).to(machine.device)
    for module in classifier.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT
    lengths, pad_id = np.array([len(text) for text in texts.tokens]), task.tokenizer.special.pad
    epochs = range(max(PASSES, round(TEXTS / len(lengths))))
    batches = [rows for i in epochs for rows in epoch_batches(lengths, BATCH_SIZE, seed, i)]

    def batch(step: int) -> list[list]:
        some = [texts.tokens[row] for row in batches[step]]
        padded = pad(some, pad_id, most=task.length)  # tokens, is_real (B, T)
        return [machine.tensors((*padded, texts.labels[batches[step]]))]

    formula = lambda m, tokens, real, labels: classification_nll(m(tokens, real), labels)
    loss, how = MixedPrecision(classifier, formula, machine.dtype), (rate, WEIGHT_DECAY)
    optimizers = make_optimizers(classifier, "muon", *how, orthogonalise=fast_orthogonalise)
    plan = training.Plan(len(batches), WARMUP, 1 - WARMUP, seed)
    for step, _ in training.train(classifier, loss, batch, optimizers, plan):
        advance(step / len(batches))
    return classifier


def probabilities(classifier: Classifier, texts: list[np.ndarray]) -> np.ndarray:
    """P(label | text), (N, C)."""
    return np.exp(classify.label_log_probabilities(classifier, texts, causal=False))


def results(texts: EncodedTexts, p: np.ndarray) -> dict:
    """What is kept of a test, per text: {"predicted", "confidence", "right"}, by P (N, C)."""
    predicted = p.argmax(1)
    return {"predicted": predicted.tolist(), "right": (predicted == texts.labels).tolist(),
            "confidence": p.max(1).astype(float).round(4).tolist()}  # fmt: skip


def bag_of_tokens(task: Task, train: EncodedTexts) -> dict:
    """`results` of TF-IDF over the token ids, of the cut texts too, and logistic regression."""
    sizes = task.tokenizer.vocab_size, len(task.classes)
    return results(task.test, np.exp(classify.bag_of_tokens(train, task.test, *sizes)))


@torch.inference_mode()
def features(model: Transformer, task: Task, texts: EncodedTexts) -> np.ndarray:
    """The mean hidden state of each text after each layer, both ways visible: (L + 1, N, D)."""
    model.eval()
    shape = model.config.n_layers + 1, len(texts.tokens), model.config.d_model
    found, pad_id = np.zeros(shape, dtype=np.float32), task.tokenizer.special.pad
    order = np.argsort([len(text) for text in texts.tokens], kind="stable")
    for rows in (order[i : i + 64] for i in range(0, len(order), 64)):
        batch = pad([texts.tokens[row] for row in rows], pad_id, most=task.length)
        tokens, is_real = (torch.as_tensor(a, device=model.embedding.weight.device) for a in batch)
        with recorded(model, weights=False) as kept:
            last = model(tokens, causal=False, is_real=is_real)
        for layer, state in enumerate([*kept.states[:-1], last]):  # the last one normed
            found[layer, rows] = pool(state, is_real, "mean").float().cpu().numpy()
    return found


def probe(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The labels (M,) that logistic regression predicts from features (N, D), (M, D) which no label
    has touched."""
    from sklearn.linear_model import LogisticRegression

    mean, scale = train.mean(0), train.std(0) + 1e-6
    model = LogisticRegression(C=0.01, max_iter=300).fit((train - mean) / scale, labels)
    return model.predict((test - mean) / scale)


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
    texts = task._replace(train=[Example(text, "pos") for text in filled]).draw(len(filled), 0)
    p = probabilities(classifier, texts.tokens)[:, task.classes.index("pos")]
    return (p[::2] - p[1::2]).astype(float).round(5).tolist()
