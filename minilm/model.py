"""The Transformer (Vaswani et al. 2017), encoder and decoder in one: whether a position may see
the words that follow it is an argument of the call, not a property of the weights.

    hidden = model(tokens, causal=True)     # GPT's reading
    hidden = model(tokens, causal=False)    # BERT's reading, same weights

The default block is today's usual one: layer norm before each sub-layer (Xiong et al. 2020,
arXiv 2002.04745), rotary positions (Su et al. 2021, arXiv 2104.09864), normalised queries and
keys (Dehghani et al. 2023, arXiv 2302.05442), squared ReLU (So et al. 2021, arXiv 2109.08668), no
biases, sub-layers that start as zero, and one matrix for the words that go in and come out
(Press and Wolf 2017, arXiv 1608.05859). The same model by hand, in NumPy: `reference.py`. With
other choices, which `shape.py` explains, the same code is GPT-2, BERT or ModernBERT.

Shapes: B texts, T positions, D = d_model, H heads of width d = D / H, F = d_ff, V = vocab_size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.choices import ACTIVATIONS, Head, LayerNorm
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


class SelfAttention(nn.Module):
    """Each position asks (q) all visible positions (k) and gathers what they hold (v)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, config.bias)
        self.out = nn.Linear(config.d_model, config.d_model, config.bias)
        if config.normalise_qk:
            self.norm_q = LayerNorm(config, config.d_head)
            self.norm_k = LayerNorm(config, config.d_head)

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
    """The same two-layer net at every position: W_down · activation(W_up x)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.n_up, config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, config.bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        return self.down(self.activation(self.up(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x)); or, where the norm comes after,
    norm(x + attention(x)), then norm(x + feed_forward(x))."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.norm_after, self.is_local = config.norm == "after", config.is_local(layer)
        skip = config.skips_norm(layer)
        self.norm_1 = nn.Identity() if skip else LayerNorm(config, config.d_model)
        self.attention = SelfAttention(config, layer)
        self.norm_2 = LayerNorm(config, config.d_model)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x, mask, rotation, cache):
        """x (B, T, D). Returns (B, T, D)."""
        if self.norm_after:
            x = self.norm_1(x + self.dropout(self.attention(x, mask, rotation, cache)))
            return self.norm_2(x + self.dropout(self.feed_forward(x)))
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
            self.add_rotation("", config.rotary_base)
            if config.local_window:
                self.add_rotation("local_", config.local_rotary_base)
        normed = LayerNorm(config, config.d_model) if config.embedding_norm else nn.Identity()
        self.embedding_norm = normed
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        after = config.norm == "after"  # the last block's own norm was the last
        self.norm = nn.Identity() if after else LayerNorm(config, config.d_model)
        self.head = Head(config) if config.head else nn.Identity()
        bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.logits_bias else None
        self.register_parameter("logits_bias", bias)
        self.initialise(seed)

    def add_rotation(self, name: str, base: float) -> None:
        """The tables cos and sin (T, 1, d) that `rotate` takes."""
        config = self.config
        pairs = torch.arange(0, config.d_head, 2) / config.d_head  # (d/2,)
        angles = torch.arange(config.max_length)[:, None, None] * base**-pairs  # (T, 1, d/2)
        cos, sin = angles.cos(), angles.sin()
        self.register_buffer(f"{name}cos", torch.cat((cos, cos), -1), persistent=False)
        self.register_buffer(f"{name}sin", torch.cat((-sin, sin), -1), persistent=False)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the weights. A block that starts as zero lets the first steps train the embedding
        alone and keeps depth harmless (Zhang et al. 2019, arXiv 1901.09321). The small embedding
        keeps a word from predicting itself, so that the first loss is ln V."""
        generator = torch.Generator().manual_seed(seed)
        width = self.config.d_model
        for name, parameter in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "bias")):
                parameter.zero_()
            elif name in ("embedding.weight", "positions.weight"):
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
        here = slice(start, start + T)
        rotation = nearby = None  # nearby: what a local block needs instead of mask and rotation
        if self.config.positions == "learned":
            x = x + self.positions.weight[here]
        else:
            rotation = self.cos[here], self.sin[here]
        x = self.dropout(self.embedding_norm(x))
        mask = visibility(T, start, causal, is_real, x.device)
        if window := self.config.local_window:
            turn = rotation and (self.local_cos[here], self.local_sin[here])
            nearby = visibility(T, start, causal, is_real, x.device, window), turn
        for block in self.blocks:
            x = block(x, *(nearby if block.is_local else (mask, rotation)), cache)
        if cache is not None:
            cache.length += T
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """A score for every word: head(hidden) · Eᵀ + b. hidden (N, D). Returns (N, V).

        Give it only the positions that have a target: at 15 % masking, this product over all
        positions would be most of a small model's work."""
        return F.linear(self.head(hidden), self.embedding.weight, self.logits_bias)


def visibility(
    length: int,
    start: int,
    causal: bool,
    is_real: Tensor | None,
    device: torch.device,
    window: int = 0,
) -> Tensor | None:
    """Who may look where, as a term to add to the scores: 0 or -inf.

    Positions start .. start + length look at positions 0 .. start + length; with a window, at those
    that are no further away. Returns a tensor that broadcasts to (B, 1, length, start + length), or
    None where everything is visible."""
    mask = None
    shape = (length, start + length)
    if causal and length > 1:
        mask = torch.full(shape, -math.inf, device=device).triu(start + 1)
    if window:
        far = torch.ones(shape, dtype=torch.bool, device=device)
        far = far.triu(start + window + 1) | far.tril(start - window - 1)
        mask = torch.zeros(shape, device=device) if mask is None else mask
        mask = mask.masked_fill(far, -math.inf)
    if is_real is not None:
        padding = torch.zeros(is_real.shape, device=device).masked_fill(~is_real, -math.inf)
        padding = padding[:, None, None, :]  # (B, 1, 1, T): no position looks at padding
        mask = padding if mask is None else mask + padding
    return mask


def training_flops(config: ModelConfig, tokens: int, targets: int, length: int) -> float:
    """The floating-point operations that the formulas need to train on `tokens` positions in
    windows of `length`, of which `targets` are predicted (Kaplan et al. 2020, arXiv 2001.08361,
    section 2.1): two a weight and position forward, twice that backward."""
    D, up_and_down = config.d_model, config.n_up + config.d_ff
    a_layer = 4 * D * D + D * up_and_down + 2 * length * D  # qkv and out, up and down, QKᵀ and PV
    a_target = config.vocab_size * D + D * D * config.head
    return 6 * (tokens * config.n_layers * a_layer + targets * a_target)
