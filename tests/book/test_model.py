"""The Transformer: equal to an independent one, blind where it must be, and fresh from its seed."""

import math

import pytest
import torch
from torch import nn

from minilm.config import SIZES, ModelConfig, UserError
from minilm.model import Transformer, rotate, visibility
from minilm.objectives import token_nll
from tests.book.small import FIRST, V, make_model

IS_REAL = torch.arange(6) < torch.tensor([6, 4, 1])[:, None]  # (3, 6)
TOKENS = torch.randint(FIRST, V, (3, 6), generator=torch.Generator().manual_seed(2))

both_directions = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
close = dict(rtol=0, atol=1e-11)


def encoder_of_torch(model):
    """torch's own layers with the weights of ours."""
    layer = nn.TransformerEncoderLayer(
        model.config.d_model, model.config.n_heads, model.config.d_ff, dropout=0.0, bias=False,
        activation=lambda x: torch.relu(x) ** 2, norm_first=True, batch_first=True,
    )  # fmt: skip
    encoder = nn.TransformerEncoder(layer, len(model.blocks), model.norm, False)
    for block, layer in zip(model.blocks, encoder.layers, strict=True):
        ours = block.attention.qkv, block.attention.out, block.feed_forward.up
        ours += block.feed_forward.down, block.norm_1, block.norm_2
        for theirs, module in zip(layer.parameters(), ours, strict=True):
            theirs.data = module.weight.data
    return encoder


@both_directions
@pytest.mark.parametrize("is_real", [None, IS_REAL], ids=["full", "padded"])
def test_the_model_equals_the_encoder_of_torch(causal, is_real):
    model = make_model()  # torch's has no rotation, and no norm of queries and keys
    for block in model.blocks:
        block.attention.norm_q = block.attention.norm_k = nn.Identity()
    model.cos.fill_(1), model.sin.fill_(0)
    theirs = encoder_of_torch(model)(
        model.embed(TOKENS, 0),
        mask=torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None,
        src_key_padding_mask=None if is_real is None else ~is_real,
    )
    ours = model(TOKENS, causal=causal, is_real=is_real)
    where = torch.ones_like(IS_REAL) if is_real is None else is_real
    torch.testing.assert_close(ours[where], theirs[where], **close)


@both_directions
def test_the_future_has_no_gradient_under_causal_attention(causal):
    model, text = make_model(), torch.arange(3, 9)[None]  # a row of the embedding is a position
    for i in range(6):
        model.zero_grad()
        model(text, causal=causal)[0, i, 0].backward()
        moved = (model.embedding.weight.grad[3:9] != 0).any(dim=1).tolist()
        assert moved == [j <= i or not causal for j in range(6)]


@both_directions
def test_padding_and_its_length_change_nothing_at_real_positions(causal):
    padded = make_model()(TOKENS, causal=causal, is_real=IS_REAL)
    for row, n in enumerate(IS_REAL.sum(1)):
        alone = make_model()(TOKENS[row : row + 1, :n], causal=causal)[0]
        torch.testing.assert_close(padded[row, :n], alone, **close)


def test_visibility_is_a_triangle_and_hides_padding_and_is_none_where_all_is_visible():
    assert visibility(3, 0, causal=False) is None and visibility(1, 5, causal=True) is None
    assert visibility(2, 1, causal=True).tolist() == [[[[True, True, False], [True] * 3]]]
    rows = visibility(2, 0, True, torch.tensor([[True, True], [False, True]]))[:, 0].tolist()
    assert rows == [[[True, False], [True, True]], [[False, False], [False, True]]]
    assert visibility(1, 1, True, torch.tensor([[False, True]])).tolist() == [[[[False, True]]]]
    with pytest.raises(ValueError, match="1 of 2 keys"):  # it would be taken for all of them
        visibility(1, 1, True, torch.tensor([[True]]))


