"""What trained weights can do, and what training them will cost."""

import argparse
import contextlib
import dataclasses
import difflib
import math
import sys
from pathlib import Path

from minilm.config import SIZES, PretrainConfig, UserError
from minilm.flags import Parser, add_flags, entry_point

# torch takes seconds to load: `commands` is imported only once a command's arguments are read.


def main(argv: list[str] | None = None) -> None:
    """`python -m minilm COMMAND ...`, and the console script `minilm`."""
    entry_point(lambda: run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: list[str]) -> None:
    """Call the function below that has the command's name. Raises UserError where none has."""
    descriptions = {name: " ".join(command.__doc__.split()) for name, command in COMMANDS.items()}
    parser = Parser(
        prog="python -m minilm",
        description=__doc__,
        usage="python -m minilm COMMAND ... (COMMAND --help says what it takes)",
        epilog="\n".join(f"  {name:10}{doc.split(': ')[0]}" for name, doc in descriptions.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help="one of those below")
    name = parser.parse_args(argv[:1]).command
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name}: {hint}")
    COMMANDS[name](Parser(prog=f"{parser.prog} {name}", description=descriptions[name]), argv[1:])


def generate(parser: Parser, argv: list[str]) -> None:
    """Continue a text, word by word."""
    parser.add_argument("run", metavar="RUN", help="a run folder of train_pretrain.py")
    parser.add_argument("prompt", nargs="?", default="", help="the beginning (default: nothing)")
    add_number(parser, "--tokens", 200, "stop after this many", int, low=1)
    add_number(parser, "--temperature", 0.8, "0 always takes the likeliest word")
    add_number(parser, "--top-k", 50, "choose among this many words at most", int, low=1)
    add_number(parser, "--top-p", 0.95, "and the fewest that hold this share", high=1)
    add_number(parser, "--seed", 0, "of the random draws", int)
    add_device(parser)
    args = parser.parse_args(argv)
    from minilm import commands

    commands.generate(**vars(args))


def fill(parser: Parser, argv: list[str]) -> None:
    """Name the likeliest words for each <mask> in a text, with their probabilities."""
    parser.add_argument("run", metavar="RUN", help="a run folder of train_pretrain.py")
    parser.add_argument("text", help='such as "The film was <mask> ."')
    add_number(parser, "--top", 5, "words to name", int, low=1)
    add_device(parser)
    args = parser.parse_args(argv)
    from minilm import commands

    commands.fill(**vars(args))


def predict(parser: Parser, argv: list[str]) -> None:
    """Label a text, or every text of a file: of a .txt each line that is not blank, of a .csv, .tsv
    or .jsonl each row."""
    parser.add_argument("run", metavar="RUN", help="a run folder of train_finetune.py")
    parser.add_argument("text", nargs="?", help="the text, unless --file is given")
    parser.add_argument("--file", type=Path, help=".txt .csv .tsv .jsonl, or .gz of these")
    help = ".jsonl or .csv with text, label, probability (default: FILE.predicted.jsonl)"
    parser.add_argument("--out", type=Path, help=help)
    parser.add_argument("--text-column", default="text", help="the column that holds the text")
    parser.add_argument("--encoding", default="utf-8", help="of the file")
    add_device(parser)
    args = vars(parser.parse_args(argv))
    text, file = args.pop("text"), args.pop("file")
    if (text is None) == (file is None) or (args["out"] and not file):
        raise UserError('give either a "text" or --file FILE, and --out only with the latter')
    from minilm import commands

    if file:
        commands.predict_file(file=file, **args)
    else:
        commands.predict_text(args["run"], text, args["device"])


def evaluate(parser: Parser, argv: list[str]) -> None:
    """Measure a run: a classifier on test texts, a language model on the validation part of a text;
    unless said otherwise, those of the data it was trained on."""
    parser.add_argument("run", metavar="RUN", help="a run folder of either script")
    help = "other data: a corpus; for a language model also a file or folder"
    parser.add_argument("--data", metavar="NAME", help=help)
    help = "for a classifier: labelled texts, .csv .tsv .jsonl, all of them to test on"
    parser.add_argument("--test", metavar="FILE", help=help)
    parser.add_argument("--text-column", default="text", help="the column that holds the text")
    parser.add_argument("--label-column", default="label", help="the column that holds the label")
    parser.add_argument("--encoding", default="utf-8", help="of the files")
    add_device(parser)
    args = parser.parse_args(argv)
    if args.data and args.test:
        raise UserError("--data and --test were both given: choose one")
    from minilm import commands

    commands.evaluate(**vars(args))


