"""fast/ gives what the book gives: the same losses, gradients, updates, and batches."""

import copy
import math
import threading

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from minilm.config import ModelConfig, UserError
from minilm.fast import compute
from minilm.fast.compute import ChunkedNLL, MixedPrecision, fast_attention, fast_nll, gather_targets
from minilm.model import Transformer, attention, visibility
from minilm.objectives import IGNORE, causal, language_model_nll, masked
from minilm.optim import orthogonalise
from minilm.runs.loop import prefetched
from minilm.tokenizer import SpecialTokens
from tests.machinery.small import stirred

SPECIAL = SpecialTokens(0, 1, 2, 2, range(3, 60))
CPU = torch.device("cpu")


@pytest.fixture
def model():
    return stirred(Transformer(ModelConfig(60, 16, 16, 2, 2, 24)))


def batches():
    rng = np.random.default_rng(0)
    windows = rng.integers(3, 60, (3, 17))
    return {"causal": causal(windows), "masked": masked(windows, 0.3, rng, SPECIAL, shift=1)}


def tensors(values):
    return [torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in values]


def book(model, batch):
    """The book's loss, and every gradient."""
    model.zero_grad()
    loss_sum, count = language_model_nll(model, *tensors(batch))
    loss_sum.backward()
    return loss_sum, count, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("chunk", [7, 1024])
@pytest.mark.parametrize("name", ["causal", "masked"])
def test_the_chunked_loss_at_gathered_targets_is_the_books_and_so_are_its_gradients(
    model, name, chunk, monkeypatch
):
    monkeypatch.setattr(ChunkedNLL, "CHUNK", chunk)
    batch = batches()[name]
    loss_sum, count, gradients = book(model, batch)
    fast = compute.use_fast_attention(copy.deepcopy(model))
    fast.zero_grad()
    found, n = fast_nll(fast, *tensors(gather_targets(batch, CPU)))
    (3 * found).backward()
    assert n == count
    torch.testing.assert_close(found, loss_sum, rtol=1e-6, atol=0)
    for parameter, gradient in zip(fast.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, 3 * gradient, rtol=1e-4, atol=3e-5)


def test_a_gradient_of_the_chunked_loss_has_no_derivative_rather_than_a_wrong_one(model):
    hidden = torch.randn(4, 16, requires_grad=True)
    loss = ChunkedNLL.apply(hidden, model.embedding.weight, torch.tensor([3, 4, 5, 6]))
    [gradient] = torch.autograd.grad(loss**2, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("is_real", [None, torch.arange(5) < torch.tensor([[5], [2]])])
@pytest.mark.parametrize("causally", [True, False])
def test_attention_is_the_books_with_every_mask(causally, is_real):
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    expected = attention(q, k, v, visibility(5, 0, causally, is_real))
    mask = compute.fast_visibility(5, 0, causally, is_real, CPU)
    torch.testing.assert_close(fast_attention(q, k, v, mask), expected)
    half = fast_attention(*(x.bfloat16() for x in (q, k, v)), mask)  # on a CPU, by other means
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.05)
    for attend in (attention, fast_attention):  # a row of hidden keys
        assert torch.isfinite(attend(q, k, v, torch.zeros(1, 1, 5, 5, dtype=torch.bool))).all()


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 6, 6)])
def test_muon_on_the_gram_matrix_is_the_formula_and_in_bfloat16_close_to_it(shape):
    G = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = orthogonalise(G)
    torch.testing.assert_close(compute.fast_orthogonalise(G), expected, rtol=1e-3, atol=1e-5)
    half = compute.fast_orthogonalise(G, dtype=torch.bfloat16)  # only where the products are, too
    assert half.dtype == torch.float32 and half.shape == shape
    assert 1e-4 < (half - expected).norm() / expected.norm() < 0.05


def test_the_chunked_loss_and_its_gradient_survive_a_probability_that_underflows():
    hidden, E = torch.tensor([[200.0], [1.0], [1.0]]), torch.tensor([[1.0], [0.5], [0.0]])
    targets = torch.tensor([2, 1, IGNORE])  # log p = -200, whose p no float32 holds
    both = []
    for exact, loss in ((False, ChunkedNLL.apply), (True, compute.whole_nll)):
        leaves = [x.to(torch.float64 if exact else x.dtype).requires_grad_() for x in (hidden, E)]
        value = loss(*leaves, targets)
        both.append([value, *torch.autograd.grad(value, leaves)])
    assert both[0][0].item() == pytest.approx(199.5 + math.log(math.e + math.e**0.5 + 1))
    for found, expected in zip(*both, strict=True):
        torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["causal", "masked"])
