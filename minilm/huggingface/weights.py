"""Hugging Face's model types: how config.json spells a shape, and which tensors make up each of our
parameters. GPT-2's matrices lie transposed, BERT's queries, keys and values apart."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minilm.config import ModelConfig, UserError
from minilm.huggingface.families import FAMILIES
from minilm.huggingface.tokenizers import damage, import_library


@dataclass(frozen=True)
class Type:
    """One of Hugging Face's model types."""

    family: str
    base: str  # what the names of all tensors but the head's begin with
    causal: bool  # which attention it was trained with
    numbers: dict[str, str]  # our field of the shape -> their key in config.json
    fixed: dict[str, Any]  # what config.json must say, if it says it
    layer: str  # their layer i
    names: dict[str, str]  # our module -> theirs; a + before what is in a layer; | between several
    unused: str = r"^$"  # tensors within the base that take no part in what we compute


NUMBERS = dict(
    vocab_size="vocab_size", max_length="max_position_embeddings", d_model="hidden_size",
    n_layers="num_hidden_layers", n_heads="num_attention_heads", d_ff="intermediate_size",
)  # fmt: skip
BERT = Type(
    family="bert", base="bert.", causal=False, layer="encoder.layer.{i}.",
    numbers=NUMBERS | dict(epsilon="layer_norm_eps"),
    fixed=dict(hidden_act="gelu", position_embedding_type="absolute", add_cross_attention=False),
    names={
        "embedding": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "attention.qkv": "+attention.self.query|+attention.self.key|+attention.self.value",
        "attention.out": "+attention.output.dense", "norm_1": "+attention.output.LayerNorm",
        "feed_forward.up": "+intermediate.dense", "feed_forward.down": "+output.dense",
        "norm_2": "+output.LayerNorm", "head": "cls.predictions",
        "head.dense": "cls.predictions.transform.dense",
        "head.norm": "cls.predictions.transform.LayerNorm",
    },
    unused=r"pooler\.|position_ids$",
)  # fmt: skip
GPT2 = Type(
    family="gpt2", base="transformer.", causal=True, layer="h.{i}.",
    numbers=dict(
        vocab_size="vocab_size", max_length="n_positions", d_model="n_embd", n_layers="n_layer",
        n_heads="n_head", d_ff="n_inner", epsilon="layer_norm_epsilon",
    ),
    fixed=dict(
        activation_function="gelu_new", scale_attn_weights=True, add_cross_attention=False,
        scale_attn_by_inverse_layer_idx=False,
    ),
    names={
        "embedding": "wte", "positions": "wpe", "norm_1": "+ln_1", "attention.qkv": "+attn.c_attn",
        "attention.out": "+attn.c_proj", "norm_2": "+ln_2", "feed_forward.up": "+mlp.c_fc",
        "feed_forward.down": "+mlp.c_proj", "norm": "ln_f",
    },
    unused=r"attn\.(masked_)?bias$",  # tables of who may see whom
)  # fmt: skip
MODERNBERT = Type(
    family="modernbert", base="model.", causal=False, layer="layers.{i}.",
    numbers=NUMBERS | dict(epsilon="norm_eps"),
    fixed=dict(
        hidden_activation="gelu", classifier_activation="gelu", attention_bias=False,
        mlp_bias=False, norm_bias=False, classifier_bias=False, decoder_bias=True,
    ),
    names={
        "embedding": "embeddings.tok_embeddings", "embedding_norm": "embeddings.norm",
        "norm_1": "+attn_norm", "attention.qkv": "+attn.Wqkv", "attention.out": "+attn.Wo",
        "norm_2": "+mlp_norm", "feed_forward.up": "+mlp.Wi", "feed_forward.down": "+mlp.Wo",
        "norm": "final_norm", "head": "decoder", "head.dense": "head.dense",
        "head.norm": "head.norm",
    },
)  # fmt: skip
DECODER_NAMES = {
    "attention.qkv": "+attn.q_proj|+attn.k_proj|+attn.v_proj",
    "head.dense": "lm_head.dense", "head.norm": "lm_head.norm",
}  # fmt: skip
# Our own model is a case of Persimmon (Elsen et al. 2023), whose biases are zero here.
_ROPE = dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=1.0)
PERSIMMON = Type(
    family="ours", base="model.", causal=True, layer="layers.{i}.", numbers=NUMBERS,
    fixed=dict(
        hidden_act="relu2", qk_layernorm=True, layer_norm_eps=1e-5, rope_parameters=_ROPE, **_ROPE
    ),
    names={
        "embedding": "embed_tokens", "norm_1": "+input_layernorm", "norm": "final_layernorm",
        "attention.qkv": "+self_attn.query_key_value", "attention.out": "+self_attn.dense",
        "attention.norm_q": "+self_attn.q_layernorm", "attention.norm_k": "+self_attn.k_layernorm",
        "norm_2": "+post_attention_layernorm", "feed_forward.up": "+mlp.dense_h_to_4h",
        "feed_forward.down": "+mlp.dense_4h_to_h",
    },
)  # fmt: skip
TYPES = {
    "bert": BERT,
    "gpt2": GPT2,
    "modernbert": MODERNBERT,
    "modernbert-decoder": replace(MODERNBERT, causal=True, names=MODERNBERT.names | DECODER_NAMES),
    "persimmon": PERSIMMON,
}
TIED = dict.fromkeys(
    ("cls.predictions.decoder.weight", "lm_head.weight", "decoder.weight"), "embedding.weight"
)
TIED["cls.predictions.decoder.bias"] = "head.bias"
SENTENCE_TYPES = "bert.embeddings.token_type_embeddings.weight"


