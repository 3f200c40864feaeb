"""A run is a folder that says what was asked for, what happened, and what was learnt.

config.json      its kind, its flags with all defaults filled in, the model's family and shape
tokenizer.json   its tokenizer
metrics.jsonl    one line an event, appended; cut back to the checkpoint on resume
step-00000200/   checkpoints: see `checkpoint.py`
"""

import atexit
import itertools
import json
import math
import os
import secrets
import sys
from pathlib import Path

import torch

from minilm.config import ModelConfig, NonFiniteError, UserError
from minilm.heads import Classifier
from minilm.model import Transformer
from minilm.runs import checkpoint
from minilm.runs.bounded import read_bounded
from minilm.runs.durable import sync, write_file, writing

FORMAT = 3  # of the folder
RUNS = Path("runs")
LARGEST_METRICS = 2**28  # bytes; a run of a week writes a thousandth of it
SCHEMA = {"id": str, "kind": str, "family": str, "model": dict, "flags": dict, "tokenizer": str}


class Run:
    """A run folder, open for reading; `claim` it before writing.

    A claim is given back by `release`, at the end of `with run.claim(...)`, or when the process
    ends, however it ends."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._lock = None

    # What the folder says

    @property
    def config(self) -> dict:
        """config.json. Raises UserError where it is not that of a run of this version."""
        path = self.folder / "config.json"
        try:
            config = json.loads(read_bounded(path, checkpoint.LARGEST))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.folder} is not a run: it has no config.json") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}): use another run") from None
        there = config.get("format") if isinstance(config, dict) else None
        if there != FORMAT:
            raise UserError(
                f"{path} is of format {there!r:.20}, this version reads {FORMAT}: train the run "
                f"anew"
            )
        needed = SCHEMA | ({"classes": list} if config.get("kind") == "finetune" else {})
        for name, kind in needed.items():
            if not isinstance(config.get(name), kind):
                raise UserError(f"{path} is damaged ({name} is missing, or no {kind.__name__})")
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

    def of_kind(self, kind: str) -> dict:
        """config.json of a run of this kind. Raises UserError where it is of another."""
        config = self.config
        if config["kind"] != kind:
            raise UserError(
                f"{self.folder} is a {config['kind']} run; this needs a {kind} run, which "
                f"train_{kind}.py makes"
            )
        return config

    # Writing

    def claim(self, resume: bool) -> "Run":
        """Keep other processes from writing here. Returns itself, to be used in a `with`.

        Raises UserError where another process holds it, where there is a run already that this one
        would write over (or none to resume), or where nothing can be written."""
        if resume:
            _ = self.config
        try:
            if not resume:
                self.folder.mkdir(parents=True, exist_ok=True)
            while True:
                self._lock = open(self.folder / "lock", "a+b")  # noqa: SIM115 - see release
                _lock(self._lock)
                if _is_still(self._lock, self.folder / "lock"):
                    break  # else its last owner has deleted it since it was opened
                self._lock.close()
        except BlockingIOError:
            self._lock.close()
            raise UserError(
                f"{self.folder} is in use by another process: wait for it, or name another folder "
                f"with --run"
            ) from None
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written to ({error.strerror}): name another folder with "
                f"--run"
            ) from None
        atexit.register(self.release)
        if not resume and _holds_a_run(self.folder):  # only who holds the lock can know
            self.release()
            raise UserError(
                f"{self.folder} already holds a run: continue it with --resume, or name another "
                f"folder with --run"
            )
        return self

    def release(self) -> None:
        """Let other processes write here; a folder in which nothing was begun goes."""
        if self._lock is None:
            return
        begun = set(os.listdir(self.folder)) - {"lock"}
        if not begun and os.name != "nt":  # which deletes no open file
            os.unlink(self.folder / "lock")
        self._lock.close()
        self._lock = None
        atexit.unregister(self.release)
        if not begun:
            (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.release()

    def create(self, config: dict, tokenizer) -> None:
        """Write down what the run is: `config` has kind, family, model, flags (and classes)."""
        from minilm.runs.tokenizer_file import to_json

        write_file(self.folder / "tokenizer.json", to_json(tokenizer).encode())
        facts = {"format": FORMAT, "id": secrets.token_hex(8), **config}
        content = json.dumps({**facts, "tokenizer": tokenizer.fingerprint}, indent=2).encode()
        if len(content) > checkpoint.LARGEST:
            raise UserError(f"config.json would have {len(content):,} bytes: give fewer labels")
        write_file(self.folder / "config.json", content)  # last: now it is a run
        with writing(self.folder):
            sync(self.folder)
            sync(self.folder.resolve().parent)

    def log(self, step: int, **values) -> None:
        """Append a line to metrics.jsonl. Raises NonFiniteError where a value is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"step {step}: {name} is {value}, so it is not noted")
        path, line = self.folder / "metrics.jsonl", json.dumps({"step": step, **values}) + "\n"
        with writing(path, len(line)), open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(line)

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl, for curves and tables: {"step", "loss" or "score", ...}. Ends
        before the first that cannot be read, which is said unless it is what a crash leaves: a last
        one without an end. What decides anything is in the checkpoints' manifests."""
        path, lines = self.folder / "metrics.jsonl", []
        whole = read_bounded(path, LARGEST_METRICS).split(b"\n")[:-1] if path.exists() else []
        for text in whole:
            try:
                line = json.loads(text)
                if not all(math.isfinite(value) for value in line.values()):
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

    # Models

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
        return self._with_weights(shape, lambda: make_model(shape, family_name=name))

    def classifier(self) -> tuple[Classifier, dict]:
        """The fine-tuned classifier, from the best checkpoint, and the run's config. Raises
        UserError where this is not a fine-tuning run, or its weights cannot be used."""
        config, shape = self.of_kind("finetune"), self.model_config()
        parts = len(config["classes"]), config["flags"].get("pooling", "mean")
        make = lambda: Classifier(make_model(shape, family_name=config["family"]), *parts)  # noqa: E731
        return self._with_weights(shape, make, shape.d_model * parts[0]), config

    def _with_weights(self, shape: ModelConfig, make, head: int = 0):
        """make(), which would have this shape and `head` more weights, with the weights of the best
        checkpoint."""
        best = checkpoint.best(self.folder)
        weights = best.read("model")
        unfit = f"the weights in {best.folder} do not have the shape that config.json says: use another run"
        try:
            there = sum(weight.numel() for weight in weights.values())
            if least_parameters(shape) + head > there:  # before so many are allocated
                raise UserError(unfit)
            model = make()
            for name, table in weights.items():
                if name.endswith("positions.weight"):  # a shorter window leaves its later rows out
                    weights[name] = table[: shape.max_length]
            model.load_state_dict(weights)
        except (AttributeError, RuntimeError, TypeError, KeyError):
            raise UserError(unfit) from None
        if bad := next((n for n, t in weights.items() if not torch.isfinite(t).all()), None):
            raise UserError(f"the weights in {best.folder} are not finite ({bad}): use another run")
        return model


