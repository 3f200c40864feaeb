"""What learns most in a minute: Shakespeare by the character, each choice of ours left out once.

    python -m minilm fetch tinyshakespeare
    python -m tests.benchmarks.shakespeare             # all rows, three seeds each, notes results
    python -m tests.benchmarks.shakespeare ROW ...     # these rows, again

First the rows' steps are timed by turns, so that all have had the same machine; then each row gets
as many steps as fit in `--seconds`. The held-out tenth at the end of the text is cut in windows:
the even ones are for choosing, the odd ones are reported.
"""

import argparse
import statistics
import sys
import time

import numpy as np
import torch

from minilm.config import ModelConfig, PretrainConfig
from minilm.data import Windows, evaluation_windows, prepare
from minilm.device import choose_machine
from minilm.evaluation import bytes_per_token, evaluate_language_model
from minilm.model import Transformer
from minilm.objectives import Objective
from minilm.training import Trainer, language_model_trainer
from tests.benchmarks.main_job import load, note

DATA = ["tinyshakespeare"]
BASE = dict(
    vocab_size=259, d_model=128, n_layers=4, n_heads=4, max_length=128, batch_size=12,
    learning_rate=7e-3, weight_decay=0.1, optimizer="muon",
)  # fmt: skip
# What each row changes: flags of train_pretrain.py, or fields of ModelConfig.
ROWS = {
    "all of it": {},
    "AdamW instead of Muon": dict(optimizer="adamw", learning_rate=3e-3),
    "windows of 64": dict(max_length=64, batch_size=24),
    "windows of 256": dict(max_length=256, batch_size=6),
    "learned positions": dict(positions="learned"),
    "queries and keys as they come": dict(normalise_qk=False),
    "GELU instead of squared ReLU": dict(activation="gelu"),
    "projections drawn, not zero": dict(drawn=True),
}


def trainer_of(row: str, seed: int, steps: int) -> Trainer:
    """A Trainer of this row, with its text."""
    flags = BASE | ROWS[row]
    choices = ("positions", "normalise_qk", "activation")
    shape = {name: flags.pop(name) for name in choices if name in flags}
    drawn = flags.pop("drawn", False)
    config = PretrainConfig(
        data=DATA, objective="causal", steps=steps, seed=seed, **flags
    ).with_defaults()
    machine = choose_machine("cpu")
    text = prepare(DATA, config.vocab_size, None, config.text_column, config.encoding)
    vocab_size = text.tokenizer.vocab_size
    model = Transformer(
        ModelConfig(
            vocab_size, config.max_length, config.d_model, config.n_layers, config.n_heads,
            config.d_ff, **shape,
        ),
        seed,
    )  # fmt: skip
    if drawn:  # as the other matrices, and smaller by depth, as in GPT-2
        generator = torch.Generator().manual_seed(seed)
        for name, W in model.named_parameters():
            if name.endswith(("out.weight", "down.weight")):
                deep = 2 * config.n_layers * W.shape[1]
                torch.nn.init.normal_(W, 0, deep**-0.5, generator=generator)
    windows = Windows(text.train, config.max_length, seed)
    objective = Objective("causal", vocab_size, seed)
    trainer = language_model_trainer(
        config, model,
        lambda step: objective.task(windows.batch(step, config.batch_size), step, 0.0), machine,
    )  # fmt: skip
    trainer.held_out = evaluation_windows(text.valid, config.max_length, most=2**20)
    trainer.objective, trainer.token_bytes = objective, bytes_per_token(text.tokenizer)
    return trainer


def seconds_a_step(rows: list[str], rounds: int = 7, steps: int = 20) -> dict[str, float]:
    """The median seconds of a step of each row, timed by turns."""
    trainers = {row: trainer_of(row, 0, 10**6) for row in rows}
    times: dict[str, list[float]] = {row: [] for row in rows}
    for round_ in range(rounds + 1):
        for row, trainer in trainers.items():
            start = time.perf_counter()
            for step in range(steps):
                trainer.step(round_ * steps + step)
            times[row].append((time.perf_counter() - start) / steps)
    return {row: statistics.median(seconds[1:]) for row, seconds in times.items()}


def learn(row: str, seed: int, steps: int) -> tuple[float, float]:
    """Train; return the loss on the windows for choosing and on those to report, in nats a
    character."""
    trainer = trainer_of(row, seed, steps)
    for step in range(steps):
        trainer.step(step)
    found = [
        evaluate_language_model(
            trainer.model, trainer.objective, half, trainer.machine, trainer.token_bytes
        )["causal_loss"]
        for half in (trainer.held_out[::2], trainer.held_out[1::2])
    ]
    return found[0], found[1]


def main() -> None:
    """Time the rows, train each with three seeds, note what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--time-only", action="store_true", help="note the speeds, train nothing")
    parser.add_argument("--timed", action="store_true", help="take the speeds noted before")
    args = parser.parse_args()
    rows = args.rows or list(ROWS)
    if not args.timed:
        for row, seconds in seconds_a_step(rows).items():
            note("shakespeare", load().get("shakespeare", {}) | {row: dict(seconds=seconds)})
            print(f"{row:32}{seconds * 1000:8.1f} ms a step", flush=True)
    for row in [] if args.time_only else rows:
        known = load()["shakespeare"][row]
        steps = round(args.seconds / known["seconds"])
        losses = [learn(row, seed, steps) for seed in range(args.seeds)]
        known |= dict(steps=steps, budget=args.seconds, choosing=[a for a, _ in losses],
                      reported=[b for _, b in losses])  # fmt: skip
        note("shakespeare", load()["shakespeare"] | {row: known})
        print(f"{row:32}{steps:6} steps{np.mean([b for _, b in losses]):8.3f} nats", flush=True)


if __name__ == "__main__":
    sys.exit(main())
