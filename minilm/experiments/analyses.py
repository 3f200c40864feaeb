"""What is to be seen in one arm's net and its classifier, beyond an accuracy."""

from typing import NamedTuple

import numpy as np
import torch

from minilm.data import draws
from minilm.evaluation import label_probabilities
from minilm.experiments import fairness
from minilm.experiments.attention import look
from minilm.experiments.finetuning import LabelledTask, subset
from minilm.experiments.minimal_pairs import Pair, by_reading
from minilm.generate import fill, generate
from minilm.heads import Classifier
from minilm.labelled import LabelledTexts, batch_of, frame
from minilm.model import Transformer
from minilm.tokenizer import MASK, Tokenizer

BINS = 10
SENTENCE = "The names of the file are not the same."  # whose attention maps are drawn
ROWS = 500  # texts that a quick analysis looks at, of each part


class Pretrained(NamedTuple):
    """What is looked at; the objective of random weights is None."""

    model: Transformer
    tokenizer: Tokenizer
    objective: str | None

    @property
    def causal(self) -> bool:
        """The reading that the weights know best."""
        return self.objective == "causal"

    @property
    def readings(self) -> list[str]:
        """The readings that the weights were taught."""
        both = {"hybrid": ["causal", "masked"], None: []}
        return both.get(self.objective, [self.objective])


def analyse(
    run: Pretrained,
    classifier: Classifier,
    task: LabelledTask,
    seed: int,
    quick: bool,
    pairs: list[Pair],
    windows: np.ndarray,
) -> dict:
    """An entry of "analyses" in results.json:

    {"calibration": {"bins": [{"confidence", "accuracy", "texts"}], "error", "temperature",
                     "error_scaled"},
     "probe": [accuracy, one a layer: the embedding, then every block],
     "examples": [{"begin", "continued"} or {"hidden", "filled"}],
     "attributions": [{"label", "said", "words": [[word, score], ...]}],
     "pairs": {reading: {phenomenon: share}}, where `pairs` has any,
     "attention": what attention.look returns, by reading, over windows (n, T) of validation text,
     "fairness": what fairness.probe returns}

    What random weights were taught no reading of has neither pairs nor attention.
    """
    rows = ROWS if quick else 10 * ROWS
    parts = {part: subset(data, np.arange(min(rows, len(data.tokens))))
             for part, data in task.encoded.items()}  # fmt: skip
    return {
        "calibration": calibration(classifier, parts["valid"], parts["test"], task),
        "probe": probe(run, parts, len(task.classes), task.machine.device),
        "examples": examples(run, task, seed),
        "attributions": attributions(classifier, parts["test"], task, run.tokenizer),
        "pairs": by_reading(run.model, run.tokenizer, run.objective, pairs),
        "attention": look(run.model, run.tokenizer, run.readings, SENTENCE, windows),
        "fairness": fairness.probe(lambda texts: said_of(classifier, task, run, texts),
                                   task.classes),
    }  # fmt: skip


def said_of(
    classifier: Classifier, task: LabelledTask, run: Pretrained, texts: list[str]
) -> np.ndarray:
    """P(label | text) for texts as they are, (N, C)."""
    longest = task.recipe.max_length
    tokens = [frame(run.tokenizer.encode(text), longest) for text in texts]
    unlabelled = LabelledTexts(tokens, np.zeros(len(texts), dtype=np.int64), 0.0)
    return label_probabilities(classifier, unlabelled, False, task.machine)


def calibration(
    classifier: Classifier, valid: LabelledTexts, test: LabelledTexts, task: LabelledTask
) -> dict:
    """Is it right as often as it is sure? Reliability and expected calibration error on test texts,
    before and after temperature scaling (Guo et al. 2017, arXiv 1706.04599): logits over one T,
    chosen on validation texts."""
    on_valid, on_test = (
        label_probabilities(classifier, data, False, task.machine) for data in (valid, test)
    )
    T = best_temperature(on_valid, valid.labels)
    bins, error = reliability(on_test, test.labels)
    _, scaled = reliability(tempered(on_test, T), test.labels)
    return {"bins": bins, "error": error, "temperature": T, "error_scaled": scaled}


def tempered(probabilities: np.ndarray, T: float) -> np.ndarray:
    """softmax(log p / T) of every row, (N, C)."""
    powers = np.maximum(probabilities.astype(float), 1e-12) ** (1 / T)
    return powers / powers.sum(1, keepdims=True)


