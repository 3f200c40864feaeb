"""The Transformer (Vaswani et al. 2017), encoder and decoder in one: whether a position may see
the words that follow it is an argument of the call, not a property of the weights.

    hidden = model(tokens, causal=True)     # GPT's reading
    hidden = model(tokens, causal=False)    # BERT's reading, same weights

The default block is today's usual one: layer norm before each sub-layer (Xiong et al. 2020,
arXiv 2002.04745), rotary positions (Su et al. 2021, arXiv 2104.09864), normalised queries and
keys (Dehghani et al. 2023, arXiv 2302.05442), squared ReLU (So et al. 2021, arXiv 2109.08668), no
biases, sub-layers that start as zero, and one matrix for the words that go in and come out
(Press and Wolf 2017, arXiv 1608.05859). The same model by hand, in NumPy: `reference.py`.

Shapes: B texts, T positions, D = d_model, H heads of width d = D / H, F = d_ff, V = vocab_size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.config import ModelConfig


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1), as it is written:

        softmax(Q Kᵀ / √d + mask) V

    q (B, H, T, d); k, v (B, H, S, d); mask broadcasts to (B, H, T, S): 0 where a position may
    look, -inf where it may not, None where all may look. Returns (B, H, T, d).

    On a CPU these plain products train nearly as fast in float32 as the fused kernel of
    `fused_attention`, whose result is the same, and faster where bfloat16 is native
    (`python -m tests.benchmarks.pieces` says by how much where it runs).
    """
    scores = (q / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`attention` in one kernel that never stores the scores: for CUDA, and for decoding."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, eq. 34): turn each pair (x_j, x_{j + d/2}) of the vector at
    position t by the angle t · 10000^(-2j/d), so that q·k depends on the distance of two positions.

        (a, b) -> (a cos - b sin, b cos + a sin)

    x (B, T, H, d); cos (T, 1, d) holds each cosine twice, sin (T, 1, d) minus the sines, then the
    sines: each half times its cosines, plus the other half times its sines. Returns x's shape.
    """
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


class KeyValueCache:
    """The keys and values of the positions already read, so that generating a word costs one
    position and not the whole text again. Holds up to `max_length` positions."""

    def __init__(self, config: ModelConfig):
        self.config = config
        self.length = 0  # positions read so far
        self.layers: list[tuple[Tensor, Tensor]] = []  # per layer (B, H, max_length, d), twice

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new k, v (B, H, T, d) of one layer; return all of it (B, H, length + T, d)."""
        if layer == len(self.layers):
            B, H, _, d = k.shape
            room = (B, H, self.config.max_length, d)
            self.layers.append((k.new_empty(room), v.new_empty(room)))
        end = self.length + k.shape[2]
        keys, values = self.layers[layer]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]


class LayerNorm(nn.Module):
    """Layer norm (Ba et al. 2016, eq. 4) with a gain g and no bias: g · (x - mean) / √(var + ε)."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width). Returns x's shape. ε = 1e-5."""
        return F.layer_norm(x, self.weight.shape, self.weight)


class SelfAttention(nn.Module):
    """Each position asks (q) all visible positions (k) and gathers what they hold (v)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        if config.normalise_qk:
            self.norm_q = LayerNorm(config.d_head)
            self.norm_k = LayerNorm(config.d_head)

    def forward(self, x, mask, rotation, cache):
        """x (B, T, D), mask as in `attention`, rotation (cos, sin) or None. Returns (B, T, D)."""
        B, T, D = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.config.n_heads, self.config.d_head).unbind(2)
        if self.config.normalise_qk:
            q, k = self.norm_q(q), self.norm_k(k)
        if rotation is not None:
            cos, sin = (table.to(q.dtype) for table in rotation)
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        # CUDA's autocast computes norms in float32; the products want all three in one dtype.
        q, k, v = (part.to(v.dtype).transpose(1, 2) for part in (q, k, v))  # (B, H, T, d)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        if mask is not None:
            mask = mask.to(q.dtype)
        plain = q.device.type == "cpu" and torch.is_grad_enabled()
        mixed = (attention if plain else fused_attention)(q, k, v, mask)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class FeedForward(nn.Module):
    """The same two-layer net at every position: W_down · relu(W_up x)²."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.norm_1 = LayerNorm(config.d_model)
        self.attention = SelfAttention(config, layer)
        self.norm_2 = LayerNorm(config.d_model)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask, rotation, cache):
        """x (B, T, D). Returns (B, T, D)."""
        x = x + self.dropout(self.attention(self.norm_1(x), mask, rotation, cache))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))


