"""Which of Hugging Face's types our Transformer can be, and what they call its parts.

For each type: the shape that its config.json asks for, and for each of our parameters the names of
the tensors that make it up. GPT-2's matrices lie transposed, BERT's queries, keys and values apart.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minilm.errors import UserError
from minilm.shape import FAMILY

GELUS = {"gelu": "gelu", "gelu_new": "gelu-tanh", "gelu_pytorch_tanh": "gelu-tanh"}


@dataclass(frozen=True)
class Kind:
    """One of Hugging Face's model types."""

    base: str  # the prefix of all but the head's tensors, which may be missing
    names: dict[str, str]  # our module -> their module, {i} the block; several that are joined: |
    shape: Callable[[dict], dict]  # config.json -> the arguments of ModelConfig
    causal: bool  # which of the two readings it was trained for
    transposed: bool = False  # matrices are (in, out)
    heads_first: bool = False  # rows of qkv: by head, then by what they are; ours the other way
    not_needed: str = r"^$"  # a pattern of tensors that take no part in what we compute


def bert_shape(config: dict) -> dict:
    """Of `bert`."""
    require(config, position_embedding_type="absolute", add_cross_attention=False)
    return FAMILY["bert"] | dict(
        sizes(config, max_length="max_position_embeddings", d_ff="intermediate_size"),
        activation=activation(config, "hidden_act"),
        norm_epsilon=config.get("layer_norm_eps", 1e-12),
    )


def gpt2_shape(config: dict) -> dict:
    """Of `gpt2`."""
    require(
        config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )  # fmt: skip
    D = config.get("n_embd")
    return FAMILY["gpt2"] | dict(
        vocab_size=config.get("vocab_size"), max_length=config.get("n_positions"), d_model=D,
        n_layers=config.get("n_layer"), n_heads=config.get("n_head"),
        d_ff=config.get("n_inner") or 4 * D,
        activation=activation(config, "activation_function", "gelu_new"),
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
    )  # fmt: skip


def modernbert_shape(config: dict) -> dict:
    """Of `modernbert` and `modernbert-decoder`."""
    biased = config.get("attention_bias", False)
    require(
        config, mlp_bias=biased, classifier_bias=biased, hidden_activation="gelu",
        classifier_activation="gelu",
    )  # fmt: skip
    shape = FAMILY["modernbert"] | dict(
        sizes(config, max_length="max_position_embeddings", d_ff="intermediate_size"),
        bias=biased,
        norm_bias=config.get("norm_bias", False),
        norm_epsilon=config.get("norm_eps", 1e-5),
        logits_bias=config.get("decoder_bias", True),
        local_window=config.get("local_attention", 128) // 2,
        **layers_and_bases(config),
    )
    if config["model_type"] == "modernbert-decoder":
        shape["local_window"] -= 1  # the decoder counts the word itself, the encoder does not
    return shape


def layers_and_bases(config: dict) -> dict:
    """Which of ModernBERT's blocks look everywhere, and how far its rotations reach. Older
    config.json files say it in three numbers, newer ones block by block."""
    every = config.get("global_attn_every_n_layers", 3)
    if types := config.get("layer_types"):
        everywhere = [i for i, name in enumerate(types) if name == "full_attention"]
        every = everywhere[1] if len(everywhere) > 1 else len(types)
        if everywhere != list(range(0, len(types), every)):
            raise UserError(f"layer_types {types}: only every n-th block may look everywhere")
    bases = {}
    for ours, theirs, old, default in (
        ("rotary_base", "full_attention", "global_rope_theta", 160_000.0),
        ("local_rotary_base", "sliding_attention", "local_rope_theta", 10_000.0),
    ):
        rope = (config.get("rope_parameters") or {}).get(theirs) or {}
        require(rope, rope_type="default")
        bases[ours] = float(rope.get("rope_theta", config.get(old, default)))
    return dict(global_every=every, **bases)


