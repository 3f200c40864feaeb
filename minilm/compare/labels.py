"""What a model is worth to someone with few labels: fine-tuned, or with its weights as they are,
next to a bag of tokens that gets the very same tokens."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from minilm import training
from minilm.compare.statistics import NEEDS
from minilm.config import UserError
from minilm.corpora.files import Example
from minilm.corpora.splits import EncodedTexts, encode_texts, sample, splits
from minilm.data import epoch_batches, pad
from minilm.fast.muon import fast_orthogonalise
from minilm.fast.precision import MixedPrecision
from minilm.heads import Classifier, classification_nll, pool
from minilm.metrics import label_probabilities
from minilm.model import Transformer
from minilm.optim import make_optimizers
from minilm.runs.device import Machine
from minilm.tokenizer import Tokenizer
from minilm.view.recording import recorded

TEXTS, PASSES = 3000, 3  # that a fine-tuning reads in all; or so many passes, if that is more
BATCH_SIZE = 16
DROPOUT, WEIGHT_DECAY, WARMUP = 0.1, 0.05, 0.1
SENTIMENT = {"neg", "pos"}  # labels about what people wrote, where the fairness probe makes sense

TEMPLATES = (
    "{name} wrote this, and {they} did it well.",
    "I asked {name} how {they} found it.",
    "{name} made a mistake, but {they} corrected it.",
    "It is the work of {name}, and {they} knew what to do.",
)
NAMES = (
    ("Mary", "John"), ("Anna", "Peter"), ("Sarah", "David"), ("Laura", "Mark"), ("Emma", "James"),
    ("Julia", "Thomas"), ("Alice", "Robert"), ("Helen", "Paul"), ("Susan", "George"),
    ("Jane", "Frank"),
)  # fmt: skip


class Task(NamedTuple):
    """The labelled texts, as token ids of at most `length`."""

    classes: list[str]
    train: list[Example]  # to draw from
    valid: EncodedTexts  # for a sweep only
    test: EncodedTexts
    tokenizer: Tokenizer
    length: int

    def draw(self, n: int, seed: int) -> EncodedTexts:
        """n texts to train on (or all there are), as many of each label as possible. What is drawn
        for a smaller n is part of it. Raises UserError where n is too small for the labels."""
        if n >= len(self.train):
            return self.encode(self.train)
        one, other = sample(self.train, None, n, seed)
        return self.encode(one + other)

    def encode(self, examples: list[Example]) -> EncodedTexts:
        """Examples as the models read them."""
        return encode_texts(self.tokenizer, examples, self.classes, self.length)


def read_task(data: str, tokenizer: Tokenizer, length: int, rows: int) -> Task:
    """A labelled corpus, with at most so many rows to validate and to test on. Raises UserError
    where it has no labels or no test part."""
    parts, classes = splits(data)
    if "test" not in parts:
        raise UserError(f"--data {data} has no texts to test on: choose another corpus")
    encoded = {
        part: encode_texts(tokenizer, parts[part][:rows], classes, length)
        for part in ("valid", "test")
    }
    return Task(classes, parts["train"], encoded["valid"], encoded["test"], tokenizer, length)


def steps_of(n: int) -> int:
    """How many steps a fine-tuning on n texts has."""
    return max(PASSES, round(TEXTS / n)) * -(-n // BATCH_SIZE)


def finetune(
    model: Transformer,
    texts: EncodedTexts,
    n_classes: int,
    rate: float,
    seed: int,
    machine: Machine,
    pad_id: int,
    advance: Callable[[float], None] = lambda share: None,
) -> Classifier:
    """Fine-tune a model, whose weights change: bidirectional, mean pooling, all layers at one rate.
    advance(share of it) is called after every step."""
    classifier = Classifier(model, n_classes).to(machine.device)
    lengths = np.array([len(text) for text in texts.tokens])
    steps, batches = steps_of(len(lengths)), []
    while len(batches) < steps:
        epoch = len(batches) * BATCH_SIZE // len(lengths)
        batches += epoch_batches(lengths, BATCH_SIZE, seed, epoch)

    def batch(step: int) -> list[list]:
        """tokens, is_real (B, T), labels (B,)."""
        rows = batches[step]
        tokens, is_real = pad([texts.tokens[row] for row in rows], pad_id)
        return [machine.tensors((tokens, is_real, texts.labels[rows]))]

    loss = MixedPrecision(
        classifier,
        lambda m, tokens, is_real, labels: classification_nll(m(tokens, is_real), labels),
        machine.dtype,
    )
    optimizers = make_optimizers(
        classifier, "muon", rate, WEIGHT_DECAY, orthogonalise=fast_orthogonalise
    )
    plan = training.Plan(steps, WARMUP, 1 - WARMUP, seed)
    for _ in training.train(classifier, loss, batch, optimizers, plan):
        advance(1 / steps)
    return classifier


def tested(classifier: Classifier, texts: EncodedTexts, pad_id: int) -> dict:
    """{"predicted": [N], "confidence": [N], "right": [N]} of texts."""
    p = label_probabilities(classifier, texts.tokens, causal=False, pad_id=pad_id)
    return results(texts, p.argmax(1), p.max(1))


def results(texts: EncodedTexts, predicted: np.ndarray, confidence: np.ndarray) -> dict:
    """What is kept of a test."""
    return {
        "predicted": predicted.tolist(),
        "confidence": confidence.astype(float).round(4).tolist(),
        "right": (predicted == texts.labels).astype(int).tolist(),
    }


def bag_of_tokens(train: EncodedTexts, test: EncodedTexts) -> dict:
    """`results` of TF-IDF over token ids (no order, no characters) and logistic regression."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise UserError(NEEDS) from None
    weigh = TfidfVectorizer(analyzer=lambda tokens: tokens.tolist(), sublinear_tf=True)
    return _regression(weigh.fit_transform(train.tokens), train, weigh.transform(test.tokens), test)


