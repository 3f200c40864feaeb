"""GPT-2, BERT and ModernBERT are Hugging Face's to the last digit; their gradients are right."""

import importlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from minilm.config import UserError
from minilm.huggingface.families import FAMILIES, ModernBertConfig
from minilm.huggingface.weights import TYPES, normalised, read_shape, to_ours, write_shape
from tests.machinery.small import stirred
from tests.machinery.small_hf import CAUSAL, config_of, small_model

each_family = pytest.mark.parametrize("family", FAMILIES)
TOKENS = torch.randint(3, 50, (3, 15), generator=torch.Generator().manual_seed(2))
IS_REAL = torch.arange(15) < torch.tensor([15, 9, 1])[:, None]


@pytest.mark.parametrize(("kind", "causal"), [*CAUSAL.items(), ("bert", True)])
@torch.no_grad()
def test_hidden_states_and_logits_are_those_of_transformers(kind, causal, monkeypatch):
    transformers = pytest.importorskip("transformers")
    changes = dict(is_decoder=True) if (kind, causal) == ("bert", True) else {}
    theirs = small_model(transformers, kind, **changes).double()
    if kind == "persimmon":  # as ours: what goes in are the rows of the output matrix, normalised
        theirs.model.embed_tokens.weight.data = normalised(theirs.lm_head.weight.data)
    if kind.startswith("modernbert"):
        # Theirs rotates q and k in float32 whatever it is given; here it may keep float64.
        module = importlib.import_module(type(theirs).__module__)

        def rotate(q, k, cos, sin, *_, unsqueeze_dim=1):
            cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
            return tuple(x * cos + module.rotate_half(x) * sin for x in (q, k))

        monkeypatch.setattr(module, "apply_rotary_pos_emb", rotate)

    shape, weights, left_out = to_ours(kind, theirs.state_dict(), read_shape(config_of(theirs)))
    ours = FAMILIES[TYPES[kind]["family"]][0](shape).double().eval()
    ours.load_state_dict(weights)
    modern = isinstance(shape, ModernBertConfig)
    bases = [shape.rotary_base, shape.local_rotary_base] if modern else [10_000.0]
    halves = torch.arange(0, shape.d_head, 2) / shape.d_head  # (d/2,)
    angles = torch.cat([1 / base**halves for base in bases])
    angles = torch.arange(shape.max_length)[:, None, None] * angles
    for name, table in ours.named_buffers():  # theirs come from float32
        table.copy_(angles.cos() if name == "cos" else angles.sin())

    assert not left_out
    for is_real in (torch.ones_like(IS_REAL), IS_REAL):
        hidden = ours(TOKENS, causal=causal, is_real=is_real)[is_real]
        asked = dict(input_ids=TOKENS, attention_mask=is_real.long())
        expected, logits = theirs.base_model(**asked).last_hidden_state, theirs(**asked).logits
        torch.testing.assert_close(hidden, expected[is_real], rtol=0, atol=1e-10)
        torch.testing.assert_close(ours.logits(hidden), logits[is_real], rtol=0, atol=1e-10)
        assert logits[is_real].std() > 0.1  # so that an error would show


def small(family, seed=0, **changes):
    """A model of a family with random weights, in float64."""
    made, shape = FAMILIES[family]
    more = dict(local_window=2) if shape is ModernBertConfig else {}
    return stirred(made(shape(11, 12, 6, 3, 1, 5, **more | changes), seed).double(), seed)


@each_family
@pytest.mark.parametrize("causal", [True, False])
def test_every_parameter_has_its_gradient(family, causal):
    """By central differences along a random direction in each parameter, on a batch whose padding
    is longer than ModernBERT's window."""
    model = small(family)
    tokens = torch.randint(0, 11, (2, 10), generator=torch.Generator().manual_seed(3))
    is_real = torch.arange(10) < torch.tensor([[10], [3]])

    def loss():
        hidden = model(tokens, causal=causal, is_real=is_real)[is_real]
        return F.cross_entropy(model.logits(hidden), tokens[is_real])

    loss().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            sides = []
            for step in (1e-5, -2e-5):
                parameter += step * direction
                sides.append(loss().item())
            parameter += 1e-5 * direction
        slope = (parameter.grad * direction).sum().item()
        assert slope == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=1e-7, rel=1e-5), name


@each_family
@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_padding_longer_than_the_window_changes_nothing_and_is_finite(family, causal):
    """ModernBERT's local layers gave NaN: a padding position far from the text saw only -inf."""
    model = small(family)
    text = torch.tensor([[3, 4, 5]])
    padded = F.pad(text, (0, 8))
    is_real = F.pad(torch.ones_like(text), (0, 8)).bool()
    for attend in (model.attend, F.scaled_dot_product_attention):
        model.attend = lambda q, k, v, mask, attend=attend: attend(q, k, v, mask)
        hidden = model(padded, causal=causal, is_real=is_real)
        assert hidden.isfinite().all()
        torch.testing.assert_close(hidden[:, :3], model(text, causal=causal))


@each_family
@torch.no_grad()
def test_the_cache_gives_what_the_whole_text_gives(family):
    model = small(family)
    tokens = torch.randint(0, 11, (2, 12), generator=torch.Generator().manual_seed(4))
    cache, parts = model.new_cache(), []
    for piece in tokens.split([5, 1, 1, 4, 1], dim=1)[:3]:
        parts.append(model(piece, causal=True, cache=cache))
    whole = model(tokens[:, :7], causal=True)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    with pytest.raises(UserError, match="13 tokens do not fit the window of 12"):
        model(torch.zeros(1, 13).long(), causal=True)


@each_family
def test_first_weights_are_a_function_of_the_seed(family):
    made, shape = FAMILIES[family]
    models = [made(shape(11, 12, 6, 3, 1, 5), seed) for seed in (1, 1, 2)]
    one, same, other = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_only_every_third_layer_of_modernbert_sees_beyond_the_window():
    model = small("modernbert", global_every=3)
    x = torch.randn(1, 12, 6, dtype=torch.float64, requires_grad=True)
    model.embed = lambda tokens, start: x
    (gradient,) = torch.autograd.grad(model(torch.zeros(1, 12).long(), False)[0, 0].sum(), x)
    assert gradient[0].abs().sum(-1).all()
    model.blocks = model.blocks[:2]  # the first sees everything, so it is made to see nothing
    model.blocks[0].forward = lambda x, *_: x
    for causal, seen in ((False, range(3, 8)), (True, range(3, 6))):
        (gradient,) = torch.autograd.grad(model(torch.zeros(1, 12).long(), causal)[0, 5].sum(), x)
        assert gradient[0].abs().sum(-1).nonzero()[:, 0].tolist() == list(seen)


def test_a_shape_that_cannot_be_is_refused_in_one_line():
    for name, value in dict(global_every=0, epsilon=-1.0, local_window="4").items():
        with pytest.raises(UserError, match=name):
            replace(ModernBertConfig(11, 12, 6, 2, 1, 5), **{name: value})


def test_modernberts_older_files_say_the_same_in_numbers():
    config = write_shape(
        "modernbert", shape := ModernBertConfig(11, 12, 6, 4, 1, 5, global_every=2)
    )
    tables = [config.pop(name) for name in ("layer_types", "rope_parameters")]
    assert read_shape(config) == shape and len(tables[0]) == 4
    del config["global_attn_every_n_layers"], config["global_rope_theta"]
    assert read_shape(config | dict(layer_types=tables[0], rope_parameters=tables[1])) == shape
