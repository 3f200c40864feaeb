"""Texts with labels: read, split, sampled, cut to length, and batched by length."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from minilm.config import FinetuneConfig, UserError
from minilm.corpora import Example, labelled, read_examples
from minilm.data import draws
from minilm.special import Special
from minilm.tokenizer import OURS, PAD, Tokenizer

HELD_OUT = 0.1  # of train, where no validation part is given
ROUND = 16  # tokens, of which a batch's length is a multiple


class Batch(NamedTuple):
    """Texts padded to one length."""

    tokens: np.ndarray  # (B, T) int64
    is_real: np.ndarray  # (B, T) bool, True where a token is not padding
    labels: np.ndarray  # (B,) int64


class LabelledTexts(NamedTuple):
    """Encoded texts and the numbers of their labels."""

    tokens: list[np.ndarray]  # one (T_i,) uint16 a text
    labels: np.ndarray  # (N,) int64
    share_cut: float  # of the texts, that were longer than max_length


def read_splits(config: FinetuneConfig) -> tuple[dict[str, list[Example]], list[str]]:
    """The examples of "train", "valid" and (if there is one) "test", and the sorted label names.

    A missing validation part is taken from train, by distinct text, so that no text is in both.
    Raises UserError for fewer than two labels, or a label that train does not have.
    """
    if config.train:
        files = dict(train=config.train, valid=config.valid, test=config.test)
        columns = config.text_column, config.label_column, config.encoding
        splits = {part: read_examples(f, *columns) for part, f in files.items() if f}
    else:
        splits = dict(labelled(config.data))
    source = config.train or config.data
    if "valid" not in splits:
        stay = {e.label: e.text for e in splits["train"]}  # one text of every label
        texts = sorted({e.text for e in splits["train"]} - set(stay.values()))
        if not texts:
            raise UserError(f"{source} has too few texts to hold some out: give more, or --valid")
        order = draws(config.seed, 0, "valid").permutation(len(texts))
        held_out = {texts[i] for i in order[: max(1, round(HELD_OUT * len(texts)))]}
        splits["valid"] = [e for e in splits["train"] if e.text in held_out]
        splits["train"] = [e for e in splits["train"] if e.text not in held_out]
    classes = sorted({example.label for example in splits["train"]})
    check_labels(classes, splits, str(source))
    return splits, classes


def check_labels(classes: list[str], splits: dict[str, list[Example]], source: str) -> None:
    """Raise UserError for labels that cannot be learnt or are probably not meant; warn of texts
    that are in train and in another part."""
    if len(classes) < 2:
        raise UserError(f"{source} has {len(classes)} label to learn, {classes}: give two or more")
    for part, examples in splits.items():
        unknown = sorted({e.label for e in examples} - set(classes))
        if unknown:
            raise UserError(
                f"{part} has the label {unknown[0]!r}, which train never shows (it has "
                f"{', '.join(classes[:8])}): correct it, or add examples to train"
            )
    numbers: dict[float, str] = {}
    for name in classes:
        with contextlib.suppress(ValueError):
            twin = numbers.setdefault(float(name), name)
            if twin != name:
                raise UserError(
                    f"{source} has the labels {twin!r} and {name!r}, one number written in two "
                    f"ways: write it in one"
                )
    rows = len(splits["train"])
    if len(classes) > max(2, rows / 2):
        raise UserError(
            f"{source} has {len(classes)} labels in {rows} rows to train on, more than half as "
            f"many: choose the column of labels with --label-column"
        )
    known = {example.text for example in splits["train"]}
    for part in sorted(splits.keys() - {"train"}):
        again = sum(example.text in known for example in splits[part])
        if again:
            print(
                f"warning: {again} of the {len(splits[part])} texts in {part} are in train, too, "
                f"where they can be learnt by heart",
                file=sys.stderr,
            )


def nested_sample(examples: list[Example], n: int, seed: int) -> list[Example]:
    """n examples, as many of each label as there are, and all of those in a smaller sample.

    Raises UserError where there are fewer than n, or fewer than one a label.
    """
    return [examples[i] for i in nested_indices([e.label for e in examples], n, seed)]


def nested_indices(labels: Sequence, n: int, seed: int) -> list[int]:
    """Where in a list of labels `nested_sample` finds its examples."""
    by_label: dict = {}
    for i in draws(seed, 0, "labels").permutation(len(labels)):
        by_label.setdefault(labels[i], []).append(int(i))
    if not len(by_label) <= n <= len(labels):
        raise UserError(
            f"--labels {n}: train has {len(labels)} texts with {len(by_label)} labels, so give a "
            f"number from {len(by_label)} to {len(labels)}"
        )
    rounds = sorted(
        (turn, label, i) for label, group in by_label.items() for turn, i in enumerate(group)
    )
    return [i for _, _, i in rounds[:n]]


def frame(words: np.ndarray, max_length: int, special: Special = OURS) -> np.ndarray:
    """A text's tokens as pretraining saw documents, between two <doc>: (T <= max_length,) uint16.

    Of a text that is too long the head and the tail stay, one to three: reviews end with their
    verdict (Sun et al. 2019, arXiv 1905.05583, section 5.3.1).
    """
    room = max_length - 2
    if len(words) > room:
        head = room // 4
        words = np.concatenate([words[:head], words[len(words) - (room - head) :]])
    return np.concatenate([[special.begin], words, [special.end]]).astype(np.uint16)


def encode_examples(
    tokenizer: Tokenizer, examples: list[Example], classes: list[str], max_length: int
) -> LabelledTexts:
    """Encode every text and number every label."""
    words = [tokenizer.encode(example.text) for example in examples]
    number = {name: i for i, name in enumerate(classes)}
    labels = np.array([number[example.label] for example in examples], dtype=np.int64)
    share_cut = np.mean([len(w) > max_length - 2 for w in words])
    tokens = [frame(w, max_length, tokenizer.special) for w in words]
    return LabelledTexts(tokens, labels, float(share_cut))


def pad(texts: list[np.ndarray], length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Texts of unequal length as one array: tokens (B, T) int64, is_real (B, T) bool. T is the
    longest text's length, or `length` if that is more."""
    lengths = np.array([len(text) for text in texts])
    is_real = np.arange(max(lengths.max(), length)) < lengths[:, None]
    tokens = np.full(is_real.shape, PAD, dtype=np.int64)
    tokens[is_real] = np.concatenate(texts)
    return tokens, is_real


def batch_of(data: LabelledTexts, indices: np.ndarray) -> Batch:
    """The texts with these indices as one padded batch.

    Its length is a multiple of ROUND, unless no text at all is that long: for each size of a
    product in bfloat16 the CPU's library builds and keeps code, and memory grew and grew."""
    texts = [data.tokens[i] for i in indices]
    rounded = -(-max(map(len, texts)) // ROUND) * ROUND
    length = min(rounded, max(map(len, data.tokens)))
    return Batch(*pad(texts, length), data.labels[indices])


def epoch_batches(data: LabelledTexts, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The indices of each batch of an epoch: random, but texts of like length together.

    Random texts in groups of 50 batches are sorted by length and cut into batches, and the batches
    shuffled: little is computed on padding, and yet the batches differ in every epoch.
    """
    rng = draws(seed, epoch, "batches")
    lengths = np.array([len(text) for text in data.tokens])
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), 50 * batch_size):
        group = order[start : start + 50 * batch_size]
        group = group[np.argsort(lengths[group], kind="stable")]
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def evaluation_batches(data: LabelledTexts, batch_size: int) -> Iterator[np.ndarray]:
    """The indices of all texts once, the longest together and first."""
    order = np.argsort([-len(text) for text in data.tokens], kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