def best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Of 61 temperatures from 1/8 to 8 the one with the least negative log-likelihood."""

    def nll(T: float) -> float:
        """The mean, in nats a text."""
        return -np.log(tempered(probabilities, T)[np.arange(len(labels)), labels]).mean()

    return float(min(2.0 ** np.linspace(-3, 3, 61), key=nll))


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> tuple[list[dict], float]:
    """Texts binned by how sure the classifier is of its first choice: in each bin the mean
    confidence and the share that is right; and the expected calibration error, the mean distance of
    the two over all texts."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    bin_of = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        {
            "confidence": float(sure[bin_of == i].mean()),
            "accuracy": float(right[bin_of == i].mean()),
            "texts": int((bin_of == i).sum()),
        }
        for i in np.unique(bin_of)
    ]
    error = sum(b["texts"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(labels)
    return bins, error


@torch.inference_mode()
def layers(run: Pretrained, data: LabelledTexts, device: torch.device) -> list[np.ndarray]:
    """The mean vector of every text after the embedding and after each block, (N, D) each."""
    model = run.model.to(device).eval()
    kept: list[torch.Tensor] = []
    modules = [model.embedding, *model.blocks]
    hooks = [m.register_forward_hook(lambda _, __, out: kept.append(out)) for m in modules]
    found: list[list[np.ndarray]] = [[] for _ in modules]
    try:
        for start in range(0, len(data.tokens), 64):
            kept.clear()
            batch = batch_of(data, np.arange(start, min(start + 64, len(data.tokens))))
            tokens, is_real = (torch.from_numpy(a).to(device) for a in batch[:2])
            model(tokens, causal=run.causal, is_real=is_real)
            weight = is_real[..., None].float()
            for vectors, hidden in zip(found, kept, strict=True):
                mean = (hidden.float() * weight).sum(1) / weight.sum(1)
                vectors.append(mean.cpu().numpy().astype(float))
    finally:
        for hook in hooks:
            hook.remove()
    return [np.concatenate(vectors) for vectors in found]


def probe(
    run: Pretrained, parts: dict[str, LabelledTexts], n_classes: int, device: torch.device
) -> list[float]:
    """Where does the label live? The test accuracy of a linear classifier on each layer's vectors,
    which do not change (Alain and Bengio 2016, arXiv 1610.01644).

    Linear means ridge regression on one-hot labels here, W = (XᵀX + λI)⁻¹ XᵀY, since that has one
    solution; λ is chosen on validation texts.
    """
    X = {part: layers(run, data, device) for part, data in parts.items()}
    Y = np.eye(n_classes)[parts["train"].labels]
    accuracies = []
    for train, valid, test in zip(X["train"], X["valid"], X["test"], strict=True):
        mean, spread = train.mean(0), train.std(0) + 1e-6
        A, V, B = (np.pad((x - mean) / spread, ((0, 0), (0, 1)), constant_values=1.0)
                   for x in (train, valid, test))  # fmt: skip
        tried = []
        for strength in (1.0, 10.0, 100.0, 1000.0):
            W = np.linalg.solve(A.T @ A + strength * np.eye(A.shape[1]), A.T @ Y)
            good = ((V @ W).argmax(1) == parts["valid"].labels).mean()
            tried.append((good, ((B @ W).argmax(1) == parts["test"].labels).mean()))
        accuracies.append(float(max(tried, key=lambda pair: pair[0])[1]))
    return accuracies


def examples(run: Pretrained, task: LabelledTask, seed: int, n: int = 3) -> list[dict]:
    """The same beginnings of test texts continued, and with every sixth word hidden filled in,
    whichever the objective teaches; hidden words and what fills them stand in brackets."""
    decode, shown = run.tokenizer.decode, []
    chosen = draws(seed, 0, "sample").choice(len(task.examples["test"]), n, replace=False)
    for i in chosen:
        words = run.tokenizer.encode(task.examples["test"][i].text)[:24]
        if run.objective in ("causal", "hybrid"):
            more = list(generate(run.model, words[:10], 20, seed=seed))
            shown.append({"begin": decode(words[:10]), "continued": decode(more)})
        if run.objective in ("masked", "hybrid"):
            hidden = np.arange(len(words)) % 6 == 4
            asked = np.where(hidden, MASK, words)
            guesses = iter(fill(run.model, asked, run.objective, top=1))
            said = [
                f"[{decode([next(guesses)[0][0]])}]" if is_hidden else decode([word])
                for word, is_hidden in zip(words, hidden, strict=True)
            ]
            shown.append({"hidden": decode(words), "filled": "".join(said)})
    return shown


def attributions(
    classifier: Classifier,
    test: LabelledTexts,
    task: LabelledTask,
    tokenizer: Tokenizer,
    right: int = 4,
    wrong: int = 2,
) -> list[dict]:
    """Which words drove a prediction? Gradient times input (Shrikumar et al. 2016, arXiv
    1605.01713) on the first texts that are labelled right and the first that are labelled wrong."""
    predicted = label_probabilities(classifier, test, False, task.machine).argmax(1)
    good = predicted == test.labels
    found = []
    for i in (*np.flatnonzero(good)[:right], *np.flatnonzero(~good)[:wrong]):
        scores = gradient_times_input(classifier, test.tokens[i], int(predicted[i]))
        words = [tokenizer.decode([word]) for word in test.tokens[i]]
        found.append(
            {
                "label": task.classes[test.labels[i]],
                "said": task.classes[predicted[i]],
                "words": [[w, float(s)] for w, s in zip(words, scores, strict=True)],
            }
        )
    return found


def gradient_times_input(classifier: Classifier, text: np.ndarray, label: int) -> np.ndarray:
    """x_i · ∂ logit[label] / ∂ x_i for the embedding x_i of every word of a text (T,): how much the
    logit would change, in a straight line, if the word's vector went to zero. Returns (T,)."""
    kept = []

    def keep(module, arguments, x) -> None:
        """Note the embedded words and ask for their gradient."""
        x.retain_grad()
        kept.append(x)

    classifier.eval()
    tokens = torch.from_numpy(text.astype(np.int64))[None].to(classifier.head.weight.device)
    hook = classifier.transformer.embedding.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = classifier(tokens, torch.ones_like(tokens, dtype=torch.bool), causal=False)
            logits[0, label].backward()
    finally:
        hook.remove()
    classifier.zero_grad()
    (x,) = kept
    return (x * x.grad).sum(-1)[0].detach().cpu().numpy()
