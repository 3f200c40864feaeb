"""What trained weights can do, and what training them will cost.

Each function here is a command: it reads its arguments, and only then imports what it needs, for
torch takes seconds to load.
"""

import argparse
import contextlib
import importlib
import math
import sys
from pathlib import Path

from minilm.cli.flags import Parser, add_flags, entry_point, parse_flags
from minilm.cli.options import DEVICES, FinetuneConfig, PretrainConfig
from minilm.cli.terminal import printable
from minilm.config import SIZES, UserError


def main(argv: list[str] | None = None) -> None:
    """`python -m minilm COMMAND ...`, and the console script `minilm`."""
    entry_point(lambda: run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: list[str]) -> None:
    """Call the function below that has the command's name. Raises UserError where none has."""
    descriptions = {name: " ".join(command.__doc__.split()) for name, command in COMMANDS.items()}
    parser = Parser(
        prog="python -m minilm",
        description="What trained weights can do, and what training them will cost.",
        usage="python -m minilm COMMAND ... (COMMAND --help says what it takes)",
        epilog="\n".join(f"  {name:10}{doc.split(': ')[0]}" for name, doc in descriptions.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    help = "one of those below"
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help=help)
    name = parser.parse_args(argv[:1]).command
    COMMANDS[name](Parser(prog=f"{parser.prog} {name}", description=descriptions[name]), argv[1:])


def pretrain(parser: Parser, argv: list[str]) -> None:
    """Pretrain a Transformer on raw text: what train_pretrain.py does."""
    script = importlib.import_module("train_pretrain")
    script.pretrain(parse_flags(PretrainConfig, script.__doc__, argv, parser.prog))


def finetune(parser: Parser, argv: list[str]) -> None:
    """Fine-tune pretrained weights: what train_finetune.py does."""
    script = importlib.import_module("train_finetune")
    script.finetune(parse_flags(FinetuneConfig, script.__doc__, argv, parser.prog))


def generate(parser: Parser, argv: list[str]) -> None:
    """Continue a text, token by token."""
    parser.add_argument("run", metavar="RUN", help="a pretraining run, or hf:FOLDER")
    parser.add_argument("prompt", nargs="?", default="", help="the beginning (default: nothing)")
    add_number(parser, "--tokens", 200, "stop after this many", int, low=1)
    add_number(parser, "--temperature", 0.8, "0 always takes the likeliest token")
    add_number(parser, "--top-k", 50, "choose among this many tokens at most", int, low=1)
    add_number(parser, "--top-p", 0.95, "and the fewest that hold this share", low=1e-9, high=1)
    add_number(parser, "--seed", 0, "of the random draws", int, high=2**63 - 1)
    args = vars(add_device(parser).parse_args(argv))
    model = _load(args.pop("run"), args.pop("device"), "generate")
    if (n := len(model.tokenizer.encode(args["prompt"]))) > model.max_length - 1:
        print(f"note: of the prompt's {n} tokens the last {model.max_length - 1} are seen",
              file=sys.stderr)  # fmt: skip
    pieces = model.generate(**args, stream=True)
    print(printable(args["prompt"]), end="", flush=True)
    for piece in pieces:
        print(printable(piece), end="", flush=True)
    print()


def fill(parser: Parser, argv: list[str]) -> None:
    """Name the likeliest tokens for each <mask> in a text, with their probabilities."""
    parser.add_argument("run", metavar="RUN", help="a pretraining run, or hf:FOLDER")
    parser.add_argument("text", help='such as "The film was <mask> ."')
    add_number(parser, "--top", 5, "tokens to name", int, low=1)
    args = add_device(parser).parse_args(argv)
    model = _load(args.run, args.device, "fill")
    for i, candidates in enumerate(model.fill(args.text, args.top), 1):
        print(f"mask {i}")
        for token, p in candidates:
            print(f"  {p:6.1%}  {printable(token)!r}")


def predict(parser: Parser, argv: list[str]) -> None:
    """Label a text, or every text of a file: of a text file each line, of a table each row."""
    parser.add_argument("run", metavar="RUN", help="a fine-tuning run")
    parser.add_argument("text", nargs="?", help="the text, unless --file is given")
    parser.add_argument("--question", help="to be answered from the text, which is its context")
    parser.add_argument("--file", type=Path, help=".txt .csv .tsv .jsonl, or .gz of these")
    help = ".jsonl with text, label, probability (default: FILE.predicted.jsonl)"
    parser.add_argument("--out", type=Path, help=help)
    parser.add_argument("--text-column", default="text", help="the column that holds the text")
    parser.add_argument("--encoding", default="utf-8", help="of the file")
    args = add_device(parser).parse_args(argv)
    if (args.text is None) == (args.file is None) or (args.out and not args.file):
        raise UserError('give either a "text" or --file FILE, and --out only with the latter')
    import minilm

    model = minilm.load(args.run, args.device)
    if hasattr(model, "task"):
        from minilm.cli.tasks import predict

        predict(model, **vars(args))
        return
    model = _load(args.run, args.device, "predict_proba")
    if not args.file:
        [row] = model.predict_proba([args.text])
        for i in row.argsort()[::-1][:10]:
            print(f"{row[i]:6.1%}  {printable(str(model.classes_[i]))}")
        return
    from tqdm import tqdm

    from minilm.corpora.files import texts_in
    from minilm.corpora.tables import write_rows

    texts = texts_in(args.file, args.text_column, args.encoding)
    out = args.out or args.file.with_name(args.file.name + ".predicted.jsonl")

    def rows():
        """The label of each text."""
        with tqdm(total=len(texts), unit=" texts", disable=None) as bar:
            for some in (texts[start : start + 512] for start in range(0, len(texts), 512)):
                for text, p in zip(some, model.predict_proba(some), strict=True):
                    label, best = str(model.classes_[p.argmax()]), round(float(p.max()), 6)
                    yield {"text": text, "label": label, "probability": best}
                bar.update(len(some))

    write_rows(out, rows())
    print(f"{len(texts):,} texts labelled in {out}")


def evaluate(parser: Parser, argv: list[str]) -> None:
    """Measure a run: a classifier on test texts, a language model on the validation part of a text;
    unless said otherwise, those of the data it was trained on."""
    parser.add_argument("run", metavar="RUN", help="a run folder of either script")
    help = "other data: a corpus; for a language model also a file or folder"
    parser.add_argument("--data", metavar="NAME", help=help)
    parser.add_argument("--test", metavar="FILE", help="for a classifier: a table to test on")
    parser.add_argument("--text-column", default="text", help="the column that holds the text")
    parser.add_argument("--label-column", default="label", help="the column that holds the label")
    parser.add_argument("--encoding", default="utf-8", help="of the files")
    args = vars(add_device(parser).parse_args(argv))
    if args["data"] and args["test"]:
        raise UserError("--data and --test were both given: choose one")
    from minilm.cli.evaluate import evaluate

    evaluate(**args)


def estimate(parser: Parser, argv: list[str]) -> None:
    """Say what a training will take: parameters, FLOPs, memory, time. Takes the flags of
    train_pretrain.py; reads no text, trains on random tokens for a few seconds, writes nothing."""
    add_flags(parser, PretrainConfig)
    parser.add_argument("--all", action="store_true", help="every --size, one after the other")
    args = vars(parser.parse_args(argv))
    sizes = list(SIZES) if args.pop("all") else [None]
    from minilm.cli.estimate import estimate

    for size in sizes:
        estimate(PretrainConfig(**args | ({"size": size} if size else {})))


def compare(parser: Parser, argv: list[str]) -> None:
    """Compare pretraining objectives: the same network, text and budget for each, several seeds,
    intervals, and baselines that might win. Without flags: a quarter of an hour."""
    from minilm.compare import CompareOptions

    options = parse_flags(CompareOptions, parser.description, argv, parser.prog)
    from minilm.compare import compare

    compare(options)


def view(parser: Parser, argv: list[str]) -> None:
    """Write a page to look at: a run's curves and samples, and a text inside the model."""
    parser.add_argument("run", metavar="RUN", help="a run folder of either script")
    parser.add_argument("--text", help="a text to look at inside the model")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    args = vars(add_device(parser).parse_args(argv))
    from minilm.view.command import view

    view(**args)


def tokenize(parser: Parser, argv: list[str]) -> None:
    """Show the tokens of a text, their ids and bytes; or count those of a file."""
    parser.add_argument("run", metavar="RUN", help="a run folder of either script, or hf:FOLDER")
    parser.add_argument("text", nargs="?", help="the text, unless --file is given")
    parser.add_argument("--file", type=Path, help="a file whose tokens are counted")
    args = vars(parser.parse_args(argv))
    from minilm.cli.terminal import tokenize

    tokenize(**args)


def chat(parser: Parser, argv: list[str]) -> None:
    """Type a text, see how the model continues it; /fill fills masks, /seed changes the draws."""
    parser.add_argument("run", metavar="RUN", help="a pretraining run, or hf:FOLDER")
    add_number(parser, "--tokens", 100, "to write at a time", int, low=1)
    add_number(parser, "--temperature", 0.8, "0 always takes the likeliest token")
    add_number(parser, "--seed", 0, "of the random draws", int, high=2**63 - 1)
    args = vars(add_device(parser).parse_args(argv))
    from minilm.cli.terminal import chat

    chat(_load(args.pop("run"), args.pop("device"), "generate"), **args)


def fetch(parser: Parser, argv: list[str]) -> None:
    """Download a corpus into data/, unless it is there already."""
    parser.add_argument("name", metavar="NAME", help="imdb, sms-spam, tinyshakespeare, ...")
    args = parser.parse_args(argv)
    from minilm.corpora.fetch import fetch

    fetch(args.name)


def import_(parser: Parser, argv: list[str]) -> None:
    """Make a run of Hugging Face's weights and tokenizer: of the types bert, gpt2, modernbert,
    modernbert-decoder."""
    help = "their folder (config.json, model.safetensors, ...), or a name on their hub"
    parser.add_argument("folder", metavar="FOLDER", help=help)
    parser.add_argument("run", metavar="RUN", help="the run folder to write")
    args = parser.parse_args(argv)
    from minilm.huggingface.folders import find_folder, import_folder
    from minilm.runs.run import Run

    run = import_folder(find_folder(args.folder.removeprefix("hf:")), Run(args.run))
    shape, objective = run.model_config(), run.config["flags"]["objective"]
    print(f"{args.run}: {shape.n_layers} x {shape.d_model}, vocabulary {shape.vocab_size:,}, "
          f"{objective}")  # fmt: skip


def export(parser: Parser, argv: list[str]) -> None:
    """Write a run as a folder that Hugging Face's transformers opens."""
    parser.add_argument("run", metavar="RUN", help="a run folder of either script")
    parser.add_argument("folder", metavar="FOLDER", help="the folder to write")
    args = parser.parse_args(argv)
    from minilm.huggingface.folders import export_run
    from minilm.runs.run import Run

    print(export_run(Run(args.run), Path(args.folder)))


COMMANDS = {
    command.__name__.rstrip("_"): command
    for command in (
        pretrain, finetune, generate, fill, predict, evaluate, tokenize, chat, view, compare,
        estimate, fetch, import_, export,
    )
}  # fmt: skip


def _load(run: str, device: str, method: str):
    """minilm.load, of a run that can do what is asked. Raises UserError where it cannot."""
    import minilm

    model = minilm.load(run, device)
    if not hasattr(model, method):
        raise UserError(f"{run} is a {model.config['kind']} run, which cannot do that: name a run "
                        f"of the other kind")  # fmt: skip
    return model


def add_device(parser: Parser) -> Parser:
    """Add --device; return the parser."""
    parser.add_argument("--device", default="auto", choices=DEVICES, help="where to compute")
    return parser


def add_number(parser: Parser, name: str, default, help: str, kind=float, low=0, high=2**40):
    """Add a flag that takes a number from low to high."""

    def convert(text: str):
        """The number, or argparse's error."""
        with contextlib.suppress(ValueError):
            if low <= (value := kind(text)) <= high and math.isfinite(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r}: give a number from {low:g} to {high:g}")

    how = dict(metavar=name.split("-")[-1].upper(), help=f"{help} (default: {default})")
    parser.add_argument(name, type=convert, default=default, **how)
