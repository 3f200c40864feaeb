"""Learning and applying a vocabulary, ours beside Hugging Face's `tokenizers`, on one thread.

    pip install tokenizers
    python -m tests.benchmarks.tokenizer_speed FILE [--vocab-size 8192]      # some 10 MB of text

Seconds are processor seconds, by turns, each round in a process of its own; medians of three. Both
use the same pattern; theirs is fed lines, as is usual, so that ends of lines come out otherwise.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 3


def ours(text: str, vocab_size: int) -> dict[str, float]:
    """Processor seconds to learn the vocabulary and to encode the text with it."""
    from minilm.fast.bpe import FastTokenizer

    start = time.process_time()
    tokenizer = FastTokenizer.train([text], vocab_size)
    learnt = time.process_time()
    tokens = len(tokenizer.encode(text))
    return dict(train=learnt - start, encode=time.process_time() - learnt, tokens=tokens)


def theirs(text: str, vocab_size: int) -> dict[str, float]:
    """The same by Hugging Face's library."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from minilm.tokenizer import PATTERN, SPECIAL_TOKENS

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    lines = text.splitlines(keepends=True)
    start = time.process_time()
    tokenizer.train_from_iterator(lines, trainer)
    learnt = time.process_time()
    tokens = sum(len(tokenizer.encode(line).ids) for line in lines)
    return dict(train=learnt - start, encode=time.process_time() - learnt, tokens=tokens)


def main() -> None:
    """Print the medians as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--serve", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        text = args.file.read_text(encoding="utf-8")
        print(json.dumps({"ours": ours, "theirs": theirs}[args.serve](text, args.vocab_size)))
        return
    runs: dict[str, list[dict]] = {"ours": [], "theirs": []}
    one_thread = dict(OMP_NUM_THREADS="1", RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    for name in list(runs) * ROUNDS:
        command = [sys.executable, "-m", "tests.benchmarks.tokenizer_speed", *sys.argv[1:]]
        done = subprocess.check_output([*command, "--serve", name], env=os.environ | one_thread)
        runs[name].append(json.loads(done))
    found = {
        name: {key: statistics.median(run[key] for run in rounds) for key in rounds[0]}
        for name, rounds in runs.items()
    }
    print(json.dumps(dict(megabytes=args.file.stat().st_size / 1e6, seconds=found), indent=2))


if __name__ == "__main__":
    main()
