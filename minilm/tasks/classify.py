"""A label for a text: what `train_finetune.py --task classify` learns."""

from collections import namedtuple

import numpy as np
import torch
from torch import Tensor, nn

from minilm import metrics
from minilm.config import UserError
from minilm.corpora.files import Example
from minilm.data import frame
from minilm.heads import Classifier, classification_nll
from minilm.tasks.task import Task

# tokens (T,), the number of the label, and whether the text was too long
Row = namedtuple("Row", "tokens label cut")
DECAY = 10.0  # of the bag of tokens


class Classify(Task):
    """A label for a text: `classes` are the sorted labels. `solve` finds log P(y | text), (N, C),
    `predict` P."""

    columns = (("accuracy", "accuracy", "{:.1%}"), ("macro_f1", "macro F1", "{:.1%}"),
               ("loss", "loss", "{:.2f}"),
               ("calibration_error", "calibration error", "{:.1%}"))  # fmt: skip

    def classes_of(self, examples: list[Example]) -> list[str]:
        return sorted({example.label for example in examples})

    def labels(self, examples: list[Example]) -> np.ndarray:
        """Their numbers, (N,). Raises UserError for a label that train lacks."""
        number = {name: i for i, name in enumerate(self.classes)}
        try:
            return np.array([number[example.label] for example in examples], dtype=np.int64)
        except KeyError as error:
            raise UserError(f"the label {error} was never learnt; this run knows "
                            f"{', '.join(self.classes[:8])}") from None  # fmt: skip

    def encode(self, examples: list[Example]) -> list[Row]:
        """Too long texts keep head and tail."""
        most, special = self.config.max_length, self.tokenizer.special
        texts = [self.tokenizer.encode(example.text) for example in examples]
        framed = [frame(tokens, most, special) for tokens in texts]
        return list(map(Row, framed, self.labels(examples), [len(t) > most - 2 for t in texts]))

    def collate(self, rows: list[Row]) -> tuple[np.ndarray, ...]:
        """tokens, is_real (B, T), labels (B,)."""
        return *self.padded(rows), np.array([row.label for row in rows])

    def loss(self, model: Classifier, tokens, is_real, labels) -> tuple[Tensor, Tensor]:
        """- Σ log P(y | w_1 … w_n; θ)."""
        logits = model(tokens, is_real, self.config.attention == "causal")
        return classification_nll(logits, labels)

    @torch.inference_mode()
    def solve(self, model: Classifier, rows: list[Row], examples) -> np.ndarray:
        found = np.zeros((len(rows), len(self.classes)), dtype=np.float32)
        for which, (tokens, is_real, _) in self.in_batches(model.eval(), rows):
            logits = model(tokens, is_real, self.config.attention == "causal")  # (B, C)
            found[which] = logits.float().log_softmax(-1).cpu().numpy()
        return found

    def scores(self, log_p: np.ndarray, examples: list[Example]) -> dict:
        """Loss (nats a text), accuracy, macro F1, calibration error; what they are made of."""
        labels, C = self.labels(examples), len(self.classes)
        confusion = metrics.confusion_matrix(labels, log_p.argmax(1), C)
        loss = float(-log_p[np.arange(len(labels)), labels].mean())
        return dict(loss=loss, accuracy=metrics.accuracy(confusion),
                    macro_f1=metrics.macro_f1(confusion), confusion=confusion,
                    right=(log_p.argmax(1) == labels).astype(int),
                    calibration_error=metrics.calibration_error(np.exp(log_p), labels))  # fmt: skip

    def report(self, row: dict) -> str:
        return report(row["confusion"], self.classes)

    def simpler(self) -> dict[str, np.ndarray]:
        train, test = self.data["train"], self.data[self.part]
        bag = bag_of_tokens(train, test, self.tokenizer.vocab_size, len(self.classes))
        # Which label is the largest, a draw in balance does not know: that of the tested texts is.
        shares = np.bincount([row.label for row in test], minlength=len(self.classes)) / len(test)
        always = np.log(np.tile(shares, (len(test), 1)) + 1e-9)
        return {"a bag of tokens": bag, "always the largest class": always}

    def unlabelled(self, text: str) -> Example:
        return Example(text, self.classes[0])

    def predict(self, model: Classifier, texts: list[str]) -> np.ndarray:
        return np.exp(super().predict(model, texts))

    def told(self, text: str, p: np.ndarray) -> tuple[str, dict]:
        best = p.argsort()[::-1][:10]
        row = dict(text=text, label=self.classes[p.argmax()], probability=round(float(p.max()), 6))
        return "\n".join(f"{p[i]:6.1%}  {self.classes[i]}" for i in best), row


