"""The loss that is trained, computed in chunks: it is the formula, and so is its gradient."""

import pytest
import torch
from test_objectives import V, every_task, make_task, some_words

from minilm.objectives import ChunkedNLL, LanguageModelLoss, target_logits, token_nll


@pytest.mark.parametrize("chunk", [1, 5, 100])
def test_the_loss_in_chunks_is_the_loss_and_so_are_its_gradients(monkeypatch, chunk):
    monkeypatch.setattr(ChunkedNLL, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(11, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(V, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(V, (11,), generator=generator)
    plain, _ = token_nll(hidden @ embedding.T, targets)
    chunked = ChunkedNLL.apply(hidden, embedding, targets)
    torch.testing.assert_close(chunked, plain)
    scale = 3.0  # what is done with the loss later
    expected = torch.autograd.grad(scale * plain, (hidden, embedding))
    torch.testing.assert_close(torch.autograd.grad(scale * chunked, (hidden, embedding)), expected)


def test_what_fills_up_a_chunk_adds_nothing_to_the_gradient_of_the_words_biases():
    hidden, embedding = torch.ones(3, 6), torch.ones(V, 6)
    bias, targets = torch.zeros(V, requires_grad=True), torch.tensor([1, 2, 2])
    (found,) = torch.autograd.grad(ChunkedNLL.apply(hidden, embedding, targets, bias), bias)
    plain, _ = token_nll(hidden @ embedding.T + bias, targets)
    torch.testing.assert_close(found, torch.autograd.grad(plain, bias)[0])


def test_a_micro_batch_without_a_target_adds_nothing():
    hidden = torch.zeros(0, 6, requires_grad=True)
    embedding = torch.ones(V, 6, requires_grad=True)
    loss_sum = ChunkedNLL.apply(hidden, embedding, torch.zeros(0, dtype=torch.long))
    assert loss_sum == 0
    for gradient in torch.autograd.grad(loss_sum, (hidden, embedding)):
        assert not gradient.any()


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the sizes of all matrix products."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation is torch.ops.aten.mm.default:
            self.sizes.add((*args[0].shape, *args[1].shape))
        return operation(*args, **(kwargs or {}))


def test_numbers_of_targets_that_differ_a_little_make_products_of_the_same_sizes():
    """For each size, the library behind bfloat16 builds and keeps code of its own: with a number of
    targets that changes at every step, memory grew and grew."""
    embedding = torch.ones(V, 6)
    with Products() as products:
        for n in range(1, 129):
            targets = torch.zeros(n, dtype=torch.long)
            ChunkedNLL.apply(torch.ones(n, 6), embedding, targets)
    assert len(products.sizes) == 2 * 3


@every_task
def test_what_is_trained_is_the_formula(make_model, name):
    model, task = make_model(), make_task(name, some_words(3, 9))
    inputs, targets = torch.from_numpy(task.inputs), torch.from_numpy(task.targets)
    expected, n = token_nll(*target_logits(model, inputs, targets, task.causal))
    loss_sum, count = LanguageModelLoss(model)(inputs, targets, task.causal)
    torch.testing.assert_close(loss_sum, expected)
    assert count == n == task.count


def test_under_autocast_the_products_are_in_bfloat16_and_the_loss_in_float32():
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(50, 8, generator=generator, requires_grad=True)
    embedding = torch.randn(V, 8, generator=generator, requires_grad=True)
    targets = torch.randint(V, (50,), generator=generator)
    exact = ChunkedNLL.apply(hidden, embedding, targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss_sum = ChunkedNLL.apply(hidden, embedding, targets)
        plain, _ = token_nll(torch.nn.functional.linear(hidden, embedding), targets)
    assert loss_sum.dtype == torch.float32 and loss_sum != exact
    torch.testing.assert_close(loss_sum, plain, rtol=1e-5, atol=0)
    gradients = torch.autograd.grad(loss_sum, (hidden, embedding))
    exact = torch.autograd.grad(exact, (hidden, embedding))
    assert all(g.dtype == torch.float32 for g in gradients)
    torch.testing.assert_close(gradients, exact, rtol=0.05, atol=0.05)
