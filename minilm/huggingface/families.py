"""What is different in GPT-2, in BERT, in ModernBERT? Each class shows just that.

GPT2        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3
Bert        Devlin et al. 2019, arXiv 1810.04805, section 3 and appendix A
ModernBert  Warner et al. 2024, arXiv 2412.13663, section 2.1; called with causal=True it is the
            decoder, Ettin (Weller et al. 2025, arXiv 2507.11412)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.config import ModelConfig, UserError
from minilm.model import Block, FeedForward, SelfAttention, Transformer
from minilm.runs.run import FAMILIES


@dataclass(frozen=True)
class GPT2Config(ModelConfig):
    """The shape of a GPT-2. Raises UserError where a number cannot be."""

    epsilon: float = 1e-5  # of every layer norm

    def __post_init__(self):
        super().__post_init__()
        for name, value in vars(self).items():
            least = 1 if name == "global_every" else 0
            if not isinstance(value, int | float) or not least <= value <= 2**30:
                raise UserError(f"{name} is {value!r}, which cannot be")


@dataclass(frozen=True)
class BertConfig(GPT2Config):
    """The shape of a BERT."""

    epsilon: float = 1e-12
    head: bool = True  # False: weights that came without what turns hidden states into tokens


@dataclass(frozen=True)
class ModernBertConfig(BertConfig):
    """The shape of a ModernBERT."""

    epsilon: float = 1e-5
    global_every: int = 3  # layers 0, 3, 6, ... see everything,
    local_window: int = 64  # the others this many tokens to either side
    rotary_base: float = 160_000.0  # `rotate` turns by t · base^(-2j/d)
    local_rotary_base: float = 10_000.0  # in the layers that see a window


class PlainAttention(SelfAttention):
    """Biases, and neither norm nor rotation for q and k (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)
        del self.norm_q, self.norm_k

    def project(self, x: Tensor, rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D). Returns q, k, v (B, T, H, d)."""
        return self.qkv(x).unflatten(2, (3, self.n_heads, -1)).unbind(2)


class GeluFeedForward(FeedForward):
    """W_down · GELU(W_up x + b) + b, where GELU(x) = x · Φ(x) (Hendrycks and Gimpel 2016, arXiv
    1606.08415), exactly, or with Φ(x) ≈ (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2."""

    def __init__(self, config: ModelConfig, approximate: str = "none"):
        super().__init__(config)
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)
        self.approximate = approximate  # "tanh" or "none"

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        return self.down(F.gelu(self.up(x), approximate=self.approximate))


class GPT2Block(Block):
    """Our block of those parts; nn.LayerNorm has a bias."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.norm_1 = nn.LayerNorm(config.d_model, config.epsilon)
        self.attention = PlainAttention(config)
        self.norm_2 = nn.LayerNorm(config.d_model, config.epsilon)
        self.feed_forward = GeluFeedForward(config, "tanh")


class GPT2(Transformer):
    """Learned positions instead of rotary ones: a vector for each place in the window is added to
    the token's (Vaswani et al. 2017, section 3.5)."""

    block = GPT2Block

    def __init__(self, config: GPT2Config, seed: int = 0):
        super().__init__(config, seed)
        self.norm = nn.LayerNorm(config.d_model, config.epsilon)
        self.positions = nn.Embedding(config.max_length, config.d_model)
        self.initialise(seed)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """tokens (B, T) at positions start .. start + T. Returns (B, T, D)."""
        return self.embedding(tokens) + self.positions.weight[start : start + tokens.shape[1]]


class BertBlock(GPT2Block):
    """norm(x + attention(x)), then norm(x + feed_forward(x)): each norm after the sum (Vaswani et
    al. 2017, section 3.1), and GELU exact."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.feed_forward = GeluFeedForward(config)

    def forward(self, x: Tensor, mask, rotation, attend, cache) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        x = self.norm_1(x + self.dropout(self.attention(x, mask, rotation, attend, cache)))
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class Head(nn.Module):
    """One more layer before the vocabulary matrix: norm(GELU(W h)) · Eᵀ + c."""

    def __init__(self, config: BertConfig, bias: bool):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=bias)
        self.norm = nn.LayerNorm(config.d_model, config.epsilon, bias=bias)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, E: Tensor) -> Tensor:
        """hidden (N, D), E (V, D). Returns logits (N, V)."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), E, self.bias)


class Bert(GPT2):
    """A norm over the embedding too, and a head. Sentence types are left out: every text is a first
    sentence, whose vector `weights.py` adds to the positions."""

    block = BertBlock

    def __init__(self, config: BertConfig, seed: int = 0):
        super().__init__(config, seed)
        self.norm = nn.Identity()  # the last block ends with a norm
        self.embedding_norm = nn.LayerNorm(config.d_model, config.epsilon)
        self.head = Head(config, bias=True) if config.head else None
        self.initialise(seed)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """tokens (B, T). Returns (B, T, D)."""
        return self.embedding_norm(super().embed(tokens, start))

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (N, D). Returns (N, V)."""
        E = self.embedding.weight
        return self.head(hidden, E) if self.head else hidden @ E.T


class GatedFeedForward(FeedForward):
    """GeGLU (Shazeer 2020, arXiv 2002.05202): W_down · (GELU(a) · b), a and b halves of W_up x."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        a, b = self.up(x).chunk(2, dim=-1)  # (B, T, F) each
        return self.down(F.gelu(a) * b)


class ModernBertBlock(Block):
    """Our block without norms for q and k, and with a gate. Where it has a `window`, a position
    sees so many tokens to either side (Beltagy et al. 2020, arXiv 2004.05150, section 3.1)."""

    window = None

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.norm_1 = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.attention.norm_q = self.attention.norm_k = nn.Identity()
        self.norm_2 = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.feed_forward = GatedFeedForward(config)

    def forward(self, x: Tensor, mask, rotation, attend, cache) -> Tensor:
        """x (B, T, D); cos and sin (T, 1, d): half for layers without a window, half for those with
        one. Returns (B, T, D)."""
        rotation = [table.chunk(2, dim=-1)[self.window is not None] for table in rotation]
        if self.window is not None:
            start = cache.length if cache else 0
            position = torch.arange(start + x.shape[1], device=x.device)
            near = (position[start:, None] - position).abs() <= self.window  # (T, start + T)
            mask = near[None, None] if mask is None else near & mask  # (1 or B, 1, T, start + T)
        return super().forward(x, mask, rotation, attend, cache)


class ModernBert(Transformer):
    """BERT's norm over the embedding and its head, without biases, around our rotary positions;
    every layer whose number `global_every` does not divide has a window."""

    block = ModernBertBlock

    def __init__(self, config: ModernBertConfig, seed: int = 0):
        super().__init__(config, seed)
        self.norm = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.embedding_norm = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.blocks[0].norm_1 = nn.Identity()  # what goes in has just been normalised
        for i, block in enumerate(self.blocks):
            block.window = config.local_window if i % config.global_every else None
        tables = []
        for base in (config.rotary_base, config.local_rotary_base):
            self.add_rotation(base)
            tables.append((self.cos, self.sin))
        self.cos, self.sin = (torch.cat(both, dim=-1) for both in zip(*tables, strict=True))
        self.head = Head(config, bias=False) if config.head else None
        self.initialise(seed)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """tokens (B, T). Returns (B, T, D)."""
        return self.embedding_norm(self.embedding(tokens))

    logits = Bert.logits


FAMILIES.update(
    gpt2=(GPT2, GPT2Config), bert=(Bert, BertConfig), modernbert=(ModernBert, ModernBertConfig)
)
