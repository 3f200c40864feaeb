"""What can be chosen: one dataclass per script, whose fields are its flags.

`flags.py` makes the flags; `shape.py` says what a model can be. All three import only the standard
library, so that `--help` answers before torch is loaded.
"""

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import ClassVar

from minilm.errors import NonFiniteError, UserError, flag_name
from minilm.shape import FAMILY, ModelConfig

__all__ = [
    "SIZES", "FinetuneConfig", "ModelConfig", "NonFiniteError", "PretrainConfig", "UserError",
]  # fmt: skip

# What `--size` stands for. Every entry can be changed by its own flag.
SIZES = {
    "tiny": dict(
        d_model=128, n_layers=4, n_heads=4, vocab_size=4096, max_length=128, batch_size=32,
        steps=500, learning_rate=7e-3,
    ),
    "small": dict(
        d_model=256, n_layers=6, n_heads=4, vocab_size=8192, max_length=256, batch_size=32,
        steps=8000, learning_rate=5e-3,
    ),
    "base": dict(
        d_model=384, n_layers=12, n_heads=6, vocab_size=16384, max_length=256, batch_size=64,
        steps=30000, learning_rate=3e-3,
    ),
}  # fmt: skip


def flag(default, help: str, **options):
    """A dataclass field that is also a flag; options are argparse's (choices, nargs, metavar)."""
    metadata = {"help": help, **options}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class MachineConfig:
    """Where and how a script computes."""

    device: str = flag("auto", "where to compute", choices=["auto", "cpu", "cuda", "mps"])
    precision: str = flag(
        "auto", "bfloat16 where this machine multiplies it faster, measured at the start",
        choices=["auto", "float32", "bfloat16"],
    )  # fmt: skip
    compile: bool = flag(False, "compile the blocks with torch.compile")

    given: ClassVar[frozenset] = frozenset()  # the names of the flags on the command line


@dataclass
class PretrainConfig(MachineConfig):
    """The flags of train_pretrain.py. None: what `size` says."""

    data: list[str] = flag(
        ["python-docs"], "names of corpora (python-docs, imdb, ...), or text files and folders",
        nargs="+", metavar="NAME|FILE",
    )  # fmt: skip
    text_column: str = flag("text", "the column of .csv, .tsv and .jsonl files that holds the text")
    encoding: str = flag("utf-8", "the encoding of text files")
    objective: str = flag(
        "hybrid", "next-token, masked-token, or each step one of the two",
        choices=["causal", "masked", "hybrid"],
    )  # fmt: skip
    size: str | None = flag(
        None, "tiny, unless --init says another: "
        + "; ".join(f"{k} {v['n_layers']} x {v['d_model']}, {v['vocab_size']} words, "
                    f"{v['steps']} steps" for k, v in SIZES.items()),
        choices=list(SIZES),
    )  # fmt: skip
    family: str | None = flag(
        None, "the Transformer's other choices (default: ours, unless --init says another)",
        choices=list(FAMILY),
    )  # fmt: skip
    d_model: int | None = flag(None, "width of the vectors (default: by --size)")
    n_layers: int | None = flag(None, "number of blocks (default: by --size)")
    n_heads: int | None = flag(None, "attention heads in a block (default: by --size)")
    d_ff: int | None = flag(None, "width inside the feed-forward layer (default: 4 d_model)")
    vocab_size: int | None = flag(None, "words the tokenizer learns (default: by --size)")
    max_length: int | None = flag(None, "tokens in a window (default: by --size)")
    steps: int | None = flag(None, "updates of the weights (default: by --size)")
    minutes: float | None = flag(None, "instead of --steps: as many as this time allows here")
    batch_size: int | None = flag(None, "windows in a step (default: by --size)")
    accumulate: int = flag(1, "micro-batches that a step is computed in, to save memory")
    learning_rate: float | None = flag(None, "at its highest (default: by --size)")
    optimizer: str = flag("muon", "for the hidden matrices", choices=["adamw", "muon"])
    weight_decay: float = flag(0.1, "of the matrices")
    mask_rate: float = flag(0.3, "share of words hidden at first; falls to half of it")
    dropout: float = flag(0.0, "share of activations dropped")
    seed: int = flag(0, "of every random draw")
    evaluations: int = flag(5, "how often to evaluate, sample and save on the way")
    run: str | None = flag(None, "folder to write to (default: a new one in runs/)")
    resume: bool = flag(False, "continue the run in --run, or the newest")
    init: str | None = flag(None, "start from the weights and tokenizer of this run")

    def __post_init__(self):
        if self.steps is not None and self.minutes is not None:
            raise UserError("--steps and --minutes were both given: the length is one or the other")
        require_positive(self, "steps", "minutes", "batch_size", "accumulate", "learning_rate")
        require_positive(self, "evaluations", "max_length", "vocab_size")
        require_positive(self, "d_model", "n_layers", "n_heads", "d_ff")
        require_not_negative(self, "weight_decay", "seed")
        if not 0 < self.mask_rate < 1:
            raise UserError(f"--mask-rate is {self.mask_rate}: give a share between 0 and 1")

    def with_defaults(self, size: str = "tiny", **inherited) -> "PretrainConfig":
        """A copy in which every None is filled: from the run that gives the first weights, its size
        and its shape (`inherited`), then from the table of sizes.

        Raises UserError where a flag asks for a shape that those weights do not have."""
        for name, value in inherited.items():
            if name not in ("max_length", "dropout") and getattr(self, name, None) not in (
                None,
                value,
            ):
                raise UserError(
                    f"{flag_name(name)} {getattr(self, name)}: the weights of --init have {value}; "
                    f"leave the flag out"
                )
        size = self.size or size
        table = {"family": "ours", **SIZES[size], **inherited, "size": size}
        if self.minutes is not None:
            del table["steps"]
        missing = {k: v for k, v in table.items() if k in vars(self) and getattr(self, k) is None}
        config = dataclasses.replace(self, **missing)
        return dataclasses.replace(config, d_ff=config.d_ff or 4 * config.d_model)

    def model(self, vocab_size: int) -> ModelConfig:
        """The model's shape, once the tokenizer's size is known."""
        return ModelConfig(
            vocab_size, self.max_length, self.d_model, self.n_layers, self.n_heads, self.d_ff,
            self.dropout, **FAMILY[self.family],
        )  # fmt: skip


