"""Which parameter is updated by which rule, and how fast."""

import pytest
import torch

from minilm.heads import Classifier
from minilm.optim import Muon, make_optimizers, orthogonalise, schedule, set_learning_rates
from tests.book.small import make_model

every_rule = pytest.mark.parametrize("rule", ["adamw", "muon"])


def matrices(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def groups_by_name(rule, frozen=False, **how):
    """(optimizer's class, its group) of each parameter of a Classifier; each stands in one."""
    model = Classifier(make_model().requires_grad_(not frozen), 3)
    optimizers = make_optimizers(model, rule, 0.8, weight_decay=0.07, **how)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [(type(o).__name__, group) for o in optimizers for group in o.param_groups]
    found = [(names[p], group) for group in groups for p in group[1]["params"]]
    assert len(found) == len(dict(found)) and (frozen or len(found) == len(names))
    return dict(found)


def test_the_rate_rises_stays_and_falls_in_lines_and_is_never_zero():
    for warmup, cooldown, rates in (
        (0.25, 0.5, [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]),
        (0.0, 0.0, [1.0, 1.0, 1.0]),
        (0.0, 1.0, [1.0, 0.75, 0.5, 0.25]),
        (1.0, 0.0, [0.25, 0.5, 0.75, 1.0]),
        (0.03, 0.4, [1.0, 1.0]),  # shares of less than a step
    ):
        steps = len(rates)
        assert [schedule(step, steps, warmup, cooldown) for step in range(steps)] == rates


@every_rule
def test_matrices_decay_and_gains_and_biases_do_not(rule):
    for name, (_, group) in groups_by_name(rule).items():
        is_matrix = "norm" not in name and "bias" not in name
        assert group["weight_decay"] == (0.07 if is_matrix else 0.0), name
        assert group["lr"] == 0.8  # without layer_decay, the same for all


@every_rule
def test_each_block_learns_slower_than_the_one_above_it(rule):
    rates = {"head": 0.8, "norm": 0.8, "blocks.1": 0.4, "blocks.0": 0.2, "embedding": 0.1}
    for name, (_, group) in groups_by_name(rule, layer_decay=0.5).items():
        place = name.removeprefix("transformer.")
        (rate,) = [rate for start, rate in rates.items() if place.startswith(start)]
        assert group["peak"] == group["lr"] == pytest.approx(rate), name


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_everything_else_that_is_trained():
    by_muon = {name for name, (kind, _) in groups_by_name("muon").items() if kind == "Muon"}
    parts = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
    assert by_muon == {f"transformer.blocks.{i}.{part}.weight" for i in (0, 1) for part in parts}
    by_adamw = groups_by_name("adamw", frozen=True)
    assert by_adamw.keys() == {"head.weight", "head.bias"}
    assert by_adamw["head.bias"][0] == "AdamW" and by_adamw["head.bias"][1]["betas"] == (0.9, 0.98)


@every_rule
def test_all_groups_move_to_the_same_share_of_their_own_peak(rule):
    optimizers = make_optimizers(make_model(), rule, 0.1, 0.1, layer_decay=0.5)
    for share in (0.5, 0.25):  # of the peak, not of what was set before
        set_learning_rates(optimizers, share)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            assert group["lr"] == share * group["peak"]


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 6, 20), (3, 20, 6)])
def test_orthogonalise_is_a_polynomial_of_the_singular_values_that_takes_them_to_about_1(shape):
    U, S, Vh = torch.linalg.svd(matrices(*shape), full_matrices=False)
    s = S / S.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = U @ torch.diag_embed(s) @ Vh
    torch.testing.assert_close(orthogonalise(matrices(*shape)), expected, rtol=0, atol=1e-5)
    assert ((s[:, :-1] > 0.6) & (s[:, :-1] < 1.3)).all()
    assert not orthogonalise(torch.zeros(1, 2, 2)).any()  # and no NaN


@pytest.mark.parametrize("momentum", [0.95, 0.5])
def test_muon_is_its_formula_step_by_step(momentum):
    weights, M = [*matrices(2, 4, 9), matrices(9, 2)], [0.0] * 3
    ours, rates, decays = [W.clone().requires_grad_() for W in weights], (0.1, 0.2, 0.3), (1, 0, 2)
    groups = [dict(params=[W], lr=rates[i], weight_decay=decays[i]) for i, W in enumerate(ours)]
    groups.append(dict(params=[torch.nn.Parameter(torch.ones(4, 9))]))  # has no gradient
    optimizer = Muon(groups) if momentum == 0.95 else Muon(groups, momentum)
    for step in range(3):
        for i, W in enumerate(weights):
            G = ours[i].grad = matrices(*W.shape, seed=10 * step + i)
            M[i] = momentum * M[i] + (1 - momentum) * G
            update = orthogonalise((momentum * M[i] + (1 - momentum) * G)[None])[0]
            weights[i] = W - rates[i] * (decays[i] * W + 0.2 * 9**0.5 * update)
        optimizer.step()
    for W, expected in zip(ours, weights, strict=True):
        torch.testing.assert_close(W.detach(), expected, rtol=0, atol=1e-9)


def test_an_orthogonalisation_that_is_given_is_used():
    model = make_model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    _, muon = make_optimizers(model, "muon", 0.5, 0.0, orthogonalise=torch.zeros_like)
    muon.step()
    one, before = (m.blocks[0].attention.out.weight for m in (model, make_model()))
    assert torch.equal(one, before)
