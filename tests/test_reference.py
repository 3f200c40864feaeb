"""Every gradient three ways: by hand (minilm.reference), by finite differences, and by autograd
through the very losses that the scripts train, on the very tasks that they are given.

All weights are random: a new model's output projections are zero, and behind a zero most wrong
gradients would look right.
"""

import functools

import numpy as np
import pytest
import torch

from minilm import model, objectives, reference
from minilm.config import ModelConfig
from minilm.device import Machine
from minilm.heads import ClassificationLoss, Classifier
from minilm.tokenizer import N_SPECIAL

V, C, T = 11, 3, 6
SHAPE = dict(vocab_size=V, max_length=8, d_model=8, n_layers=2, n_heads=2, d_ff=12)
CONFIGS = {
    "rotary": ModelConfig(**SHAPE),
    "learned": ModelConfig(**SHAPE, positions="learned", normalise_qk=False),
}
POOLINGS = ("mean", "last", "first")
IS_REAL = np.array([[True] * T, [True] * (T - 2) + [False] * 2])
LABELS = np.array([2, 0])
TOKENS = np.random.default_rng(1).integers(N_SPECIAL, V, (2, T + 1))
TASKS = {
    "causal": lambda rng: objectives.causal(TOKENS),
    "masked": lambda rng: objectives.masked(TOKENS, 0.5, V, rng),
    "masked_next": lambda rng: objectives.masked_next(TOKENS, 0.5, V, rng),
}


def language_task(name, padded):
    """inputs, targets, causal, is_real: what language_model_loss takes."""
    inputs, targets, causal = TASKS[name](np.random.default_rng(2))
    if not padded:
        return inputs, targets, causal, None
    return inputs, np.where(IS_REAL, targets, reference.IGNORE), causal, IS_REAL


def text_task(padded):
    """tokens, is_real, labels: what ClassificationLoss takes."""
    return TOKENS[:, :-1], IS_REAL if padded else np.ones_like(IS_REAL), LABELS


def random_parameters(config):
    rng = np.random.default_rng(3)
    shapes = {n: p.shape for n, p in model.Transformer(config).state_dict().items()}
    shapes |= {"head.weight": (C, config.d_model), "head.bias": (C,)}
    return {name: rng.normal(0, 0.7, tuple(shape)) for name, shape in shapes.items()}


def by_hand(objective, config, parameters, padded):
    """(loss sum, count, gradients) of an objective's name, by the reference."""
    if objective in POOLINGS:
        tokens, is_real, labels = text_task(padded)
        return reference.classification_loss(
            parameters, config, tokens, labels, is_real, objective, causal=objective == "last"
        )
    parameters = {n: p for n, p in parameters.items() if not n.startswith("head")}
    return reference.language_model_loss(parameters, config, *language_task(objective, padded))


def by_autograd(objective, config, parameters, padded):
    """The same by the torch model in float64."""
    transformer = model.Transformer(config)
    classifier = Classifier(transformer, C, objective if objective in POOLINGS else "mean")
    for name, parameter in classifier.named_parameters():
        parameter.data = torch.from_numpy(parameters[name.removeprefix("transformer.")])
    if objective in POOLINGS:
        loss, task = ClassificationLoss(classifier, causal=objective == "last"), text_task(padded)
    else:
        loss = objectives.LanguageModelLoss(transformer)
        *task, is_real = language_task(objective, padded)
        if padded:  # which windows of running text never are
            is_real = torch.from_numpy(is_real)
            transformer.forward = functools.partial(transformer.forward, is_real=is_real)
    loss_sum, count = loss(*Machine(torch.device("cpu"), False, "").tensors(task))
    loss_sum.backward()
    gradients = {
        name.removeprefix("transformer."): parameter.grad.numpy()
        for name, parameter in classifier.named_parameters()
        if parameter.grad is not None
    }
    return loss_sum.item(), count, gradients


def relative_error(a, b):
    return np.linalg.norm(a - b) / max(np.linalg.norm(a), np.linalg.norm(b))


