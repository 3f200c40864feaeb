"""Small random models of Hugging Face's, one of each type that we can hold."""

import json

import torch

SIZES = dict(
    vocab_size=50, hidden_size=24, num_hidden_layers=4, num_attention_heads=4,
    intermediate_size=40, max_position_embeddings=20,
)  # fmt: skip
MARKS = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
CAUSAL = {
    "bert": False, "gpt2": True, "modernbert": False, "modernbert-decoder": True, "persimmon": True
}  # fmt: skip


def small_model(transformers, kind, **changes):
    """A model with a head for tokens, all its weights random, without dropout."""
    t = transformers
    if kind == "bert":
        model = t.BertForMaskedLM(t.BertConfig(**SIZES | changes))
    elif kind == "gpt2":
        config = t.GPT2Config(
            vocab_size=50, n_embd=24, n_layer=4, n_head=4, n_positions=20, n_inner=40,
            bos_token_id=0, eos_token_id=0, **changes,
        )  # fmt: skip
        model = t.GPT2LMHeadModel(config)
    elif kind == "modernbert":
        config = t.ModernBertConfig(**SIZES | MARKS | dict(local_attention=6) | changes)
        model = t.ModernBertForMaskedLM(config)
    elif kind == "modernbert-decoder":
        config = t.ModernBertDecoderConfig(**SIZES | MARKS | dict(local_attention=6) | changes)
        model = t.ModernBertDecoderForCausalLM(config)
    else:
        more = dict(partial_rotary_factor=1.0, tie_word_embeddings=True, pad_token_id=0)
        model = t.PersimmonForCausalLM(t.PersimmonConfig(**SIZES | more | changes))
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