def persimmon_shape(config: dict) -> dict:
    """Of `persimmon`, the type that our own default block is a case of: it has biases, which are
    zero there."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    turned = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 0.5))
    require(dict(partial_rotary_factor=turned), partial_rotary_factor=1.0)
    require(rope, rope_type="default")
    require(config, hidden_act="relu2", tie_word_embeddings=True)
    return dict(
        sizes(config, max_length="max_position_embeddings", d_ff="intermediate_size"),
        bias=True, norm_bias=True, normalise_qk=config.get("qk_layernorm", True),
        norm_epsilon=config.get("layer_norm_eps", 1e-5),
        rotary_base=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
    )  # fmt: skip


def sizes(config: dict, **others: str) -> dict:
    """The numbers that most types call by the same names."""
    names = dict(
        vocab_size="vocab_size", d_model="hidden_size", n_layers="num_hidden_layers",
        n_heads="num_attention_heads", **others,
    )  # fmt: skip
    return {ours: config.get(theirs) for ours, theirs in names.items()}


def activation(config: dict, key: str, default: str = "gelu") -> str:
    """Our name for an activation. Raises UserError for one that is not ours."""
    name = config.get(key, default)
    if name not in GELUS:
        raise UserError(f"{key} is {name!r}: only {', '.join(GELUS)} can be imported")
    return GELUS[name]


def require(config: dict, **expected: Any) -> None:
    """Raise UserError where a config.json asks for what our model cannot do."""
    for name, value in expected.items():
        found = config.get(name, value)
        if found not in (value, None):
            raise UserError(f"{name} is {found!r}: only {value!r} can be imported")


_MODERNBERT = {
    "embedding": "embeddings.tok_embeddings",
    "embedding_norm": "embeddings.norm",
    "blocks.{i}.norm_1": "layers.{i}.attn_norm",
    "blocks.{i}.attention.qkv": "layers.{i}.attn.Wqkv",
    "blocks.{i}.attention.out": "layers.{i}.attn.Wo",
    "blocks.{i}.norm_2": "layers.{i}.mlp_norm",
    "blocks.{i}.feed_forward.up": "layers.{i}.mlp.Wi",
    "blocks.{i}.feed_forward.down": "layers.{i}.mlp.Wo",
    "norm": "final_norm",
    "head.dense": "head.dense",
    "head.norm": "head.norm",
    "logits_bias": "decoder.bias",
}

KINDS = {
    "bert": Kind(
        base="bert.",
        names={
            "embedding": "embeddings.word_embeddings",
            "positions": "embeddings.position_embeddings",
            "embedding_norm": "embeddings.LayerNorm",
            "blocks.{i}.attention.qkv": "encoder.layer.{i}.attention.self.query"
            "|encoder.layer.{i}.attention.self.key|encoder.layer.{i}.attention.self.value",
            "blocks.{i}.attention.out": "encoder.layer.{i}.attention.output.dense",
            "blocks.{i}.norm_1": "encoder.layer.{i}.attention.output.LayerNorm",
            "blocks.{i}.feed_forward.up": "encoder.layer.{i}.intermediate.dense",
            "blocks.{i}.feed_forward.down": "encoder.layer.{i}.output.dense",
            "blocks.{i}.norm_2": "encoder.layer.{i}.output.LayerNorm",
            "head.dense": "cls.predictions.transform.dense",
            "head.norm": "cls.predictions.transform.LayerNorm",
            "logits_bias": "cls.predictions.bias",
        },
        shape=bert_shape,
        causal=False,
        # The task of telling whether one sentence follows another, and what it alone needs.
        not_needed=r"^cls\.seq_relationship\.|pooler\.|position_ids$|^cls\.predictions\.decoder\.",
    ),
    "gpt2": Kind(
        base="transformer.",
        names={
            "embedding": "wte",
            "positions": "wpe",
            "blocks.{i}.norm_1": "h.{i}.ln_1",
            "blocks.{i}.attention.qkv": "h.{i}.attn.c_attn",
            "blocks.{i}.attention.out": "h.{i}.attn.c_proj",
            "blocks.{i}.norm_2": "h.{i}.ln_2",
            "blocks.{i}.feed_forward.up": "h.{i}.mlp.c_fc",
            "blocks.{i}.feed_forward.down": "h.{i}.mlp.c_proj",
            "norm": "ln_f",
        },
        shape=gpt2_shape,
        causal=True,
        transposed=True,
        not_needed=r"attn\.(masked_)?bias$|^lm_head\.weight$",  # tables of who may look where
    ),
    "modernbert": Kind(
        base="model.",
        names=_MODERNBERT,
        shape=modernbert_shape,
        causal=False,
        not_needed=r"^decoder\.weight$",
    ),
    "modernbert-decoder": Kind(
        base="model.",
        names=_MODERNBERT
        | {
            "blocks.{i}.attention.qkv": "layers.{i}.attn.q_proj|layers.{i}.attn.k_proj"
            "|layers.{i}.attn.v_proj",
            "head.dense": "lm_head.dense",
            "head.norm": "lm_head.norm",
        },
        shape=modernbert_shape,
        causal=True,
        not_needed=r"^decoder\.weight$",
    ),
    "persimmon": Kind(
        base="model.",
        names={
            "embedding": "embed_tokens",
            "blocks.{i}.norm_1": "layers.{i}.input_layernorm",
            "blocks.{i}.attention.qkv": "layers.{i}.self_attn.query_key_value",
            "blocks.{i}.attention.norm_q": "layers.{i}.self_attn.q_layernorm",
            "blocks.{i}.attention.norm_k": "layers.{i}.self_attn.k_layernorm",
            "blocks.{i}.attention.out": "layers.{i}.self_attn.dense",
            "blocks.{i}.norm_2": "layers.{i}.post_attention_layernorm",
            "blocks.{i}.feed_forward.up": "layers.{i}.mlp.dense_h_to_4h",
            "blocks.{i}.feed_forward.down": "layers.{i}.mlp.dense_4h_to_h",
            "norm": "final_layernorm",
        },
        shape=persimmon_shape,
        causal=True,
        heads_first=True,
        not_needed=r"^lm_head\.weight$",
    ),
}
OUTSIDE = ("head", "logits_bias")  # our modules that never have the base's prefix
EMBEDDING_AGAIN = ("cls.predictions.decoder.weight", "lm_head.weight", "decoder.weight")
