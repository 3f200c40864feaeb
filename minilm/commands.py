"""What `python -m minilm` does with a run folder, once `__main__.py` has read the arguments.

Everything that can be wrong with a run, a text or a file raises UserError.
"""

import codecs
import contextlib
import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from minilm import evaluation, metrics
from minilm import generate as language_model
from minilm.config import FinetuneConfig, UserError
from minilm.corpora import files, read_examples
from minilm.corpora.decoding import read_lines
from minilm.data import evaluation_windows, prepare
from minilm.device import Machine, choose_machine
from minilm.interop import export_run, find_folder, import_folder
from minilm.labelled import LabelledTexts, encode_examples, frame, read_splits
from minilm.objectives import Objective
from minilm.runs import Run


def import_(folder: str, run: str) -> None:
    """Write a run from a folder of Hugging Face's, or a name on its hub, and say what it is."""
    there = find_folder(folder.removeprefix("hf:"))
    shape = import_folder(there, Run(run)).model_config()
    objective = Run(run).flags("pretrain")["objective"]
    print(f"{run}: {shape.n_layers} x {shape.d_model}, {shape.vocab_size:,} words, {objective}")
    if objective == "masked" and not shape.head:
        print("it came without the part that scores words: fill would guess; fine-tune it instead")
    print(f"next: python train_finetune.py --pretrained {run}")


def export(run: str, folder: str) -> None:
    """Write a run as a folder of Hugging Face's, and say how to open it."""
    print(export_run(Run(run), Path(folder)))


def generate(
    run: str,
    prompt: str,
    tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    device: str,
) -> None:
    """Print the prompt and what follows it, each word as soon as it is chosen."""
    source = Run(run)
    if source.flags("pretrain")["objective"] == "masked":
        raise UserError(
            f"{run} was pretrained to fill in masks (--objective masked), which teaches no word "
            f"after the last: give a run of --objective causal or hybrid, or use fill"
        )
    machine, tokenizer = choose_machine(device), source.tokenizer
    # Every word reads every weight once, so half the bytes are up to half the time.
    model = source.transformer().to(machine.device, torch.bfloat16 if machine.bfloat16 else None)
    begin = tokenizer.encode(prompt)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a word may end inside a character
    print(decoder.decode(tokenizer.decode_bytes(begin)), end="", flush=True)
    how = dict(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    for word in language_model.generate(model, begin, tokens, tokenizer.special, **how):
        print(decoder.decode(tokenizer.decode_bytes([word])), end="", flush=True)
    print(decoder.decode(b"", final=True))


def fill(run: str, text: str, top: int, device: str) -> None:
    """Print the `top` likeliest words for each <mask> in a text, with their probabilities."""
    source = Run(run)
    objective, longest = source.flags("pretrain")["objective"], source.model_config().max_length
    # A word holds the space before it, " good": so what a mask stands for does, too.
    first, *others = re.split(" *<mask>", text)
    if not others:
        raise UserError('there is no <mask> in the text: write one, as in "The film was <mask> ."')
    tokenizer = source.tokenizer
    if tokenizer.special.mask is None:
        raise UserError(f"{run} has no word for a <mask>: use generate")
    parts = [tokenizer.encode(first)]
    for part in others:
        parts += [np.array([tokenizer.special.mask]), tokenizer.encode(part)]
    tokens = np.concatenate(parts)
    if len(tokens) + 2 > longest:  # <doc> stands before and after
        raise UserError(
            f"the text has {len(tokens)} tokens, and {run} reads {longest - 2} at most: shorten "
            f"it, or pretrain with a larger --max-length"
        )
    machine = choose_machine(device, "float32")
    model = source.transformer().to(machine.device)
    if objective == "causal":
        print(f"{run} is causal: it reads only what stands to the left of a <mask>")
    filled = language_model.fill(model, tokens, objective, top, tokenizer.special)
    for i, words in enumerate(filled, 1):
        print(f"<mask> {i} of {len(others)}")
        for word, probability in words:
            print(f"  {probability:6.1%}  {tokenizer.decode([word])!r}")


class Labeller:
    """A fine-tuned run, ready to label texts."""

    def __init__(self, run: str, device: str):
        source = Run(run)
        classifier, config = source.classifier()
        self.machine, self.tokenizer = choose_machine(device), source.tokenizer
        self.classifier = classifier.to(self.machine.device)
        self.flags, self.classes = config["flags"], config["classes"]
        self.max_length = config["model"]["max_length"]

    def probabilities(self, data: LabelledTexts) -> np.ndarray:
        """P(label | text) for every text, (N, C)."""
        causal = self.flags["attention"] == "causal"
        return evaluation.label_probabilities(self.classifier, data, causal, self.machine)

    def read(self, texts: list[str]) -> np.ndarray:
        """The same for texts as they are, (N, C)."""
        special = self.tokenizer.special
        tokens = [frame(self.tokenizer.encode(text), self.max_length, special) for text in texts]
        unlabelled = np.zeros(len(texts), dtype=np.int64)
        return self.probabilities(LabelledTexts(tokens, unlabelled, share_cut=0.0))


def predict_text(run: str, text: str, device: str) -> None:
    """Print the labels of a text, the likeliest first, with their probabilities."""
    labeller = Labeller(run, device)
    (row,) = labeller.read([text])
    for i in np.argsort(-row, kind="stable"):
        print(f"  {row[i]:6.1%}  {labeller.classes[i]}")


def predict_file(
    run: str, file: Path, out: Path | None, text_column: str, encoding: str, device: str
) -> None:
    """Write the likeliest label of every text of a file, in their order, to a new file."""
    labeller = Labeller(run, device)
    texts = texts_in(file, text_column, encoding)
    out = out or file.with_name(file.name + ".predicted.jsonl")
    with new_table(out) as write, tqdm(total=len(texts), unit=" texts", disable=None) as bar:
        for start in range(0, len(texts), 512):
            some = texts[start : start + 512]
            for text, row in zip(some, labeller.read(some), strict=True):
                write(text, labeller.classes[row.argmax()], round(float(row.max()), 6))
            bar.update(len(some))
    print(f"{len(texts):,} texts labelled in {out}")


def texts_in(path: Path, column: str, encoding: str) -> list[str]:
    """The lines of a .txt that are not blank, or the texts of a table's rows."""
    files.check_exists(path)
    if files.ending(path) == ".txt":
        return [line.strip() for line in read_lines(path, encoding) if line.strip()]
    rows = files.read_rows(path, {"--text-column": column}, encoding)
    return [files.text_of(row, column, path, line) for line, row in rows]


@contextlib.contextmanager
def new_table(path: Path) -> Iterator[Callable]:
    """Yield write(text, label, probability) for a new .jsonl or .csv, which is removed again if
    anything goes wrong. Raises UserError where the file is there already or cannot be made."""
    names = ("text", "label", "probability")
    if path.suffix not in (".jsonl", ".csv"):
        raise UserError(f"--out {path}: the name must end in .jsonl or .csv")
    try:
        file = path.open("x", encoding="utf-8", newline="")
    except FileExistsError:
        raise UserError(f"{path} exists: move it, or name another file with --out") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give --out") from None

    def write(*row):
        """Append a row."""
        if path.suffix == ".csv":
            csv.writer(file, lineterminator="\n").writerow(row)
        else:
            line = json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False)
            file.write(line + "\n")

    try:
        with file:
            if path.suffix == ".csv":
                write(*names)
            yield write
    except BaseException:
        path.unlink()
        raise