def test_the_three_masks_are_those_that_are_drawn_beside_them():
    drawn = [row.split() for row in visibility.__doc__.splitlines() if set(row) == set(" x.")]
    drawn = torch.tensor([[mark == "x" for mark in row] for row in drawn]).split(4, dim=1)
    for mask, picture in zip((
        visibility(4, 0, causal=True),
        visibility(4, 0, False, torch.tensor([[True, True, True, False]])),
        visibility(4, 0, causal=True, prefix=torch.tensor([2])),
    ), drawn, strict=True):  # fmt: skip
        assert torch.equal(mask[0, 0].expand(4, 4), picture)


def test_rotary_scores_depend_on_the_signed_distance_of_two_positions_only():
    model = make_model()
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(4)).double()
    q, k = (rotate(x.expand(1, 16, 1, 8), model.cos, model.sin)[0, :, 0] for x in (q, k))  # (T, d)
    scores = q @ k.T
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], **close)
    assert len(scores[0].unique()) == 16 and not torch.allclose(scores[0], scores[:, 0])
    a_radian = rotate(torch.eye(8)[0], model.cos[1, 0], model.sin[1, 0])
    assert a_radian[[0, 4]].tolist() == pytest.approx([math.cos(1), math.sin(1)])


@both_directions
@pytest.mark.parametrize("size", SIZES)
def test_the_first_loss_is_ln_v(size, causal):
    names = ("vocab_size", "max_length", "d_model", "n_heads", "d_ff")
    config = ModelConfig(n_layers=2, **{name: SIZES[size][name] for name in names})
    tokens = torch.randint(config.vocab_size, (4, 65), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        model = Transformer(config)
        logits = model.logits(model(tokens[:, :-1], causal=causal).flatten(0, 1))
        loss_sum, count = token_nll(logits, tokens[:, 1:].flatten())
    assert loss_sum.item() / count == pytest.approx(math.log(config.vocab_size), rel=0.05)


def test_initial_weights_are_a_function_of_the_seed_alone():
    weights = []
    for seed, others_draw in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(others_draw)
        weights.append(Transformer(make_model().config, seed).state_dict())
    for name, weight in weights[0].items():
        is_zero, is_gain = name.endswith(("out.weight", "down.weight")), "norm" in name
        assert torch.equal(weight, weights[1][name])
        assert torch.equal(weight, weights[2][name]) is (is_zero or is_gain)
        spread = 0.0 if is_zero or is_gain else 0.3 if name == "embedding.weight" else 1.0
        assert weight.std() == pytest.approx(spread / math.sqrt(16), rel=0.15)
        assert weight.mean() == pytest.approx(float(is_gain), abs=0.03)


def test_dropout_is_applied_in_training_only_at_the_rate_of_the_config():
    model = make_model(dropout=0.5)
    at_rest = model.eval()(TOKENS, causal=False)
    torch.testing.assert_close(at_rest, make_model()(TOKENS, causal=False), **close)
    for part in (model, *model.blocks):  # behind the embedding, and in each block
        part.dropout.train()
        assert not torch.equal(model(TOKENS, causal=False), at_rest)
        part.dropout.eval()
    model.blocks, model.norm = nn.ModuleList(), nn.Identity()
    assert 0.3 < (model.train()(TOKENS, causal=False) == 0).double().mean() < 0.7


@torch.no_grad()
def test_a_text_in_pieces_with_a_cache_equals_the_text_at_once():
    model = make_model()
    cache = model.new_cache()
    pieces = [model(piece, causal=True, cache=cache) for piece in TOKENS.split([3, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(TOKENS, causal=True), **close)
    model(TOKENS[:, :1].expand(3, 10), causal=True, cache=cache)  # 6 + 10 are its 16
    with pytest.raises(UserError, match="17 tokens do not fit the window of 16"):
        model(TOKENS[:, :1], causal=True, cache=cache)


def test_a_shape_that_cannot_be_is_refused():
    for changes, named in (
        (dict(d_model=34, n_heads=4), "multiple of 8"),
        (dict(d_model=6, n_heads=2), "even width"),  # 3 a head: no pairs
        (dict(n_layers=0), "n_layers is 0"),
        (dict(max_length=2**16 + 1), "max_length is 65537"),
        (dict(dropout=1.0), "dropout is 1.0"),
    ):
        with pytest.raises(UserError, match=named):
            make_model(**changes)
