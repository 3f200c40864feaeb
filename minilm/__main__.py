"""What trained weights can do, and what training them will cost."""

import argparse
import codecs
import contextlib
import csv
import dataclasses
import difflib
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

from minilm.config import SIZES, FinetuneConfig, MachineConfig, PretrainConfig, UserError
from minilm.flags import Parser, add_flags, entry_point

# torch takes seconds to load, so each command imports what needs it after reading its arguments.


def main(argv: list[str] | None = None) -> None:
    """`python -m minilm COMMAND ...`, and the console script `minilm`."""
    entry_point(lambda: run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: list[str]) -> None:
    """Call the function below that has the command's name. Raises UserError where none has."""
    parser = Parser(
        prog="python -m minilm",
        description=__doc__,
        usage="python -m minilm COMMAND ... (COMMAND --help says what it takes)",
        epilog="\n".join(f"  {name:10}{run.__doc__.splitlines()[0]}" for name, run in COMMANDS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    name = parser.parse_args(argv[:1]).command
    commands = dict(COMMANDS)
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(commands)}"
        raise UserError(f"unknown command {name}: {hint}")
    description = " ".join(commands[name].__doc__.split())
    commands[name](Parser(prog=f"{parser.prog} {name}", description=description), argv[1:])


def generate(parser: Parser, argv: list[str]) -> None:
    """Continue a text, word by word."""
    parser.add_argument("run", metavar="RUN", help="a run folder of train_pretrain.py")
    parser.add_argument("prompt", nargs="?", default="", help="the beginning (default: nothing)")
    add_number(parser, "--tokens", 200, "stop after this many", int, low=1)
    add_number(parser, "--temperature", 0.8, "0 always takes the likeliest word", float, low=0)
    add_number(parser, "--top-k", 50, "choose among this many words at most", int, low=1)
    add_number(parser, "--top-p", 0.95, "and the fewest that hold this share", float, 0, 1)
    add_number(parser, "--seed", 0, "of the random draws", int, low=0)
    add_device(parser)
    args = parser.parse_args(argv)
    from minilm import generate as language_model
    from minilm.device import choose_machine
    from minilm.runs import Run

    run = Run(args.run)
    if run.flags("pretrain")["objective"] == "masked":
        raise UserError(
            f"{run.folder} was pretrained to fill in masks (--objective masked), which teaches no "
            f"word after the last: give a run of --objective causal or hybrid, or use fill"
        )
    machine = choose_machine(args.device, "float32")
    tokenizer, model = run.tokenizer, run.transformer().to(machine.device)
    prompt = tokenizer.encode(args.prompt)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a word may end inside a character
    print(decoder.decode(tokenizer.decode_bytes(prompt)), end="", flush=True)
    settings = args.temperature, args.top_k, args.top_p, args.seed
    for token in language_model.generate(model, prompt, args.tokens, *settings):
        print(decoder.decode(tokenizer.decode_bytes([token])), end="", flush=True)
    print(decoder.decode(b"", final=True))


def fill(parser: Parser, argv: list[str]) -> None:
    """Name the likeliest words for each <mask> in a text, with their probabilities."""
    parser.add_argument("run", metavar="RUN", help="a run folder of train_pretrain.py")
    parser.add_argument("text", help='such as "The film was <mask> ."')
    add_number(parser, "--top", 5, "words to name", int, low=1)
    add_device(parser)
    args = parser.parse_args(argv)
    import numpy as np

    from minilm import generate as language_model
    from minilm.device import choose_machine
    from minilm.runs import Run
    from minilm.tokenizer import MASK

    run = Run(args.run)
    objective, longest = run.flags("pretrain")["objective"], run.model_config().max_length
    # A word holds the space before it, " good", so what the mask stands for holds it, too.
    first, *others = re.split(" *<mask>", args.text)
    if not others:
        raise UserError('there is no <mask> in the text: write one, as in "The film was <mask> ."')
    tokenizer = run.tokenizer
    parts = [tokenizer.encode(first)]
    for part in others:
        parts += [[MASK], tokenizer.encode(part)]
    tokens = np.concatenate(parts)
    if len(tokens) + 2 > longest:
        raise UserError(
            f"the text has {len(tokens)} tokens, and {run.folder} reads {longest - 2} at most: "
            f"shorten it, or pretrain with a larger --max-length"
        )
    machine = choose_machine(args.device, "float32")
    model = run.transformer().to(machine.device)
    if objective == "causal":
        print(f"{run.folder} is causal: it reads only what stands to the left of a <mask>")
    for i, words in enumerate(language_model.fill(model, tokens, objective, args.top), 1):
        print(f"<mask> {i}")
        for word, probability in words:
            print(f"  {probability:6.1%}  {tokenizer.decode([word])!r}")


def predict(parser: Parser, argv: list[str]) -> None:
    """Label a text, or every text of a file. A .txt holds one text a line; blank lines are left
    out. Tables (.csv, .tsv, .jsonl) hold one a row."""
    parser.add_argument("run", metavar="RUN", help="a run folder of train_finetune.py")
    parser.add_argument("text", nargs="?", help="the text, unless --file is given")
    parser.add_argument("--file", type=Path, help=".txt .csv .tsv .jsonl, or .gz of these")
    help = ".jsonl or .csv with text, label, probability (default: FILE.predicted.jsonl)"
    parser.add_argument("--out", type=Path, help=help)
    parser.add_argument("--text-column", default="text", help="the column that holds the text")
    parser.add_argument("--encoding", default="utf-8", help="of the file")
    add_device(parser)
    args = parser.parse_args(argv)
    if (args.text is None) == (args.file is None) or (args.out and not args.file):
        raise UserError('give either a "text" or --file FILE, and --out only with the latter')
    import numpy as np
    from tqdm import tqdm

    from minilm.device import choose_machine
    from minilm.evaluation import label_probabilities
    from minilm.labelled import LabelledTexts, frame
    from minilm.runs import Run

    run = Run(args.run)
    classifier, config = run.classifier()
    machine, tokenizer = choose_machine(args.device), run.tokenizer
    classifier.to(machine.device)
    causal = config["flags"]["attention"] == "causal"

    def probabilities_of(texts: list[str]) -> np.ndarray:  # (N, C)
        tokens = [frame(tokenizer.encode(text), config["model"]["max_length"]) for text in texts]
        unlabelled = LabelledTexts(tokens, np.zeros(len(texts), dtype=np.int64), 0.0)
        return label_probabilities(classifier, unlabelled, causal, machine)

    if args.file is None:
        (row,) = probabilities_of([args.text])
        for i in np.argsort(-row, kind="stable"):
            print(f"  {row[i]:6.1%}  {config['classes'][i]}")
        return
    texts = texts_in(args.file, args.text_column, args.encoding)
    out = args.out or args.file.with_name(args.file.name + ".predicted.jsonl")
    with new_table(out) as write, tqdm(total=len(texts), unit=" texts") as bar:
        for start in range(0, len(texts), 512):
            some = texts[start : start + 512]
            for text, row in zip(some, probabilities_of(some), strict=True):
                write(text, config["classes"][row.argmax()], round(float(row.max()), 6))
            bar.update(len(some))
    print(f"{len(texts):,} texts labelled in {out}")


def evaluate(parser: Parser, argv: list[str]) -> None:
    """Measure a run: a classifier on test texts, a language model on the validation part of a text;
    unless said otherwise, those of the data it was trained on."""
    parser.add_argument("run", metavar="RUN", help="a run folder of either script")
    help = "other data: a corpus; for a language model also a file or folder"
    parser.add_argument("--data", metavar="NAME", help=help)
    parser.add_argument("--test", metavar="FILE", help="labelled texts, all of them to test on")
    parser.add_argument("--text-column", default="text", help="the column that holds the text")
    parser.add_argument("--label-column", default="label", help="the column that holds the label")
    parser.add_argument("--encoding", default="utf-8", help="of the files")
    add_device(parser)
    args = parser.parse_args(argv)
    if args.data and args.test:
        raise UserError("--data and --test were both given: choose one")
    from minilm.experiments import evaluate
    from minilm.runs import Run

    run = Run(args.run)
    columns = dict(text_column=args.text_column, encoding=args.encoding)
    if run.config["kind"] == "finetune":
        config = FinetuneConfig(**run.flags("finetune"))
