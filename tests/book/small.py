"""What the tests of the book share: a vocabulary of 40 tokens and a model small enough to check."""

import numpy as np
import torch

from minilm.config import ModelConfig
from minilm.model import Transformer
from minilm.tokenizer import SpecialTokens

PAD, MASK, DOC, FIRST, V = 0, 1, 2, 3, 40
SPECIAL = SpecialTokens(PAD, MASK, DOC, DOC, range(FIRST, V))


def make_model(**shape) -> Transformer:
    """In float64, with random weights: a new model's sub-layers end in a zero, behind which much
    that is wrong would look right."""
    small = dict(vocab_size=V, max_length=16, d_model=16, n_layers=2, n_heads=2, d_ff=24)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        model = Transformer(ModelConfig(**small | shape))
    finally:
        torch.set_default_dtype(before)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.4, generator=generator)
    return model


def random_tokens(*shape: int, seed: int = 1) -> np.ndarray:
    """Ordinary tokens."""
    return np.random.default_rng(seed).integers(FIRST, V, shape)