@dataclass
class FinetuneConfig(MachineConfig):
    """The flags of train_finetune.py."""

    pretrained: str | None = flag(None, "the pretraining run to start from (default: the newest)")
    from_scratch: bool = flag(False, "the control: the same net and words, random weights")
    data: str | None = flag(None, "a labelled corpus (default: python-docs)", metavar="NAME")
    train: str | None = flag(None, "labelled texts of your own, .csv .tsv .jsonl", metavar="FILE")
    valid: str | None = flag(None, "validation texts (default: a tenth of train)", metavar="FILE")
    test: str | None = flag(None, "test texts, used once at the end", metavar="FILE")
    text_column: str = flag("text", "the column that holds the text")
    label_column: str = flag("label", "the column that holds the label")
    encoding: str = flag("utf-8", "the encoding of the files")
    labels: int | None = flag(None, "train on this many texts only, as many of each class")
    pooling: str = flag("mean", "how a text becomes one vector", choices=["mean", "last", "first"])
    attention: str = flag(
        "bidirectional", "what a position may see", choices=["bidirectional", "causal"]
    )
    freeze: bool = flag(False, "train the head only: what do the pretrained vectors know?")
    layer_decay: float = flag(0.9, "each block learns by this factor slower than the one above")
    max_length: int | None = flag(
        None, "longer texts keep their head and tail only, in tokens (default: as pretrained)"
    )
    epochs: int = flag(3, "passes over the labelled texts")
    batch_size: int = flag(32, "texts in a step")
    accumulate: int = flag(1, "micro-batches that a step is computed in, to save memory")
    learning_rate: float = flag(3e-3, "at its highest")
    optimizer: str = flag("muon", "the update rule", choices=["adamw", "muon", "sgd"])
    weight_decay: float = flag(0.05, "of the matrices")
    dropout: float = flag(0.1, "share of activations dropped")
    search: bool = flag(False, "try learning rates and optimizers, keep the best on validation")
    seed: int = flag(0, "of every random draw")
    run: str | None = flag(None, "folder to write to (default: a new one in runs/)")
    resume: bool = flag(False, "continue the run in --run, or the newest")

    def __post_init__(self):
        if self.data and self.train:
            raise UserError("--data and --train were both given: name a corpus or your own file")
        if not self.train and (self.valid or self.test):
            raise UserError("--valid and --test go with --train FILE, which is missing")
        if not self.train and not self.resume:
            self.data = self.data or "python-docs"
        require_positive(self, "labels", "max_length", "epochs", "batch_size", "accumulate")
        require_positive(self, "learning_rate", "layer_decay")
        require_not_negative(self, "weight_decay", "seed")
        if self.max_length and self.max_length < 3:
            raise UserError(f"--max-length is {self.max_length}: a text needs <doc>, a word, <doc>")


def checked(config_class, saved: dict):
    """The flags that a run was started with. Raises UserError where one is not what the command
    line could have given."""
    for f in dataclasses.fields(config_class):
        value, parts = saved[f.name], typing.get_args(f.type)
        kinds = parts if isinstance(f.type, types.UnionType) else (f.type,)
        kinds = {typing.get_origin(kind) or kind for kind in kinds}  # list[str] is a list
        choices = f.metadata.get("choices", [value])
        fits = type(value) in kinds | ({int} if float in kinds else set())
        if not fits or not (value is None or value in choices):
            raise UserError(f"config.json is damaged: {flag_name(f.name)} is {value!r:.50}")
    return config_class(**saved)


def resumed(parsed, saved: dict):
    """The flags of a run that goes on: those it was started with.

    Raises UserError where the command line (`parsed`) asks for something else.
    """
    try:
        original = type(parsed)(**saved)
    except TypeError as error:
        raise UserError(f"config.json holds flags of another version ({error})") from None
    for name in sorted(parsed.given - {"run", "resume", "minutes"}):
        now, then = getattr(parsed, name), getattr(original, name)
        if now != then:
            raise UserError(
                f"{flag_name(name)} {now} cannot be changed on resume: the run was started with "
                f"{then}. Leave the flag out, or start a new run"
            )
    return original


def require_positive(config, *names: str) -> None:
    """Raise UserError for the first of these fields that is given but not above zero."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"{flag_name(name)} is {value}: give a number above 0")


def require_not_negative(config, *names: str) -> None:
    """Raise UserError for the first of these fields that is below zero."""
    for name in names:
        if not 0 <= getattr(config, name) < math.inf:
            raise UserError(f"{flag_name(name)} is {getattr(config, name)}: give 0 or more")