def report(confusion: np.ndarray, classes: list[str], most: int = 10) -> str:
    """For people to read: accuracy with its interval, macro F1, each label's scores; with up to
    `most` labels the confusion matrix, with more the ten most confused pairs."""
    n, few = int(confusion.sum()), len(classes) <= most
    low, high = (100 * bound for bound in metrics.wilson_interval(np.trace(confusion), n))
    width, cell = max(map(len, classes)), len(f"{confusion.max()}") + 2
    share, f1 = 100 * metrics.accuracy(confusion), 100 * metrics.macro_f1(confusion)
    lines = [f"accuracy {share:.1f} % (95 % interval {low:.1f} to {high:.1f}, {n:,} texts), "
             f"macro F1 {f1:.1f} %"]  # fmt: skip
    lines.append(f"{'':{width}}  precision  recall     F1" + "   (true, predicted) counts" * few)
    each = zip(classes, metrics.precision_recall_f1(confusion), confusion, strict=True)
    for name, scores, row in each:
        shares = "  ".join(f"{100 * score:5.1f} %" for score in scores)
        counts = "".join(f"{count:{cell}}" for count in row) if few else ""
        lines.append(f"{name:{width}}    {shares}{counts}")
    wrong = confusion * (1 - np.eye(len(classes), dtype=int))
    for pair in [] if few else np.argsort(-wrong, axis=None, kind="stable")[:10]:
        true, predicted = (classes[i] for i in divmod(pair, len(classes)))
        if n := wrong.flat[pair]:
            lines.append(f"{n} x {true} taken for {predicted}")
    return "\n".join(lines)


def tf_idf(texts: list[np.ndarray], idf: np.ndarray) -> Tensor:
    """A text as (1 + ln count) · idf of each token, scaled to length 1: sparse (N, V)."""
    V = len(idf)
    places = np.concatenate([i * V + text.astype(np.int64) for i, text in enumerate(texts)])
    places, counts = np.unique(places, return_counts=True)
    row, token = np.divmod(places, V)
    weight = (1 + np.log(counts)) * idf[token]
    weight /= np.sqrt(np.bincount(row, weight**2))[row]
    where, values = torch.from_numpy(np.stack([row, token])), torch.from_numpy(weight).float()
    return torch.sparse_coo_tensor(where, values, (len(texts), V), check_invariants=False)


def bag_of_tokens(train: list[Row], test: list[Row], vocab_size: int, n_classes: int) -> np.ndarray:
    """A linear layer over the TF-IDF of the very tokens that the network is given, trained with the
    same loss: it knows no order. Returns log P(y | text) of the test texts, (N, C).

    Logistic regression with a penalty of |W|² / (2 · DECAY), by L-BFGS, which finds its minimum."""
    texts, tested = ([row.tokens for row in rows] for rows in (train, test))
    occur = np.bincount(np.concatenate([*map(np.unique, texts)]), minlength=vocab_size)
    idf = np.log((1 + len(texts)) / (1 + occur)) + 1  # occur: texts that hold a token
    x, y = tf_idf(texts, idf), torch.tensor([row.label for row in train])
    W = torch.zeros(vocab_size, n_classes, dtype=x.dtype, requires_grad=True)
    b = torch.zeros(n_classes, dtype=x.dtype, requires_grad=True)
    solver = torch.optim.LBFGS([W, b], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = classification_nll(torch.sparse.mm(x, W) + b, y)[0] + W.square().sum() / (2 * DECAY)
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        logits = torch.sparse.mm(tf_idf(tested, idf), W) + b
    return nn.functional.log_softmax(logits, dim=-1).numpy()
