"""Hugging Face's model types: how config.json spells a shape, and which tensors make up each of our
parameters. GPT-2's matrices lie transposed, BERT's queries, keys and values apart."""

import re
from dataclasses import fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.config import ModelConfig, UserError
from minilm.huggingface.families import FAMILIES
from minilm.huggingface.tokenizers import damage, import_library
from minilm.model import EPSILON

# What each of their types calls what is ours in the first column, in config.json and of tensors. -:
# there is none; a.b|c: a.b and a.c, joined to one of ours; no column: as BERT. Our own model is a
# case of Persimmon (Elsen et al. 2023), whose biases are zero here. It has no norm behind the
# embedding, but what ours gives depends on the token alone: its table holds the normalised rows,
# and its output matrix is our embedding.
_TABLE = """
ours         bert            gpt2          modernbert  persimmon
family       bert            gpt2          modernbert  ours
classes      Bert            GPT2          ModernBert  Persimmon
ForCausalLM  LMHeadModel     LMHeadModel   -           -
causal       -               yes           -           yes
base         bert.           transformer.  model.      model.
layer        encoder.layer.  h.            layers.     layers.

vocab_size         vocab_size               vocab_size          vocab_size
max_length         max_position_embeddings  n_positions         max_position_embeddings
d_model            hidden_size              n_embd              hidden_size
n_layers           num_hidden_layers        n_layer             num_hidden_layers
n_heads            num_attention_heads      n_head              num_attention_heads
d_ff               intermediate_size        n_inner             intermediate_size
epsilon            layer_norm_eps           layer_norm_epsilon  norm_eps
global_every       -                        -                   global_attn_every_n_layers
rotary_base        -                        -                   global_rope_theta
local_rotary_base  -                        -                   local_rope_theta

embedding       embeddings.word_embeddings           wte   embeddings.tok_embeddings  embed_tokens
positions       embeddings.position_embeddings       wpe   -                          -
embedding_norm  embeddings.LayerNorm                 -     embeddings.norm            -
norm            -                                    ln_f  final_norm              final_layernorm
head.dense      cls.predictions.transform.dense      -     head.dense                 -
head.norm       cls.predictions.transform.LayerNorm  -     head.norm                  -
head            cls.predictions                      -     decoder                    -

norm_1  attention.output.LayerNorm      ln_1         attn_norm  input_layernorm
qkv     attention.self.query|key|value  attn.c_attn  attn.Wqkv  self_attn.query_key_value
norm_q  -                               -            -          self_attn.q_layernorm
norm_k  -                               -            -          self_attn.k_layernorm
out     attention.output.dense          attn.c_proj  attn.Wo    self_attn.dense
norm_2  output.LayerNorm                ln_2         mlp_norm   post_attention_layernorm
up      intermediate.dense              mlp.c_fc     mlp.Wi     mlp.dense_h_to_4h
down    output.dense                    mlp.c_proj   mlp.Wo     mlp.dense_4h_to_h
"""
_HEADER, *_ROWS = [line.split() for line in _TABLE.splitlines() if line]
TYPES: dict[str, dict[str, str]] = {name: {} for name in _HEADER[1:]}
for _ours, *_theirs in _ROWS:
    for _name, _called in zip(TYPES, [*_theirs, _theirs[0]], strict=False):
        TYPES[_name] |= {_ours: _called} if _called != "-" else {}