def test_mixed_precision_fills_the_gradients_of_the_float32_weights(model, name):
    batch = tensors(gather_targets(batches()[name], CPU))
    _, _, gradients = book(model, batches()[name])
    model.zero_grad()
    mixed = MixedPrecision(model, fast_nll, torch.bfloat16)
    for _ in range(2):  # micro-batches are added up
        loss_sum, _ = mixed(*batch)
        loss_sum.backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.dtype for p in mixed.copy.parameters()} == {torch.bfloat16}
    assert loss_sum.dtype == torch.float32 and all(p.grad is None for p in mixed.copies)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad.dtype == torch.float32
        error = (parameter.grad - 2 * gradient).norm() / (2 * gradient).norm()
        assert 0 < error < 0.2  # bfloat16 has 8 bits


def test_the_copy_that_computes_has_todays_weights_mode_and_frozen_parts(model):
    model.embedding.requires_grad_(False)
    mixed = MixedPrecision(model, fast_nll, torch.bfloat16)
    with torch.no_grad():
        model.norm.weight.fill_(2.0)
    assert (mixed.refresh().norm.weight == 2).all() and mixed.copy.training
    assert not mixed.model.eval() or not mixed.refresh().training
    loss_sum, _ = mixed(*tensors(gather_targets(batches()["causal"], CPU)))
    loss_sum.backward()
    assert model.embedding.weight.grad is None and model.norm.weight.grad is not None
    assert MixedPrecision(model, fast_nll, torch.float32).refresh() is model  # no copy


def test_batches_made_ahead_are_those_of_their_steps_whatever_is_asked():
    made, lock = [], threading.Lock()

    def batch(step):
        with lock:
            made.append(step)
        return [step]

    ahead = prefetched(batch)
    assert [ahead(step) for step in (0, 1, 2, 7, 8)] == [[0], [1], [2], [7], [8]]
    assert made.count(1) == made.count(2) == 1  # no batch is made twice


def test_a_card_compiles_by_default_a_cpu_where_asked_and_without_a_compiler_neither(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(compute.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compute.shutil, "which", lambda name: "/usr/bin/cc")
    assert compute.compiles(None, cuda) and compute.compiles(True, CPU)
    assert not compute.compiles(None, CPU) and not compute.compiles(False, cuda)
    monkeypatch.setattr(compute.shutil, "which", lambda name: None)
    assert not compute.compiles(None, cuda) and not compute.compiles(False, CPU)
    with pytest.raises(UserError, match="needs a C compiler"):
        compute.compiles(True, CPU)


def test_compiled_blocks_train_alike_and_evaluating_compiles_nothing(model):
    counter = CompileCounter()
    compiled = compute.use_fast_attention(copy.deepcopy(model))
    compute.compile_blocks(compiled, backend=counter)
    batch = batches()["masked"]
    loss_sum, _, gradients = book(model, batch)
    found, _, others = book(compiled, batch)
    torch.testing.assert_close(found, loss_sum)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-5)
    once = counter.frame_count
    assert once == 1  # all blocks share a program
    with compute.eager(), torch.inference_mode():
        for length in (3, 5, 8):
            compiled(torch.full((1, length), 5), causal=False)
            cache = compiled.new_cache()
            for _ in range(3):
                compiled(torch.full((1, 1), 5), causal=True, cache=cache)
    assert counter.frame_count == once


def test_another_familys_head_stands_before_its_vocabulary_matrix(model):
    class Other(Transformer):
        def logits(self, hidden):
            return super().logits(torch.tanh(hidden))

    other = Other(model.config)
    other.load_state_dict(model.state_dict())
    batch = batches()["masked"]
    expected, _, _ = book(other, batch)
    found, _ = fast_nll(other, *tensors(gather_targets(batch, CPU)))
    torch.testing.assert_close(found, expected)
    assert not torch.isclose(found, book(model, batch)[0])
