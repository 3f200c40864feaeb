"""How good is it, and how sure are we? For labels, everything comes from the confusion matrix; for
a language model, from sums of nats that are divided once."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from minilm.config import NonFiniteError
from minilm.data import pad
from minilm.heads import Classifier
from minilm.model import Transformer
from minilm.objectives import IGNORE, Batch, token_nll


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """How often label i was taken for label j: (C, C) counts, rows the truth.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
    array([[1, 1],
           [0, 1]])
    """
    pairs = np.bincount(labels * n_classes + predicted, minlength=n_classes**2)
    return pairs.reshape(n_classes, n_classes)


def accuracy(confusion: np.ndarray) -> float:
    """The share of texts whose label was found."""
    return float(np.trace(confusion) / confusion.sum())


def precision_recall_f1(confusion: np.ndarray) -> np.ndarray:
    """For each label (C, 3): of those predicted, the share that were right (precision); of those
    that occur, the share that was found (recall); their harmonic mean, F1 = 2PR / (P + R). Where a
    share has nothing to be a share of, it is 0."""
    right = np.diag(confusion).astype(float)
    predicted, occur = confusion.sum(0), confusion.sum(1)
    precision, recall = right / np.maximum(predicted, 1), right / np.maximum(occur, 1)
    return np.stack([precision, recall, 2 * right / np.maximum(predicted + occur, 1)], axis=1)


def macro_f1(confusion: np.ndarray) -> float:
    """The mean F1 over the labels that occur in truth or prediction, rare ones counting as much as
    frequent ones. A label that occurs in neither has no F1.

    >>> macro_f1(np.diag([3, 5, 0]))
    1.0
    """
    there = confusion.sum(0) + confusion.sum(1) > 0
    return float(precision_recall_f1(confusion)[there, 2].mean())


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """A 95 % interval for a share measured on n texts (Wilson 1927).

    >>> [round(bound, 3) for bound in wilson_interval(90, 100)]
    [0.826, 0.945]
    """
    z, share = 1.959964, right / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error, Σ_m |B_m| / n · |accuracy(B_m) - confidence(B_m)| (Guo et al.
    2017, arXiv 1706.04599, eq. 3): B_m are the texts whose likeliest label has a probability in
    ((m - 1) / bins, m / bins]. probabilities (N, C), labels (N,)."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.ceil(confidence * bins).astype(int)
    gaps = np.bincount(bin_of, weights=right - confidence)  # |B_m| (accuracy - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """A language model's loss on a text of n_bytes, whatever its tokens: nats / (n_bytes ln 2)."""
    return nats / (n_bytes * math.log(2))


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout and without gradients; afterwards the model is in the mode that it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def evaluate_language_model(
    model: Transformer,
    batches: Iterable[dict[str, Batch]],
    token_bytes: Sequence[bytes] | None = None,
) -> dict[str, float]:
    """The loss on validation text, in nats a target: "causal_loss" and "masked_loss", for each name
    that occurs in the batches; "masked_accuracy", the share of masked tokens that were the first
    choice; and, if token_bytes says which bytes each token stands for, "bits_per_byte" (causal).

    Sums (nats, targets) over all batches and divides once. Raises NonFiniteError where a value is
    not finite."""
    sums: dict[str, float] = defaultdict(float)
    n_bytes = None if token_bytes is None else np.array([len(piece) for piece in token_bytes])
    device = model.embedding.weight.device
    with evaluating(model):
        for name, batch in ((name, batch) for named in batches for name, batch in named.items()):
            inputs, targets = (torch.from_numpy(ids).to(device) for ids in batch[:2])  # (B, T)
            has_target = targets != IGNORE
            targets = targets[has_target]  # (N,)
            logits = model.logits(model(inputs, causal=batch.causal)[has_target])  # (N, V)
            sums[f"{name}_nats"] += token_nll(logits, targets)[0].item()
            sums[f"{name}_count"] += len(targets)
            sums[f"{name}_right"] += (logits.argmax(-1) == targets).sum().item()
            sums[f"{name}_bytes"] += 0 if n_bytes is None else n_bytes[targets.cpu()].sum()
    names = [name for name in ("causal", "masked") if f"{name}_count" in sums]
    values = {f"{name}_loss": sums[f"{name}_nats"] / sums[f"{name}_count"] for name in names}
    if "causal" in names and n_bytes is not None:
        values["bits_per_byte"] = bits_per_byte(sums["causal_nats"], sums["causal_bytes"])
    if "masked" in names:
        values["masked_accuracy"] = sums["masked_right"] / sums["masked_count"]
    if not all(map(math.isfinite, values.values())):
        raise NonFiniteError(
            "the validation loss is not finite: the weights have grown too large; try a lower "
            "--learning-rate"
        )
    return values


