"""Heads: small layers that put the pretrained hidden states to work.

a label for a text          L = - log P(y | w_1 … w_n; θ)
a label for each word       L = - Σ_i log P(y_i | w_1 … w_n; θ)
where an answer stands      L = - log P(start | w_1 … w_n; θ) - log P(end | w_1 … w_n; θ)

Every head starts as zero: at first all answers have the same probability, and the loss is the
logarithm of their number."""

import torch
from torch import Tensor, nn

from minilm.model import FAR, Transformer
from minilm.objectives import token_nll


def pool(hidden: Tensor, is_real: Tensor, pooling: str) -> Tensor:
    """One vector for a text: the "mean" over its real tokens, the "last" of them, or the "first".
    Under causal attention the first has seen nothing but itself and the last everything; the mean
    is a fair choice for both directions. hidden (B, T, D), is_real (B, T). Returns (B, D)."""
    if pooling == "first":
        return hidden[:, 0]
    if pooling == "last":
        last = is_real.sum(1) - 1  # (B,)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    weight = is_real.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
    return (hidden * weight).sum(1) / weight.sum(1)


def zero_layer(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer whose weights start as zero."""
    layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Classifier(nn.Module):
    """The pretrained Transformer with one linear layer over the pooled text."""

    def __init__(self, transformer: Transformer, n_classes: int, pooling: str = "mean"):
        super().__init__()
        self.transformer, self.pooling = transformer, pooling
        self.dropout = nn.Dropout(transformer.config.dropout)
        self.head = zero_layer(transformer.config.d_model, n_classes)

    def forward(self, tokens: Tensor, is_real: Tensor, causal: bool = False) -> Tensor:
        """tokens, is_real (B, T). Returns the logits of the labels (B, C)."""
        hidden = self.transformer(tokens, causal=causal, is_real=is_real)  # (B, T, D)
        return self.head(self.dropout(pool(hidden, is_real, self.pooling)))


def classification_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The fine-tuning loss (Radford et al. 2018, eq. 4): - Σ_texts log P(y | w_1 … w_n; θ), the
    cross-entropy that tokens have, of labels. logits (B, C), labels (B,). Returns (sum of nats,
    number of texts)."""
    return token_nll(logits, labels)


def states_of(hidden: Tensor, positions: str) -> Tensor:
    """The hidden states that stand for each token: its "own"; the one "before", where a hybrid or
    causal run was trained to predict the token; or "both", side by side.

    hidden (B, T, D). Returns (B, T, D), or (B, T, 2D) for both."""
    nothing = torch.zeros_like(hidden[:, :1])  # stands before the first
    before = torch.cat((nothing, hidden[:, :-1]), dim=1)
    both = torch.cat((hidden, before), dim=-1)
    return {"own": hidden, "before": before, "both": both}[positions]


class Tagger(nn.Module):
    """A label for each word: a linear layer over the states of the word's tokens, their "mean" or
    the "first"."""

    def __init__(self, transformer: Transformer, n_out: int, positions="both", pooling="mean"):
        super().__init__()
        self.transformer, self.positions, self.pooling = transformer, positions, pooling
        self.dropout = nn.Dropout(transformer.config.dropout)
        self.head = zero_layer(transformer.config.d_model * (1 + (positions == "both")), n_out)

    def states(self, tokens: Tensor, is_real: Tensor) -> Tensor:
        """tokens, is_real (B, T). Returns (B, T, D or 2D)."""
        hidden = self.transformer(tokens, causal=False, is_real=is_real)  # (B, T, D)
        return self.dropout(states_of(hidden, self.positions))

    def forward(self, tokens: Tensor, is_real: Tensor, words: Tensor) -> Tensor:
        """tokens, is_real (B, T); words (B, W, 2), the first token of each word and the one after
        its last. Returns the logits of the labels (B, W, C)."""
        t = torch.arange(tokens.shape[1], device=tokens.device)
        first, end = words[..., :1], words[..., 1:]  # (B, W, 1)
        inside = (t == first) if self.pooling == "first" else (first <= t) & (t < end)
        states = self.states(tokens, is_real)
        share = inside / inside.sum(-1, keepdim=True).clamp(min=1)  # (B, W, T)
        return self.head(share.to(states.dtype) @ states)


def tagging_nll(logits: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
    """- Σ_i log P(y_i | w_1 … w_n; θ). logits (B, W, C); tags (B, W), IGNORE where no word is.
    Returns (sum of nats, number of words)."""
    return token_nll(logits.flatten(0, 1), tags.flatten())


class Answerer(Tagger):
    """Two scores for each token: does the answer start here, does it end here?"""

    def __init__(self, transformer: Transformer, positions: str = "both"):
        super().__init__(transformer, 2, positions)

    def forward(self, tokens: Tensor, is_real: Tensor, allowed: Tensor) -> Tensor:
        """tokens, is_real, allowed (B, T): an answer lies in the context, or, where there is none,
        at the first <doc>. Returns the scores (B, T, 2)."""
        return self.head(self.states(tokens, is_real)).masked_fill(~allowed.unsqueeze(-1), FAR)


def answer_nll(scores: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    """- log P(start) - log P(end) (Devlin et al. 2019, arXiv 1810.04805, section 4.2), each a
    softmax over the positions. scores (B, T, 2); spans (B, 2), the first and last token of the
    answer. Returns (sum of nats, number of questions)."""
    loss_sum, count = token_nll(scores.transpose(1, 2).flatten(0, 1), spans.flatten())
    return loss_sum, count // 2
