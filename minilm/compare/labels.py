"""What a model is worth to someone with few labels: fine-tuned, or with its weights as they are,
next to a bag of tokens that gets the very same tokens."""

import copy
import functools
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from minilm import training
from minilm.config import UserError
from minilm.corpora.splits import divide, load
from minilm.data import epoch_batches
from minilm.fast.compute import MixedPrecision, fast_orthogonalise
from minilm.heads import Classifier, pool
from minilm.optim import make_optimizers
from minilm.tasks.classify import Classify, Row
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


class FewLabels(Classify):
    """The texts of a labelled corpus, at most `length` tokens of each: examples["train"] to draw
    from, and at most so many rows to test on (and, in a sweep, to validate on). Raises UserError
    where it has no labels, or nothing to test on."""

    def __init__(self, data: str, tokenizer, length: int, rows: int, machine):
        config = SimpleNamespace(task="classify", data=data, train=None, max_length=length,
                                 attention="bidirectional")  # fmt: skip
        self.examples = divide(load(config))
        if "test" not in self.examples:
            raise UserError(f"--data {data} has no texts to test on: choose another corpus")
        super().__init__(config, tokenizer, self.classes_of(self.examples["train"]))
        self.machine = machine
        self.data = {part: self.encode(self.examples[part][:rows]) for part in ("valid", "test")}

    def draw(self, n: int, seed: int) -> list[Row]:
        """n texts to train on (or all there are), as many of each label as possible."""
        train = self.examples["train"]
        if n < len(train):
            parts = divide({"train": train}, n, seed, balanced=True)
            train = parts["train"] + parts["valid"]
        return self.encode(train)

    def finetune(self, model, n: int, draw: int, rate: float, advance) -> Classifier:
        """A copy of a model, fine-tuned on n texts: bidirectional, mean pooling, all layers at one
        rate. `draw` decides which texts, and their order. advance(the share that is done)."""
        rows, classifier = self.draw(n, draw), Classifier(copy.deepcopy(model), len(self.classes))
        classifier.to(self.machine.device)
        for module in classifier.modules():
            if isinstance(module, nn.Dropout):
                module.p = DROPOUT
        lengths = np.array([len(row.tokens) for row in rows])
        epochs = range(max(PASSES, round(TEXTS / len(rows))))
        batches = [some for i in epochs for some in epoch_batches(lengths, BATCH_SIZE, draw, i)]
        batch = lambda step: [self.machine.tensors(self.collate([rows[i] for i in batches[step]]))]
        loss = MixedPrecision(classifier, self.loss, self.machine.dtype)
        orthogonalise = functools.partial(fast_orthogonalise, dtype=self.machine.dtype)
        how = "muon", rate, WEIGHT_DECAY
        optimizers = make_optimizers(classifier, *how, orthogonalise=orthogonalise)
        plan = training.Plan(len(batches), WARMUP, 1 - WARMUP, draw)
        for step, _ in training.train(classifier, loss, batch, optimizers, plan):
            advance(step / len(batches))
        return classifier

    def results(self, log_p: np.ndarray, part: str = "test") -> dict:
        """What is kept of each text: {"predicted", "confidence", "right"}. log_p (N, C)."""
        p, labels = np.exp(log_p), np.array([row.label for row in self.data[part]])
        return {"predicted": p.argmax(1).tolist(), "right": (p.argmax(1) == labels).tolist(),
                "confidence": p.max(1).astype(float).round(4).tolist()}  # fmt: skip

    def bag_of_tokens(self, n: int, draw: int) -> dict:
        """`results` of TF-IDF over the token ids, of the cut texts too, and logistic regression."""
        self.data["train"] = self.draw(n, draw)
        return self.results(self.simpler()["a bag of tokens"])

    @torch.inference_mode()
    def features(self, model, rows: list[Row]) -> np.ndarray:
        """The mean hidden state of each text after each layer, both ways visible: (L + 1, N, D)."""
        model.eval()
        shape = model.config.n_layers + 1, len(rows), model.config.d_model
        found = np.zeros(shape, dtype=np.float32)
        for which, (tokens, is_real, _) in self.in_batches(model, rows):
            kept = recorded(model, tokens, False, is_real, weights=False)
            for layer, state in enumerate([*kept.states[:-1], kept.hidden]):  # the last one normed
                found[layer, which] = pool(state, is_real, "mean").float().cpu().numpy()
        return found

    def frozen(self, model, sizes: list[int], draw: int) -> dict:
        """Right or not of each test text by logistic regression on features that no label has
        touched: {"layers": of each layer, with the first of these numbers of labels, "sizes":
        {each other: of the last layer}}."""
        from sklearn.linear_model import LogisticRegression

        of_test, found = self.features(model, self.data["test"]), {}
        labels = np.array([row.label for row in self.data["test"]])
        for n in sizes:
            rows = self.draw(n, draw)
            of_train, found[n] = self.features(model, rows), []
            for layer in range(0 if n == sizes[0] else len(of_test) - 1, len(of_test)):
                mean, scale = of_train[layer].mean(0), of_train[layer].std(0) + 1e-6
                probe = LogisticRegression(C=0.01, max_iter=300)
                probe.fit((of_train[layer] - mean) / scale, [row.label for row in rows])
                guesses = probe.predict((of_test[layer] - mean) / scale)
                found[n].append((guesses == labels).tolist())
        return {"layers": found.pop(sizes[0]), "sizes": {n: last for n, [last] in found.items()}}

    def deletion(self, classifier: Classifier, number: int) -> dict:
        """By how much P(label) of a test text falls when each of its tokens is deleted. That is
        what the token does; a gradient would only hint at it."""
        row = self.data["test"][number]
        without = [np.delete(row.tokens, i) for i in range(1, len(row.tokens) - 1)]
        rows = [row, *(row._replace(tokens=tokens) for tokens in without)]
        p = np.exp(self.solve(classifier, rows, None))[:, row.label].astype(float)
        pieces = [self.tokenizer.decode([token]) for token in row.tokens[1:-1]]
        return {"label": self.classes[row.label], "p": p[0], "tokens": pieces,
                "falls": (p[0] - p[1:]).round(4).tolist()}  # fmt: skip

    def her_minus_his(self, classifier: Classifier) -> list[float]:
        """The change in P(pos) from his sentence to hers, for each template and pair of names."""
        texts = [t.format(name=name, they=("she", "he")[i % 2])
                 for t in TEMPLATES for i, name in enumerate(NAMES)]  # fmt: skip
        p = self.predict(classifier, texts)[:, self.classes.index("pos")]
        return (p[::2] - p[1::2]).astype(float).round(5).tolist()