def label_log_probabilities(
    classifier: Classifier,
    texts: Sequence[np.ndarray],
    causal: bool,
    pad_id: int = 0,
    batch_size: int = 64,
) -> np.ndarray:
    """log P(y | w_1 … w_n; θ) for each text, an array of token ids: (N, C), in their order. Texts
    of about the same length share a batch."""
    device = classifier.head.weight.device
    found = np.zeros((len(texts), classifier.head.out_features), dtype=np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")
    with evaluating(classifier):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = pad([texts[row] for row in rows], pad_id)
            logits = classifier(*(torch.from_numpy(a).to(device) for a in batch), causal)
            found[rows] = logits.float().log_softmax(-1).cpu().numpy()
    return found


def label_probabilities(classifier: Classifier, texts: Sequence[np.ndarray], causal: bool, **how):
    """P(y | w_1 … w_n; θ): the exponential of `label_log_probabilities`, (N, C)."""
    return np.exp(label_log_probabilities(classifier, texts, causal, **how))


def evaluate_labels(log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """ "loss" (nats a text), "accuracy", "macro_f1" of log_probabilities (N, C), labels (N,)."""
    n, n_classes = log_probabilities.shape
    confusion = confusion_matrix(labels, log_probabilities.argmax(1), n_classes)
    loss = -log_probabilities[np.arange(n), labels].mean(dtype=np.float64)
    return dict(loss=float(loss), accuracy=accuracy(confusion), macro_f1=macro_f1(confusion))


def report(confusion: np.ndarray, classes: Sequence[str], most: int = 30) -> str:
    """Accuracy with its interval, macro F1, and for each label precision, recall and F1, for people
    to read; with up to `most` labels the confusion matrix, with more the ten most confused pairs.
    """
    n, right, scores = (
        int(confusion.sum()),
        int(np.trace(confusion)),
        precision_recall_f1(confusion),
    )
    low, high = wilson_interval(right, n)
    small, width = len(classes) <= most, max(map(len, classes))
    cells = max(5, len(str(confusion.max())) + 1)
    lines = [
        f"accuracy {100 * right / n:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f}, "
        f"{n:,} texts), macro F1 {100 * macro_f1(confusion):.1f} %",
        f"{'':{width}}  precision  recall     F1   "
        + "true label in rows, predicted in columns" * small,
    ]
    for name, row_scores, row in zip(classes, scores, confusion, strict=True):
        shares = "  ".join(f"{100 * score:5.1f} %" for score in row_scores)
        counts = "".join(f"{count:{cells}}" for count in row) if small else ""
        lines.append(f"{name:{width}}    {shares}  {counts}".rstrip())
    if not small:
        wrong = confusion - np.diag(np.diag(confusion))
        for flat in np.argsort(-wrong, axis=None, kind="stable")[:10]:
            true, called = divmod(int(flat), len(classes))
            if wrong[true, called]:
                lines.append(f"{wrong[true, called]} x {classes[true]} taken for {classes[called]}")
    return "\n".join(lines)
