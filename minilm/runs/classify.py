"""Classification as `train_finetune.py` needs it: data, model, loss, evaluation, baselines."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from minilm import metrics
from minilm.corpora.splits import EncodedTexts, encode_texts, splits
from minilm.data import pad
from minilm.heads import Classifier, classification_nll
from minilm.runs.report import report
from minilm.runs.task import Task


class Classify(Task):
    """A label for a text: `classes` are the sorted labels."""

    columns = ("accuracy", "accuracy", "{:.1%}"), ("macro_f1", "macro F1", "{:.1%}")

    @property
    def causal(self) -> bool:
        """What a position may see."""
        return self.config.attention == "causal"

    def read(self):
        """The parts, and the labels."""
        config = self.config
        return splits(
            config.data, config.train, config.valid, config.test, config.labels, config.seed,
            config.text_column, config.label_column, config.encoding,
        )  # fmt: skip

    def encode(self, examples) -> EncodedTexts:
        """The tokens, and the numbers of the labels."""
        return encode_texts(self.tokenizer, examples, self.classes, self.config.max_length)

    @property
    def train(self) -> EncodedTexts:
        """The texts to train on."""
        return self.data["train"]

    def texts(self, part: str) -> list[np.ndarray]:
        """The tokens of each text."""
        return self.data[part].tokens

    def __str__(self) -> str:
        name, most = self.config.train or self.config.data, self.config.max_length
        sizes = ", ".join(f"{len(x.tokens):,} texts to {part}" for part, x in self.data.items())
        return (
            f"{name}: {len(self.classes)} labels, {sizes}; {self.train.share_cut:.1%} are longer "
            f"than {most} tokens and were cut"
        )

    def loss(self, model: Classifier, tokens, is_real, labels) -> tuple[Tensor, Tensor]:
        """- Σ log P(y | w_1 … w_n; θ) of a batch: (sum of nats, number of texts)."""
        return classification_nll(model(tokens, is_real, self.causal), labels)

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The texts of a step: tokens, is_real (B, T), labels (B,)."""
        rows, most = self.rows(step), self.config.max_length
        texts = [self.train.tokens[row] for row in rows]
        return *pad(texts, self.tokenizer.special.pad, most=most), self.train.labels[rows]

    def log_probabilities(self, model: Classifier, part: str) -> np.ndarray:
        """log P(y | text) of each text of a part, (N, C)."""
        pad_id = self.tokenizer.special.pad
        return label_log_probabilities(model, self.data[part].tokens, self.causal, pad_id)

    def evaluate(self, model: Classifier, part: str) -> tuple[float, dict]:
        """The share of a part's texts that is wrong, and its loss, accuracy and macro F1."""
        values = scores(self.log_probabilities(model, part), self.data[part].labels)
        return 1 - values["accuracy"], values

    def test(self, model: Classifier) -> dict:
        """What `evaluate` measures of the test part, and the confusion matrix."""
        log_p, labels = self.log_probabilities(model, self.part), self.data[self.part].labels
        confusion = metrics.confusion_matrix(labels, log_p.argmax(1), len(self.classes))
        return scores(log_p, labels) | {"confusion": confusion}

    def report(self, row: dict) -> str:
        """Each label's scores, and what is taken for what."""
        return report(row["confusion"], self.classes)

    def baselines(self) -> dict[str, dict]:
        """Two that might win: always the largest class; a bag of tokens."""
        labels = self.data[self.part].labels
        largest = np.bincount(self.train.labels).argmax()
        always = np.full((len(labels), len(self.classes)), -30.0)
        always[:, largest] = 0.0
        bag = bag_of_tokens(
            self.train, self.data[self.part], self.tokenizer.vocab_size, len(self.classes)
        )
        rows = {"a bag of tokens": bag, "always the largest class": always}
        return {name: scores(log_p, labels) for name, log_p in rows.items()}


def scores(log_p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss (nats a text), accuracy and macro F1. log_p (N, C), labels (N,)."""
    confusion = metrics.confusion_matrix(labels, log_p.argmax(1), log_p.shape[1])
    return {
        "loss": float(-log_p[np.arange(len(labels)), labels].mean()),
        "accuracy": metrics.accuracy(confusion),
        "macro_f1": metrics.macro_f1(confusion),
    }


def tf_idf(texts: list[np.ndarray], idf: np.ndarray) -> Tensor:
    """A text as (1 + ln count) · idf of each token, scaled to length 1: sparse (N, V)."""
    rows, columns, values = [], [], []
    for i, text in enumerate(texts):
        tokens, counts = np.unique(text, return_counts=True)
        weight = (1 + np.log(counts)) * idf[tokens]
        rows.append(np.full(len(tokens), i))
        columns.append(tokens.astype(np.int64))
        values.append(weight / max(np.linalg.norm(weight), 1e-12))
    where = torch.from_numpy(np.stack([np.concatenate(rows), np.concatenate(columns)]))
    numbers = torch.from_numpy(np.concatenate(values)).float()
    return torch.sparse_coo_tensor(where, numbers, (len(texts), len(idf)), check_invariants=False)


def bag_of_tokens(
    train: EncodedTexts, test: EncodedTexts, vocab_size: int, n_classes: int, decay: float = 10.0
) -> np.ndarray:
    """A linear layer over the TF-IDF of the very tokens that the network is given, trained with the
    same loss: it knows no order. Returns log P(y | text) of the test texts, (N, C).

    Logistic regression with a penalty of |W|² / (2 · `decay`), by L-BFGS, which finds its minimum.
    """
    found = np.zeros(vocab_size)
    for text in train.tokens:
        found[np.unique(text)] += 1
    idf = np.log((1 + len(train.tokens)) / (1 + found)) + 1
    x, y = tf_idf(train.tokens, idf), torch.from_numpy(train.labels)
    W = torch.zeros(vocab_size, n_classes, requires_grad=True)
    b = torch.zeros(n_classes, requires_grad=True)
    solver = torch.optim.LBFGS([W, b], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss, _ = classification_nll(torch.sparse.mm(x, W) + b, y)
        loss = loss + W.square().sum() / (2 * decay)
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        logits = torch.sparse.mm(tf_idf(test.tokens, idf), W) + b
    return nn.functional.log_softmax(logits, dim=-1).numpy()


@torch.inference_mode()
def label_log_probabilities(
    classifier: Classifier, texts: Sequence[np.ndarray], causal: bool, pad_id=0, batch_size=64
) -> np.ndarray:
    """log P(y | w_1 … w_n; θ) of each text, an array of token ids: (N, C), in the texts' order."""
    classifier.eval()
    device, most = classifier.head.weight.device, classifier.transformer.config.max_length
    found = np.zeros((len(texts), classifier.head.out_features), dtype=np.float32)
    order = np.argsort([len(text) for text in texts], kind="stable")  # little padding in a batch
    for rows in (order[i : i + batch_size] for i in range(0, len(order), batch_size)):
        batch = pad([texts[row] for row in rows], pad_id, most=most)
        logits = classifier(*(torch.as_tensor(a, device=device) for a in batch), causal)
        found[rows] = logits.float().log_softmax(-1).cpu().numpy()
    return found