def estimate(parser: Parser, argv: list[str]) -> None:
    """Say what a training will take: parameters, FLOPs, memory, time, energy. Takes the flags of
    train_pretrain.py; reads no text, trains on random tokens for a few seconds, writes nothing."""
    add_flags(parser, PretrainConfig)
    add_number(parser, "--watts", None, "what the machine draws at work (else measured or assumed)")
    parser.add_argument("--all", action="store_true", help="every --size, one after the other")
    args = vars(parser.parse_args(argv))
    watts, every = args.pop("watts"), args.pop("all")
    config = PretrainConfig(**args)
    from minilm.device import choose_machine
    from minilm.experiments.estimate import estimate
    from minilm.runs import Run

    machine = choose_machine(config.device, config.precision)
    print(machine.why)
    inherited = Run(config.init).recipe() if config.init else {}
    for size in SIZES if every else [config.size]:
        planned = dataclasses.replace(config, size=size).with_defaults(**inherited)
        print(f"{planned.size}, {config.objective}")
        print(estimate(planned, machine, watts).report(), flush=True)


def compare(parser: Parser, argv: list[str]) -> None:
    """Compare pretraining objectives: the same net, text and budget for every arm, the same labels,
    several seeds, intervals, and baselines that might win. Without flags: a quarter of an hour."""
    from minilm.experiments.compare_config import CompareConfig

    add_flags(parser, CompareConfig)
    given = vars(parser.parse_args(argv))
    config = CompareConfig(**given)
    config.given = frozenset(given)
    from minilm.experiments.compare import compare

    compare(config)


def import_(parser: Parser, argv: list[str]) -> None:
    """Make a run of Hugging Face's weights and words: of the types bert, gpt2, modernbert,
    modernbert-decoder."""
    help = "their folder (config.json, model.safetensors, ...), or a name on their hub"
    parser.add_argument("folder", metavar="FOLDER", help=help)
    parser.add_argument("run", metavar="RUN", help="the run folder to write")
    args = parser.parse_args(argv)
    from minilm import commands

    commands.import_(**vars(args))


def export(parser: Parser, argv: list[str]) -> None:
    """Write a run as a folder that Hugging Face's transformers opens."""
    parser.add_argument("run", metavar="RUN", help="a run folder of either script")
    parser.add_argument("folder", metavar="FOLDER", help="the folder to write")
    args = parser.parse_args(argv)
    from minilm import commands

    commands.export(**vars(args))


def fetch(parser: Parser, argv: list[str]) -> None:
    """Download a corpus into data/, unless it is there already."""
    parser.add_argument("name", metavar="NAME", help="imdb, sms-spam or tinyshakespeare")
    args = parser.parse_args(argv)
    from minilm.corpora.fetch import fetch

    fetch(args.name)


COMMANDS = {
    command.__name__.rstrip("_"): command
    for command in (generate, fill, predict, evaluate, compare, estimate, fetch, import_, export)
}


def add_device(parser: Parser) -> None:
    """Add --device."""
    choices = ["auto", "cpu", "cuda", "mps"]
    parser.add_argument("--device", default="auto", choices=choices, help="where to compute")


def add_number(parser: Parser, name: str, default, help: str, kind=float, low=0, high=math.inf):
    """Add a flag that takes a number from low to high."""

    def convert(text: str):
        """The number, or argparse's error."""
        with contextlib.suppress(ValueError):
            if low <= (value := kind(text)) <= high and math.isfinite(value):
                return value
        limits = f"of {low} or more" if high == math.inf else f"from {low} to {high}"
        raise argparse.ArgumentTypeError(f"{text!r}: give a number {limits}")

    if default is not None:
        help += f" (default: {default})"
    metavar = name.split("-")[-1].upper()
    parser.add_argument(name, type=convert, default=default, metavar=metavar, help=help)


if __name__ == "__main__":
    main()
