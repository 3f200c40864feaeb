"""How good is it, and how sure are we?"""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch

from minilm.config import NonFiniteError, UserError
from minilm.model import Transformer
from minilm.objectives import IGNORE, Batch, token_nll


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """How often label i was taken for label j: (C, C) counts, rows the truth.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
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
    """The mean F1 over the labels that occur in truth or prediction: rare ones count as much as
    frequent ones, and those that occur in neither not at all.

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
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3):
    Σ_m |B_m| / N · |accuracy(B_m) - confidence(B_m)|, where B_m are the texts whose likeliest label
    has a probability in ((m - 1) / bins, m / bins]. probabilities (N, C), labels (N,)."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    m = np.ceil(confidence * bins).astype(int)  # (N,)
    gaps = np.bincount(m, weights=right - confidence)  # |B_m| (accuracy - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def bits_per_byte(nats: float, n_bytes: int) -> float:
    """A language model's loss on a text of n_bytes, whatever its tokens: nats / (n_bytes ln 2). The
    nats for <doc>, which is no byte of the text, are among them."""
    return nats / (n_bytes * math.log(2))


@torch.inference_mode()
def evaluate_language_model(
    model: Transformer, batches: Iterable[dict[str, Batch]], tokenizer=None
) -> dict[str, float]:
    """The loss on validation text in nats a target, "causal_loss" and "masked_loss" (whichever the
    batches have); "masked_accuracy", the share of masked tokens that the model finds likeliest;
    and, by the bytes of the tokenizer's ordinary tokens, "bits_per_byte" (causal). Sums over all
    batches and divides once. Raises NonFiniteError where a value is not finite."""
    model.eval()
    nats, count, right, n_bytes = Counter(), Counter(), 0, 0
    n_bytes_of = np.zeros(model.config.vocab_size, dtype=int)  # none of a special token
    for token in tokenizer.special.ordinary if tokenizer else ():
        n_bytes_of[token] = len(tokenizer.token_bytes[token])
    device = model.embedding.weight.device
    for name, batch in (item for named in batches for item in named.items()):
        inputs, targets = (torch.as_tensor(a, device=device) for a in batch[:2])  # (B, T)
        has_target = targets != IGNORE  # N of them True
        logits = model.logits(model(inputs, causal=batch.causal)[has_target])  # (N, V)
        nats[name] += token_nll(logits, targets[has_target])[0].item()
        count[name] += len(logits)
        if name == "masked":
            right += (logits.argmax(-1) == targets[has_target]).sum().item()
        else:
            n_bytes += n_bytes_of[batch.targets].sum()
    if not all(count[name] for name in nats):
        raise UserError("the text has no token to predict: give more text")
    values = {f"{name}_loss": nats[name] / count[name] for name in nats}
    values |= {"masked_accuracy": right / count["masked"]} if "masked" in nats else {}
    values |= {"bits_per_byte": bits_per_byte(nats["causal"], n_bytes)} if n_bytes else {}
    if not all(map(math.isfinite, values.values())):
        raise NonFiniteError("the validation loss is not finite: try a lower --learning-rate")
    return values
