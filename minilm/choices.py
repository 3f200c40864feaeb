"""The small parts of which the model takes one or another, as its shape says (`shape.py`)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.config import ModelConfig


class LayerNorm(nn.Module):
    """Layer norm (Ba et al. 2016, eq. 4) with a gain g, and a bias b only if the shape says so:
    g · (x - mean) / √(var + ε) + b."""

    def __init__(self, config: ModelConfig, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if config.norm_bias else None
        self.epsilon = config.norm_epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width). Returns x's shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


def relu2(up: Tensor) -> Tensor:
    """Squared ReLU: max(0, x)²."""
    return F.relu(up).square()


def gelu_tanh(up: Tensor) -> Tensor:
    """GELU as GPT-2 has it: x / 2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))."""
    return F.gelu(up, approximate="tanh")


def geglu(up: Tensor) -> Tensor:
    """GELU of the first half, times the second. up (..., 2 d_ff). Returns (..., d_ff)."""
    x, gate = up.chunk(2, dim=-1)
    return F.gelu(x) * gate


ACTIVATIONS = {"relu2": relu2, "gelu": F.gelu, "gelu-tanh": gelu_tanh, "geglu": geglu}


class Head(nn.Module):
    """One more layer between the blocks and the vocabulary matrix: norm(gelu(W x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, config.bias)
        self.activation = gelu_tanh if config.activation == "gelu-tanh" else F.gelu
        self.norm = LayerNorm(config, config.d_model)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (..., D). Returns hidden's shape."""
        return self.norm(self.activation(self.dense(hidden)))
