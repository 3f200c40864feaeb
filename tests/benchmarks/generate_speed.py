"""Sampling with a key/value cache, ours beside Hugging Face's `generate`: 6 layers, width 384.

pip install transformers
python -m tests.benchmarks.generate_speed
"""

import argparse

import numpy as np
import torch

from minilm.config import ModelConfig
from minilm.device import choose_machine, keep_freed_memory
from minilm.generate import generate_batch
from minilm.model import Transformer
from tests.benchmarks.alternate import alternate, medians, serve
from tests.benchmarks.main_job import load, note
from tests.benchmarks.step_speed import peer

LAYERS, WIDTH, HEADS, WINDOW, WORDS, PROMPT, NEW = 6, 384, 6, 256, 8192, 16, 128
BATCHES = (1, 8)
CONTENDERS = ("ours", "GPT-2")
IN_BFLOAT16 = ("ours bfloat16", "GPT-2 bfloat16")  # all weights, where that multiplies faster


def work(name: str, batch: int):
    """A function that samples NEW words after each of `batch` prompts."""
    prompts = np.random.default_rng(0).integers(3, WORDS, (batch, PROMPT))
    dtype = torch.bfloat16 if "bfloat16" in name else torch.float32
    if name.startswith("ours"):
        keep_freed_memory()
        shape = ModelConfig(WORDS, WINDOW, WIDTH, LAYERS, HEADS, 4 * WIDTH)
        model = Transformer(shape).to(dtype)
        return lambda: list(generate_batch(model, prompts, NEW, temperature=1.0, top_p=None))
    model = peer("GPT-2", LAYERS, WIDTH, HEADS, WINDOW, WORDS).to(dtype).eval()
    asked = torch.from_numpy(prompts)
    how = dict(do_sample=True, top_k=50, min_new_tokens=NEW, max_new_tokens=NEW, pad_token_id=0)
    return lambda: model.generate(asked, attention_mask=torch.ones_like(asked), **how)


def main() -> None:
    """Measure, or serve as one contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(work(args.serve, args.batch))
        return
    module = ["-m", "tests.benchmarks.generate_speed", "--batch"]
    names = CONTENDERS + IN_BFLOAT16 * choose_machine("cpu").bfloat16
    for batch in BATCHES:
        contenders = {name: [*module, str(batch), "--serve", name] for name in names}
        found = medians(alternate(contenders, args.rounds))
        rates = {name: batch * NEW / seconds for name, seconds in found.items()}
        note("generate speed", load().get("generate speed", {}) | {str(batch): rates})
        for name, rate in rates.items():
            print(f"  batch {batch}: {name:16}{rate:8,.0f} tokens/s")


if __name__ == "__main__":
    main()
