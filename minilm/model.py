"""The Transformer (Vaswani et al. 2017, "Attention Is All You Need"), encoder and decoder in one:
whether a position may see what follows it is an argument of the call, no property of the weights.

    hidden = model(tokens, causal=True)     # as GPT does
    hidden = model(tokens, causal=False)    # as BERT does, with the same weights

The block is today's usual one: layer norm before each sub-layer (Xiong et al. 2020,
arXiv 2002.04745), rotary positions (Su et al. 2021, arXiv 2104.09864), normalised queries and keys
(Dehghani et al. 2023, arXiv 2302.05442), squared ReLU (So et al. 2021, arXiv 2109.08668), no
biases, sub-layers that start as zero, and one matrix for tokens that go in and come out (Press and
Wolf 2017, arXiv 1608.05859), with a norm behind it where they go in, as BERT has. The same model by
hand, in NumPy: `reference.py`.

Shapes: B texts, T positions, D = d_model, H heads of width d = D / H, F = d_ff, V = vocab_size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.config import ModelConfig, UserError

EPSILON = 1e-5  # keeps layer norm from dividing by zero
FAR = -1e30  # the score of a masked key; finite, so that a row of masked keys is no NaN


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1):

        softmax(Q Kᵀ / √d) V

    q (B, H, T, d); k, v (B, H, S, d); mask bool, True where position t may see key s, broadcasts
    to (B, H, T, S), or None where all may see all. Returns (B, H, T, d)."""
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, FAR)
    return torch.softmax(scores, dim=-1) @ v


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, eq. 34): turn each pair (x_j, x_{j + d/2}) of the vector at
    position t by the angle t · 10000^(-2j/d), so that q·k depends on the distance of two positions.

        (a, b) -> (a cos - b sin, a sin + b cos)

    x (B, T, H, d); cos, sin (T, 1, d/2). Returns x's shape."""
    a, b = x.chunk(2, dim=-1)  # (B, T, H, d/2) each
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def visibility(
    length: int, start: int, causal: bool, is_real: Tensor | None = None,
    device: torch.device | None = None, prefix: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """The attention mask of positions start .. start + length over keys 0 .. start + length.

    Causal: position t may see keys s <= t and, with a prefix (B,), also s < prefix: every position
    sees all of the text to translate, and of its translation only what stands before. No position
    sees padding, where is_real (B, start + length) is False. What each of four positions sees:

        causal    bidirectional, the last one padding    causal, after a prefix of 2
        x . . .                 x x x .                            x x . .
        x x . .                 x x x .                            x x . .
        x x x .                 x x x .                            x x x .
        x x x x                 x x x .                            x x x x

    Returns the bool mask that `attention` takes, (1 or B, 1, length, start + length), or None where
    all may see all. Raises ValueError where is_real does not say it of every key."""
    mask = None
    if causal and length > 1:
        ones = torch.ones(length, start + length, dtype=torch.bool, device=device)
        mask = ones.tril(start)[None, None]
        if prefix is not None:
            keys = torch.arange(start + length, device=device)
            mask = mask | (keys < prefix[:, None, None, None])
    if is_real is not None:
        if is_real.shape[1] != start + length:
            raise ValueError(f"is_real is given for {is_real.shape[1]} of {start + length} keys")
        padding = is_real[:, None, None, :]  # (B, 1, 1, start + length)
        mask = padding if mask is None else mask & padding
    return mask


class KeyValueCache:
    """One layer's keys and values of the positions already computed, so that generating a token
    costs one position and not the whole text again."""

    length, keys, values = 0, None, None  # both (B, H, length, d)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the new k, v (B, H, T, d), too; return all of them (B, H, length + T, d)."""
        if self.length:
            k, v = torch.cat((self.keys, k), dim=2), torch.cat((self.values, v), dim=2)
        self.length, self.keys, self.values = k.shape[2], k, v
        return k, v


class LayerNorm(nn.Module):
    """Layer norm (Ba et al. 2016, arXiv 1607.06450, eq. 4) with a gain g and no bias:
    g · (x - mean) / √(var + ε)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width). Returns x's shape."""
        return F.layer_norm(x, self.weight.shape, self.weight, eps=EPSILON)


class SelfAttention(nn.Module):
    """Each position compares its query with the keys that it may see, and mixes their values."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.norm_q, self.norm_k = LayerNorm(config.d_head), LayerNorm(config.d_head)

    def project(self, x: Tensor, rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D), rotation (cos, sin). Returns q, k, v (B, T, H, d)."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads).unbind(2)
        return rotate(self.norm_q(q), *rotation), rotate(self.norm_k(k), *rotation), v

    def forward(self, x: Tensor, mask, rotation, attend, cache: KeyValueCache | None) -> Tensor:
        """x (B, T, D); mask as in `attention`, which `attend` computes. Returns (B, T, D)."""
        q, k, v = (part.transpose(1, 2) for part in self.project(x, rotation))  # (B, H, T, d)
        if cache is not None:
            k, v = cache.extend(k, v)
        mixed = attend(q, k, v, mask)  # (B, H, T, d)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (B, T, D)


class FeedForward(nn.Module):
    """The same two-layer network at every position: W_down · max(0, W_up x)²."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.norm_1 = LayerNorm(config.d_model)
        self.attention = SelfAttention(config)
        self.norm_2 = LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask, rotation, attend, cache: KeyValueCache | None) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        x = x + self.dropout(self.attention(self.norm_1(x), mask, rotation, attend, cache))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))