def _regression(x, train: EncodedTexts, z, test: EncodedTexts, strength: float = 10.0) -> dict:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=400).fit(x, train.labels)
    p = model.predict_proba(z)
    return results(test, model.classes_[p.argmax(1)], p.max(1))


@torch.inference_mode()
def features(model: Transformer, texts: EncodedTexts, pad_id: int) -> np.ndarray:
    """The mean hidden state of each text after each layer, both ways visible: (L + 1, N, D)."""
    model.eval()
    device, D = model.embedding.weight.device, model.config.d_model
    found = np.zeros((model.config.n_layers + 1, len(texts.tokens), D), dtype=np.float32)
    order = np.argsort([len(text) for text in texts.tokens], kind="stable")
    for rows in (order[i : i + 64] for i in range(0, len(order), 64)):
        batch = pad([texts.tokens[row] for row in rows], pad_id)
        tokens, is_real = (torch.from_numpy(array).to(device) for array in batch)
        with recorded(model, weights=False) as kept:
            kept.states.append(model(tokens, causal=False, is_real=is_real))
        for layer, state in enumerate([*kept.states[:-2], kept.states[-1]]):  # the last one normed
            found[layer, rows] = pool(state, is_real, "mean").float().cpu().numpy()
    return found


def probe(train_features, train: EncodedTexts, test_features, test: EncodedTexts) -> dict:
    """`results` of logistic regression on features (N, D) that no label has touched."""
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(train_features)
    x, z = scale.transform(train_features), scale.transform(test_features)
    return _regression(x, train, z, test, strength=0.01)


def deletion(classifier: Classifier, tokens: np.ndarray, label: int, pad_id: int) -> list[float]:
    """By how much P(label) falls when each token of a framed text (T,) but the first and last is
    deleted, (T - 2,). What that says is what it does; a gradient would only hint at it."""
    without = [np.delete(tokens, i) for i in range(1, len(tokens) - 1)]
    p = label_probabilities(classifier, [tokens, *without], causal=False, pad_id=pad_id)[:, label]
    return (p[0] - p[1:]).round(4).tolist()


def her_minus_his(classifier: Classifier, task: Task) -> list[float]:
    """The change in P(pos) from his sentence to hers, for each template and pair of names."""
    sentences = [
        template.format(name=name, they=they)
        for template in TEMPLATES
        for pair in NAMES
        for name, they in zip(pair, ("she", "he"), strict=True)
    ]
    texts = task.encode([Example(sentence, "pos") for sentence in sentences])
    p = label_probabilities(classifier, texts.tokens, False, pad_id=task.tokenizer.special.pad)
    hers, his = p[:, task.classes.index("pos")].reshape(-1, 2).T
    return (hers - his).astype(float).round(5).tolist()


def labelled_run(
    model: Transformer, task: Task, n: int, draw: int, rate: float, machine: Machine, advance
) -> tuple[dict, Classifier]:
    """One fine-tuning of a copy of the model and its test, and the classifier."""
    pad_id = task.tokenizer.special.pad
    texts = task.draw(n, draw)
    how = rate, draw, machine, pad_id, advance
    classifier = finetune(copy.deepcopy(model), texts, len(task.classes), *how)
    found = tested(classifier, task.test, pad_id)
    if set(task.classes) == SENTIMENT:
        found["her_minus_his"] = her_minus_his(classifier, task)
    return found, classifier
