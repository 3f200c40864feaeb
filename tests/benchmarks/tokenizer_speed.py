"""Learning and applying a vocabulary, ours beside Hugging Face's `tokenizers`, on one thread.

    pip install tokenizers
    python -m tests.benchmarks.tokenizer_speed FILE      # some 10 MB of text, the more the slower

Seconds are processor seconds of the process, so that a second thread is no advantage. Both learn
8,192 words with the same pattern; theirs is fed lines, as is usual, so that the ends of lines come
out otherwise.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.main_job import note

VOCAB_SIZE, ROUNDS = 8192, 3


def ours(text: str) -> dict[str, float]:
    """Processor seconds to learn 8,192 words, and megabytes encoded a second."""
    from minilm.tokenizer import Tokenizer

    start = time.process_time()
    tokenizer = Tokenizer.train([[text]], VOCAB_SIZE)
    learnt = time.process_time() - start
    start = time.process_time()
    tokens = len(tokenizer.encode(text))
    return dict(train=learnt, encode=time.process_time() - start, tokens=tokens)


def theirs(text: str) -> dict[str, float]:
    """The same by Hugging Face's library, from the text in lines, as it wants to be fed."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    from minilm.tokenizer import PATTERN, SPECIAL_TOKENS

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    lines = text.splitlines(keepends=True)
    start = time.process_time()
    tokenizer.train_from_iterator(lines, trainer)
    learnt = time.process_time() - start
    start = time.process_time()
    tokens = sum(len(tokenizer.encode(line).ids) for line in lines)
    return dict(train=learnt, encode=time.process_time() - start, tokens=tokens)


def main() -> None:
    """Measure by turns, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--serve", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        text = args.file.read_text(encoding="utf-8")
        print(json.dumps({"ours": ours, "theirs": theirs}[args.serve](text)))
        return
    runs: dict[str, list[dict]] = {"ours": [], "theirs": []}
    one_thread = os.environ | dict(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    for _ in range(ROUNDS):
        for name, found in runs.items():
            command = ["-m", "tests.benchmarks.tokenizer_speed", str(args.file), "--serve", name]
            done = subprocess.run(
                [sys.executable, *command], check=True, stdout=subprocess.PIPE, env=one_thread
            )
            found.append(json.loads(done.stdout))
    megabytes = args.file.stat().st_size / 1e6
    result = {
        name: dict(
            megabytes=megabytes,
            train_seconds=statistics.median(run["train"] for run in found),
            encode_megabytes_per_second=megabytes
            / statistics.median(run["encode"] for run in found),
            tokens=found[0]["tokens"],
        )
        for name, found in runs.items()
    }
    note("tokenizer speed", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
