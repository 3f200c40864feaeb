"""The whole training once more without autograd, without torch: every gradient is `reference.py`'s,
every update a plain step against it, in NumPy alone. The text is the book itself.

    python -m tests.book.without_autograd
"""

from pathlib import Path

import numpy as np

from minilm import reference
from minilm.config import SIZES, ModelConfig
from minilm.data import Windows
from minilm.tokenizer import Tokenizer

SHAPE = ("d_model", "n_layers", "n_heads", "d_ff")


def initial(config: ModelConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The parameters as `Transformer.initialise` draws them: what ends a sub-layer starts as zero,
    a gain as one."""
    D, d, F = config.d_model, config.d_head, config.d_ff
    shapes = {"attention.qkv": (3 * D, D), "feed_forward.up": (F, D)}
    zeros = {"attention.out": (D, D), "feed_forward.down": (D, F)}
    ones = {"norm_1": D, "norm_2": D, "attention.norm_q": d, "attention.norm_k": d}
    parameters = {
        "embedding.weight": rng.normal(0, 0.3 / D**0.5, (config.vocab_size, D)),
        "norm.weight": np.ones(D),
    }
    for i in range(config.n_layers):
        block = {name: rng.normal(0, 1 / D**0.5, shape) for name, shape in shapes.items()}
        block |= {name: np.zeros(shape) for name, shape in zeros.items()}
        block |= {name: np.ones(width) for name, width in ones.items()}
        parameters |= {f"blocks.{i}.{name}.weight": value for name, value in block.items()}
    return parameters


def train(steps: int = 50, length: int = 64, batch_size: int = 4, rate: float = 0.3):
    """Predict the next token of the book's pages, in the default shape: yields the loss of each
    step in nats a token."""
    book = Path(reference.__file__).parent
    texts = [path.read_text("utf-8") for path in sorted(book.glob("*.py"))]
    tokenizer = Tokenizer.train(texts, vocab_size=512)
    tokens = np.concatenate([tokenizer.encode(text) for text in texts])
    shape = {name: SIZES["tiny"][name] for name in SHAPE}
    config = ModelConfig(tokenizer.vocab_size, length, **shape)
    parameters, windows = initial(config, np.random.default_rng(0)), Windows(tokens, length, seed=0)
    visible = reference.visibility(length, causal=True)
    for step in range(steps):
        batch = windows.batch(step, batch_size)  # (B, T + 1)
        inputs, targets = batch[:, :-1], batch[:, 1:]
        loss_sum, count, gradients = reference.language_model_loss(
            parameters, config, inputs, targets, visible
        )
        for name, gradient in gradients.items():
            parameters[name] -= rate * gradient / count
        yield loss_sum / count


if __name__ == "__main__":
    for step, loss in enumerate(train(), 1):
        print(f"step {step}: {loss:.3f} nats a token", flush=True)
