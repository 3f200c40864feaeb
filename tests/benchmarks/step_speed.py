"""One training step of the same net, ours beside Hugging Face's GPT-2 and BERT.

    pip install transformers
    python -m tests.benchmarks.step_speed            # prints a table, notes it in results.json
    python -m tests.benchmarks.step_speed --rounds 9 --same-memory

The peers run in float32, their default, and under bfloat16 autocast where this processor
multiplies that faster (elsewhere a step of theirs would take minutes), with fused AdamW and as many
threads as ours. --same-memory gives them our setting of glibc's allocator, too.
"""

import argparse
import sys

import numpy as np
import torch

from minilm.config import ModelConfig
from minilm.device import choose_machine, keep_freed_memory, matrix_rate
from minilm.model import Transformer, training_flops
from minilm.objectives import IGNORE, LanguageModelLoss, causal, masked
from minilm.optim import make_optimizers
from tests.benchmarks.alternate import alternate, medians, serve
from tests.benchmarks.main_job import load, note

# layers, width, heads, window, batch, words
SHAPES = {
    "4 x 256, 32 x 256 tokens, 8,192 words": (4, 256, 4, 256, 32, 8192),
    "4 x 128, 12 x 64 tokens, 65 words": (4, 128, 4, 64, 12, 65),
    "12 x 768, 4 x 512 tokens, 32,768 words": (12, 768, 12, 512, 4, 32768),
}
CONTENDERS = ("ours causal", "ours masked", "GPT-2 float32", "BERT float32")
AUTOCAST = ("GPT-2 autocast", "BERT autocast")


def task_of(name: str, window: int, batch: int, words: int):
    """Random tokens to read, causal or with 15 % masked."""
    rng = np.random.default_rng(0)
    windows = rng.integers(3, words, (batch, window + 1))
    is_causal = "causal" in name or "GPT-2" in name
    return causal(windows) if is_causal else masked(windows, 0.15, words, rng)


def work(name: str, shape: str, steps: int):
    """A function that takes a few training steps as this contender does."""
    n_layers, d_model, n_heads, window, batch, words = SHAPES[shape]
    task = task_of(name, window, batch, words)
    inputs, targets = torch.from_numpy(task.inputs), torch.from_numpy(task.targets)
    if name.startswith("ours"):
        machine = choose_machine("cpu")
        model = Transformer(ModelConfig(words, window, d_model, n_layers, n_heads, 4 * d_model))
        loss = LanguageModelLoss(model)

        def mean_loss():
            with machine.autocast():
                loss_sum, count = loss(inputs, targets, task.causal)
            return loss_sum / count
    else:
        model = peer(name, n_layers, d_model, n_heads, window, words)
        labels = inputs if task.causal else targets  # GPT-2 shifts them itself

        def mean_loss():
            with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in name):
                return model(input_ids=inputs, labels=labels).loss

    (optimizer,) = make_optimizers(model, "adamw", 1e-4, 0.1)
    model.train()

    def step():
        for _ in range(steps):
            mean_loss().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def peer(name: str, n_layers: int, d_model: int, n_heads: int, window: int, words: int):
    """Hugging Face's model of this shape, without dropout, as ours."""
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    if name.startswith("GPT-2"):
        off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=words, n_positions=window, n_embd=d_model, n_layer=n_layers,
                n_head=n_heads, bos_token_id=0, eos_token_id=0, **off,
            )
        )  # fmt: skip
    off = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return BertForMaskedLM(
        BertConfig(
            vocab_size=words, max_position_embeddings=window, hidden_size=d_model,
            num_hidden_layers=n_layers, num_attention_heads=n_heads,
            intermediate_size=4 * d_model, **off,
        )
    )  # fmt: skip


def measure(shape: str, rounds: int, same_memory: bool) -> dict:
    """Tokens per second of every contender at one shape, and the share of the matrix rate that ours
    reaches, counting only the operations that the formulas need."""
    n_layers, d_model, n_heads, window, batch, words = SHAPES[shape]
    machine = choose_machine("cpu")
    steps = 20 if d_model < 256 else 1
    names = CONTENDERS + AUTOCAST * machine.bfloat16
    arguments = ["-m", "tests.benchmarks.step_speed", "--shape", shape, "--steps", str(steps)]
    arguments += ["--same-memory"] * same_memory
    found = alternate({name: [*arguments, "--serve", name] for name in names}, rounds)
    dtype = torch.bfloat16 if machine.bfloat16 else torch.float32
    rates = [matrix_rate(dtype, machine.device) for _ in range(5)]
    seconds = {name: median / steps for name, median in medians(found).items()}
    config = ModelConfig(words, window, d_model, n_layers, n_heads, 4 * d_model)
    result = dict(
        tokens_per_second={name: batch * window / s for name, s in seconds.items()},
        matrix_rate=max(rates), bfloat16=machine.bfloat16, rounds=rounds, share={},
    )  # fmt: skip
    for name in ("ours causal", "ours masked"):
        targets = int((task_of(name, window, batch, words).targets != IGNORE).sum())
        flops = training_flops(config, batch * window, targets, window)
        result["share"][name] = flops / seconds[name] / max(rates)
    return result


def main() -> None:
    """Measure all shapes, or serve as one contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--same-memory", action="store_true")
    parser.add_argument("--shape", choices=list(SHAPES))
    parser.add_argument("--steps", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        if args.same_memory:
            keep_freed_memory()
        serve(work(args.serve, args.shape, args.steps))
        return
    key = "step speed, same memory" if args.same_memory else "step speed"
    for shape in [args.shape] if args.shape else SHAPES:
        print(shape, file=sys.stderr)
        found = measure(shape, args.rounds, args.same_memory)
        note(key, load().get(key, {}) | {shape: found})
        for name, rate in found["tokens_per_second"].items():
            share = found["share"].get(name)
            of_rate = f", {share:.0%} of the matrix rate" if share else ""
            print(f"  {name:16}{rate:10,.0f} tokens/s{of_rate}")


if __name__ == "__main__":
    main()