def read_shape(config: dict) -> ModelConfig:
    """The shape that a config.json asks for. Raises UserError where ours cannot have it."""
    name = config.get("model_type")
    if not isinstance(name, str) or name not in TYPES:
        raise UserError(f"model_type {name!r} cannot be imported: only {', '.join(TYPES)} can")
    kind = TYPES[name]
    shape = {ours: config[key] for ours, key in kind.numbers.items() if config.get(key) is not None}
    with damage("config.json is damaged"):
        if kind is GPT2:
            shape.setdefault("d_ff", 4 * shape["d_model"])
        if kind.family == "modernbert":  # older files say it in three numbers, newer ones in tables
            types, rope = config.get("layer_types"), config.get("rope_parameters") or {}
            every = types and next((i for i in range(1, len(types)) if "full" in types[i]), 2**20)
            shape |= dict(
                global_every=every or config.get("global_attn_every_n_layers", 3),
                local_window=config.get("local_attention", 128) // 2 - kind.causal,
            )
            for ours, theirs, default in (("", "full", 160_000.0), ("local_", "sliding", 10_000.0)):
                base = config.get(f"{ours or 'global_'}rope_theta", default)
                base = (rope.get(f"{theirs}_attention") or {}).get("rope_theta", base)
                shape[f"{ours}rotary_base"] = float(base)
        shape = FAMILIES[kind.family][1](**shape)
    for key, value in write_shape(name, shape).items():
        if config.get(key) not in (None, value):
            raise UserError(f"{key} is {config[key]!r}: only {value!r} can be imported")
    return shape


def write_shape(name: str, config: ModelConfig) -> dict:
    """The config.json that asks for this shape."""
    kind, shape = TYPES[name], asdict(config)
    said = dict(model_type=name, tie_word_embeddings=True, **kind.fixed)
    said |= {key: shape[ours] for ours, key in kind.numbers.items()}
    if kind.family == "modernbert":
        bases = [("full_attention", config.rotary_base)]
        bases.append(("sliding_attention", config.local_rotary_base))
        said |= dict(
            local_attention=2 * (config.local_window + kind.causal),  # it counts the token itself
            layer_types=[bases[i % config.global_every > 0][0] for i in range(config.n_layers)],
            rope_parameters={n: dict(rope_type="default", rope_theta=b) for n, b in bases},
        )  # fmt: skip
    return said


def their_names(kind: Type, ours: str) -> list[str]:
    """The tensors that make up one of our parameters.

    >>> their_names(GPT2, "blocks.3.norm_1.bias")
    ['transformer.h.3.ln_1.bias']
    """
    block, i, module = re.fullmatch(r"(blocks\.(\d+)\.)?(.*)", ours).groups()
    module, _, suffix = module.rpartition(".")
    base = "" if module.startswith("head") else kind.base
    layer = kind.layer.replace("{i}", i) if block else ""
    return [f"{base}{n.replace('+', layer)}.{suffix}" for n in kind.names[module].split("|")]


