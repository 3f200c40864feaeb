"""What is different in GPT-2, in BERT, in ModernBERT? Each class shows just that.

GPT2        Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3
Bert        Devlin et al. 2019, arXiv 1810.04805, section 3 and appendix A
ModernBert  Warner et al. 2024, arXiv 2412.13663, section 2.1; called with causal=True it is the
            decoder, Ettin (Weller et al. 2025, arXiv 2507.11412)

All are called as `Transformer` is, causally or not, and their first weights are drawn as ours.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.config import ModelConfig, UserError
from minilm.model import Block, FeedForward, SelfAttention, Transformer


@dataclass(frozen=True)
class GPT2Config(ModelConfig):
    """The shape of a GPT-2. Raises UserError where a number cannot be."""

    epsilon: float = 1e-5  # of every layer norm

    def __post_init__(self):
        super().__post_init__()
        for field in fields(self)[len(fields(ModelConfig)) :]:  # those that a subclass adds
            value, least = getattr(self, field.name), field.name == "global_every"
            if (
                not isinstance(value, (int, float) if field.type is float else field.type)
                or not least <= value <= 2**30
            ):
                raise UserError(f"{field.name} is {value!r}: give another {field.type.__name__}")


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
    """Attention as it was in 2017: biases, and neither norm nor rotation for q and k (Vaswani et
    al. 2017, section 3.2.2)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)
        self.norm_q = self.norm_k = nn.Identity()

    def project(self, x: Tensor, rotation) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, D). Returns q, k, v (B, T, H, d)."""
        B, T, D = x.shape
        return self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads).unbind(2)


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
    """Our block with attention, activation and norms of 2019: nn.LayerNorm has a bias."""

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.norm_1 = nn.LayerNorm(config.d_model, config.epsilon)
        self.attention = PlainAttention(config)
        self.norm_2 = nn.LayerNorm(config.d_model, config.epsilon)
        self.feed_forward = GeluFeedForward(config, "tanh")


class GPT2(Transformer):
    """The Transformer decoder that OpenAI scaled up."""

    block = GPT2Block

    def __init__(self, config: GPT2Config, seed: int = 0):
        super().__init__(config, seed)
        self.norm = nn.LayerNorm(config.d_model, config.epsilon)
        self.positions = nn.Embedding(config.max_length, config.d_model)
        self.initialise(seed)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """Learned positions: a vector for each place in the window is added (Vaswani et al. 2017,
        section 3.5). tokens (B, T) at positions start .. start + T. Returns (B, T, D)."""
        return self.embedding(tokens) + self.positions.weight[start : start + tokens.shape[1]]


class BertBlock(GPT2Block):
    """norm(x + attention(x)), then norm(x + feed_forward(x)): the norm comes after the sum, as in
    Vaswani et al. 2017, section 3.1; and GELU is exact."""

    def __init__(self, config: BertConfig):
        super().__init__(config)
        self.feed_forward = GeluFeedForward(config)

    def forward(self, x: Tensor, mask, rotation, attend, cache) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        x = self.norm_1(x + self.dropout(self.attention(x, mask, rotation, attend, cache)))
        return self.norm_2(x + self.dropout(self.feed_forward(x)))


class Head(nn.Module):
    """One more layer before the vocabulary matrix E, and a number c for each token:
    norm(GELU(W h)) · Eᵀ + c."""

    def __init__(self, config: BertConfig, bias: bool):
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, bias=bias)
        self.norm = nn.LayerNorm(config.d_model, config.epsilon, bias=bias)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, E: Tensor) -> Tensor:
        """hidden (N, D), E (V, D). Returns logits (N, V)."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), E, self.bias)


