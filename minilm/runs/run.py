"""A run is a folder that says what was asked for, what happened, and what was learnt.

config.json      its kind, its flags with all defaults filled in, the model's family and shape
tokenizer.json   its tokenizer
metrics.jsonl    one line an event, appended; cut back to the checkpoint on resume
step-00000200/   checkpoints: see `checkpoint.py`
"""

import contextlib
import itertools
import json
import math
import os
import secrets
import sys
import weakref
from pathlib import Path

from torch import nn

from minilm.config import ModelConfig, NonFiniteError, UserError
from minilm.fast.attention import use_fast_attention
from minilm.model import Transformer
from minilm.runs import checkpoint
from minilm.runs.bounded import read_bounded
from minilm.runs.durable import sync, write_file, writing

try:
    import fcntl
except ImportError:  # Windows, where nothing keeps two processes apart
    fcntl = None

FORMAT = 3  # of the folder
RUNS = Path("runs")
LARGEST_METRICS = 2**28  # bytes; a run of a week writes a thousandth of it
SCHEMA = {"id": str, "kind": str, "family": str, "model": dict, "flags": dict, "tokenizer": str}
MORE = {"finetune": {"classes": list}}


class Run:
    """A run folder, open for reading; `claim` it before writing."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @property
    def config(self) -> dict:
        """config.json. Raises UserError where it is not that of a run of this version."""
        path = self.folder / "config.json"
        try:
            config = json.loads(read_bounded(path, checkpoint.LARGEST))
            there = config.get("format")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.folder} is not a run: it has no config.json") from None
        except (ValueError, RecursionError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}): use another run") from None
        if there != FORMAT:
            raise UserError(f"{path} is of format {there!r:.9}, not {FORMAT}: train the run anew")
        for name, kind in (SCHEMA | MORE.get(str(config.get("kind")), {})).items():
            if not isinstance(config.get(name), kind):
                raise UserError(f"{path} is damaged ({name} is missing, or no {kind.__name__})")
        return config

    def of_kind(self, kind: str) -> dict:
        """config.json. Raises UserError where it is not that of a run of this kind."""
        config = self.config
        if config["kind"] != kind:
            raise UserError(f"{self.folder} is a {config['kind']} run; this needs a {kind} run, "
                            f"which train_{kind}.py makes")  # fmt: skip
        return config

    @property
    def tokenizer(self):
        """The run's Tokenizer. Raises UserError where it is not the one that the run began with."""
        from minilm.runs.tokenizer_file import load_tokenizer

        path = self.folder / "tokenizer.json"
        tokenizer = load_tokenizer(path)
        if tokenizer.fingerprint != self.config["tokenizer"]:
            raise UserError(f"{path} is not the tokenizer that this run was trained with")
        return tokenizer

    def claim(self, resume: bool) -> None:
        """Keep other processes from writing here, until `release` or the end of this process.

        Raises UserError where another process holds it, where there is a run already that this one
        would write over (or none to resume), or where nothing can be written."""
        if resume:
            _there_is_one = self.config
        path, or_else = self.folder / "lock", "name another folder with --run"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = _locked(path)
        except OSError as error:
            why = f"cannot be written to ({error.strerror}):"
            if isinstance(error, BlockingIOError):
                why = "is in use by another process: wait for it, or"
            raise UserError(f"{self.folder} {why} {or_else}") from None
        self.release = weakref.finalize(self, _release, path, file)
        if not resume and _holds_a_run(self.folder):  # only who holds the lock can know
            self.release()
            why = "already holds a run: continue it with --resume, or"
            raise UserError(f"{self.folder} {why} {or_else}")

    def release(self) -> None:
        """Let other processes write here; a folder in which nothing was begun goes. (A `claim` puts
        what does it in the place of this method.)"""

    def create(self, config: dict, tokenizer) -> None:
        """Write down what the run is: `config` has kind, family, model, flags (and classes)."""
        from minilm.runs.tokenizer_file import to_json

        write_file(self.folder / "tokenizer.json", to_json(tokenizer).encode())
        facts = {"format": FORMAT, "id": secrets.token_hex(8), "tokenizer": tokenizer.fingerprint}
        content = json.dumps(facts | config, indent=2).encode()
        if len(content) > checkpoint.LARGEST:
            raise UserError(f"config.json would have {len(content):,} bytes: give fewer labels")
        write_file(self.folder / "config.json", content)  # last: now it is a run
        with writing(self.folder):
            sync(self.folder)
            sync(self.folder.resolve().parent)

    def log(self, step: int, **values) -> None:
        """Append a line to metrics.jsonl. Raises NonFiniteError where a value is not finite."""
        for name, value in values.items():
            if not _finite(value):
                raise NonFiniteError(f"{name} is {value}, so it is not noted")
        path, line = self.folder / "metrics.jsonl", json.dumps({"step": step, **values}) + "\n"
        with writing(path, len(line)), open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(line)

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl, for curves and tables: {"step", "loss" or "score", ...}. Ends
        before the first that cannot be read, and says so unless it is what a crash leaves, a last
        one without an end. What decides anything is in the checkpoints' manifests."""
        path, lines = self.folder / "metrics.jsonl", []
        whole = read_bounded(path, LARGEST_METRICS).split(b"\n")[:-1] if path.exists() else []
        for text in whole:
            try:
                line = json.loads(text)
                if type(line["step"]) is not int or not all(map(_finite, line.values())):
                    raise ValueError("not a finite number")
                lines.append({"step": line.pop("step"), **line})
            except Exception as error:  # whatever is wrong with it
                print(f"{path}: line {len(lines) + 1} is damaged and not used, nor is what follows "
                      f"it: {error}", file=sys.stderr)  # fmt: skip
                break
        return lines

    def cut_metrics(self, step: int, scored: bool) -> None:
        """Drop the lines after a step, which a resumed run writes again; also that with the step's
        own score, unless its checkpoint was scored."""
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
        try:
            return family(config["family"])[1](**{**config["model"], **changes})
        except TypeError as error:
            raise UserError(f"{self.folder / 'config.json'} is damaged ({error})") from None

    def transformer(self, **changes) -> Transformer:
        """The pretrained Transformer, from the best checkpoint, its shape changed in places. Raises
        UserError where this is not a pretraining run, or its weights cannot be used."""
        name, shape = self.of_kind("pretrain")["family"], self.model_config(**changes)
        return self._with_weights(shape, name)

    def classifier(self) -> tuple[nn.Module, dict]:
        """The fine-tuned network, from the best checkpoint, and the run's config. Raises
        UserError where this is not a fine-tuning run, or its weights cannot be used."""
        from minilm.runs.task import with_head

        config, shape = self.of_kind("finetune"), self.model_config()
        n_classes, flags = len(config["classes"]), config["flags"]
        more = shape.d_model * n_classes if flags.get("task", "classify") == "classify" else 0
        name, head = config["family"], lambda body: with_head(body, flags, n_classes)
        return self._with_weights(shape, name, head, more), config

    def _with_weights(self, shape: ModelConfig, name: str, head=lambda body: body, more: int = 0):
        """head(a model of this shape and family), which adds so many weights, with the weights of
        the best checkpoint."""
        best = checkpoint.best(self.folder)
        weights = best.read("model")
        try:
            if least_parameters(shape) + more > sum(weight.numel() for weight in weights.values()):
                raise ValueError("so many would be allocated before load_state_dict sees it")
            model = head(make_model(shape, name=name))
            for key, table in weights.items():
                if key.endswith("positions.weight"):  # a shorter window leaves its later rows out
                    weights[key] = table[: shape.max_length]
            model.load_state_dict(weights)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            raise UserError(f"the weights in {best.folder} do not have the shape that config.json "
                            f"says: use another run") from None  # fmt: skip
        return model