def evaluate(
    run: str,
    data: str | None,
    test: str | None,
    text_column: str,
    label_column: str,
    encoding: str,
    device: str,
) -> None:
    """Print how good a run is: on `data`, on the file `test`, or else on its own data."""
    if Run(run).config["kind"] == "finetune":
        examples = read_examples(test, text_column, label_column, encoding) if test else None
        evaluate_classifier(Labeller(run, device), data, test, examples)
    elif test:
        raise UserError(f"{run} learnt no labels to --test: give it a text with --data")
    else:
        own = {} if data is None else dict(data=[data], text_column=text_column, encoding=encoding)
        evaluate_language_model(Run(run), own, choose_machine(device))


def evaluate_language_model(run: Run, changes: dict, machine: Machine) -> None:
    """Print the losses on the validation part of the run's text; `changes` to its flags may name
    another."""
    tokenizer, flags = run.tokenizer, run.flags("pretrain") | changes
    if not flags["data"]:
        raise UserError(f"{run.folder} was imported without its text: name one with --data")
    model = run.transformer().to(machine.device)
    columns = flags["text_column"], flags["encoding"]
    text = prepare(flags["data"], tokenizer.vocab_size, tokenizer, *columns)
    size, seed = tokenizer.vocab_size, flags["seed"]
    objective = Objective(flags["objective"], size, seed, special=tokenizer.special)
    windows = evaluation_windows(text.valid, model.config.max_length)
    token_bytes = evaluation.bytes_per_token(tokenizer)
    values = evaluation.evaluate_language_model(model, objective, windows, machine, token_bytes)
    print(f"validation part of {' '.join(flags['data'])}, losses in nats a token:")
    for name, value in {**values, "unigram_entropy": text.unigram_entropy}.items():
        print(f"  {name.replace('_', ' '):18}{value:.3f}")


def evaluate_classifier(
    labeller: Labeller, data: str | None, test: str | None, examples: list | None
) -> None:
    """Print the report on these examples, or on the test part of `data`, or of the run's data."""
    flags, classes, name = labeller.flags, labeller.classes, test
    if examples is None:
        if data:
            flags = flags | dict(data=data, train=None, valid=None, test=None)
        splits, _ = read_splits(FinetuneConfig(**flags))
        part = "test" if "test" in splits else "valid"
        examples, name = splits[part], f"{part} part of {flags['train'] or flags['data']}"
    if unknown := sorted({example.label for example in examples} - set(classes)):
        raise UserError(
            f"{name} has the label {unknown[0]!r}, which this run never learnt: it knows "
            f"{', '.join(classes[:8])}"
        )
    texts = encode_examples(labeller.tokenizer, examples, classes, labeller.max_length)
    predicted = labeller.probabilities(texts).argmax(1)
    print(f"{name}:")
    print(metrics.report(metrics.confusion_matrix(texts.labels, predicted, len(classes)), classes))
