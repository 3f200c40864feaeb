"""A run of ours as a folder that Hugging Face's transformers opens with no code of ours.

Whether one of its types can be a run is decided by trying: the config.json that we would write
must, read back, ask for the shape that the run has. Our default block is Persimmon's (Elsen et al.
2023), which has biases besides: they are written as zeros. It and GPT-2 are decoders there, and
transformers lets decoders read in both directions where config.json says `is_causal: false`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from minilm.config import ModelConfig, UserError
from minilm.durable import write_file, writing
from minilm.heads import Classifier
from minilm.interop.files import safetensors
from minilm.interop.kinds import GELUS, KINDS
from minilm.interop.weights import to_theirs
from minilm.model import Transformer
from minilm.runs import Run
from minilm.special import Special
from minilm.tokenizer import SPECIAL_TOKENS, Tokenizer

# Their name for a type, how its classifier of whole texts pools, its layer that labels tokens.
CLASSIFIERS = {
    "bert": ("Bert", "first", "classifier"),
    "gpt2": ("GPT2", "last", "classifier"),
    "persimmon": ("Persimmon", "last", "score"),
}
_ACTS = {ours: theirs for theirs, ours in reversed(GELUS.items())}


def export_run(run: Run, folder: Path) -> str:
    """Write config.json, model.safetensors, tokenizer.json and tokenizer_config.json, the same
    bytes for the same run. Returns the lines of Python that open them.

    Raises UserError where no type of theirs computes what this run does, or the folder is in use.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name a new one")
    tokenizer, config = run.tokenizer, run.config
    if config["kind"] == "finetune":
        classifier, config = run.classifier()
        flags = config["flags"]
        if flags["pooling"] == "last" and tokenizer.special.pad == tokenizer.special.end:
            raise UserError(
                f"{run.folder}: its words end a text with what pads it, and Hugging Face's "
                f"classifier would take neither for the last token: fine-tune with --pooling mean "
                f"to export"
            )
        found = classifier_files(classifier, flags["attention"] == "causal", config["classes"])
        causal = False  # not to be continued, whichever way it was read
    else:
        objective, model = run.flags("pretrain")["objective"], run.transformer()
        causal = objective != "masked"  # what a hybrid fills in, it says one position early
        found = language_model_files(model.config, model.state_dict(), causal)
    settings, tensors = found
    settings |= token_ids(tokenizer.special) | dict(dtype="float32")
    files = {
        "model.safetensors": safetensors(tensors),
        "tokenizer.json": _json(tokenizer_json(tokenizer, causal)),
        "tokenizer_config.json": _json(tokenizer_config(tokenizer, settings)),
        "config.json": _json(settings),  # last: now it is a model
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_file(folder / name, content)
    opens = settings["architectures"][0].partition("For")[2] or "CausalLM"  # ...LMHeadModel
    lines = [
        f"from transformers import AutoModelFor{opens}, AutoTokenizer",
        f'model = AutoModelFor{opens}.from_pretrained("{folder.as_posix()}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder.as_posix()}")',
    ]
    if "Classification" in opens:
        mean = ".mean(1)" * opens.startswith("Token")
        lines += [
            'inputs = tokenizer("A text.", return_tensors="pt", truncation=True)',
            f"model(**inputs).logits{mean}.softmax(-1)  # in the order of model.config.id2label",
        ]
    return "\n".join(lines)


def language_model_files(
    shape: ModelConfig, weights: dict[str, Tensor], causal: bool
) -> tuple[dict, dict[str, Tensor]]:
    """config.json and the tensors of a model that scores words. Raises UserError as above."""
    kind, biased, settings = find_kind(shape, causal)
    tensors = to_theirs(KINDS[kind], with_zero_biases(weights, biased), biased)
    classes = {
        "bert": "BertLMHeadModel" if causal else "BertForMaskedLM",
        "gpt2": "GPT2LMHeadModel",
        "modernbert": "ModernBertForMaskedLM",
        "modernbert-decoder": "ModernBertDecoderForCausalLM",
        "persimmon": "PersimmonForCausalLM",
    }
    return settings | dict(architectures=[classes[kind]]), tensors


def classifier_files(
    classifier: Classifier, causal: bool, classes: list[str]
) -> tuple[dict, dict[str, Tensor]]:
    """config.json and the tensors of a classifier. Raises UserError as above."""
    transformer = classifier.transformer
    shape = ModelConfig(**vars(transformer.config) | dict(head=False, logits_bias=False))
    kind, biased, settings = find_kind(shape, causal, without_head=True)
    if kind not in CLASSIFIERS:
        raise UserError(
            f"Hugging Face's classifiers of type {kind} have a layer that ours has not: fine-tune "
            f"a run that was pretrained with --family ours, bert or gpt2 to export"
        )
    their_name, pooling, head = CLASSIFIERS[kind]
    if classifier.pooling not in ("mean", pooling):
        raise UserError(
            f"type {kind} of Hugging Face has no classifier that pools like --pooling "
            f"{classifier.pooling}: fine-tune with --pooling mean or {pooling} to export"
        )
    weights = transformer.state_dict()
    for name in list(weights):
        if name.startswith(("head.", "logits_bias")):
            del weights[name]
    weights = with_zero_biases(weights, biased)
    W, b = classifier.head.weight.detach(), classifier.head.bias.detach()
    task = "SequenceClassification"
    if classifier.pooling == "mean":
        # Theirs pools otherwise, but W mean(h) + b = mean(W h + b): a score for every token, to be
        # averaged over all that are no padding, the marks around the text too, by whoever uses it.
        task = "TokenClassification"
        more = {f"{head}.weight": W, f"{head}.bias": b}
    elif kind == "bert":
        # Theirs has one more layer, tanh(W x). Near 0 tanh is the identity, to a third of a cube.
        small = 2.0**-14
        more = {
            "bert.pooler.dense.weight": small * torch.eye(len(W[0])),
            "bert.pooler.dense.bias": torch.zeros(len(W[0])),
            "classifier.weight": W / small,
            "classifier.bias": b,
        }
    else:
        # Theirs has no bias. The last norm's will do: W (x + c) = W x + b for c = W⁺ b.
        c = torch.linalg.pinv(W.double()) @ b.double()
        if not torch.allclose(W.double() @ c, b.double(), rtol=0, atol=1e-6):
            raise UserError(
                "the head's bias cannot be expressed in Hugging Face's classifier: fine-tune with "
                "--pooling mean to export"
            )
        weights["norm.bias"] = (weights["norm.bias"].double() + c).float()
        more = {"score.weight": W}
    settings |= dict(
        architectures=[f"{their_name}For{task}"],
        id2label={str(i): label for i, label in enumerate(classes)},
        label2id={label: i for i, label in enumerate(classes)},
        problem_type="single_label_classification",
    )
    return settings, to_theirs(KINDS[kind], weights, biased) | more


def find_kind(
    shape: ModelConfig, causal: bool, without_head: bool = False
) -> tuple[str, ModelConfig, dict]:
    """The type that computes what this shape does, the shape with the biases that it has, and its
    config.json. Raises UserError where there is none."""
    plain = dict(dropout=0.0) | (dict(head=False, logits_bias=False) if without_head else {})
    for kind, settings_of in SETTINGS.items():
        if KINDS[kind].causal != causal and kind.startswith("modernbert"):
            continue
        more = dict(bias=True, norm_bias=True) if kind == "persimmon" else {}
        wanted = ModelConfig(**vars(shape) | plain | more)
        settings = dict(model_type=kind, **settings_of(wanted, causal))
        if KINDS[kind].causal and not causal:
            settings["is_causal"] = False
        try:
            read_back = ModelConfig(**KINDS[kind].shape(settings) | plain)
        except (UserError, TypeError):  # it has no name for what this shape chose
            continue
        if read_back == wanted:
            return kind, wanted, settings
    reading = "causal" if causal else "bidirectional"
    raise UserError(
        f"no type of Hugging Face's that we know is this Transformer in its {reading} reading"
    )


def with_zero_biases(weights: dict[str, Tensor], shape: ModelConfig) -> dict[str, Tensor]:
    """Weights for a shape that has biases, zero where these had none."""
    with torch.device("meta"):
        expected = Transformer(shape).state_dict()
    return {
        name: weights[name] if name in weights else torch.zeros(tensor.shape)
        for name, tensor in expected.items()
        if name in weights or name.endswith("bias")
    }


def _common(shape: ModelConfig) -> dict:
    return dict(
        vocab_size=shape.vocab_size, hidden_size=shape.d_model, num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads, intermediate_size=shape.d_ff,
        max_position_embeddings=shape.max_length, tie_word_embeddings=True,
    )  # fmt: skip


def _bert(shape: ModelConfig, causal: bool) -> dict:
    return _common(shape) | dict(
        hidden_act=_ACTS.get(shape.activation), layer_norm_eps=shape.norm_epsilon,
        type_vocab_size=1, is_decoder=causal,
    )  # fmt: skip


def _gpt2(shape: ModelConfig, causal: bool) -> dict:
    return dict(
        vocab_size=shape.vocab_size, n_embd=shape.d_model, n_layer=shape.n_layers,
        n_head=shape.n_heads, n_inner=shape.d_ff, n_positions=shape.max_length,
        activation_function=_ACTS.get(shape.activation), layer_norm_epsilon=shape.norm_epsilon,
        tie_word_embeddings=True,
    )  # fmt: skip


def _modernbert(shape: ModelConfig, causal: bool) -> dict:
    half = shape.local_window + causal  # the decoder counts the word itself
    types = ["sliding" if shape.is_local(i) else "full" for i in range(shape.n_layers)]
    bases = {
        "full_attention": shape.rotary_base, "sliding_attention": shape.local_rotary_base
    }  # fmt: skip
    return _common(shape) | dict(
        hidden_activation="gelu", norm_eps=shape.norm_epsilon, norm_bias=shape.norm_bias,
        attention_bias=shape.bias, mlp_bias=shape.bias, classifier_bias=shape.bias,
        decoder_bias=shape.logits_bias, local_attention=2 * half,
        global_attn_every_n_layers=shape.global_every,
        layer_types=[f"{name}_attention" for name in types],
        rope_parameters={
            name: dict(rope_type="default", rope_theta=base) for name, base in bases.items()
        },
    )  # fmt: skip


def _persimmon(shape: ModelConfig, causal: bool) -> dict:
    rope = dict(rope_type="default", rope_theta=shape.rotary_base, partial_rotary_factor=1.0)
    return _common(shape) | dict(
        hidden_act="relu2", layer_norm_eps=shape.norm_epsilon, qk_layernorm=shape.normalise_qk,
        partial_rotary_factor=1.0, rope_parameters=rope,
    )  # fmt: skip


SETTINGS: dict[str, Callable[[ModelConfig, bool], dict]] = {
    "gpt2": _gpt2,
    "bert": _bert,
    "modernbert": _modernbert,
    "modernbert-decoder": _modernbert,
    "persimmon": _persimmon,
}


def token_ids(special: Special) -> dict:
    """What config.json says of special tokens."""
    names = dict(bos_token_id=special.begin, eos_token_id=special.end, pad_token_id=special.pad)
    return names | dict(cls_token_id=special.begin, sep_token_id=special.end)


def tokenizer_json(tokenizer, causal: bool) -> dict:
    """The words. A text that is read as a whole gets the marks of `frame` around it, which GPT-2's
    words do not give it; one that is to be continued gets none after it. Others' words are
    continued as they came."""
    ours = isinstance(tokenizer, Tokenizer)
    if causal and not ours:
        return tokenizer.content
    special, names = tokenizer.special, SPECIAL_TOKENS if ours else tokenizer.names
    marks = special.begin, special.end
    begin, end = ({"SpecialToken": {"id": names[i], "type_id": 0}} for i in marks)
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    after = [] if causal else [end]
    around = {
        "type": "TemplateProcessing",
        "single": [begin, first, *after],
        "pair": [begin, first, end, second, *after],
        "special_tokens": {names[i]: dict(id=names[i], ids=[i], tokens=[names[i]]) for i in marks},
    }
    content = json.loads(tokenizer.to_json()) if ours else tokenizer.content
    return content | {"post_processor": around}


def tokenizer_config(tokenizer, settings: dict) -> dict:
    """What the special tokens are for, and how long a text may be."""
    roles = getattr(tokenizer, "roles", None)
    if roles is None:
        pad, mask, doc = SPECIAL_TOKENS
        names = ("bos_token", "eos_token", "cls_token", "sep_token", "unk_token")
        roles = dict(pad_token=pad, mask_token=mask, **dict.fromkeys(names, doc))
    length = settings.get("max_position_embeddings") or settings["n_positions"]
    return dict(
        tokenizer_class="PreTrainedTokenizerFast", model_max_length=length,
        clean_up_tokenization_spaces=False, **roles,
    )  # fmt: skip


def _json(content: dict) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode()
