"""A Hugging Face folder as a run of ours, which everything else then uses as if it were."""

import dataclasses
from pathlib import Path

from torch import Tensor

from minilm import checkpoint
from minilm.config import SIZES, PretrainConfig, UserError
from minilm.interop.files import read_json, read_tensors
from minilm.interop.kinds import KINDS
from minilm.interop.weights import to_ours
from minilm.interop.words import read_tokenizer
from minilm.runs import RUNS, Run
from minilm.shape import ModelConfig

PREFIX = "hf:"


def pretrained_run(name: str | Path) -> Run:
    """The run that `--init` or `--pretrained` names: a folder of ours, or `hf:` and one of Hugging
    Face's or a name on its hub, which is imported into runs/ unless it was before."""
    if not str(name).startswith(PREFIX):
        return Run(name)
    folder = find_folder(str(name).removeprefix(PREFIX))
    source = str(folder.resolve())
    i = 1
    while True:
        run = Run(RUNS / f"{folder.name}{f'-{i}' * (i > 1)}")
        if not (run.folder / "config.json").exists():
            return import_folder(folder, run)
        if run.config.get("imported") == [source, _stamp(folder)]:
            return run
        i += 1


def find_folder(name: str) -> Path:
    """A folder that is there, or else the hub's files of that name. Raises UserError where it is
    neither, or `huggingface_hub`, which asks the hub, is not installed."""
    if Path(name).is_dir():
        return Path(name)
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f'{name}: no such folder; to get it from the hub, pip install "minilm[hf]"'
        ) from None
    wanted = ["*.json", "model.safetensors", "pytorch_model.bin", "vocab.txt", "merges.txt"]
    try:
        cached = Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except Exception as error:  # of many kinds: no such name, no network, no right to read it
        reason = " ".join(str(error).split())[:150]
        raise UserError(f"{name}: no such folder, and the hub gives none ({reason})") from None
    return cached


def read_folder(folder: Path) -> tuple[ModelConfig, dict[str, Tensor], dict]:
    """The shape of the model in a Hugging Face folder, its weights as our state_dict, and what
    config.json says. Raises UserError, in one line, for what we cannot be."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(
            f"{folder}: model_type {kind!r} cannot be imported: only {', '.join(KINDS)}"
        )
    try:
        try:
            shape = ModelConfig(**KINDS[kind].shape(config))
        except (TypeError, AttributeError, ValueError) as error:
            raise UserError(f"config.json is damaged ({str(error)[:100]})") from None
        shape, weights = to_ours(KINDS[kind], read_tensors(folder), shape)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    return shape, weights, config


def import_folder(folder: Path, run: Run) -> Run:
    """Write the model and the words of a Hugging Face folder as a run. Raises UserError where they
    cannot be ours, or where there is a run already."""
    shape, weights, config = read_folder(folder)
    tokenizer = read_tokenizer(folder)
    if tokenizer.vocab_size > shape.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model knows "
            f"{shape.vocab_size} only"
        )
    causal = KINDS[config["model_type"]].causal or config.get("is_decoder", False)
    flags = PretrainConfig(
        data=[], objective="causal" if causal else "masked",
        size=min(SIZES, key=lambda name: abs(SIZES[name]["d_model"] - shape.d_model)),
        family={"modernbert-decoder": "modernbert", "persimmon": "ours"}.get(
            config["model_type"], config["model_type"]
        ),
        vocab_size=shape.vocab_size, max_length=shape.max_length, d_model=shape.d_model,
        n_layers=shape.n_layers, n_heads=shape.n_heads, d_ff=shape.d_ff, steps=None,
        run=str(run.folder),
    )  # fmt: skip
    run.claim(resume=False)
    checkpoint.save(run.folder, 0, dict(tokens=0, targets=0, seconds=0.0), model=weights)
    facts = dict(kind="pretrain", flags=vars(flags), model=dataclasses.asdict(shape))
    run.create({**facts, "imported": [str(folder.resolve()), _stamp(folder)]}, tokenizer)
    return run


def _stamp(folder: Path) -> list[int]:
    """Sizes and times of what was imported, to see whether it has changed."""
    files = [folder / name for name in ("config.json", "model.safetensors", "pytorch_model.bin")]
    return [n for f in files if f.exists() for n in (f.stat().st_size, f.stat().st_mtime_ns)]