def central_difference(loss, parameters, name, direction, step=3e-6):
    """(L(p + h u) - L(p - h u)) / 2h, u a direction of one tensor; wrong by the order of h²."""
    change = step * direction.reshape(parameters[name].shape)
    above = loss(parameters | {name: parameters[name] + change})
    below = loss(parameters | {name: parameters[name] - change})
    return (above - below) / (2 * step)


@pytest.fixture
def float64():
    """Rotary's tables are computed in torch's default dtype when a model is made."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


every_objective = pytest.mark.parametrize("objective", [*TASKS, *POOLINGS])
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
with_and_without_padding = pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])


@every_objective
@every_config
def test_the_gradient_by_hand_equals_finite_differences(objective, config):
    def loss(parameters):
        return by_hand(objective, config, parameters, padded=True)[0]

    parameters = random_parameters(config)
    _, _, gradients = by_hand(objective, config, parameters, padded=True)
    rng = np.random.default_rng(4)
    for name, gradient in gradients.items():
        entries = np.eye(gradient.size)[rng.choice(gradient.size, 3, replace=False)]
        anywhere = rng.normal(size=(3, gradient.size))
        anywhere /= np.linalg.norm(anywhere, axis=1, keepdims=True)
        directions = np.concatenate([entries, anywhere])
        found = [central_difference(loss, parameters, name, u) for u in directions]
        assert relative_error(directions @ gradient.ravel(), np.array(found)) < 1e-6, name


@every_objective
@every_config
@with_and_without_padding
def test_the_gradient_by_hand_equals_autograd(objective, config, padded, float64):
    parameters = random_parameters(config)
    loss, count, gradients = by_hand(objective, config, parameters, padded)
    torch_loss, torch_count, torch_gradients = by_autograd(objective, config, parameters, padded)
    assert (loss, count) == (pytest.approx(torch_loss, rel=1e-12), torch_count)
    assert gradients.keys() == torch_gradients.keys()
    for name, gradient in gradients.items():
        assert relative_error(gradient, torch_gradients[name]) < 1e-9, name


@every_objective
@every_config
def test_every_parameter_has_a_gradient_and_none_is_zero(objective, config):
    parameters = random_parameters(config)
    _, _, gradients = by_hand(objective, config, parameters, padded=True)
    expected = {n for n in parameters if objective in POOLINGS or not n.startswith("head")}
    assert gradients.keys() == expected
    assert all(np.linalg.norm(gradient) > 1e-3 for gradient in gradients.values())


def random_tensors(*shapes):
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_gradcheck_passes_on_attention(causal):
    is_real = torch.from_numpy(IS_REAL[:, -4:])
    mask = model.visibility(4, 0, causal, is_real, torch.device("cpu")).double()
    tensors = random_tensors(*[(2, 2, 4, 4)] * 3)
    assert torch.autograd.gradcheck(lambda q, k, v: model.attention(q, k, v, mask), tensors)


def test_gradcheck_passes_on_normalisation(float64):
    norm = model.LayerNorm(ModelConfig(4, 4, 5, 1, 1, 4, positions="learned"), 5)
    x, gain = random_tensors((3, 5), (5,))

    def normalised(x, gain):
        return torch.func.functional_call(norm, {"weight": gain}, x)

    assert torch.autograd.gradcheck(normalised, (x, gain))


def test_gradcheck_passes_on_token_nll():
    targets = torch.tensor([1, objectives.IGNORE, 0, 4])
    (logits,) = random_tensors((4, 5))
    assert torch.autograd.gradcheck(lambda x: objectives.token_nll(x, targets)[0], (logits,))


def test_the_gradient_of_cross_entropy_is_p_minus_y():
    targets = torch.tensor([1, 3, 0])
    (logits,) = random_tensors((3, 5))
    loss_sum, _ = objectives.token_nll(logits, targets)
    loss_sum.backward()
    p = torch.softmax(logits, dim=-1)
    y = torch.nn.functional.one_hot(targets, 5)
    assert torch.allclose(logits.grad, p - y, rtol=0, atol=1e-12)
