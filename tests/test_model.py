"""The Transformer: equal to an independent one, blind where it must be, and fresh from its seed."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from minilm.config import SIZES, ModelConfig, UserError
from minilm.model import (
    KeyValueCache,
    Transformer,
    attention,
    fused_attention,
    rotate,
    training_flops,
    visibility,
)
from minilm.objectives import token_nll

CPU = torch.device("cpu")
IS_REAL = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]  # (3, 6)
WORDS = torch.randint(3, 40, (3, 6), generator=torch.Generator().manual_seed(2))

both_readings = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
both_positions = pytest.mark.parametrize("positions", ["rotary", "learned"])
with_and_without_padding = pytest.mark.parametrize("is_real", [None, IS_REAL], ids=["full", "pad"])


def torch_encoder(model: Transformer) -> nn.TransformerEncoder:
    """torch's own Transformer with the weights of ours."""
    config = model.config
    layer = nn.TransformerEncoderLayer(
        config.d_model, config.n_heads, config.d_ff, dropout=0.0, batch_first=True,
        activation=lambda x: torch.relu(x) ** 2, norm_first=True, bias=False,
    )  # fmt: skip
    norm = nn.LayerNorm(config.d_model, bias=False)
    encoder = nn.TransformerEncoder(layer, config.n_layers, norm, enable_nested_tensor=False)
    theirs = {
        "blocks": "layers", "norm_1": "norm1", "norm_2": "norm2",
        "attention.qkv.weight": "self_attn.in_proj_weight", "attention.out": "self_attn.out_proj",
        "feed_forward.up": "linear1", "feed_forward.down": "linear2",
    }  # fmt: skip
    weights = {}
    for name, weight in model.state_dict().items():
        for our_name, their_name in theirs.items():
            name = name.replace(our_name, their_name)
        weights[name] = weight
    del weights["embedding.weight"], weights["positions.weight"]
    encoder.double().load_state_dict(weights)
    return encoder


@both_readings
@with_and_without_padding
def test_the_model_equals_the_encoder_of_torch(make_model, causal, is_real):
    model = make_model(positions="learned", normalise_qk=False)
    model.positions.weight.data.zero_()
    hidden = model(WORDS, causal=causal, is_real=is_real)
    theirs = torch_encoder(model)(
        model.embedding(WORDS),
        mask=torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None,
        src_key_padding_mask=None if is_real is None else ~is_real,
    )
    where = torch.ones_like(IS_REAL) if is_real is None else is_real
    torch.testing.assert_close(hidden[where], theirs[where], rtol=0, atol=1e-12)


@both_readings
@with_and_without_padding
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_attention_as_it_is_written_equals_the_fused_kernel(dtype, error, causal, is_real):
    q, k, v = torch.randn(3, 3, 2, 6, 8, generator=torch.Generator().manual_seed(3)).to(dtype)
    mask = visibility(6, 0, causal, is_real, CPU)
    mask = mask if mask is None else mask.to(dtype)
    ours, theirs = attention(q, k, v, mask), fused_attention(q, k, v, mask)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=error)


@both_positions
@both_readings
def test_the_future_has_no_gradient_where_reading_is_causal(make_model, positions, causal):
    model = make_model(positions=positions)
    text = torch.arange(3, 9)[None]  # all different: a row of the embedding is a position
    for i in range(6):
        model.zero_grad()
        model(text, causal=causal)[0, i, 0].backward()
        moved = (model.embedding.weight.grad[3:9] != 0).any(dim=1).tolist()
        assert moved == [j <= i or not causal for j in range(6)]


def test_padding_and_its_length_change_nothing_at_real_positions(make_model):
    model = make_model()
    for causal in (True, False):
        padded = model(WORDS, causal=causal, is_real=IS_REAL)
        for row, n in enumerate(IS_REAL.sum(1)):
            alone = model(WORDS[row : row + 1, :n], causal=causal)[0]
            torch.testing.assert_close(padded[row, :n], alone, rtol=0, atol=1e-12)


def test_rotary_scores_depend_on_the_distance_of_two_positions_only(make_model):
    model = make_model()
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(4)).double()
    everywhere = torch.ones(1, 16, 1, 1).double()
    q, k = (rotate(x * everywhere, model.cos, model.sin)[0, :, 0] for x in (q, k))  # (T, d)
    scores = q @ k.T
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=0, atol=1e-6)
    assert len(scores[0].unique()) == 16  # and do depend on it, on its sign, too
    assert not torch.allclose(scores[0], scores[:, 0])


