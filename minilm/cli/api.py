"""Trained models as Python objects: what `minilm.load` returns. A test runs the examples."""

import codecs
import copy
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import minilm
from minilm import generate, heads, metrics, objectives
from minilm.cli.estimator import Model, at_least, labelled, listed
from minilm.cli.options import FinetuneConfig, PretrainConfig, saved_options
from minilm.config import UserError
from minilm.corpora.tables import write_rows
from minilm.corpora.tokens import prepare
from minilm.data import evaluation_windows, frame, in_chunks, pad
from minilm.tasks import TASKS
from minilm.tasks.task import by_length
from minilm.view.recording import recorded, token_name

BATCH = 32  # rows computed at a time
LEARNT = (  # the flags of a fine-tuning that say how is learnt, not from what
    "pretrained", "from_scratch", "pooling", "attention", "freeze", "layer_decay", "max_length",
    "epochs", "batch_size", "accumulate", "learning_rate", "optimizer", "weight_decay", "dropout",
    "patience", "precision", "compile", "seed",
)  # fmt: skip


class Score(NamedTuple):
    """How well a text was predicted."""

    nats: float  # a token
    perplexity: float  # e to the nats
    tokens: int  # that were predicted


class LanguageModel(Model):
    """A pretrained run.

    >>> lm = load("runs/pretrain-1")
    """

    def __init__(self, run: str, device: str = "auto"):
        super().__init__(run, device)
        self.model = self.opened.transformer().to(self._machine.device).eval()
        self.objective = self.config["flags"]["objective"]
        self.causal = self.objective == "causal"  # whether all it has learnt is to look back
        self.shift = 1 if self.causal else self.config["flags"].get("shift") or 0  # BERT's: 0
        self.max_length = self.model.config.max_length

    def generate(
        self, prompt: str = "", tokens: int = 100, *, temperature: float = 0.8,
        top_k: int | None = 50, top_p: float | None = 0.95, seed: int = 0, stream: bool = False,
    ) -> str | Iterator[str]:  # fmt: skip
        """What follows the prompt, up to `tokens` tokens or the end of the document; with stream
        piece by piece, each as soon as it is drawn. Raises UserError where the run has learnt only
        to fill in masks.

        >>> text = lm.generate("Return the", tokens=4, seed=1)
        >>> text == "".join(lm.generate("Return the", tokens=4, seed=1, stream=True))
        True
        """
        if self.objective == "masked":
            raise UserError(f"{self.run} has learnt to fill in masks only: use fill, or a run of "
                            f"--objective causal or hybrid")  # fmt: skip
        self.must_predict()
        at_least(0, tokens=tokens, seed=seed)
        at_least(1, top_k=1 if top_k is None else top_k)
        how = dict(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
        ids, bytes_of = self._ids(prompt), self.tokenizer.decode_bytes
        drawn = generate.sample(self.model, ids, tokens, self.tokenizer.special, **how)
        parts = (bytes_of([token]) for token in drawn)
        pieces = codecs.iterdecode(parts, "utf-8", "replace")  # a token may end in a character
        if bytes_of(ids[-1:]).endswith(b" ") and not prompt.endswith(" "):  # some vocabularies have
            pieces = (" " * (i == 0) + piece for i, piece in enumerate(pieces))  # words end in it
        return pieces if stream else "".join(pieces)

    def fill(self, text: str, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each <mask> in the text the likeliest tokens and their probabilities. A causal run
        sees only what stands before the mask.

        >>> [(token, p)] = lm.fill("Return the <mask>.", top=1)[0]
        >>> 0 < p <= 1
        True
        """
        self.must_predict()
        at_least(1, top=top)
        own = re.escape(getattr(self.tokenizer, "mask_token", None) or "<mask>")
        # A token holds the space before it, " good": so what a mask stands for does, too.
        parts = re.split(f" *(?:<mask>|{own})", text) if isinstance(text, str) else [text]
        ids = [np.append(self._ids(part), self._mask) for part in parts]
        if len(parts) == 1:
            raise UserError('there is no <mask> in the text: write one, "The film was <mask>."')
        tokens, most = np.concatenate(ids)[:-1], self.max_length - 2
        if (n := len(tokens)) > most:
            raise UserError(f"the text has {n} tokens, {self.run} sees {most}: shorten it")
        how = self.tokenizer.special, self.causal, self.shift, top
        filled = generate.fill_masks(self.model, tokens, *how)
        return [[(self.tokenizer.decode([i]), p) for i, p in best] for best in filled]

    @property
    def _mask(self) -> int:
        if self.tokenizer.special.mask is None:
            raise UserError(f"{self.run} has no <mask>: use generate, or score with causal=True")
        return self.tokenizer.special.mask

    def must_predict(self) -> None:
        """Raise UserError where the weights came without what turns hidden states into tokens."""
        if not getattr(self.model.config, "head", True):
            raise UserError(f"{self.run} came without what predicts tokens: use encode, or "
                            f"fine-tune it")  # fmt: skip

    def score(self, text: str, causal: bool | None = None) -> Score:
        """How well the run predicts each token of a text: from what stands before it (causal), or
        from all the rest, itself masked (causal=False: pseudo-perplexity; Salazar et al. 2020,
        arXiv 1910.14659). None: causal unless the run has learnt masks only. A text longer than the
        window is cut into windows."""
        self.must_predict()
        causal = self.objective != "masked" if causal is None else causal
        ids = self._ids(text)
        if not len(ids):
            raise UserError("the text has no token to predict")
        tokens = np.append(self.tokenizer.special.bos, ids).astype(np.int64)
        windows = in_chunks(evaluation_windows(tokens, self.max_length, most=len(tokens)), BATCH)
        batches = map(objectives.causal, windows) if causal else self._masked(ids)
        name = "causal" if causal else "masked"
        named = ({name: batch} for batch in batches)
        nats = metrics.evaluate_language_model(self.model, named)[f"{name}_loss"]
        return Score(nats, float(np.exp(nats)), len(ids))

    def _masked(self, ids: np.ndarray) -> Iterator[objectives.Batch]:
        """Framed windows, each as often as it has tokens, in each row another one masked."""
        for part in in_chunks([ids], self.max_length - 2):
            window = frame(part, self.max_length, self.tokenizer.special).astype(np.int64)
            for places in in_chunks([np.arange(1, len(window) - 1)], BATCH):
                rows, inputs = np.arange(len(places)), np.tile(window, (len(places), 1))
                inputs[rows, places] = self._mask
                targets = np.full_like(inputs, objectives.IGNORE)
                targets[rows, places - self.shift] = window[places]
                yield objectives.Batch(inputs, targets, causal=False)

    def _framed(self, text: str) -> np.ndarray:
        """Its tokens between <doc> and <doc>; of too long ones head and tail."""
        return frame(self._ids(text), self.max_length, self.tokenizer.special)

    def encode(
        self, texts: Sequence[str], layer: int = -1, pooling: str | None = "mean",
        causal: bool | None = None,
    ) -> np.ndarray | list[np.ndarray]:  # fmt: skip
        """The hidden states of texts, (N, D) float32: after a layer (0: the embeddings, 1 the first
        block, ...; -1: the last, normed as for the logits), pooled ("mean", "last", "first"). With
        pooling=None one array (T, D) a text, a row for each of `tokens(text)`.

        >>> lm.encode(["a text", "another"]).shape == (2, lm.model.config.d_model)
        True
        """
        n, D = self.model.config.n_layers, self.model.config.d_model
        if layer not in range(-n - 1, n + 1) or pooling not in ("mean", "last", "first", None):
            raise UserError(f"layer {layer}, pooling {pooling!r}: choose a layer from 0 to {n} or "
                            f"-1, and mean, last, first or None")  # fmt: skip
        causal = self.causal if causal is None else causal
        frames = [self._framed(text) for text in listed(texts)]
        found: list = [None] * len(frames)
        for rows in by_length(frames, BATCH):
            batch = pad([frames[i] for i in rows], self.tokenizer.special.pad, most=self.max_length)
            tokens, is_real = self._machine.tensors(batch)
            with torch.inference_mode():
                kept = recorded(self.model, tokens, causal, is_real, weights=False)
                hidden = [*kept.states[:-1], kept.hidden][layer]  # (B, T, D)
                if pooling:
                    hidden = heads.pool(hidden, is_real, pooling)  # (B, D)
            for row, i in zip(hidden.cpu().numpy(), rows, strict=True):
                found[i] = row if pooling else row[: len(frames[i])]
        return np.array(found, np.float32).reshape(-1, D) if pooling else found

    transform = encode  # in a Pipeline of scikit-learn's: make_pipeline(lm, LogisticRegression())

    def fit(self, texts=None, labels=None) -> "LanguageModel":
        """Return self: there is nothing to learn before `transform`."""
        return self

    def attention(self, text: str, causal: bool | None = None) -> tuple[np.ndarray, list[str]]:
        """The attention weights of every layer and head, (L, H, T, T) float32: row t is how
        position t shares its attention out; and the T tokens."""
        [tokens] = self._machine.tensors([self._framed(text).astype(np.int64)[None]])
        with torch.inference_mode():
            kept = recorded(self.model, tokens, self.causal if causal is None else causal)
        return torch.cat(kept.weights).float().cpu().numpy(), self.tokens(text)

    def tokens(self, text: str) -> list[str]:
        """The tokens that the model sees, as they are shown: spaces as ␣, <doc> at both ends."""
        return [token_name(self.tokenizer, i) for i in self._framed(text).tolist()]

    def evaluate(self, data: str | None = None, test: str | None = None, **columns) -> None:
        """Print the losses on the validation part of a text: of `data`, read by these columns, or
        of the text that it was trained on. Raises UserError for a file to `test` on."""
        if test:
            raise UserError(f"{self.run} learnt no labels to --test: give it a text with --data")
        self.must_predict()
        flags, tokenizer = self.config["flags"], self.tokenizer
        if not (data or flags.get("data")):
            raise UserError(f"{self.run} was imported without its text: name one with --data")
        asked = {k: columns[k] for k in ("text_column", "encoding") if columns.get(k)}
        what = saved_options(PretrainConfig, dict(data=str(data), **asked) if data else flags)
        text = prepare(what, tokenizer)
        windows = in_chunks(evaluation_windows(text.valid, self.max_length), BATCH)
        how = self.objective, windows, tokenizer.special, self.shift
        batches = objectives.evaluation_batches(*how)
        values = metrics.evaluate_language_model(self.model, batches, tokenizer)
        print(f"validation part of {' '.join(what.data)}, losses in nats a token:")
        for name, value in {**values, "unigram_entropy": text.unigram_entropy}.items():
            print(f"  {name.replace('_', ' '):18}{value:.3f}")


class FineTuned(Model):
    """A fine-tuned run, of any task."""

    def __init__(self, run: str, device: str = "auto"):
        super().__init__(run, device)
        options = saved_options(FinetuneConfig, self.opened.of_kind("finetune")["flags"])
        self.model = self.opened.classifier().to(self._machine.device).eval()
        self.task = TASKS[options.task](options, self.tokenizer, self.config["classes"])

    def predict(self, texts: Sequence) -> Sequence:
        """For each text its words and their tags, [(word, tag), ...]; for each pair (context,
        question) its (answer, start, probability); or for each text its translation."""
        return self.task.predict(self.model, listed(texts, self.task.config.task == "answer"))

    def evaluate(self, data: str | None = None, test: str | None = None, **columns) -> None:
        """Print how good it is: on the corpus `data`, on the file `test`, or else on its own data;
        read by these columns (None: those that it was trained with)."""
        task = copy.copy(self.task)
        task.config = config = copy.copy(task.config)
        vars(config).update({name: value for name, value in columns.items() if value})
        if data and not test:
            config.data, config.train = data, None
        task.load_tested(test, None if data or test else self.config.get("checksum"))
        row = task.test(self.model)
        print(f"{task.part} part of {test or config.train or config.data}:")
        print(task.report(row))
        for key, heading, form in task.columns:
            print(f"  {heading:16} {form.format(row[key])}")


class Classifier(FineTuned):
    """A run that labels texts; an estimator of scikit-learn's, whose `fit` fine-tunes anew.

    >>> clf = load("runs/finetune-1")
    >>> texts = ["a text", "another", ""]
    >>> clf.predict(texts).shape, clf.predict_proba(texts).shape == (3, len(clf.classes_))
    ((3,), True)
    """

    def __init__(self, run: str, device: str = "auto"):
        super().__init__(run, device)
        self.classes_ = np.array(self.task.classes)  # the labels, (C,)

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """P(label | text), (N, C) float32, the labels in the order of `classes_`."""
        return super().predict(texts)

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """The likeliest label of each text, (N,)."""
        return self.classes_[self.predict_proba(texts).argmax(1)]

    def score(self, texts: Sequence[str], labels: Sequence, sample_weight=None) -> float:
        """The share of texts whose label is the likeliest: accuracy."""
        texts, labels = labelled(texts, labels)
        labels = labels.astype(self.classes_.dtype.type)
        if not np.isin(labels, self.classes_).any():
            raise UserError(f"none of these labels was learnt: {self.classes_[:8].tolist()} were")
        return float(np.average(self.predict(texts) == labels, weights=sample_weight))

    def fit(self, texts: Sequence[str], labels: Sequence) -> "Classifier":
        """Learn from these texts and labels instead: the pretrained weights of this run are
        fine-tuned anew, with its flags, in a folder that is not kept: `cross_val_score` never tests
        on what was learnt from. Returns self. Raises UserError where labels are missing."""
        texts, labels = labelled(texts, labels)
        classes, numbers = np.unique(labels, return_inverse=True)
        rows = (dict(text=text, label=f"{i:09}") for text, i in zip(texts, numbers, strict=True))
        flags = {k: v for k, v in self.config["flags"].items() if k in LEARNT}
        with tempfile.TemporaryDirectory() as folder:
            write_rows(file := Path(folder, "train.jsonl"), rows)
            flags |= dict(train=file, run=Path(folder, "run"), device=self.device)
            trained = minilm.finetune(baselines="none", **flags)
        self.model, self.task = trained.model, trained.task
        self.classes_ = classes[[int(name) for name in self.task.classes]]
        self.task.classes = [str(label) for label in self.classes_]
        return self
