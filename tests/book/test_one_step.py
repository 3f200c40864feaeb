"""One training step, worked with numbers that you can follow with a pencil."""

import math

import numpy as np
import pytest
import torch

from minilm.config import ModelConfig
from minilm.model import Transformer
from minilm.objectives import causal, language_model_nll
from minilm.training import train_step

LN2 = math.log(2)


def test_a_text_of_three_tokens_moves_the_rows_of_the_embedding():
    model = Transformer(ModelConfig(vocab_size=5, max_length=2, d_model=2, n_layers=1, n_heads=1,
                                    d_ff=2))  # fmt: skip

    # The embedding E has a row (a, -a) for each of the five tokens.
    a = torch.tensor([0.0, LN2 / 2, LN2, -LN2 / 2, -LN2 / 2])
    model.embedding.weight.data = torch.stack([a, -a], dim=1)  # (V, D) = (5, 2)

    # The text is 1 2 4: after 1 comes 2, after 2 comes 4.
    inputs, targets, _ = causal(np.array([[1, 2, 4]]))
    assert (inputs.tolist(), targets.tolist()) == ([[1, 2]], [[2, 4]])
    inputs, targets = torch.from_numpy(inputs), torch.from_numpy(targets)

    # Of two numbers layer norm keeps who is larger: (a, -a) becomes (1, -1), for both tokens. The
    # block ends in zeros, so it adds nothing yet, and the last norm finds (1, -1) as it was.
    hidden = model(inputs, causal=True)[0]  # (T, D) = (2, 2)
    assert hidden.detach().numpy() == pytest.approx(np.array([[1, -1], [1, -1]]), abs=1e-3)

    # The logit of a token is hidden · (a, -a) = 2a: 0, ln 2, ln 4, -ln 2, -ln 2. Their exponentials
    # are 1, 2, 4, 1/2, 1/2, together 8.
    p = model.logits(hidden).softmax(-1)  # (T, V) = (2, 5)
    assert p[0].tolist() == pytest.approx([1 / 8, 1 / 4, 1 / 2, 1 / 16, 1 / 16], abs=1e-3)

    # The loss: - ln P(2) - ln P(4) = ln 2 + ln 16, for two targets.
    nats, count = language_model_nll(model, inputs, targets, causal=True)
    assert (nats.item(), count) == (pytest.approx(5 * LN2, abs=1e-3), 2)

    # Its gradient by the logits is p - y, at both positions, and that by a row of E is the sum of
    # (p - y) · (1, -1) over them. The mean loss has half of it:
    #   token   0                1                2                  3                  4
    #   p - y   1/8              1/4              1/2 - 1            1/16               1/16
    #           1/8              1/4              1/2                1/16               1/16 - 1
    #   half    1/8              1/4              0                  1/16               -7/16
    # (On the way in E has no gradient: however a moves, the norm keeps (1, -1).)
    # Against it, at a rate of 0.8: token 4 becomes likelier, 2 keeps its row, the rest lose.
    sgd = torch.optim.SGD([model.embedding.weight], lr=0.8)
    loss = lambda *batch: language_model_nll(model, *batch)
    mean, _ = train_step(loss, [(inputs, targets, True)], [sgd], clip=math.inf)
    new = [-0.8 / 8, LN2 / 2 - 0.8 / 4, LN2, -LN2 / 2 - 0.8 / 16, -LN2 / 2 + 0.8 * 7 / 16]
    assert model.embedding.weight[:, 0].tolist() == pytest.approx(new, abs=1e-3)
    assert model.embedding.weight[:, 1].tolist() == pytest.approx([-x for x in new], abs=1e-3)

    # The same text again has a smaller loss: 1.33 nats a token instead of 1.73.
    nats, _ = language_model_nll(model, inputs, targets, causal=True)
    assert (mean.item(), nats.item() / 2) == pytest.approx((2.5 * LN2, 1.33), abs=0.01)
