"""A label for each word, the span of an answer, a translation: first losses, padding, gradients."""

import math

import numpy as np
import pytest
import torch

from minilm import reference
from minilm.data import pad
from minilm.heads import Answerer, Tagger, answer_nll, states_of, tagging_nll
from minilm.model import Transformer
from minilm.objectives import IGNORE, prefix, prefix_nll
from tests.book.small import DOC, PAD, SPECIAL, V, make_model, random_tokens
from tests.book.test_reference import differences, normal

SOURCES = [random_tokens(n, seed=n) for n in (4, 2, 3)]
TARGETS = [random_tokens(n, seed=9 + n) for n in (2, 5, 1)]
TEXTS = [random_tokens(n, seed=n) for n in (7, 4)]
TOKENS, IS_REAL = pad(TEXTS, PAD, multiple=1)
WORDS = np.array([[[1, 3], [3, 4], [4, 6]], [[1, 2], [2, 3], [0, 0]]])  # none is a third word
TAGS = np.array([[1, 0, 2], [2, 1, IGNORE]])
ALLOWED = IS_REAL & (np.arange(7) != 1)
SPANS = np.array([[2, 4], [0, 0]])
C = 3


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def with_weights(head):
    """The head in float64 with random weights of its own, and its parameters by name."""
    head = head.double()
    for i, parameter in enumerate(head.head.parameters()):
        parameter.data = torch.from_numpy(np.random.default_rng(i).normal(size=parameter.shape))
    return head, {n.removeprefix("transformer."): p for n, p in head.named_parameters()}


def tagging():
    head, named = with_weights(Tagger(make_model(d_model=8, d_ff=12), C, pooling="mean"))
    loss = tagging_nll(head(*tensors(TOKENS, IS_REAL, WORDS)), *tensors(TAGS))
    config = head.transformer.config
    return named, loss, lambda p: reference.tagging_loss(p, config, TOKENS, TAGS, IS_REAL, WORDS)


def answering():
    head, named = with_weights(Answerer(make_model(d_model=8, d_ff=12)))
    loss = answer_nll(head(*tensors(TOKENS, IS_REAL, ALLOWED)), *tensors(SPANS))
    config = head.transformer.config
    return named, loss, lambda p: reference.answer_loss(p, config, TOKENS, SPANS, IS_REAL, ALLOWED)


def translating():
    model = make_model(d_model=8, d_ff=12)
    inputs, targets, seen = prefix(SOURCES, TARGETS, SPECIAL)
    loss = prefix_nll(model, *tensors(inputs, targets), torch.from_numpy(seen))
    visible = reference.visibility(inputs.shape[1], True, prefix=seen)

    def by_hand(parameters):
        return reference.language_model_loss(parameters, model.config, inputs, targets, visible)

    return dict(model.named_parameters()), loss, by_hand


LOSSES = {"tagging": tagging, "answering": answering, "translating": translating}
every_loss = pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)


@every_loss
def test_the_gradient_of_each_loss_is_the_same_by_hand_by_autograd_and_by_differences(make):
    named, (torch_loss, torch_count), by_hand = make()
    parameters = {name: p.detach().numpy() for name, p in named.items()}
    loss, count, gradients = by_hand(parameters)
    torch_loss.backward()
    assert (loss, count) == (pytest.approx(torch_loss.item(), rel=1e-12), torch_count)
    assert gradients.keys() == named.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, named[name].grad, 1e-9, 1e-10, err_msg=name)
        way = normal(*gradient.shape)
        found = differences(
            lambda s, n=name, way=way: by_hand(parameters | {n: parameters[n] + s * way})[0],
            [np.zeros(())], 0, 1e-6,
        )  # fmt: skip
        assert (gradient * way).sum() == pytest.approx(found, rel=1e-5, abs=1e-6), name
        if (name, make) != ("head.bias", answering):  # which a softmax over positions cancels
            assert np.abs(gradient).max() > 1e-3, name


def test_the_first_losses_are_ln_c_2_ln_t_and_ln_v():
    loss, count = tagging_nll(
        Tagger(make_model(), C).double()(*tensors(TOKENS, IS_REAL, WORDS)), *tensors(TAGS)
    )
    assert (loss.item(), count) == (pytest.approx(5 * math.log(C)), 5)
    scores = Answerer(make_model()).double()(*tensors(TOKENS, IS_REAL, ALLOWED))
    loss, count = answer_nll(scores, *tensors(SPANS))
    assert (loss.item(), count) == (pytest.approx(2 * math.log(6) + 2 * math.log(3)), 2)
    inputs, targets, seen = prefix(SOURCES, TARGETS, SPECIAL)
    loss, count = prefix_nll(
        Transformer(make_model().config), *tensors(inputs, targets),
        torch.from_numpy(seen),
    )  # fmt: skip
    assert count == sum(len(t) + 1 for t in TARGETS)
    assert loss.item() / count == pytest.approx(math.log(V), rel=0.05)


