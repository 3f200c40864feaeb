"""What a model is worth on texts it was not trained on. Every random draw has a seed
of its own, so that nothing here leaves a trace in the training."""

import math
from collections import defaultdict

import numpy as np
import torch

from minilm import metrics
from minilm.config import NonFiniteError
from minilm.device import Machine
from minilm.generate import fill, generate
from minilm.heads import Classifier
from minilm.labelled import LabelledTexts, batch_of, evaluation_batches
from minilm.model import Transformer
from minilm.objectives import Objective, target_logits, token_nll
from minilm.tokenizer import Tokenizer


def bytes_per_token(tokenizer: Tokenizer) -> np.ndarray:
    """How many bytes of text each word stands for, (V,); none for the special tokens."""
    *special, _ = tokenizer.special
    words = range(tokenizer.vocab_size)
    return np.array([0 if w in special else len(tokenizer.decode_bytes([w])) for w in words])


@torch.inference_mode()
def evaluate_language_model(
    model: Transformer,
    objective: Objective,
    windows: np.ndarray,
    machine: Machine,
    token_bytes: np.ndarray,
    batch_size: int = 32,
) -> dict[str, float]:
    """The mean loss on validation windows (n, T + 1), for each reading that the objective trains.

    token_bytes (V,) says how many bytes each word stands for. Returns, in nats a target,
    "causal_loss" and "masked_loss"; "bits_per_byte" (causal), which does not depend on the
    tokenizer; and "masked_accuracy", the share of hidden words that were the first choice.
    Raises NonFiniteError where one of them is not finite.
    """
    model.eval()
    sums: dict[str, float] = defaultdict(float)
    for start in range(0, len(windows), batch_size):
        tasks = objective.evaluation_tasks(windows[start : start + batch_size], start)
        for name, task in tasks.items():
            with machine.autocast():
                inputs, targets = machine.tensors((task.inputs, task.targets))
                logits, targets = target_logits(model, inputs, targets, task.causal)
                loss_sum, count = token_nll(logits, targets)
            sums[f"{name}_loss"] += loss_sum.item()
            sums[f"{name}_count"] += count
            sums[f"{name}_right"] += (logits.argmax(-1) == targets).sum().item()
            sums[f"{name}_bytes"] += int(token_bytes[targets.cpu().numpy()].sum())
    values = {}
    for name in tasks:
        values[f"{name}_loss"] = sums[f"{name}_loss"] / sums[f"{name}_count"]
    if "causal" in tasks:
        nats_per_byte = sums["causal_loss"] / sums["causal_bytes"]
        values["bits_per_byte"] = nats_per_byte / math.log(2)
    if "masked" in tasks:
        values["masked_accuracy"] = sums["masked_right"] / sums["masked_count"]
    if not all(map(math.isfinite, values.values())):
        raise NonFiniteError(
            f"the validation loss is {sum(values.values())}: the weights have grown too large. Try "
            f"a lower --learning-rate"
        )
    return values


def show_language_model(
    model: Transformer, objective: str, tokenizer: Tokenizer, text: np.ndarray
) -> str:
    """What the model makes of a validation text (T,): its beginning continued, or hidden words
    filled in, whichever its objective trains."""
    special = tokenizer.special
    is_word = (text >= special.words.start) & (text < special.words.stop)
    words = text[is_word][: min(24, model.config.max_length - 2)]
    shown = []
    if objective in ("causal", "hybrid"):
        begin = words[:8]
        more = list(generate(model, begin, 24, special))
        shown.append(f"continued: {_line(tokenizer, begin)}[{_line(tokenizer, more)}]")
    if objective in ("masked", "hybrid"):
        hidden = words.copy()
        hidden[4::6] = special.mask
        filled = hidden.copy().astype(np.int64)
        best = fill(model, hidden, objective, 1, special)
        filled[hidden == special.mask] = [words[0][0] for words in best]
        parts = [
            f"[{_line(tokenizer, [word])}]" if was == special.mask else _line(tokenizer, [word])
            for word, was in zip(filled, hidden, strict=True)
        ]
        shown.append(f"filled in: {''.join(parts)}")
    return "".join(f"\n    {line}" for line in shown)


def _line(tokenizer: Tokenizer, tokens) -> str:
    return tokenizer.decode(tokens).replace("\n", "⏎")


@torch.inference_mode()
def label_probabilities(
    classifier: Classifier,
    data: LabelledTexts,
    causal: bool,
    machine: Machine,
    batch_size: int = 64,
) -> np.ndarray:
    """P(y | w_1 … w_n; θ) for every text, (N, C), in the order of the data."""
    classifier.eval()
    probabilities = np.zeros((len(data.tokens), classifier.head.out_features), dtype=np.float32)
    for indices in evaluation_batches(data, batch_size):
        batch = batch_of(data, indices)
        with machine.autocast():
            logits = classifier(*machine.tensors((batch.tokens, batch.is_real)), causal)
        probabilities[indices] = logits.float().softmax(-1).cpu().numpy()
    return probabilities


def evaluate_classifier(
    classifier: Classifier, data: LabelledTexts, causal: bool, machine: Machine
) -> dict[str, float]:
    """Loss (nats a text), accuracy and macro F1 on labelled texts."""
    probabilities = label_probabilities(classifier, data, causal, machine)
    of_truth = probabilities[np.arange(len(data.labels)), data.labels]
    predicted = probabilities.argmax(1)
    confusion = metrics.confusion_matrix(data.labels, predicted, probabilities.shape[1])
    return {
        "loss": float(-np.log(np.maximum(of_truth, 1e-12)).mean()),
        "accuracy": metrics.accuracy(confusion),
        "macro_f1": metrics.macro_f1(confusion),
    }