def _turned(kind: Type, ours: str, tensor: Tensor, n_heads: int, back: bool = False) -> Tensor:
    """Theirs as ours (or back): GPT-2's matrices transposed; Persimmon's rows of q, k and v, which
    lie head by head, first all of q."""
    if kind is GPT2 and ours.startswith("blocks.") and tensor.dim() == 2:
        return tensor.T.contiguous()
    if kind is PERSIMMON and ".qkv." in ours:
        parts = (3, n_heads, -1) if back else (n_heads, 3, -1)
        return tensor.unflatten(0, parts).transpose(0, 1).flatten(0, 2)
    return tensor.contiguous()


def to_ours(
    kind: Type, tensors: dict[str, Tensor], config: ModelConfig
) -> tuple[ModelConfig, dict[str, Tensor], list[str]]:
    """Our state_dict from their tensors. Returns the shape (with no head where theirs has none for
    tokens), the weights, and the names of tensors that were left out, of a head for another task.

    Raises UserError for a tensor that is missing, is not finite, has another shape, or would take
    part in what theirs computes and has no place in ours.
    """
    for old, new in ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")):  # in BERT's oldest files
        tensors = {re.sub(old, new, name): tensor for name, tensor in tensors.items()}
    if not any(name.startswith(kind.base) for name in tensors):  # a model that was saved bare
        tensors = {kind.base + name: tensor for name, tensor in tensors.items()}
    if config.n_layers > len(tensors):
        raise UserError(f"config.json speaks of {config.n_layers} layers, which are not there")
    if getattr(config, "head", False):
        parts = [f"{name}." for ours, name in kind.names.items() if ours.startswith("head")]
        there = all(any(name.startswith(part) for name in tensors) for part in parts)
        config = replace(config, head=there)
    with torch.device("meta"):
        expected = FAMILIES[kind.family][0](config).state_dict()
    ours, left = {}, dict(tensors)
    for name, wanted in expected.items():
        parts = their_names(kind, name)
        if missing := [part for part in parts if left.pop(part, None) is None]:
            raise UserError(f"the tensor {missing[0]} is missing")
        joined = torch.cat([_turned(kind, name, tensors[p], config.n_heads) for p in parts])
        if joined.shape != wanted.shape or not joined.isfinite().all():
            raise UserError(
                f"the tensor {' + '.join(parts)} is not finite or makes the shape "
                f"{tuple(joined.shape)}, where config.json asks for {tuple(wanted.shape)}"
            )
        ours[name] = joined.to(torch.promote_types(joined.dtype, torch.float32))
    if kind is BERT:  # every text is a first sentence, whose vector is added at each position
        first = left.pop(SENTENCE_TYPES, torch.zeros(0))[:1]
        if first.shape != (1, config.d_model):
            raise UserError(f"the tensor {SENTENCE_TYPES} is missing or has another shape")
        ours["positions.weight"] = ours["positions.weight"] + first
    for name, same in TIED.items():
        if (
            name in left
            and same in ours
            and not torch.equal(left.pop(name).to(ours[same]), ours[same])
        ):
            raise UserError(
                f"the tensor {name} is not the embedding's: only models with one matrix for tokens "
                f"that go in and come out can be imported"
            )
    for name in list(left):
        zero = kind is PERSIMMON and name.endswith(".bias") and not left[name].any()
        if name.startswith(kind.base) and (zero or re.search(kind.unused, name)):
            left.pop(name)
        elif name.startswith(kind.base):
            raise UserError(f"the tensor {name} has no place in our {kind.family}")
    return config, ours, sorted(left)


def to_theirs(kind: Type, ours: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Their tensors from our state_dict (or gradients): undoes `to_ours`, but for BERT's sentence
    types, which are zero now."""
    theirs = {SENTENCE_TYPES: torch.zeros(1, config.d_model)} if kind is BERT else {}
    for name, tensor in ours.items():
        parts = their_names(kind, name)
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            theirs[part] = _turned(kind, name, rows, config.n_heads, back=True)
            if kind is PERSIMMON and "embed" not in part:
                theirs.setdefault(part.replace(".weight", ".bias"), torch.zeros(len(rows)))
    return theirs


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of model.safetensors, or else of pytorch_model.bin, of which nothing else is ever
    read, by name. Raises UserError where there is neither, or it is damaged."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path := folder / name).is_file():
            with damage(f"{name} is damaged, or holds anything but tensors"):
                if name == "model.safetensors":
                    return import_library("safetensors.torch").load_file(path)
                content = torch.load(path, map_location="cpu", weights_only=True)
                return {str(name): tensor.detach() for name, tensor in content.items()}
    raise UserError("there is no model.safetensors or pytorch_model.bin in one file")
