"""Small random models of Hugging Face's, one of each type that we can hold."""

import json

import torch

from minilm.huggingface.families import FAMILIES, GPT2Config
from minilm.huggingface.tokenizers import BERT_ROLES, BYTE_OF, read_tokenizer
from minilm.huggingface.weights import to_theirs, write_shape
from tests.machinery.small import stirred

SIZES = dict(
    vocab_size=50, hidden_size=24, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=40, max_position_embeddings=20,
)  # fmt: skip
MARKS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
WINDOW = MARKS | dict(local_attention=6)
MODELS = {  # what their classes are called, and what else their shapes need
    "bert": ("Bert", "ForMaskedLM", {}),
    "gpt2": ("GPT2", "LMHeadModel", dict(n_inner=40, bos_token_id=0, eos_token_id=0)),
    "modernbert": ("ModernBert", "ForMaskedLM", WINDOW),
    "modernbert-decoder": ("ModernBertDecoder", "ForCausalLM", WINDOW),
    "persimmon": ("Persimmon", "ForCausalLM", dict(partial_rotary_factor=1.0, pad_token_id=0)),
}  # fmt: skip
CAUSAL = {kind: task != "ForMaskedLM" for kind, (_, task, _) in MODELS.items()}


def small_model(transformers, kind, **changes):
    """A model with a head for tokens, all its weights random, without dropout."""
    name, task, more = MODELS[kind]
    config = getattr(transformers, f"{name}Config")(**SIZES | more | changes)
    model = getattr(transformers, name + task)(config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
        if kind == "persimmon" and name.endswith("bias"):  # ours has none
            parameter.data.zero_()
    model.tie_weights()
    return model.eval()


def config_of(model):
    """What its config.json says."""
    return json.loads(model.config.to_json_string())


def foreign(folder, kind, words=(), merges=()):
    """Write a tokenizer.json of BERT's or GPT-2's, by the library; return the tokenizer."""
    import tokenizers

    if kind == "bert":
        vocab = {piece: i for i, piece in enumerate([*BERT_ROLES.values(), *words])}
        made = tokenizers.BertWordPieceTokenizer(vocab)
    else:
        vocab = {name: i for i, name in enumerate([*BYTE_OF, *words, "<|endoftext|>"])}
        made = tokenizers.ByteLevelBPETokenizer(vocab, list(merges))
        made.add_special_tokens(["<|endoftext|>"])
    made.save(str(folder / "tokenizer.json"))
    return read_tokenizer(folder)


def folder_of_gpt2(folder, change=lambda config, tensors: None, rows=257):
    """A folder of type gpt2, changed in some way; its embedding may have more rows than tokens."""
    from safetensors.torch import save_file

    shape = GPT2Config(rows, 20, 24, 2, 3, 40)
    model = stirred(FAMILIES["gpt2"][0](shape)).eval()
    config, tensors = write_shape("gpt2", shape), to_theirs("gpt2", model.state_dict(), shape)
    change(config, tensors)
    folder.mkdir(exist_ok=True)
    foreign(folder, "gpt2")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")
    return model
