"""Every derivative is checked. First each function's backward against finite differences, entry by
entry, one formula at a time; then the losses by hand against autograd, in every entry, and against
differences, along one random direction in each tensor."""

import functools

import numpy as np
import pytest
import torch

from minilm import objectives, reference
from minilm.config import ModelConfig, UserError
from minilm.heads import Classifier, classification_nll
from tests.book import without_autograd
from tests.book.small import PAD, SPECIAL, make_model, random_tokens

B, T, C = 2, 6, 3
WINDOWS = random_tokens(B, T + 1)
TOKENS, LABELS = WINDOWS[:, :T], np.array([2, 0])
AT_THE_END = np.array([[True] * T, [True] * (T - 2) + [False] * 2])
ANYWHERE = np.array([[True] * T, [False, True, True, True, True, False]])  # its first sees nothing
VISIBLE = reference.visibility(T, True, ANYWHERE)


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def differences(function, inputs, i, h=1e-5):
    """(f(x + h) - f(x - h)) / 2h, the derivative of a number, at each entry of x = inputs[i]."""
    gradient = np.zeros_like(inputs[i])
    for entry in np.ndindex(gradient.shape):
        step = np.zeros_like(gradient)
        step[entry] = h
        near = (function(*inputs[:i], inputs[i] + s, *inputs[i + 1 :]) for s in (step, -step))
        gradient[entry] = next(near) - next(near)
    return gradient / (2 * h)


def test_begin_here_with_y_is_w_x_in_numbers_and_what_each_number_is_worth():
    x, W = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]])
    y, saved = reference.linear(x, W)
    assert y.tolist() == [[3 * 1 + 4 * 2, 5 * 1 + 6 * 2]]
    dy = np.array([[1.0, 10.0]])  # say that the loss is L = y_1 + 10 y_2
    dx, dW = reference.linear_backward(dy, saved)
    assert dx.tolist() == [[3 + 10 * 5, 4 + 10 * 6]]  # x_1 comes into y_1 by 3, into y_2 by 5
    assert dW.tolist() == [[1, 2], [10 * 1, 10 * 2]]  # each weight is worth dy times its x
    loss = lambda W: (dy * reference.linear(x, W)[0]).sum()
    np.testing.assert_allclose(differences(loss, [W], 0), dW, rtol=1e-6)  # the same, by trying out


def check(forward, backward, *inputs):
    """forward(*inputs) -> y, saved; backward(dy, saved) -> its gradients by each of the inputs."""
    y, saved = forward(*inputs)
    dy = normal(*y.shape)
    for i, gradient in enumerate(backward(dy, saved)):
        found = differences(lambda *x: (dy * forward(*x)[0]).sum(), list(inputs), i)
        np.testing.assert_allclose(gradient, found, rtol=1e-6, atol=1e-7)


def test_linear_layer_norm_and_attention():
    check(reference.linear, reference.linear_backward, normal(2, 3, 4), normal(5, 4))
    check(reference.layer_norm, reference.layer_norm_backward, normal(2, 3, 4), normal(4))
    q, k, v = normal(B, 2, T, 4), normal(B, 2, T, 4) + 1, normal(B, 2, T, 4) + 2
    forward = lambda q, k, v: reference.attention(q, k, v, VISIBLE)
    check(forward, reference.attention_backward, q, k, v)


def test_softmax_the_rotation_and_the_embedding_which_have_one_gradient_each():
    forward = lambda scores: [reference.softmax(scores)] * 2  # p is what is saved, too
    check(forward, lambda dp, p: [reference.softmax_backward(dp, p)], normal(2, 3, 4))
    forward = lambda x: (reference.rotate(x), None)
    check(forward, lambda dy, _: [reference.rotate_backward(dy)], normal(2, 3, 4))
    forward = lambda E: reference.embedding(np.array([[1, 3, 1], [0, 3, 3]]), E)
    check(forward, lambda dy, saved: [reference.embedding_backward(dy, saved)], normal(5, 4))