def _finite(value) -> bool:
    return isinstance(value, str) or math.isfinite(value)


def make_model(shape: ModelConfig, seed: int = 0, name: str = "ours") -> Transformer:
    """A new Transformer of the family `name`, with the fast attention: all models are made here."""
    return use_fast_attention(family(name)[0](shape, seed))


def family(name: str) -> tuple[type[Transformer], type[ModelConfig]]:
    """The classes of a family's model and of its shape: "ours", or one of huggingface/."""
    if name == "ours":
        return Transformer, ModelConfig
    from minilm.huggingface.families import FAMILIES

    if name not in FAMILIES:
        raise UserError(f"the family {name!r:.50} is not one of ours, {', '.join(FAMILIES)}")
    return FAMILIES[name]


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
    raise UserError(f"there is no {kind} run in {RUNS}/ yet: start with python train_{kind}.py")


def new_folder(kind: str) -> Path:
    """The first of runs/pretrain-1, runs/pretrain-2, ... that holds no run."""
    folders = (RUNS / f"{kind}-{i}" for i in itertools.count(1))
    return next(folder for folder in folders if not _holds_a_run(folder))


def _holds_a_run(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in ("config.json", "metrics.jsonl", "step-*"))


def _locked(path: Path):
    """The file, open and locked. Raises BlockingIOError where another process has it locked."""
    while True:
        with contextlib.ExitStack() as closing:
            file = closing.enter_context(open(path, "a+b"))
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                closing.pop_all()
                return file  # else who held it before has deleted it since it was opened


def _release(path: Path, file) -> None:
    with file, contextlib.suppress(OSError):
        if os.listdir(path.parent) == [path.name]:
            path.unlink()  # while it is still locked
            path.parent.rmdir()
