"""What several rooms share."""

import pytest
import torch

from minilm.config import ModelConfig
from minilm.model import Transformer

torch.set_num_threads(1)  # for models this small, waking a second thread costs more than it does

SHAPE = dict(vocab_size=40, max_length=16, d_model=16, n_layers=2, n_heads=2, d_ff=24)


@pytest.fixture
def make_model():
    """make_model(d_model=8, ...): a small Transformer in float64 whose weights are all random.

    A new model's sub-layers give zero, and behind a zero most errors cannot be seen."""

    def make(**changes) -> Transformer:
        model = Transformer(ModelConfig(**SHAPE | changes)).double()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.5, generator=generator)
        return model

    return make