def test_the_feed_forward_layer_and_the_residual_stream():
    def feed_forward(x, up, down):
        return reference.feed_forward(x, {"feed_forward.up": up, "feed_forward.down": down})

    def feed_forward_backward(dy, saved):
        dx, gradients = reference.feed_forward_backward(dy, saved)
        return dx, gradients["feed_forward.up"], gradients["feed_forward.down"]

    check(feed_forward, feed_forward_backward, normal(2, 3, 4), normal(5, 4), normal(4, 5))
    forward = lambda x, gain, W: reference.residual(x, gain, reference.linear, W)
    backward = lambda dy, saved: reference.residual_backward(dy, saved, reference.linear_backward)
    check(forward, backward, normal(2, 3, 4), normal(4), normal(4, 4))


def by_hand(task, parameters):
    """A task's (loss, count, gradients)."""
    what, is_real, causal = task
    visible = reference.visibility(T, causal, is_real)
    if isinstance(what, str):
        how = TOKENS, LABELS, is_real, what, causal
        return reference.classification_loss(parameters, CONFIG, *how)
    parameters = {n: p for n, p in parameters.items() if not n.startswith("head.")}
    targets = np.where(True if is_real is None else is_real, what.targets, -100)
    return reference.language_model_loss(parameters, CONFIG, what.inputs, targets, visible)


def by_torch(task, classifier):
    """A task's (loss, count), as the book trains it."""
    what, is_real, causal = task
    real, model = None if is_real is None else torch.from_numpy(is_real), classifier.transformer
    if isinstance(what, str):
        classifier.pooling = what
        logits = classifier(torch.from_numpy(TOKENS), real, causal)
        return classification_nll(logits, torch.from_numpy(LABELS))
    model.forward = functools.partial(model.forward, is_real=real)  # running text has no padding
    targets = np.where(True if is_real is None else is_real, what.targets, -100)
    tensors = map(torch.from_numpy, (what.inputs, targets))
    return objectives.language_model_nll(model, *tensors, causal)


def masked(seed=0, shift=1):
    return objectives.masked(WINDOWS, 0.5, np.random.default_rng(seed), SPECIAL, shift)


CONFIG = make_model(d_model=8, d_ff=12).config
CAUSAL = objectives.causal(WINDOWS)
TASKS = {  # a Batch or a pooling, is_real, causal
    "causal": (CAUSAL, None, True),
    "causal, padded": (CAUSAL, ANYWHERE, True),
    "masked": (masked(shift=0), None, False),
    "masked, padded": (masked(shift=0), ANYWHERE, False),
    "hybrid's masked": (masked(shift=1), None, False),
    "classification, mean": ("mean", AT_THE_END, False),
    "classification, first": ("first", AT_THE_END, False),
    "classification, last": ("last", AT_THE_END, True),
}
every_loss = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def make_classifier(pooling="mean"):
    """A Classifier and its parameters by their names in the reference."""
    classifier = Classifier(make_model(d_model=8, d_ff=12), C, pooling).double()
    named = {n.removeprefix("transformer."): p for n, p in classifier.named_parameters()}
    for parameter in named.values():
        parameter.data = torch.from_numpy(normal(*parameter.shape))
    return classifier, named


def random_parameters():
    return {name: p.detach().numpy() for name, p in make_classifier()[1].items()}


@every_loss
def test_the_gradient_of_each_loss_equals_finite_differences(task):
    parameters = random_parameters()
    for name, gradient in by_hand(task, parameters)[2].items():
        way = normal(*gradient.shape)  # one number for each tensor: its derivative along this way

        def loss(h, name=name, way=way):
            return by_hand(task, parameters | {name: parameters[name] + h * way})[0]

        found = differences(loss, [np.zeros(())], 0, 1e-6)
        assert (gradient * way).sum() == pytest.approx(found, rel=1e-5, abs=1e-6), name


@every_loss
def test_the_gradient_of_each_loss_equals_autograd(task):
    loss, count, gradients = by_hand(task, random_parameters())
    classifier, named = make_classifier()
    torch_loss, torch_count = by_torch(task, classifier)
    torch_loss.backward()
    assert (loss, count) == (pytest.approx(torch_loss.item(), rel=1e-12), torch_count)
    assert gradients.keys() == {name for name, p in named.items() if p.grad is not None}
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, named[name].grad, 1e-9, 1e-10, err_msg=name)
        assert np.abs(gradient).max() > 1e-3, name  # a zero would hide much


