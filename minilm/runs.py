"""A run is a folder that says what was asked for, what happened, and what was learnt.

config.json      its kind, its flags with all defaults filled in, the model's shape; sealed
tokenizer.json   the words
metrics.jsonl    one line an event, appended; cut back to the checkpoint on resume
step-00000200/   checkpoints: see `checkpoint.py`
"""

import itertools
import json
import math
import os
import sys
from pathlib import Path

from minilm import checkpoint
from minilm.config import (
    FinetuneConfig,
    ModelConfig,
    NonFiniteError,
    PretrainConfig,
    UserError,
    checked,
)
from minilm.durable import seal, sync, unseal, write_file, writing
from minilm.heads import Classifier
from minilm.model import Transformer
from minilm.tokenizer import Tokenizer
from minilm.vocabularies import ForeignTokenizer, load_tokenizer

FORMAT = 2  # of the folder
ADDED_LATER = {"pretrain": {"family": "ours"}, "finetune": {}}  # flags that older runs do not have
RUNS = Path("runs")


class Run:
    """A run folder, open for reading; `claim` it before writing."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._lock = None

    @property
    def config(self) -> dict:
        """config.json. Raises UserError where it is not that of a run."""
        path = self.folder / "config.json"
        try:
            config = unseal(path)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.folder} is not a run: it has no config.json") from None
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged, or of another version ({error}): use another run"
            ) from None
        if config.get("format") != FORMAT:
            raise UserError(f"{path} is not of format {FORMAT}: another version wrote this run")
        if not {"kind", "flags", "model"} <= config.keys():
            raise UserError(f"{path} is damaged (something is missing): use another run")
        return config

    @property
    def tokenizer(self) -> Tokenizer | ForeignTokenizer:
        """The run's tokenizer. Raises UserError where it is not the one that the run began with."""
        config, path = self.config, self.folder / "tokenizer.json"
        tokenizer = load_tokenizer(path)
        if config.get("tokenizer", tokenizer.fingerprint) != tokenizer.fingerprint:
            raise UserError(f"{path} holds not the words that this run was trained with")
        return tokenizer

    def flags(self, kind: str) -> dict:
        """The flags that a run of this kind was started with, all defaults filled in."""
        return self._of_kind(kind)["flags"]

    def claim(self, resume: bool) -> None:
        """Keep other processes from writing here; the claim goes when this process does, however it
        ends. Raises UserError where another process holds it, where there is a run already that
        this one would write over, or where nothing can be written."""
        if not resume and _holds_a_run(self.folder):
            raise UserError(
                f"{self.folder} already holds a run: continue it with --resume, or name another "
                f"folder with --run"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a+b")  # noqa: SIM115 - until the process ends
        except OSError as error:
            raise UserError(
                f"{self.folder} cannot be written to ({error.strerror}): name another folder with "
                f"--run"
            ) from None
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(self._lock.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{self.folder} is in use by another process: wait for it, or name another folder "
                f"with --run"
            ) from None

    def create(self, config: dict, tokenizer: Tokenizer | ForeignTokenizer) -> None:
        """Write down what the run is."""
        write_file(self.folder / "tokenizer.json", tokenizer.to_json().encode())
        facts = {"format": FORMAT, "tokenizer": tokenizer.fingerprint, **config}
        write_file(self.folder / "config.json", seal(facts))  # last: now it is a run
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

    def sync_metrics(self) -> None:
        """Wait until the disk has all lines of metrics.jsonl."""
        with writing(self.folder / "metrics.jsonl"):
            sync(self.folder / "metrics.jsonl")

    def finish(self, result: dict) -> None:
        """Write result.json: what came out, for tables."""
        write_file(self.folder / "result.json", json.dumps(result, indent=2).encode())

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl until the first that cannot be read, which is said unless it
        is what a crash leaves: a last one that has no end."""
        path, lines = self.folder / "metrics.jsonl", []
        whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        for text in whole:
            try:
                line = json.loads(text)
                json.dumps(line["step"] + line.get("score", 0), allow_nan=False)
                lines.append(line)
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

    def model_config(self, kind: str = "pretrain", **changes) -> ModelConfig:
        """The shape of the model, changed in places (a longer max_length, some dropout). Raises
        UserError where this is not a run of that kind."""
        shape = self._of_kind(kind)["model"]
        try:
            config = ModelConfig(**{**shape, **changes})
        except TypeError as error:
            raise UserError(f"{self.folder / 'config.json'} is damaged ({error})") from None
        if config.positions == "learned" and config.max_length > shape["max_length"]:
            raise UserError(
                f"--max-length {config.max_length}: {self.folder} has learnt vectors for "
                f"{shape['max_length']} positions only"
            )
        return config

    def recipe(self) -> dict:
        """What a pretraining run that starts from this one's weights takes over: size and shape."""
        flags = self.flags("pretrain")
        return {"size": flags["size"], "family": flags["family"], **vars(self.model_config())}

    def transformer(self, **changes) -> Transformer:
        """The pretrained Transformer, from the best checkpoint. Raises UserError as above."""
        shape = self.model_config(**changes)
        return self._with_weights(shape, lambda: Transformer(shape))

    def classifier(self) -> tuple[Classifier, dict]:
        """The fine-tuned classifier, from the best checkpoint, and the run's config. Raises
        UserError where this is not a fine-tuning run."""
        config, shape = self._of_kind("finetune"), self.model_config("finetune")
        parts = len(config["classes"]), config["flags"]["pooling"]
        make, head = lambda: Classifier(Transformer(shape), *parts), shape.d_model * parts[0]
        return self._with_weights(shape, make, head), config

    def _with_weights(self, shape: ModelConfig, make, head: int = 0):
        """make(), which would have this shape and so many weights more in its head, with the
        weights of the best checkpoint."""
        best = checkpoint.best(self.folder)
        weights = best.read("model")
        a_block = shape.d_model * (4 * shape.d_model + 2 * shape.d_ff)
        rows = shape.vocab_size + shape.max_length * (shape.positions == "learned")
        least = shape.d_model * rows + shape.n_layers * a_block + head
        try:
            if least > sum(weight.numel() for weight in weights.values()):
                raise ValueError("what config.json says might not even fit into memory")
            model = make()
            for name, table in weights.items():
                if name.endswith("positions.weight"):  # a shorter window leaves its later rows out
                    weights[name] = table[: shape.max_length]
            model.load_state_dict(weights)
        except Exception:  # of tensors made to do harm nothing is known
            raise UserError(
                f"the weights in {best.folder} do not have the shape that config.json says: use "
                f"another run"
            ) from None
        return model

    def _of_kind(self, kind: str) -> dict:
        config = self.config
        if config["kind"] != kind:
            raise UserError(
                f"{self.folder} is a {config['kind']} run; this needs a {kind} run, which "
                f"train_{kind}.py makes"
            )
        known = {"pretrain": PretrainConfig, "finetune": FinetuneConfig}[kind]
        config["flags"] = ADDED_LATER[kind] | config["flags"]
        whole = set(vars(known())) == set(config["flags"]) and (
            kind == "pretrain" or isinstance(config.get("classes"), list)
        )
        if not whole:
            raise UserError(
                f"{self.folder / 'config.json'} is damaged, or of another version: use another run"
            )
        checked(known, config["flags"])
        return config


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
        return Run(folder).config.get("kind")
    except UserError:
        return None
