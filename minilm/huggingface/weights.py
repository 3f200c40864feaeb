"""Hugging Face's model types: how config.json spells a shape, and which tensors make up each of our
parameters. GPT-2's matrices lie transposed, BERT's queries, keys and values apart."""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from minilm.config import ModelConfig, UserError
from minilm.huggingface.families import FAMILIES
from minilm.huggingface.tokenizers import damage, import_library

# What they call our modules. +: in their layer i; -: there is none; a|b: joined to one of ours.
_BERT_AND_GPT2 = """
embedding       embeddings.word_embeddings           wte
positions       embeddings.position_embeddings       wpe
embedding_norm  embeddings.LayerNorm                 -
norm_1          +attention.output.LayerNorm          +ln_1
qkv             +attention.self.query|key|value      +attn.c_attn
out             +attention.output.dense              +attn.c_proj
norm_2          +output.LayerNorm                    +ln_2
up              +intermediate.dense                  +mlp.c_fc
down            +output.dense                        +mlp.c_proj
norm            -                                    ln_f
head.dense      cls.predictions.transform.dense      -
head.norm       cls.predictions.transform.LayerNorm  -
head            cls.predictions                      -
"""
_MODERNBERT_AND_OURS = """
embedding       embeddings.tok_embeddings  embeddings.tok_embeddings  embed_tokens
embedding_norm  embeddings.norm            embeddings.norm            -
norm_1          +attn_norm                 +attn_norm                 +input_layernorm
qkv             +attn.Wqkv                 +attn.q_proj|k_proj|v_proj +self_attn.query_key_value
norm_q          -                          -                          +self_attn.q_layernorm
norm_k          -                          -                          +self_attn.k_layernorm
out             +attn.Wo                   +attn.Wo                   +self_attn.dense
norm_2          +mlp_norm                  +mlp_norm                  +post_attention_layernorm
up              +mlp.Wi                    +mlp.Wi                    +mlp.dense_h_to_4h
down            +mlp.Wo                    +mlp.Wo                    +mlp.dense_4h_to_h
norm            final_norm                 final_norm                 final_layernorm
head.dense      head.dense                 lm_head.dense              -
head.norm       head.norm                  lm_head.norm               -
head            decoder                    decoder                    -
"""


def _column(table: str, i: int) -> dict[str, str]:
    rows = [line.split() for line in table.strip().split("\n")]
    return {row[0]: row[i] for row in rows if row[i] != "-"}


@dataclass(frozen=True)
class Type:
    """One of Hugging Face's model types."""

    family: str
    called: str  # what the names of its classes begin with
    causal: bool  # which attention it was trained with
    base: str  # what the names of all tensors but the head's begin with
    layer: str  # what + stands for
    names: dict[str, str]
    numbers: dict[str, str]  # our field of the shape -> their key in config.json
    fixed: dict  # what config.json must say, if it says it
    unused: str = r"^$"  # tensors within the base that take no part in what we compute


