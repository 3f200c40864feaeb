"""A run is a folder that says what was asked for, what happened, and what was learnt.

config.json      its kind, its flags with all defaults filled in, the model's family and shape
tokenizer.json   its tokenizer
metrics.jsonl    one line an event, appended; cut back to the checkpoint on resume
step-00000200.pt checkpoints: see `checkpoint.py`"""

import contextlib
import dataclasses
import itertools
import json
import os
import secrets
import weakref
from pathlib import Path

import torch
from torch import nn

from minilm.config import SIZES, ModelConfig, UserError
from minilm.corpora.tokenizer_file import load_tokenizer, to_json
from minilm.fast.compute import use_fast_attention
from minilm.heads import Answerer, Classifier, Tagger
from minilm.io.durable import damage, fits, read_bounded, read_json, sync, write_file, writing
from minilm.io.terminal import note
from minilm.model import Transformer
from minilm.runs import checkpoint

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes apart
    fcntl = None

FORMAT = 4  # of the folder
RUNS = Path("runs")
# What a config.json names: a family, model and shape, to which huggingface/ adds its own; a task.
FAMILIES: dict[str, tuple[type, type]] = {"ours": (Transformer, ModelConfig)}
HEADS = {  # (transformer, flags, number of classes) -> network
    "classify": lambda model, flags, C: Classifier(model, C, flags.get("pooling", "mean")),
    "tag": lambda model, flags, C: Tagger(
        model, C, flags["positions"], flags.get("pooling", "mean")
    ),
    "answer": lambda model, flags, C: Answerer(model, flags["positions"]),
    "translate": lambda model, flags, C: model,
}
SHAPE = {field.name: field.type for field in dataclasses.fields(ModelConfig)}
FORM = dict(id=str, kind=str, family=str, model=SHAPE, flags=dict, tokenizer=str)
# Imported runs have an objective, and nothing else of these.
PRETRAINED = dict(objective={"causal", "masked", "hybrid"}, shift={0, 1, None}, size={*SIZES, None})
FORMS = {
    "pretrain": dict(flags=PRETRAINED, train_tokens={int, None}, unigram_entropy={float, None}),
    "finetune": dict(flags=dict(max_length=int), classes=[str]),
}


