"""Which parameter is updated by which rule, and how fast."""

import pytest
import torch

from minilm.heads import Classifier
from minilm.optim import Muon, make_optimizers, orthogonalise, schedule, set_learning_rates
from tests.book.small import make_model

every_rule = pytest.mark.parametrize("rule", ["adamw", "muon"])


def random_matrices(*shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def groups_by_name(rule, frozen=False, layer_decay=1.0):
    """(optimizer's class, its group) of each parameter of a Classifier; each stands in one."""
    model = Classifier(make_model().requires_grad_(not frozen), 3)
    optimizers = make_optimizers(model, rule, 0.8, weight_decay=0.07, layer_decay=layer_decay)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = [
        (names[parameter], (type(optimizer).__name__, group))
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(dict(found)) and (frozen or len(found) == len(names))
    return dict(found)


@pytest.mark.parametrize(
    ("steps", "warmup", "cooldown", "rates"),
    [
        (8, 0.25, 0.5, [0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]),
        (3, 0.0, 0.0, [1.0, 1.0, 1.0]),
        (1, 0.1, 0.9, [1.0]),
        (4, 0.0, 1.0, [1.0, 0.75, 0.5, 0.25]),
        (4, 1.0, 0.0, [0.25, 0.5, 0.75, 1.0]),
        (2, 0.03, 0.4, [1.0, 1.0]),  # shares of less than a step
    ],
)
def test_the_rate_rises_stays_and_falls_in_lines_and_is_never_zero(steps, warmup, cooldown, rates):
    assert [schedule(step, steps, warmup, cooldown) for step in range(steps)] == rates


@every_rule
def test_matrices_decay_and_gains_and_biases_do_not(rule):
    for name, (_, group) in groups_by_name(rule).items():
        is_matrix = "norm" not in name and "bias" not in name
        assert group["weight_decay"] == (0.07 if is_matrix else 0.0), name


@every_rule
def test_each_block_learns_slower_than_the_one_above_it(rule):
    rates = {"head": 0.8, "norm": 0.8, "blocks.1": 0.4, "blocks.0": 0.2, "embedding": 0.1}
    for name, (_, group) in groups_by_name(rule, layer_decay=0.5).items():
        place = name.removeprefix("transformer.")
        (rate,) = [rate for start, rate in rates.items() if place.startswith(start)]
        assert group["peak"] == group["lr"] == pytest.approx(rate), name


@every_rule
def test_frozen_parameters_are_in_no_group(rule):
    assert set(groups_by_name(rule, frozen=True)) == {"head.weight", "head.bias"}


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_everything_else():
    by_muon = {name for name, (kind, _) in groups_by_name("muon").items() if kind == "Muon"}
    matrices = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
    assert by_muon == {f"transformer.blocks.{i}.{m}.weight" for i in (0, 1) for m in matrices}
    assert {kind for kind, _ in groups_by_name("adamw").values()} == {"AdamW"}
    (only,) = make_optimizers(make_model().blocks[0].feed_forward.up, "adamw", 0.1, 0.1)
    assert only.param_groups[0]["betas"] == (0.9, 0.98)


@every_rule
def test_all_groups_move_to_the_same_share_of_their_own_peak(rule):
    optimizers = make_optimizers(make_model(), rule, 0.1, 0.1, layer_decay=0.5)
    for share in (0.5, 0.25):  # of the peak, not of what was set before
        set_learning_rates(optimizers, share)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            assert group["lr"] == share * group["peak"]


@pytest.mark.parametrize("shape", [(3, 6, 6), (3, 6, 20), (3, 20, 6)])
def test_orthogonalise_is_a_polynomial_of_the_singular_values_that_takes_them_to_about_1(shape):
    U, S, Vh = torch.linalg.svd(random_matrices(*shape), full_matrices=False)
    s = S / S.norm(dim=-1, keepdim=True)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    expected = U @ torch.diag_embed(s) @ Vh
    torch.testing.assert_close(orthogonalise(random_matrices(*shape)), expected, rtol=0, atol=1e-5)
    assert ((s[:, :-1] > 0.6) & (s[:, :-1] < 1.3)).all()
    assert not orthogonalise(torch.zeros(1, 2, 2)).any()  # and no NaN


def test_muon_is_its_formula_step_by_step():
    weights, mu = [*random_matrices(2, 4, 9), random_matrices(9, 2)], 0.95
    ours, momenta = [W.clone().requires_grad_() for W in weights], [0.0] * 3
    rates, decays = (0.1, 0.02, 0.3), (0.5, 0.0, 0.1)
    groups = [dict(params=[W], lr=rates[i], weight_decay=decays[i]) for i, W in enumerate(ours)]
    optimizer = Muon([*groups, dict(params=[torch.nn.Parameter(torch.ones(4, 9))])])
    for step in range(3):
        for i, W in enumerate(weights):
            G = random_matrices(*W.shape, seed=10 * step + i)
            ours[i].grad = G.clone()
            momenta[i] = mu * momenta[i] + (1 - mu) * G
            update = orthogonalise((mu * momenta[i] + (1 - mu) * G)[None])[0]
            weights[i] = W - rates[i] * (decays[i] * W + 0.2 * 9**0.5 * update)
        optimizer.step()
    for W, expected in zip(ours, weights, strict=True):
        torch.testing.assert_close(W.detach(), expected, rtol=0, atol=1e-9)


def test_an_orthogonalisation_that_is_given_is_used():
    model = make_model()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = model.blocks[0].attention.out.weight.detach().clone()
    make_optimizers(model, "muon", 0.5, 0.0, orthogonalise=torch.zeros_like)[1].step()
    assert torch.equal(model.blocks[0].attention.out.weight, before)