_NUMBERS = dict(
    vocab_size="vocab_size", max_length="max_position_embeddings", d_model="hidden_size",
    n_layers="num_hidden_layers", n_heads="num_attention_heads", d_ff="intermediate_size",
)  # fmt: skip
BERT = Type(
    "bert", "Bert", False, "bert.", "encoder.layer.{i}.", _column(_BERT_AND_GPT2, 1),
    numbers=_NUMBERS | dict(epsilon="layer_norm_eps"),
    fixed=dict(hidden_act="gelu", position_embedding_type="absolute", add_cross_attention=False),
    unused=r"pooler\.|position_ids$",
)  # fmt: skip
GPT2 = Type(
    "gpt2", "GPT2", True, "transformer.", "h.{i}.", _column(_BERT_AND_GPT2, 2),
    numbers=dict(
        vocab_size="vocab_size", max_length="n_positions", d_model="n_embd", n_layers="n_layer",
        n_heads="n_head", d_ff="n_inner", epsilon="layer_norm_epsilon",
    ),
    fixed=dict(
        activation_function="gelu_new", scale_attn_weights=True, add_cross_attention=False,
        scale_attn_by_inverse_layer_idx=False,
    ),
    unused=r"attn\.(masked_)?bias$",  # tables of who may see whom
)  # fmt: skip
MODERNBERT = Type(
    "modernbert", "ModernBert", False, "model.", "layers.{i}.", _column(_MODERNBERT_AND_OURS, 1),
    numbers=_NUMBERS | dict(epsilon="norm_eps"),
    fixed=dict(
        hidden_activation="gelu", classifier_activation="gelu", attention_bias=False,
        mlp_bias=False, norm_bias=False, classifier_bias=False, decoder_bias=True,
    ),
)  # fmt: skip
# Our own model is a case of Persimmon (Elsen et al. 2023), whose biases are zero here.
_ROPE = dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=1.0)
PERSIMMON = Type(
    "ours", "Persimmon", True, "model.", "layers.{i}.", _column(_MODERNBERT_AND_OURS, 3), _NUMBERS,
    fixed=dict(
        hidden_act="relu2", qk_layernorm=True, layer_norm_eps=1e-5, rope_parameters=_ROPE, **_ROPE
    ),
)  # fmt: skip
_DECODER = dict(called="ModernBertDecoder", causal=True, names=_column(_MODERNBERT_AND_OURS, 2))
TYPES = {
    "bert": BERT, "gpt2": GPT2, "modernbert": MODERNBERT, "persimmon": PERSIMMON,
    "modernbert-decoder": replace(MODERNBERT, **_DECODER),
}  # fmt: skip
_REPEATED = ("lm_head.weight", "decoder.weight", "cls.predictions.decoder.weight")
TIED = dict.fromkeys(_REPEATED, "embedding.weight") | {"cls.predictions.decoder.bias": "head.bias"}
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
        names, bases = (
            ["full_attention", "sliding_attention"],
            [config.rotary_base, config.local_rotary_base],
        )
        ropes = [dict(rope_type="default", rope_theta=base) for base in bases]
        said["layer_types"] = [names[i % config.global_every > 0] for i in range(config.n_layers)]
        said["local_attention"] = 2 * (
            config.local_window + kind.causal
        )  # it counts the token itself
        said["rope_parameters"] = dict(zip(names, ropes, strict=True))
    return said


def their_names(kind: Type, ours: str) -> list[str]:
    """The tensors that make up one of our parameters."""
    pattern = r"(?:blocks\.(\d+)\.)?(?:attention\.|feed_forward\.)?(.*)\.(\w+)"
    i, module, suffix = re.fullmatch(pattern, ours).groups()
    base = "" if module.startswith("head") else kind.base
    first, *others = kind.names[module].replace("+", kind.layer.replace("{i}", i or "")).split("|")
    stem = first.rpartition(".")[0]  # of a.b|c: a.b and a.c
    return [f"{base}{name}.{suffix}" for name in [first, *(f"{stem}.{o}" for o in others)]]


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
    tokens), the weights, and the names of what was left out: the head for another task.

    Raises UserError for a tensor that is missing, is not finite, has another shape, or would take
    part in what theirs computes and has no place in ours.
    """
    for old, new in ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")):  # in BERT's oldest files
        tensors = {re.sub(old, new, name): tensor for name, tensor in tensors.items()}
    if not any(name.startswith(kind.base) for name in tensors):  # a model that was saved bare
        tensors = {kind.base + name: tensor for name, tensor in tensors.items()}
    if config.n_layers > len(tensors):  # before so many are built
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
            wrong = (
                f"has the shape {tuple(joined.shape)}, not {tuple(wanted.shape)}, or is not finite"
            )
            raise UserError(f"the tensor {parts[0]} {wrong}")
        ours[name] = joined.to(torch.promote_types(joined.dtype, torch.float32))
    if kind is BERT:  # every text is a first sentence, whose vector is added at each position
        if (types := left.pop(SENTENCE_TYPES, None)) is None or types[0].shape != (config.d_model,):
            raise UserError(f"the tensor {SENTENCE_TYPES} is missing or has another shape")
        ours["positions.weight"] = ours["positions.weight"] + types[0]
    for name, tensor in list(left.items()):
        same, inside = ours.get(TIED.get(name)), name.startswith(kind.base)
        if same is not None and not torch.equal(tensor.to(same), same):
            raise UserError(f"the tensor {name} is not {TIED[name]} again, which we cannot have")
        zero = kind is PERSIMMON and name.endswith(".bias") and not tensor.any()
        if same is not None or (inside and (zero or re.search(kind.unused, name))):
            del left[name]
        elif inside:
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
