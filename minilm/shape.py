"""What a Transformer can be: its sizes, and a few choices that do not depend on each other.

Every well-known Transformer is a row of `FAMILY`; `model.py` makes each choice in one line.
"""

from dataclasses import dataclass, fields

from minilm.errors import UserError, flag_name

ACTIVATIONS = ("relu2", "gelu", "gelu-tanh", "geglu")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Transformer.

    Raises UserError where the numbers do not fit together.
    """

    vocab_size: int
    max_length: int  # positions, in tokens
    d_model: int  # width of the residual stream
    n_layers: int
    n_heads: int
    d_ff: int  # width inside the feed-forward layer
    dropout: float = 0.0
    # rotary: vectors turned by their position (Su et al. 2021, arXiv 2104.09864); learned: a table
    # of max_length vectors that are added to the words' (Vaswani et al. 2017, section 3.5)
    positions: str = "rotary"
    normalise_qk: bool = True  # layer norm on queries and keys (Dehghani et al. 2023)
    # before each sub-layer (Xiong et al. 2020, arXiv 2002.04745), or after its sum with what went
    # in (Vaswani et al. 2017, section 3.1)
    norm: str = "before"
    norm_bias: bool = False  # b in g · (x - mean) / √(var + ε) + b (Ba et al. 2016, eq. 4)
    norm_epsilon: float = 1e-5  # ε
    # relu2: max(0, x)² (So et al. 2021, arXiv 2109.08668); gelu: x · Φ(x), and its approximation
    # by tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415); geglu: gelu(x) · y (Shazeer 2020,
    # arXiv 2002.05202)
    activation: str = "relu2"
    bias: bool = False  # b in W x + b
    embedding_norm: bool = False  # of what goes into the first block (Devlin et al. 2019)
    head: bool = False  # one more layer before the vocabulary matrix (Devlin et al. 2019)
    logits_bias: bool = False  # a number for each word, added to its score
    # Each `global_every`th block, the first to begin with, looks everywhere, the others only at
    # `local_window` positions to either side (Beltagy et al. 2020, arXiv 2004.05150); 0: all.
    global_every: int = 1
    local_window: int = 0
    rotary_base: float = 10_000.0  # the slowest pair turns once in about 2π times this
    local_rotary_base: float = 10_000.0  # in local blocks

    def __post_init__(self):
        for name in ("vocab_size", "max_length", "d_model", "n_layers", "n_heads", "d_ff"):
            value = getattr(self, name)
            most = 2**16 if name == "max_length" else 2**20
            if not isinstance(value, int) or not 1 <= value <= most:
                raise UserError(f"{flag_name(name)} is {value}: give a whole number, 1 to {most}")
        if self.d_model % self.n_heads:
            raise UserError(
                f"--d-model {self.d_model} cannot be shared out among --n-heads {self.n_heads}: "
                f"choose a width that is a multiple of the number of heads"
            )
        if self.positions == "rotary" and self.d_head % 2:
            raise UserError(
                f"--d-model {self.d_model} / --n-heads {self.n_heads} = {self.d_head} a head: "
                f"rotary positions turn pairs of numbers, so choose an even width per head"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout is {self.dropout}: give a share from 0 up to, not with, 1")
        choices = dict(
            positions=("rotary", "learned"), norm=("before", "after"), activation=ACTIVATIONS
        )
        for field in fields(self)[7:]:  # the choices, which config.json may spell in any way
            value = getattr(self, field.name)
            allowed = choices.get(field.name, (False, True))
            if field.type is str or field.type is bool:
                fits = type(value) is field.type and value in allowed
                what = " or ".join(map(str, allowed))
            else:
                least = 1 if field.name == "global_every" else 0
                fits = isinstance(value, int | field.type) and least <= value <= 2**30
                what = f"a number from {least} to {2**30}"
            if not fits:
                raise UserError(f"{field.name} is {value!r}: choose {what}")

    @property
    def d_head(self) -> int:
        """The width of one head."""
        return self.d_model // self.n_heads

    @property
    def n_up(self) -> int:
        """The numbers that go into the activation: two for each that comes out, if it is gated."""
        return self.d_ff * (2 if self.activation == "geglu" else 1)

    def is_local(self, layer: int) -> bool:
        """Whether the block sees only its neighbourhood."""
        return self.local_window > 0 and layer % self.global_every != 0

    def skips_norm(self, layer: int) -> bool:
        """Whether the block has no norm before its attention: what goes in is normalised."""
        return layer == 0 and self.embedding_norm and self.norm == "before"


# The choices of Transformers that are known by name; what a row does not say is as in ours.
FAMILY: dict[str, dict] = {
    "ours": {},
    # Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3
    "gpt2": dict(
        positions="learned", normalise_qk=False, norm_bias=True, activation="gelu-tanh", bias=True
    ),
    # Devlin et al. 2019, arXiv 1810.04805, section 3 and appendix A.2
    "bert": dict(
        positions="learned", normalise_qk=False, norm="after", norm_bias=True, norm_epsilon=1e-12,
        activation="gelu", bias=True, embedding_norm=True, head=True, logits_bias=True,
    ),
    # Warner et al. 2024, arXiv 2412.13663, section 2.1; as a decoder, Ettin: Weller et al. 2025,
    # arXiv 2507.11412
    "modernbert": dict(
        normalise_qk=False, activation="geglu", embedding_norm=True, head=True, logits_bias=True,
        global_every=3, local_window=64, rotary_base=160_000.0,
    ),
}  # fmt: skip