TYPES["modernbert-decoder"] = TYPES["modernbert"] | {
    "classes": "ModernBertDecoder", "causal": "yes", "qkv": "attn.q_proj|k_proj|v_proj",
    "head.dense": "lm_head.dense", "head.norm": "lm_head.norm",
}  # fmt: skip
_ROPE = dict(rope_type="default", rope_theta=10_000.0, partial_rotary_factor=1.0)
FIXED = {  # what config.json must say, if it says it
    "bert": dict(hidden_act="gelu"),
    "gpt2": dict(activation_function="gelu_new", scale_attn_weights=True,
                 scale_attn_by_inverse_layer_idx=False),
    "modernbert": dict(hidden_activation="gelu", classifier_activation="gelu",
                       classifier_bias=False),
    "ours": dict(hidden_act="relu2", qk_layernorm=True, layer_norm_eps=1e-5, rope_parameters=_ROPE,
                 **_ROPE),
}  # fmt: skip
# Tensors that take no part in what we compute, such as tables of who may see whom.
UNUSED = r"pooler\.|position_ids$|attn\.(masked_)?bias$"
_REPEATED = ("lm_head.weight", "decoder.weight", "cls.predictions.decoder.weight")
TIED = dict.fromkeys(_REPEATED, "embedding.weight") | {"cls.predictions.decoder.bias": "head.bias"}
SENTENCE_TYPES = "bert.embeddings.token_type_embeddings.weight"
BASES = dict(full_attention="rotary_base", sliding_attention="local_rotary_base")


def read_shape(config: dict) -> ModelConfig:
    """The shape that a config.json asks for. Raises UserError where ours cannot have it."""
    with damage("config.json is damaged"):
        name = config.get("model_type")
        if name not in TYPES:
            raise UserError(f"model_type {name!r} cannot be imported: only {', '.join(TYPES)} can")
        kind = TYPES[name]
        made = FAMILIES[kind["family"]][1]
        known = {field.name: config.get(kind.get(field.name)) for field in fields(made)}
        shape = {ours: value for ours, value in known.items() if value is not None}
        if name == "gpt2":
            shape.setdefault("d_ff", 4 * shape["d_model"])
        if kind["family"] == "modernbert":
            # Its newer files say in tables what older ones say in numbers.
            if rest := (config.get("layer_types") or [])[1:]:
                shape["global_every"] = [*rest, "full_attention"].index("full_attention") + 1
            if ropes := config.get("rope_parameters"):
                shape |= {ours: ropes[layer]["rope_theta"] for layer, ours in BASES.items()}
            shape["local_window"] = config.get("local_attention", 128) // 2 - ("causal" in kind)
        shape = made(**shape)
    for key, value in write_shape(name, shape).items():
        if config.get(key) not in (None, value):
            raise UserError(f"{key} is {config[key]!r}: only {value!r} can be imported")
    return shape


def write_shape(name: str, config: ModelConfig) -> dict:
    """The config.json, of this model type, that asks for this shape."""
    kind = TYPES[name]
    said = dict(model_type=name, tie_word_embeddings=name != "persimmon") | FIXED[kind["family"]]
    said |= {kind[ours]: value for ours, value in vars(config).items()
             if ours in kind and ours != "head"}  # fmt: skip
    if kind["family"] == "modernbert":
        layers = [*BASES]
        said["layer_types"] = [layers[i % config.global_every > 0] for i in range(config.n_layers)]
        said["local_attention"] = 2 * (config.local_window + ("causal" in kind))  # and the token
        said["rope_parameters"] = {
            layer: dict(rope_type="default", rope_theta=getattr(config, ours))
            for layer, ours in BASES.items()
        }
    return said


def their_names(kind: dict, ours: str) -> list[str]:
    """The tensors that make up one of our parameters."""
    pattern = r"(?:blocks\.(\d+)\.)?(?:attention\.|feed_forward\.)?(.*)\.(\w+)"
    i, module, suffix = re.fullmatch(pattern, ours).groups()
    base = "" if module.startswith("head") else kind["base"]
    layer = f"{kind['layer']}{i}." if i else ""
    stem, dot, ends = kind[module].rpartition(".")  # of a.b|c: a.b and a.c
    return [f"{base}{layer}{stem}{dot}{end}.{suffix}" for end in ends.split("|")]


def _turned(kind: dict, ours: str, tensor: Tensor, n_heads: int, back: bool = False) -> Tensor:
    """Theirs as ours (or back): GPT-2's matrices transposed; Persimmon's rows of q, k and v, which
    lie head by head, first all of q."""
    if kind["family"] == "gpt2" and ours.startswith("blocks.") and tensor.dim() == 2:
        return tensor.T.contiguous()
    if kind["family"] == "ours" and ".qkv." in ours:
        parts = (3, n_heads, -1) if back else (n_heads, 3, -1)
        return tensor.unflatten(0, parts).transpose(0, 1).flatten(0, 2)
    return tensor.contiguous()