class Bert(GPT2):
    """The encoder that learns by filling in masked tokens. Sentence types are left out: every text
    is a first sentence, whose vector `weights.py` adds to the positions."""

    block = BertBlock

    def __init__(self, config: BertConfig, seed: int = 0):
        super().__init__(config, seed)
        self.norm = nn.Identity()  # the last block ends with a norm
        self.embedding_norm = nn.LayerNorm(config.d_model, config.epsilon)
        self.head = Head(config, bias=True) if config.head else None
        self.initialise(seed)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """GPT-2's sum, normalised. tokens (B, T). Returns (B, T, D)."""
        return self.embedding_norm(super().embed(tokens, start))

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (N, D). Returns (N, V)."""
        E = self.embedding.weight
        return self.head(hidden, E) if self.head else F.linear(hidden, E)


class GatedFeedForward(FeedForward):
    """GeGLU: W_down · (GELU(a) · b), where a and b are the halves of W_up x (Shazeer 2020, arXiv
    2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.up = nn.Linear(config.d_model, 2 * config.d_ff, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, D). Returns (B, T, D)."""
        a, b = self.up(x).chunk(2, dim=-1)  # (B, T, F) each
        return self.down(F.gelu(a) * b)


class ModernBertBlock(Block):
    """Our block with plain queries and keys, and a gate."""

    def __init__(self, config: ModernBertConfig):
        super().__init__(config)
        self.norm_1 = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.attention.norm_q = self.attention.norm_k = nn.Identity()
        self.norm_2 = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.feed_forward = GatedFeedForward(config)


class ModernBert(Transformer):
    """BERT with what was learnt since, for texts of 8,192 tokens."""

    block = ModernBertBlock

    def __init__(self, config: ModernBertConfig, seed: int = 0):
        super().__init__(config, seed)
        self.norm = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.embedding_norm = nn.LayerNorm(config.d_model, config.epsilon, bias=False)
        self.blocks[0].norm_1 = nn.Identity()  # what goes in has just been normalised
        self.add_rotation(config.rotary_base)
        self.add_rotation(config.local_rotary_base, "local_")
        self.head = Head(config, bias=False) if config.head else None
        self.initialise(seed)

    def embed(self, tokens: Tensor, start: int) -> Tensor:
        """tokens (B, T). Returns (B, T, D), normalised."""
        return self.embedding_norm(self.embedding(tokens))

    def forward(self, tokens, causal, is_real=None, cache=None) -> Tensor:
        """As `Transformer.forward`, but every layer whose number `global_every` does not divide
        sees only positions at most `local_window` away (Beltagy et al. 2020, arXiv 2004.05150,
        section 3.1) and has a rotation of its own. Returns hidden (B, T, D)."""
        T, start = tokens.shape[1], cache[0].length if cache else 0
        here = slice(start, start + T)
        mask = self.visibility(T, start, causal, is_real, tokens.device)
        everything = mask, (self.cos[here], self.sin[here])
        nearby = self.near(mask, T, start), (self.local_cos[here], self.local_sin[here])
        x = self.dropout(self.embed(tokens, start))  # (B, T, D)
        for i, block in enumerate(self.blocks):
            sees = nearby if i % self.config.global_every else everything
            x = block(x, *sees, self.attend, cache[i] if cache else None)
        return self.norm(x)

    def near(self, mask: Tensor | None, length: int, start: int) -> Tensor:
        """What `mask` allows, within the window. Every position sees itself at least: one in the
        padding, too far from all that is real, would see nothing. Returns a mask as `mask` is."""
        position = torch.arange(start + length, device=self.cos.device)
        distance = (position[start:, None] - position).abs()  # (length, start + length)
        near = (distance <= self.config.local_window)[None, None]
        return near if mask is None else near & mask | (distance == 0)

    logits = Bert.logits


# By name: the model and its shape.
FAMILIES: dict[str, tuple[type[Transformer], type[ModelConfig]]] = {
    "ours": (Transformer, ModelConfig),
    "gpt2": (GPT2, GPT2Config),
    "bert": (Bert, BertConfig),
    "modernbert": (ModernBert, ModernBertConfig),
}