def test_rotary_turns_and_never_stretches(make_model):
    model = make_model()
    x = torch.randn(1, 16, 2, 8, generator=torch.Generator().manual_seed(5)).double()
    turned = rotate(x, model.cos, model.sin)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=0, atol=1e-6)
    assert torch.equal(turned[:, 0], x[:, 0])  # position 0 stays
    a_radian = rotate(torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]), model.cos[1, 0], model.sin[1, 0])
    assert a_radian[[0, 4]].tolist() == pytest.approx([math.cos(1), math.sin(1)])


@both_readings
def test_without_positions_the_model_could_not_tell_two_orders_apart(make_model, causal):
    swapped = WORDS[:, [1, 0, 2, 3, 4, 5]]
    blind = make_model(positions="learned")
    blind.positions.weight.data.zero_()
    for model, tells in ((blind, causal), (make_model(), True)):
        last = [model(words, causal=causal)[:, -1] for words in (WORDS, swapped)]
        assert torch.allclose(*last, rtol=0, atol=1e-12) is not tells


CHEAP_SIZES = {
    "tiny": {},
    "base": dict(n_layers=2, max_length=64),  # its other layers start as zero anyway
}


@both_readings
@pytest.mark.parametrize("size", CHEAP_SIZES)
def test_the_first_loss_is_ln_v(size, causal):
    table = SIZES[size] | CHEAP_SIZES[size]
    shape = {k: v for k, v in table.items() if k in ModelConfig.__dataclass_fields__}
    config = ModelConfig(**shape, d_ff=4 * shape["d_model"])
    words = torch.randint(config.vocab_size, (4, 65), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        model = Transformer(config)
        logits = model.logits(model(words[:, :-1], causal=causal).flatten(0, 1))
        loss_sum, count = token_nll(logits, words[:, 1:].flatten())
    assert loss_sum.item() / count == pytest.approx(math.log(config.vocab_size), rel=0.05)


def test_initial_weights_are_a_function_of_the_seed_alone(make_model):
    config = make_model().config
    weights = []
    for seed, others_draw in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(others_draw)
        weights.append(Transformer(config, seed).state_dict())
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name])
        is_drawn = not name.endswith(("out.weight", "down.weight")) and "norm" not in name
        assert torch.equal(weight, weights[2][name]) is not is_drawn


@both_positions
@torch.no_grad()
def test_reading_piece_by_piece_into_a_cache_equals_reading_at_once(make_model, positions):
    model = make_model(positions=positions)
    cache = KeyValueCache(model.config)
    pieces = [model(piece, causal=True, cache=cache) for piece in WORDS.split([3, 1, 2], dim=1)]
    at_once = model(WORDS, causal=True)
    torch.testing.assert_close(torch.cat(pieces, dim=1), at_once, rtol=0, atol=1e-12)


def test_one_matrix_serves_the_words_that_go_in_and_those_that_come_out(make_model):
    model = make_model()
    by_shape = [name for name, p in model.named_parameters() if 40 in p.shape]
    assert by_shape == ["embedding.weight"]

    def rows_moved(output):
        (gradient,) = torch.autograd.grad(output.sum(), model.embedding.weight)
        return gradient.any(dim=1).nonzero()[:, 0].tolist()

    hidden = model(WORDS, causal=True)[:, :, 0]
    assert rows_moved(hidden) == WORDS.unique().tolist()  # as inputs: the words that were read
    vectors = torch.ones(2, 16).double()
    assert rows_moved(model.logits(vectors)) == list(range(40))  # as outputs: every word


@pytest.mark.parametrize("n_targets", [12, 5])
def test_the_formula_for_flops_equals_a_count_of_the_products_done(make_model, n_targets):
    model = make_model()
    with FlopCounterMode(display=False) as counter:
        hidden = model(WORDS[:2], causal=True).flatten(0, 1)  # (12, D)
        model.logits(hidden[:n_targets]).sum().backward()
    assert training_flops(model.config, 12, n_targets, length=6) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        (dict(d_model=34, n_heads=4), ["--d-model 34", "--n-heads 4", "multiple"]),
        (dict(d_model=6, n_heads=2), ["--d-model 6", "--n-heads 2"]),  # 3 a head: no pairs
        (dict(n_layers=0), ["--n-layers"]),
        (dict(vocab_size=-1), ["--vocab-size"]),
        (dict(dropout=1.0), ["--dropout"]),
        (dict(positions="absolute"), ["absolute"]),
    ],
)
def test_a_shape_that_cannot_be_is_refused_in_the_words_of_the_flags(make_model, changes, flags):
    with pytest.raises(UserError) as refused:
        make_model(**changes)
    assert all(flag in str(refused.value) for flag in flags)
    assert "\n" not in str(refused.value)
