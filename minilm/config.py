"""The shape of a Transformer, the named sizes, and the two errors that end a command in one line.

This page imports neither torch nor numpy, so that `--help` answers at once."""

from dataclasses import dataclass


class UserError(Exception):
    """Something that a person can put right. Its text is one line: where, what, and what to do. The
    scripts print that line and exit with `status`."""

    status = 2


class NonFiniteError(UserError):
    """A loss, a gradient or a weight became infinite or not a number."""

    status = 3


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Transformer. Raises UserError where the numbers do not fit together."""

    vocab_size: int
    max_length: int  # tokens in a window
    d_model: int  # width of a hidden state
    n_layers: int
    n_heads: int
    d_ff: int  # width inside the feed-forward layer
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("vocab_size", "max_length", "d_model", "n_layers", "n_heads", "d_ff"):
            value, most = getattr(self, name), 2**16 if name == "max_length" else 2**20
            if type(value) is not int or not 1 <= value <= most:
                raise UserError(f"{name} is {value!r}: give a whole number from 1 to {most}")
        if self.d_model % self.n_heads or self.d_head % 2:
            raise UserError(
                f"d_model {self.d_model} does not divide into n_heads {self.n_heads} heads of an "
                f"even width, which rotary positions need: choose a multiple of {2 * self.n_heads}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}: give a share from 0 to below 1")

    @property
    def d_head(self) -> int:
        """The width of one attention head."""
        return self.d_model // self.n_heads


# What `--size` stands for. Each entry can be changed by its own flag. Of as many tokens tiny learns
# more from 16 windows a step than from 32, at a rate lower by about √2. Small and base follow it,
# not measured anew: half of the windows and twice the steps of what they were tuned with.
SIZES: dict[str, dict] = {
    "tiny": dict(d_model=128, n_layers=4, n_heads=2, d_ff=512, vocab_size=4096, max_length=128,
                 batch_size=16, steps=3000, learning_rate=5e-3),
    "small": dict(d_model=256, n_layers=6, n_heads=4, d_ff=1024, vocab_size=8192, max_length=256,
                  batch_size=16, steps=16000, learning_rate=3.5e-3),
    "base": dict(d_model=384, n_layers=12, n_heads=6, d_ff=1536, vocab_size=16384, max_length=256,
                 batch_size=32, steps=60000, learning_rate=2e-3),
}  # fmt: skip