class Transformer(nn.Module):
    """Words in, one vector a position out; `logits` turns vectors into scores for words.

    The initial weights are a function of (config, seed) alone.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Embedding(config.max_length, config.d_model)
        else:
            pairs = torch.arange(0, config.d_head, 2) / config.d_head  # (d/2,)
            angles = torch.arange(config.max_length)[:, None, None] * 10000.0**-pairs  # (T, 1, d/2)
            cos, sin = angles.cos(), angles.sin()
            self.register_buffer("cos", torch.cat((cos, cos), -1), persistent=False)  # (T, 1, d)
            self.register_buffer("sin", torch.cat((-sin, sin), -1), persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = LayerNorm(config.d_model)
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the weights. A block that starts as zero lets the first steps train the embedding
        alone and keeps depth harmless (Zhang et al. 2019, arXiv 1901.09321). The small embedding
        keeps a word from predicting itself, so that the first loss is ln V."""
        generator = torch.Generator().manual_seed(seed)
        width = self.config.d_model
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                parameter.zero_()
            elif name.startswith(("embedding", "positions")):
                parameter.normal_(0, 0.3 / math.sqrt(width), generator=generator)
            elif parameter.dim() == 2:
                parameter.normal_(0, 1 / math.sqrt(width), generator=generator)

    def forward(
        self,
        tokens: Tensor,
        causal: bool,
        is_real: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """tokens (B, T); is_real (B, T), True where a token is not padding, None where all are.
        With a cache, tokens continue what it holds (causal only). Returns hidden (B, T, D)."""
        T = tokens.shape[1]
        start = 0 if cache is None else cache.length
        x = self.embedding(tokens)  # (B, T, D)
        rotation = None
        if self.config.positions == "learned":
            x = x + self.positions.weight[start : start + T]
        else:
            rotation = self.cos[start : start + T], self.sin[start : start + T]
        x = self.dropout(x)
        mask = visibility(T, start, causal, is_real, x.device)
        for block in self.blocks:
            x = block(x, mask, rotation, cache)
        if cache is not None:
            cache.length += T
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """A score for every word: hidden · Eᵀ. hidden (N, D). Returns (N, V).

        Give it only the positions that have a target: at 15 % masking, this product over all
        positions would be most of a small model's work."""
        return F.linear(hidden, self.embedding.weight)


def visibility(
    length: int, start: int, causal: bool, is_real: Tensor | None, device: torch.device
) -> Tensor | None:
    """Who may look where, as a term to add to the scores: 0 or -inf.

    Positions start .. start + length look at positions 0 .. start + length. Returns a tensor that
    broadcasts to (B, 1, length, start + length), or None where everything is visible."""
    mask = None
    if causal and length > 1:
        shape = (length, start + length)
        mask = torch.full(shape, -math.inf, device=device).triu(start + 1)
    if is_real is not None:
        padding = torch.zeros(is_real.shape, device=device).masked_fill(~is_real, -math.inf)
        padding = padding[:, None, None, :]  # (B, 1, 1, T): no position looks at padding
        mask = padding if mask is None else mask + padding
    return mask


def training_flops(config: ModelConfig, tokens: int, targets: int, length: int) -> float:
    """The floating-point operations that the formulas need to train on `tokens` positions in
    windows of `length`, of which `targets` are predicted (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1): two a weight and position forward, twice that backward."""
    D, d_ff = config.d_model, config.d_ff
    a_layer = 4 * D * D + 2 * D * d_ff + 2 * length * D  # qkv and out, up and down, QKᵀ and PV
    return 6 * (tokens * config.n_layers * a_layer + targets * config.vocab_size * D)
