"""Heads: small layers that put the pretrained hidden states to work. Here: a label for a text.

L = - log P(y | w_1 … w_n; θ)
"""

import torch
from torch import Tensor, nn

from minilm.model import Transformer
from minilm.objectives import token_nll


def pool(hidden: Tensor, is_real: Tensor, pooling: str) -> Tensor:
    """One vector for a text: the "mean" over its real tokens, or the "last" of them, or the
    "first".

    Padding never counts. Under causal attention the first token has seen nothing but itself and
    the last has seen everything; the mean is a fair choice for either.

    hidden (B, T, D), is_real (B, T). Returns (B, D).
    """
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        last = is_real.sum(1) - 1  # (B,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weight = is_real.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weight).sum(1) / weight.sum(1)


class Classifier(nn.Module):
    """The pretrained Transformer with one linear layer over the pooled text.

    The layer starts as zero: at first every label has the same probability and the loss is ln C.
    """

    def __init__(self, transformer: Transformer, n_classes: int, pooling: str = "mean"):
        super().__init__()
        self.transformer, self.pooling = transformer, pooling
        self.dropout = nn.Dropout(transformer.config.dropout)
        self.head = nn.Linear(transformer.config.d_model, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, is_real: Tensor, causal: bool = False) -> Tensor:
        """tokens, is_real (B, T). Returns the logits of the labels (B, C)."""
        hidden = self.transformer(tokens, causal=causal, is_real=is_real)  # (B, T, D)
        return self.head(self.dropout(pool(hidden, is_real, self.pooling)))


def classification_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The fine-tuning loss (Radford et al. 2018, eq. 4): - Σ_texts log P(y | w_1 … w_n; θ).

    The same cross-entropy as for tokens, with labels in their place. logits (B, C), labels (B,).
    Returns (sum of nats, number of texts).
    """
    return token_nll(logits, labels)
