"""Tensors of Hugging Face's as our parameters, and back."""

import re

import torch
from torch import Tensor

from minilm.errors import UserError
from minilm.interop.kinds import EMBEDDING_AGAIN, OUTSIDE, Kind
from minilm.model import Transformer
from minilm.shape import ModelConfig


def their_names(kind: Kind, ours: str) -> list[str]:
    """The tensors that make up one of our parameters, without the base's prefix.

    >>> from minilm.interop.kinds import KINDS
    >>> their_names(KINDS["gpt2"], "blocks.3.norm_1.bias")
    ['h.3.ln_1.bias']
    """
    if ours in kind.names:  # a parameter that is no module's
        return [kind.names[ours]]
    module, _, suffix = ours.rpartition(".")
    number = re.search(r"blocks\.(\d+)", module)
    template = kind.names[re.sub(r"blocks\.\d+", "blocks.{i}", module)]
    parts = template.replace("{i}", number[1] if number else "").split("|")
    return [f"{part}.{suffix}" for part in parts]


def to_ours(
    kind: Kind, tensors: dict[str, Tensor], config: ModelConfig
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Our state_dict from their tensors, for a model of this shape; or, where they have no head to
    score words with, of this shape without a head, which is returned too.

    Raises UserError for a tensor that is missing, or of another shape, or that we do not know.
    """
    tensors = {_today(name): tensor for name, tensor in tensors.items()}
    base = kind.base if any(name.startswith(kind.base) for name in tensors) else ""
    heads = [name for part, name in kind.names.items() if part.startswith(OUTSIDE)]
    if not any(name.startswith(tuple(heads)) for name in tensors):
        config = _without_head(config)
    with torch.device("meta"):
        expected = Transformer(config).state_dict()
    ours, used = {}, set()
    for name, wanted in expected.items():
        prefix = "" if name.startswith(OUTSIDE) else base
        parts = [prefix + part for part in their_names(kind, name)]
        missing = [part for part in parts if part not in tensors]
        if missing:
            raise UserError(f"the tensor {missing[0]} is missing")
        used.update(parts)
        joined = torch.cat([_turned(kind, name, tensors[part]) for part in parts])
        if joined.shape != wanted.shape:
            raise UserError(
                f"the tensor {' + '.join(parts)} makes the shape {tuple(joined.shape)}, where "
                f"config.json asks for {tuple(wanted.shape)}"
            )
        if kind.heads_first and ".qkv." in name:
            by_head = joined.unflatten(0, (config.n_heads, 3, config.d_head))
            joined = by_head.transpose(0, 1).flatten(0, 2)
        ours[name] = joined.to(torch.promote_types(joined.dtype, torch.float32))
    if kind.base == "bert.":
        used.add(_fold_token_types(tensors, base, ours))
    for name, tensor in tensors.items():
        again = name in EMBEDDING_AGAIN
        if again and not torch.equal(tensor.to(ours["embedding.weight"]), ours["embedding.weight"]):
            raise UserError(
                f"the tensor {name} is not the embedding's: only models that use one matrix for "
                f"the words that go in and come out can be imported"
            )
        if name not in used and not re.search(kind.not_needed, name):
            raise UserError(f"the tensor {name} is none that a model of this type has for us")
    return config, ours


def to_theirs(kind: Kind, ours: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Their tensors from our state_dict: undoes `to_ours`, but for BERT's token types, which are
    zero now."""
    theirs = {}
    for name, tensor in ours.items():
        prefix = "" if name.startswith(OUTSIDE) else kind.base
        parts = [prefix + part for part in their_names(kind, name)]
        if kind.heads_first and ".qkv." in name:
            by_head = tensor.unflatten(0, (3, config.n_heads, config.d_head))
            tensor = by_head.transpose(0, 1).flatten(0, 2)
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            theirs[part] = _turned(kind, name, rows)
    if kind.base == "bert.":
        types = torch.zeros(1, config.d_model)
        theirs["bert.embeddings.token_type_embeddings.weight"] = types
    return theirs


def _turned(kind: Kind, ours: str, tensor: Tensor) -> Tensor:
    """A matrix of a block, transposed where this type keeps them so; any other tensor as it is."""
    matrix = ours.startswith("blocks.") and tensor.dim() == 2
    return tensor.T if matrix and kind.transposed else tensor


def _today(name: str) -> str:
    """BERT's oldest files call gain and bias of a norm gamma and beta."""
    return re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))


def _without_head(config: ModelConfig) -> ModelConfig:
    return ModelConfig(**vars(config) | dict(head=False, logits_bias=False))


def _fold_token_types(tensors: dict[str, Tensor], base: str, ours: dict[str, Tensor]) -> str:
    """Add BERT's vector for a first sentence, which every word of ours is in, to each position's.

    To the words' own vectors it would add it in the vocabulary matrix, too. Returns its name."""
    name = f"{base}embeddings.token_type_embeddings.weight"
    if name not in tensors:
        raise UserError(f"the tensor {name} is missing")
    if tensors[name].dim() != 2 or tensors[name].shape[1] != ours["positions.weight"].shape[1]:
        raise UserError(f"the tensor {name} has the shape {tuple(tensors[name].shape)}")
    ours["positions.weight"] = ours["positions.weight"] + tensors[name][0]
    return name