class Transformer(nn.Module):
    """Tokens in, one hidden state a position out; `logits` turns hidden states into scores.

    The initial weights are a function of (config, seed) alone. `attend` and `visibility` are the
    functions above unless someone puts faster ones in their place. A subclass may set `block`."""

    block = Block

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config, self.attend, self.visibility = config, attention, visibility
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(self.block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model)
        self.add_rotation(10_000.0)
        self.initialise(seed)

    def add_rotation(self, base: float) -> None:
        """The tables cos and sin, (max_length, 1, d/2), that `rotate` takes."""
        pairs = torch.arange(0, self.config.d_head, 2) / self.config.d_head  # (d/2,)
        positions = torch.arange(self.config.max_length)[:, None, None]
        angles = positions.double() * base ** -pairs.double()  # (max_length, 1, d/2)
        for name, table in dict(cos=angles.cos(), sin=angles.sin()).items():
            self.register_buffer(name, table.to(torch.get_default_dtype()), persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the weights. A sub-layer whose last matrix starts as zero adds nothing at first,
        however many there are (Zhang et al. 2019, arXiv 1901.09321): that matrix learns at the
        first step, what lies before it from the second on. The embedding is small so that all
        logits are, and the first loss is about ln V."""
        generator, width = torch.Generator().manual_seed(seed), self.config.d_model
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "bias")):
                parameter.zero_()
            elif name in ("embedding.weight", "positions.weight"):
                parameter.normal_(0, 0.3 / math.sqrt(width), generator=generator)
            elif parameter.dim() == 2:
                parameter.normal_(0, 1 / math.sqrt(width), generator=generator)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """Rows of E, normalised without a gain: the residual stream begins at one size, however
        small E is. tokens (B, T) at positions start .. start + T. Returns (B, T, D)."""
        return F.layer_norm(self.embedding(tokens), (self.config.d_model,), eps=EPSILON)

    def forward(
        self, tokens: Tensor, causal: bool, is_real: Tensor | None = None,
        cache: list[KeyValueCache] | None = None, prefix: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """tokens (B, T); causal, is_real and prefix as in `visibility`. With a cache (`new_cache`),
        tokens continue what it holds. Returns hidden (B, T, D). Raises UserError where there are
        more tokens than max_length."""
        T, start = tokens.shape[1], cache[0].length if cache else 0
        if start + T > self.config.max_length:
            raise UserError(f"{start + T} tokens do not fit the window of {self.config.max_length}")
        mask = self.visibility(T, start, causal, is_real, tokens.device, prefix=prefix)
        rotation = self.cos[start : start + T], self.sin[start : start + T]
        x = self.dropout(self.embed(tokens, start))  # (B, T, D)
        for i, block in enumerate(self.blocks):
            x = block(x, mask, rotation, self.attend, cache[i] if cache else None)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """A score for every token of the vocabulary: hidden · Eᵀ. hidden (N, D), only the positions
        that have a target: over all positions, it would be most of a small model's work. Returns
        (N, V)."""
        return F.linear(hidden, self.embedding.weight)

    def new_cache(self) -> list[KeyValueCache]:
        """An empty cache, one entry a layer."""
        return [KeyValueCache() for _ in self.blocks]
