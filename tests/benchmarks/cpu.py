"""Training steps on this CPU, by turns with Hugging Face's, as fast as each can be set:

    python -m tests.benchmarks.cpu [ROUNDS]

One line a shape and kind: the median tokens/s of each, and the median of their ratios, round by
round. "causal" stands beside GPT-2, "masked" beside BERT."""

import statistics
import sys
import time

from minilm.config import SIZES
from tests.benchmarks.gpu import SHAPES, our_step, peer_step

ROUNDS = int(sys.argv[1]) if sys.argv[1:] else 7


def rate(step, tokens: int, seconds: float = 2.0) -> float:
    """Tokens a second, of about two seconds."""
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        step()
        steps += 1
    return steps * tokens / (time.perf_counter() - began)


if __name__ == "__main__":
    print("tokens/s  shape  ours Muon, AdamW; the peer; the ratios")
    for shape in ("tiny", "medium", "small"):
        batch = SIZES[SHAPES[shape]["size"]]["batch_size"]
        for objective in ("causal", "masked"):
            steps = [our_step(shape, optimizer, objective) for optimizer in ("muon", "adamw")]
            tokens = batch * steps[0][1].config.max_length
            steps = [(step, tokens) for step, _ in steps]
            steps += [peer_step(shape, batch, False, objective == "masked")]
            for step, _ in steps:
                step()
            rounds = [[rate(*step) for step in steps] for _ in range(ROUNDS)]
            muon, adamw, peer = map(statistics.median, zip(*rounds, strict=True))
            ratios = [statistics.median(row[i] / row[2] for row in rounds) for i in (0, 1)]
            print(f"{shape} {objective}  {muon:,.0f}  {adamw:,.0f}  {peer:,.0f}  "
                  f"{ratios[0]:.2f}  {ratios[1]:.2f}", flush=True)  # fmt: skip