class Run:
    """A run folder, open for reading; `claim` it before writing."""

    def __init__(self, folder: str | Path):
        self.folder = self.to_resume = Path(folder)
        self.release = lambda: None  # what a claim holds; a folder in which nothing was begun goes

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error) -> None:
        self.release()

    def part(self, name: str) -> "Run":
        """A training within this run, in a folder of its own: a trial of a search, a control."""
        part = Run(self.folder / name)
        part.to_resume = self.to_resume
        part.folder.mkdir(parents=True, exist_ok=True)
        return part

    @property
    def config(self) -> dict:
        """config.json. Raises UserError where it is not that of a run of this version."""
        path = self.folder / "config.json"
        if not path.exists():
            raise UserError(f"{self.folder} is not a run: it has no config.json")
        config = read_json(path, {})
        if (there := config.get("format")) != FORMAT:
            raise UserError(f"{path} is of format {there!r:.9}, that of another version of minilm; "
                            f"this one reads {FORMAT}: train the run anew")  # fmt: skip
        for name, part in (FORM | FORMS.get(str(config.get("kind")), {})).items():
            if not fits(config.get(name), part):
                raise UserError(f"{path} is damaged ({name} is missing, or not what it should be)")
        return config

    @property
    def result(self) -> dict:
        """result.json; {} until the run is finished. Raises UserError where it is damaged."""
        path = self.folder / "result.json"
        return read_json(path, {}) if path.exists() else {}

    def of_kind(self, kind: str) -> dict:
        """config.json. Raises UserError where it is not that of a run of this kind."""
        config = self.config
        if config["kind"] != kind:
            raise UserError(f"{self.folder} is a {config['kind']} run; this needs a {kind} run")
        return config

    @property
    def tokenizer(self):
        """The run's Tokenizer. Raises UserError where it is not the one that the run began with."""
        path = self.folder / "tokenizer.json"
        tokenizer = load_tokenizer(path)
        if tokenizer.fingerprint != self.config["tokenizer"]:
            raise UserError(f"{path} is not the tokenizer that this run was trained with")
        return tokenizer

    def claim(self, resume: bool) -> "Run":
        """Keep other processes from writing here, until `release` or the end of `with run:`.
        Raises UserError where one holds it, where a run would be written over (or there is none to
        resume), or where nothing can be written."""
        if resume:
            _there_is_one = self.config
        try:
            file = _locked(self.folder / "lock")
        except OSError as error:
            why = f"cannot be written to ({error.strerror})"
            if isinstance(error, BlockingIOError):
                why = "is in use by another process"
            raise UserError(f"{self.folder} {why}: name another folder with --run") from None
        self.release = weakref.finalize(self, _release, self.folder, file)
        if not resume and _holds_a_run(self.folder):  # only who holds the lock can know
            self.release()
            raise UserError(f"{self.folder} already holds a run: continue it with --resume, or "
                            f"name another folder with --run")  # fmt: skip
        return self

    def create(self, config: dict, tokenizer) -> None:
        """Write down what the run is: `config` has kind, family, model, flags (and classes)."""
        write_file(self.folder / "tokenizer.json", to_json(tokenizer).encode())
        facts = dict(format=FORMAT, id=secrets.token_hex(8), tokenizer=tokenizer.fingerprint)
        content = json.dumps(facts | config, indent=2)
        write_file(self.folder / "config.json", content.encode())  # last: now it is a run
        sync(self.folder)
        sync(self.folder.resolve().parent)

    def log(self, step: int, **values) -> None:
        """Append a line to metrics.jsonl: texts and finite numbers."""
        path = self.folder / "metrics.jsonl"
        with writing(path), open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl, for curves: {"step", "loss" or "score", ...}, up to
        the first that is damaged, which is said; one without an end is what a crash leaves."""
        path, lines = self.folder / "metrics.jsonl", []
        content = read_bounded(path) if path.exists() else b""
        for text in content.split(b"\n")[:-1]:
            try:
                line = json.loads(text)
                numbers = {key: value for key, value in line.items() if key != "sample"}
                form = {"step": int, "score" if "score" in line else "loss": float}
                if not (fits(numbers, {str: float}) and fits(line, form)):
                    raise ValueError("a number is missing, or none")
            except Exception as error:  # whatever is wrong with it
                note(f"{path} is damaged from line {len(lines) + 1} on: {error}")
                break
            lines.append(line)
        return lines

    def cut_metrics(self, step: int, scored: bool) -> None:
        """Drop what a resumed run writes again: the lines after a step, and a score not saved."""
        last = step, scored
        kept = [line for line in self.metrics() if (line["step"], "score" in line) <= last]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_file(self.folder / "metrics.jsonl", text.encode())

    def finish(self, result: dict) -> None:
        """Write result.json: what came out, for tables."""
        write_file(self.folder / "result.json", json.dumps(result, indent=2).encode())

    def model_config(self, **changes) -> ModelConfig:
        """The shape of the model, changed in places (a longer max_length, some dropout)."""
        config = self.config
        with damage(f"{self.folder / 'config.json'} is damaged: use another run"):
            return family(config["family"])[1](**config["model"] | changes)

    def transformer(self, **changes) -> Transformer:
        """The pretrained Transformer, its shape changed in places."""
        return self._network("pretrain", **changes)

    def classifier(self) -> nn.Module:
        """The fine-tuned network."""
        return self._network("finetune")

    def _network(self, kind: str, **changes) -> nn.Module:
        """With the weights of the best checkpoint. Raises UserError where they do not fit."""
        config, shape = self.of_kind(kind), self.model_config(**changes)
        best, n_classes = checkpoint.best(self.folder), len(config.get("classes", ()))
        weights = best.read("model")
        with damage(f"{best.file} does not fit the shape in config.json: use another run"):
            least = least_parameters(shape) + n_classes * shape.d_model
            if least > sum(weight.numel() for weight in weights.values()):
                raise ValueError("that of a larger model")  # which must not even be allocated
            model = make_model(shape, name=config["family"])
            if kind == "finetune":
                model = with_head(model, config["flags"], n_classes)
            for key, table in weights.items():
                if key.endswith("positions.weight"):  # a shorter window leaves its later rows out
                    weights[key] = table[: shape.max_length]
            model.load_state_dict(weights)
        return model


def make_model(shape: ModelConfig, seed: int = 0, name: str = "ours") -> Transformer:
    """A new Transformer of the family `name`, float32 whatever torch's default, with the fast
    attention: all models are made here."""
    with torch.random.fork_rng([]):  # torch's layers draw, before the seed does; the caller's stays
        return use_fast_attention(family(name)[0](shape, seed).float())


def family(name: str) -> tuple[type[Transformer], type[ModelConfig]]:
    """The classes of a family's model and of its shape: "ours", or one of huggingface/."""
    if name not in FAMILIES:
        raise UserError(f"the family {name!r:.50} is not one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def with_head(transformer: Transformer, flags: dict, n_classes: int) -> nn.Module:
    """The network of a fine-tuning run, with a head that knows nothing yet."""
    with torch.random.fork_rng([]):
        return HEADS[flags.get("task", "classify")](transformer, flags, n_classes).float()


def least_parameters(shape: ModelConfig) -> int:
    """How many weights a model of this shape has at least, of whatever family; none is built."""
    a_block = shape.d_model * (4 * shape.d_model + 2 * shape.d_ff)
    return shape.vocab_size * shape.d_model + shape.n_layers * a_block


def newest_run(kind: str) -> Path:
    """The newest run of a kind ("pretrain", "finetune") in runs/. Raises UserError without one."""
    for path in sorted(RUNS.glob("*/config.json"), key=lambda p: -p.stat().st_mtime_ns):
        with contextlib.suppress(UserError):
            if Run(path.parent).config["kind"] == kind:
                return path.parent
    raise UserError(f"there is no {kind} run in {RUNS}/ yet: start with python -m minilm {kind}")


def new_folder(kind: str) -> Path:
    """The first of runs/pretrain-1, runs/pretrain-2, ... that holds no run."""
    folders = (RUNS / f"{kind}-{i}" for i in itertools.count(1))
    return next(folder for folder in folders if not _holds_a_run(folder))


def _holds_a_run(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in ("config.json", "metrics.jsonl", "step-*"))


def _locked(path: Path):
    """The file, open and locked. Raises BlockingIOError where another process has it locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file  # else who held it before has deleted it since it was opened


def _release(folder: Path, file) -> None:
    with file, contextlib.suppress(OSError):
        if os.listdir(folder) == ["lock"]:
            (folder / "lock").unlink()  # while it is still locked
            folder.rmdir()