def make_model(shape: ModelConfig, seed: int = 0, family_name: str = "ours") -> Transformer:
    """A Transformer with new weights and the fast attention: every model is made here."""
    model = family(family_name)[0](shape, seed)
    try:
        from minilm.fast.attention import use_fast_attention
    except ImportError:
        return model
    use_fast_attention(model)
    return model


def family(name: str) -> tuple[type[Transformer], type[ModelConfig]]:
    """The classes of a family's model and of its shape: "ours", or one of huggingface/."""
    if name == "ours":
        return Transformer, ModelConfig
    from minilm.huggingface.families import FAMILIES

    if name not in FAMILIES:
        raise UserError(f"the family {name!r:.50} is not known: there are ours, {', '.join(FAMILIES)}")
    return FAMILIES[name]


def least_parameters(shape: ModelConfig) -> int:
    """How many weights a model of this shape has at least, whatever its family; counted, so that
    nothing needs to be built."""
    a_block = shape.d_model * (4 * shape.d_model + 2 * shape.d_ff)
    return shape.vocab_size * shape.d_model + shape.n_layers * a_block


def runs_of(kind: str) -> list[Path]:
    """The runs of a kind ("pretrain", "finetune") in runs/, oldest first."""
    configs = sorted(RUNS.glob("*/config.json"), key=lambda path: path.stat().st_mtime_ns)
    return [path.parent for path in configs if _kind(path.parent) == kind]


def newest_run(kind: str) -> Path:
    """The newest run of a kind in runs/. Raises UserError where there is none."""
    found = runs_of(kind)
    if not found:
        raise UserError(f"there is no {kind} run in {RUNS}/ yet: start with python train_{kind}.py")
    return found[-1]


def new_folder(kind: str) -> Path:
    """The first of runs/pretrain-1, runs/pretrain-2, ... that holds no run."""
    folders = (RUNS / f"{kind}-{i}" for i in itertools.count(1))
    return next(folder for folder in folders if not _holds_a_run(folder))


def _holds_a_run(folder: Path) -> bool:
    return any(any(folder.glob(name)) for name in ("config.json", "metrics.jsonl", "step-*"))


def _kind(folder: Path) -> str | None:
    try:
        return Run(folder).config["kind"]
    except UserError:
        return None


def _lock(file) -> None:
    """Raises BlockingIOError where another process holds the lock."""
    if os.name == "nt":
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(*error.args) from None
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(file, path: Path) -> bool:
    return path.exists() and os.path.sameopenfile(file.fileno(), path.open("rb").fileno())