@pytest.mark.parametrize("positions", ["own", "before", "both"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_word_gets_the_same_logits_alone_and_padded_in_a_batch(positions, pooling):
    tagger, _ = with_weights(Tagger(make_model(), C, positions, pooling))
    answerer, _ = with_weights(Answerer(make_model(), positions))
    tagged = tagger(*tensors(TOKENS, IS_REAL, WORDS))
    together = tagged, answerer(*tensors(TOKENS, IS_REAL, ALLOWED))
    real, allowed, words = np.ones((1, 4), bool), ALLOWED[1:, :4], WORDS[1:, :2]
    alone = tagger(*tensors(TEXTS[1][None], real, words))
    torch.testing.assert_close(together[0][1, :2], alone[0], rtol=0, atol=1e-12)
    alone = answerer(*tensors(TEXTS[1][None], real, allowed))
    torch.testing.assert_close(together[1][1, :4], alone[0], rtol=0, atol=1e-12)
    assert (together[0][0] - together[0][1]).abs().min() > 1e-6


def test_the_state_before_the_first_token_is_nothing():
    hidden = torch.arange(1.0, 7).view(1, 3, 2)
    assert states_of(hidden, "before").tolist() == [[[0, 0], [1, 2], [3, 4]]]
    assert states_of(hidden, "both")[0, 1].tolist() == [3, 4, 1, 2]


def test_a_word_is_read_at_its_first_token_or_at_the_mean_of_all_its_tokens():
    for pooling in ("first", "mean"):
        tagger, _ = with_weights(Tagger(make_model(), C, "own", pooling))
        hidden = tagger.transformer(torch.from_numpy(TEXTS[0])[None], causal=False)[0]
        expected = tagger.head(hidden[1] if pooling == "first" else hidden[1:3].mean(0))
        found = tagger(*tensors(TOKENS[:1], IS_REAL[:1], WORDS[:1]))[0, 0]
        torch.testing.assert_close(found, expected)


def prefix_states(source, target):
    inputs, _, seen = prefix([source], [target], SPECIAL)
    inputs = inputs[:, : len(source) + 2 + len(target)]  # without padding
    with torch.no_grad():
        return make_model()(*tensors(inputs), causal=True, prefix=torch.from_numpy(seen))[0]


def test_the_rows_of_prefix_are_doc_source_doc_target_doc():
    inputs, targets, seen = prefix(SOURCES[1:], TARGETS[1:], SPECIAL)
    row = [DOC, *SOURCES[1], DOC, *TARGETS[1]]
    assert inputs[0, : len(row)].tolist() == row and seen.tolist() == [4, 5]
    assert targets[0, : len(row)].tolist() == [IGNORE] * 3 + [*TARGETS[1], DOC]
    assert targets[1, :7].tolist() == [IGNORE] * 4 + [*TARGETS[2], DOC] + [IGNORE]


def test_a_changed_target_token_leaves_the_sources_hidden_states_unchanged():
    source, target = SOURCES[0], TARGETS[1]
    changed = (target + 1).clip(3, V - 1)
    before, after = prefix_states(source, target), prefix_states(source, changed)
    seen = len(source) + 2
    assert torch.equal(before[:seen], after[:seen]) and not torch.equal(before[seen], after[seen])
    last = target.copy()
    last[-1] = target[-1] - 1
    assert torch.equal(before[:-1], prefix_states(source, last)[:-1])  # the target is causal


def test_a_changed_last_source_token_changes_the_first_hidden_state():
    other = SOURCES[0].copy()
    other[-1] = SOURCES[0][-1] - 1
    difference = prefix_states(SOURCES[0], TARGETS[0]) - prefix_states(other, TARGETS[0])
    assert difference[0].abs().max() > 1e-3


def test_a_pair_has_the_same_loss_alone_and_among_longer_ones():
    def loss(sources, targets):
        inputs, targets, seen = prefix(sources, targets, SPECIAL)
        model = make_model()
        return prefix_nll(model, *tensors(inputs, targets), torch.from_numpy(seen))[0]

    alone = sum(loss([s], [t]) for s, t in zip(SOURCES, TARGETS, strict=True))
    torch.testing.assert_close(loss(SOURCES, TARGETS), alone, rtol=0, atol=1e-10)