def test_the_gradient_by_the_logits_is_p_minus_y_and_sums_to_zero_at_every_target():
    logits, targets = 3 * normal(4, 5), np.array([1, 3, 0, 3])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    leaf = torch.tensor(logits, requires_grad=True)
    objectives.token_nll(leaf, torch.tensor(targets))[0].backward()
    by_hand = reference.token_nll_backward(reference.token_nll(logits, targets)[1])
    for gradient in (by_hand, leaf.grad.numpy()):
        np.testing.assert_allclose(gradient, p - np.eye(5)[targets], atol=1e-12)
        np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-12)


def test_the_gradient_of_the_tied_embedding_is_the_input_paths_plus_the_output_paths():
    model = make_classifier()[0].transformer
    E_in, E_out = (model.embedding.weight.detach().clone().requires_grad_() for _ in range(2))
    inputs, targets = map(torch.from_numpy, CAUSAL[:2])
    hidden = torch.func.functional_call(model, {"embedding.weight": E_in}, (inputs, True))
    objectives.token_nll((hidden @ E_out.T).flatten(0, 1), targets.flatten())[0].backward()
    tied = by_hand(TASKS["causal"], random_parameters())[2]["embedding.weight"]
    np.testing.assert_allclose(tied, (E_in.grad + E_out.grad).numpy(), atol=1e-10)


def test_the_gradient_of_the_hybrid_is_the_mean_of_its_two_halves():
    def gradient(batch):  # of the mean loss
        _, count, gradients = by_hand((batch, None, batch.causal), random_parameters())
        return gradients["norm.weight"] / count

    def hybrid(seed):
        return objectives.hybrid(WINDOWS, 0.5, np.random.default_rng(seed), SPECIAL)

    seeds = {half: [s for s in range(40) if hybrid(s).causal is half][:3] for half in (True, False)}
    found = np.mean([gradient(hybrid(seed)) for half in seeds.values() for seed in half], axis=0)
    expected = np.mean([gradient(masked(seed)) for seed in seeds[False]], axis=0)
    np.testing.assert_allclose(found, (gradient(CAUSAL) + expected) / 2, atol=1e-12)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_padding_gets_no_gradient(pooling):
    tokens, (classifier, named) = np.where(AT_THE_END, TOKENS, PAD), make_classifier(pooling)
    classifier(torch.from_numpy(tokens), torch.from_numpy(AT_THE_END)).square().sum().backward()
    task = tokens, LABELS, AT_THE_END, pooling, False
    *_, gradients = reference.classification_loss(random_parameters(), CONFIG, *task)
    for gradient in (gradients["embedding.weight"], named["embedding.weight"].grad):
        assert not gradient[PAD].any() and gradient[tokens[1, 0]].any()


@pytest.mark.parametrize("causal", [True, False])
def test_a_text_of_nothing_but_padding_makes_no_nan(causal):
    model, nothing = make_model(), np.zeros((B, T), dtype=bool)
    hidden = model(torch.from_numpy(TOKENS), causal, torch.from_numpy(nothing))
    hidden.square().sum().backward()
    parameters = {name: p.detach().numpy() for name, p in model.named_parameters()}
    visible = reference.visibility(T, causal, nothing)
    assert visible.shape == (B, 1, T, T)
    ours, saved = reference.transformer(parameters, model.config, TOKENS, visible)
    np.testing.assert_allclose(ours, hidden.detach(), atol=1e-12)
    for name, gradient in reference.transformer_backward(2 * ours, saved).items():
        np.testing.assert_allclose(gradient, dict(model.named_parameters())[name].grad, atol=1e-9)


def test_another_net_is_refused_instead_of_computed_in_silence():
    right, other = random_parameters(), type("Gated", (ModelConfig,), {})(**vars(CONFIG))
    bias, gain = "blocks.0.attention.qkv.bias", "blocks.1.attention.norm_q.weight"
    less = {name: p for name, p in right.items() if name != gain}
    for parameters, config, named in (
        (right | {bias: normal(24)}, CONFIG, bias), (less, CONFIG, gain), (right, other, "Gated")
    ):  # fmt: skip
        with pytest.raises(UserError, match=named):
            reference.transformer(parameters, config, TOKENS, VISIBLE)


def test_without_autograd_a_plain_update_learns_the_default_model_from_these_gradients():
    losses = list(without_autograd.train(steps=10, length=32))
    assert losses[0] == pytest.approx(np.log(512), abs=0.2) and losses[-1] < losses[0] - 0.4
