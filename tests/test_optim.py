"""Which parameter is updated by which rule, and how fast."""

import pytest
import torch

from minilm.heads import Classifier
from minilm.optim import Muon, make_optimizers, orthogonalise, schedule, set_learning_rates

RULES = ("adamw", "muon", "sgd")

every_rule = pytest.mark.parametrize("rule", RULES)


def groups_by_name(model, optimizers):
    """(optimizer's class, its group) of every parameter's name; each stands in exactly one."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [
        (names[id(parameter)], (type(optimizer).__name__, group))
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_the_rate_rises_stays_and_falls_in_lines_and_never_reaches_zero():
    rates = [schedule(step, 20, warmup=0.2, cooldown=0.5) for step in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]  # the first step already learns
    assert rates[5:11] == [1.0] * 6
    assert rates[11:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert schedule(20, 20, warmup=0.2, cooldown=0.5) == 0.0  # one step past the end


@pytest.mark.parametrize(
    ("steps", "warmup", "cooldown", "rates"),
    [
        (3, 0.0, 0.0, [1.0, 1.0, 1.0]),
        (1, 0.1, 0.9, [1.0]),
        (4, 0.0, 1.0, [1.0, 0.75, 0.5, 0.25]),
        (4, 1.0, 0.0, [0.25, 0.5, 0.75, 1.0]),
        (2, 0.03, 0.4, [1.0, 1.0]),  # shares of less than a step
    ],
)
def test_the_schedule_has_no_corner_without_a_rate(steps, warmup, cooldown, rates):
    assert [schedule(step, steps, warmup, cooldown) for step in range(steps)] == rates


@every_rule
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_every_parameter_is_updated_by_exactly_one_group(make_model, rule, positions):
    model = Classifier(make_model(positions=positions), 3)
    found = groups_by_name(model, make_optimizers(model, rule, 0.1, 0.1, layer_decay=0.9))
    assert found.keys() == dict(model.named_parameters()).keys()


@every_rule
def test_matrices_decay_and_gains_and_biases_do_not(make_model, rule):
    model = Classifier(make_model(), 3)
    found = groups_by_name(model, make_optimizers(model, rule, 0.1, weight_decay=0.07))
    for name, parameter in model.named_parameters():
        is_matrix = "norm" not in name and "bias" not in name
        assert found[name][1]["weight_decay"] == (0.07 if is_matrix else 0.0), name
        assert is_matrix == (parameter.dim() == 2)


@every_rule
def test_each_block_learns_slower_than_the_one_above_it(make_model, rule):
    model = Classifier(make_model(), 3)
    found = groups_by_name(model, make_optimizers(model, rule, 0.8, 0.1, layer_decay=0.5))
    expected = {"head": 0.8, "norm": 0.8, "blocks.1": 0.4, "blocks.0": 0.2, "embedding": 0.1}
    for name, (_, group) in found.items():
        place = name.removeprefix("transformer.")
        (rate,) = [rate for start, rate in expected.items() if place.startswith(start)]
        assert group["peak"] == group["lr"] == pytest.approx(rate), name


@every_rule
def test_frozen_parameters_are_in_no_group(make_model, rule):
    model = Classifier(make_model().requires_grad_(False), 3)
    found = groups_by_name(model, make_optimizers(model, rule, 0.1, 0.1))
    assert set(found) == {"head.weight", "head.bias"}


def newton_schulz(G, steps=5):
    """The formula itself, for one matrix no taller than wide: X <- a X + (b R + c R²) X."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / G.norm()
    for _ in range(steps):
        R = X @ X.T
        X = a * X + (b * R + c * R @ R) @ X
    return X


@pytest.mark.parametrize("m, n", [(6, 6), (6, 20), (20, 6)])
def test_orthogonalise_is_newton_and_schulz_iteration_for_every_matrix_of_a_stack(m, n):
    G = torch.randn(3, m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = [newton_schulz(g) if m <= n else newton_schulz(g.T).T for g in G]
    torch.testing.assert_close(orthogonalise(G), torch.stack(expected), rtol=0, atol=1e-6)


def test_an_orthogonalised_matrix_keeps_its_directions_and_levels_their_sizes():
    G = torch.randn(1, 8, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    sizes = U.mT @ orthogonalise(G) @ Vh.mT  # in G's own directions
    torch.testing.assert_close(sizes, torch.diag_embed(sizes.diagonal(dim1=1, dim2=2)))
    assert 0.6 < sizes.diagonal(dim1=1, dim2=2).min() < sizes.max() < 1.3


def test_float32_is_precise_enough_even_where_directions_differ_a_thousandfold():
    generator = torch.Generator().manual_seed(3)
    G = torch.randn(2, 16, 4, generator=generator) @ torch.randn(2, 4, 40, generator=generator)
    G += 1e-3 * torch.randn(2, 16, 40, generator=generator)
    torch.testing.assert_close(
        orthogonalise(G), orthogonalise(G.double()).float(), rtol=0, atol=1e-3
    )


def test_muon_is_its_formula_step_by_step():
    generator = torch.Generator().manual_seed(4)
    weights = [torch.randn(shape, generator=generator).double() for shape in ((4, 9), (4, 9))]
    ours = [W.clone().requires_grad_() for W in weights]
    rates, decays, mu = (0.1, 0.02), (0.5, 0.0), 0.95
    groups = [dict(params=[W], lr=rates[i], weight_decay=decays[i]) for i, W in enumerate(ours)]
    optimizer, momenta = Muon(groups), [torch.zeros(4, 9).double() for _ in weights]
    for _ in range(3):
        for i, W in enumerate(weights):
            G = torch.randn(4, 9, generator=generator).double()
            ours[i].grad = G.clone()
            momenta[i] = mu * momenta[i] + (1 - mu) * G
            update = newton_schulz(mu * momenta[i] + (1 - mu) * G)
            weights[i] = W - rates[i] * (decays[i] * W + 0.2 * 9**0.5 * update)
        optimizer.step()
    for W, expected in zip(ours, weights, strict=True):
        torch.testing.assert_close(W.detach(), expected, rtol=0, atol=1e-6)


def test_muon_takes_the_matrices_of_the_blocks_and_nothing_else(make_model):
    model = Classifier(make_model(positions="learned"), 3)
    found = groups_by_name(model, make_optimizers(model, "muon", 0.1, 0.1))
    by_muon = {name for name, (rule, _) in found.items() if rule == "Muon"}
    matrices = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
    assert by_muon == {f"transformer.blocks.{i}.{m}.weight" for i in (0, 1) for m in matrices}


@every_rule
def test_all_groups_move_to_the_same_share_of_their_own_peak(make_model, rule):
    optimizers = make_optimizers(make_model(), rule, 0.1, 0.1, layer_decay=0.5)
    for share in (0.5, 0.25):  # of the peak, not of what was set before
        set_learning_rates(optimizers, share)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                assert group["lr"] == share * group["peak"]


@every_rule
def test_a_step_against_the_gradient_lowers_the_loss(make_model, rule):
    model = make_model()
    words = torch.arange(3, 15)[None]

    def loss():
        return model.logits(model(words, causal=True)[0]).square().mean()

    optimizers = make_optimizers(model, rule, 1e-3, weight_decay=0.0)
    before = loss()
    before.backward()
    for optimizer in optimizers:
        optimizer.step()
    assert 0.5 * before < loss() < before