def to_ours(name: str, tensors: dict[str, Tensor], config: ModelConfig) -> tuple:
    """Our state_dict from the tensors of a model type. Returns the shape (with no head where theirs
    has none for tokens), the weights, and the names of what was left out: another task's head.

    Raises UserError for a tensor that is missing, is not finite, has another shape, or would take
    part in what theirs computes and has no place in ours."""
    kind = TYPES[name]
    family, base = kind["family"], kind["base"]
    for old, new in ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias")):  # in BERT's oldest files
        tensors = {re.sub(old, new, key): tensor for key, tensor in tensors.items()}
    if not any(key.startswith(base) for key in tensors):  # a model that was saved bare
        tensors = {base + key: tensor for key, tensor in tensors.items()}
    if name == "persimmon":
        table, E = f"{base}embed_tokens.weight", "lm_head.weight"
        with damage(f"the tensor {E} or {table} is missing, or of another shape"):
            if not torch.allclose(tensors[table], normalised(tensors[E]), atol=1e-4):
                raise UserError(f"the tensor {table} is not {E} normalised: cannot be imported")
            tensors[table] = tensors.pop(E)
    if config.n_layers > len(tensors):  # before so many are built
        raise UserError(f"config.json speaks of {config.n_layers} layers, which are not there")
    if "head" in kind:
        config = replace(config, head=f"{kind['head']}.bias" in tensors)
    with torch.device("meta"):
        expected = FAMILIES[family][0](config).state_dict()
    ours, left = {}, dict(tensors)
    for key, wanted in expected.items():
        parts = their_names(kind, key)
        with damage(f"the tensor {parts[0]} is missing, not finite, or of another shape"):
            joined = torch.cat([_turned(kind, key, left.pop(p), config.n_heads) for p in parts])
            if joined.shape != wanted.shape or not joined.isfinite().all():
                raise ValueError(f"it is {tuple(joined.shape)}, not {tuple(wanted.shape)}")
        ours[key] = joined.to(torch.promote_types(joined.dtype, torch.float32))
    if family == "bert":  # every text is a first sentence, whose vector is added at each position
        with damage(f"the tensor {SENTENCE_TYPES} is missing, or of another shape"):
            ours["positions.weight"] += left.pop(SENTENCE_TYPES)[0].view(config.d_model)
    head = []
    for key, tensor in left.items():
        unused = re.search(UNUSED, key) or (key.endswith(".bias") and not tensor.any())
        if (same := ours.get(TIED.get(key))) is not None:
            if not torch.equal(tensor.to(same), same):
                raise UserError(f"the tensor {key} is not {TIED[key]} again, which we cannot have")
        elif not key.startswith(base):
            head.append(key)
        elif not unused:
            raise UserError(f"the tensor {key} has no place in our {family}")
    return config, ours, sorted(head)


def to_theirs(name: str, ours: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a model type from our state_dict: undoes `to_ours`, but for BERT's sentence
    types, which are zero now."""
    kind = TYPES[name]
    theirs = {SENTENCE_TYPES: torch.zeros(1, config.d_model)} if name == "bert" else {}
    for key, tensor in ours.items():
        parts = their_names(kind, key)
        for part, rows in zip(parts, tensor.chunk(len(parts)), strict=True):
            theirs[part] = _turned(kind, key, rows, config.n_heads, back=True)
            if name == "persimmon" and "embed" not in part:
                theirs.setdefault(part.replace(".weight", ".bias"), torch.zeros(len(rows)))
    if name == "persimmon":
        theirs["lm_head.weight"] = E = theirs["model.embed_tokens.weight"]
        theirs["model.embed_tokens.weight"] = normalised(E)
    return theirs


def normalised(E: Tensor) -> Tensor:
    """What our Transformer's `embed` makes of each row of E (V, D). Returns (V, D)."""
    return F.layer_norm(E, E.shape[1:], eps=EPSILON)


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
