"""What trained weights can do, and what training them will cost.

Each function here is a command, as are the two scripts, `learn` and `compare`, and its parameters
are what it takes: those before the * in their place, those after it as flags. It imports what it
needs itself, for torch takes seconds to load.
"""

import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import minilm
from minilm.cli.flags import entry_point, flags_of, parse_flags
from minilm.cli.options import DEVICES, PretrainConfig
from minilm.config import UserError
from minilm.io.terminal import escaped, note
from minilm.learn.exercises import learn
from train_finetune import finetune
from train_pretrain import pretrain

ABOUT = {  # the parameters of the functions below
    "run": dict(help="a run folder (of pretrained weights also hf:FOLDER); import makes a new one"),
    "prompt": dict(help="the beginning (default: nothing)"),
    "text": dict(help="a text; fill takes one with a <mask>: 'The film was <mask> .'"),
    "folder": dict(help="a folder of Hugging Face's; import also takes a name on their hub"),
    "name": dict(help="of the corpus: imdb, sms-spam, tinyshakespeare, ..."),
    "tokens": dict(help="how many to write at most", low=1),
    "temperature": dict(help="0 always takes the likeliest token"),
    "top_k": dict(help="choose among this many tokens at most", low=1),
    "top_p": dict(help="and the fewest that hold this share", low=1e-9, high=1),
    "top": dict(help="tokens to name", low=1),
    "seed": dict(help="of the random draws", high=2**63 - 1),
    "question": dict(help="to be answered from the text, which is its context"),
    "file": dict(help="instead of a text: a file (.txt .csv .tsv .jsonl, or .gz of these)"),
    "out": dict(help="a .jsonl with a line for each text (default: FILE.predicted.jsonl)"),
    "data": dict(help="a corpus; for a language model also a file or folder", metavar="NAME"),
    "test": dict(help="for a fine-tuned run: a file to test on", metavar="FILE"),
    "text_column": dict(help="the column that holds the text"),
    "label_column": dict(help="the column that holds the label"),
    "source_column": dict(help="the column of texts to translate"),
    "target_column": dict(help="the column of translations"),
    "encoding": dict(help="of files"),
    "live": dict(help="a page in which the run's own weights answer as one types, in one file"),
    "open": dict(help="open it in a browser"),
    "device": dict(help="where to compute", choices=DEVICES),
    "exercise": dict(help="a function of the book: model.attention, heads.Tagger.forward"),
    "check": dict(help="run the tests of the exercise that was begun"),
    "hint": dict(help="one more line of the book, or which function a planted change is in"),
    "solution": dict(help="give up, and see what the book has"),
    "bug": dict(help="plant a change in a page, to be found from the test that fails"),
    "page": dict(help="empty every function of a page"),
    "again": dict(help="begin anew, without what was written before"),
}


def main(argv: list[str] | None = None) -> None:
    """`python -m minilm COMMAND ...`, and the console script `minilm`."""
    entry_point(lambda: run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: list[str]) -> None:
    """Call the command of this name. Raises UserError where nothing has."""
    about = lambda command: " ".join((command.__doc__ or "").split()).partition(" Raises ")[0]
    name, known = argv[0] if argv else "--help", commands()
    if name in ("-h", "--help"):
        print("usage: python -m minilm COMMAND ... (COMMAND --help says what it takes)\n")
        for name, command in known.items():
            print(f"  {name:10}{about(command).split(': ')[0].rstrip('.')}")
        return
    if (command := known.get(name)) is None:
        raise UserError(f"there is no command {name}: choose from {', '.join(known)}")
    kind = flags_of(command, ABOUT)
    options = parse_flags(kind, about(command), argv[1:], f"python -m minilm {name}")
    if kind in command.__annotations__.values():  # which it takes as one object
        command(options)
    else:
        command(**dataclasses.asdict(options))


def generate(
    run: str, prompt: str = "", *, tokens: int = 200, temperature: float = 0.8, top_k: int = 50,
    top_p: float = 0.95, seed: int = 0, device: str = "auto",
) -> None:  # fmt: skip
    """Continue a text, token by token."""
    model = _load(run, device, "generate")
    if (n := len(model.tokenizer.encode(prompt))) > model.max_length - 1:
        note(f"note: of the prompt's {n} tokens the last {model.max_length - 1} are seen")
    how = dict(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    pieces = model.generate(prompt, tokens, **how, stream=True)
    for piece in itertools.chain([prompt], pieces):
        print(piece, end="", flush=True)
    print()


def fill(run: str, text: str, *, top: int = 5, device: str = "auto") -> None:
    """Name the likeliest tokens for each <mask> in a text, with their probabilities."""
    model = _load(run, device, "fill")
    for i, candidates in enumerate(model.fill(text, top), 1):
        print(f"mask {i}")
        for token, p in candidates:
            print(f"  {p:6.1%}  {token!r}")


def predict(
    run: str, text: str | None = None, *, question: str | None = None, file: Path | None = None,
    out: Path | None = None, text_column: str | None = None, encoding: str | None = None,
    device: str = "auto",
) -> None:  # fmt: skip
    """Label a text or its words, answer or translate; or do so for every text of a file: of a
    text file each line, of a table each row, read as in training unless said otherwise."""
    if (text is None) == (file is None) or (out and not file):
        raise UserError('give either a "text" or --file FILE, and --out only with the latter')
    from minilm.corpora.tables import write_rows

    model = _load(run, device, "predict")
    task = model.task
    if question is not None and (file or task.config.task != "answer"):
        raise UserError("--question goes with the text of a run that answers: leave it out")
    if not file:
        what = (text, question) if task.config.task == "answer" else text
        [(shown, _)] = task.tell(model.model, [what])
        return print(shown)
    texts = task.texts_in(file, text_column, encoding)
    out = out or file.with_name(file.name + ".predicted.jsonl")
    write_rows(out, (row for _, row in task.tell(model.model, texts)))
    return print(f"{len(texts):,} texts in {out}")


def evaluate(
    run: str, *, data: str | None = None, test: str | None = None, text_column: str | None = None,
    label_column: str | None = None, source_column: str | None = None,
    target_column: str | None = None, encoding: str | None = None, device: str = "auto",
) -> None:  # fmt: skip
    """Measure a run: a fine-tuned one on test texts, a language model on the validation part of a
    text; unless said otherwise, those of the data it was trained on."""
    if data and test:
        raise UserError("--data and --test were both given: choose one")
    columns = dict(text_column=text_column, label_column=label_column, encoding=encoding,
                   source_column=source_column, target_column=target_column)  # fmt: skip
    minilm.load(run, device).evaluate(data, test, **columns)


def tokenize(run: str, text: str) -> None:
    """Show the tokens of a text, their ids and bytes."""
    from minilm.huggingface.folders import pretrained_run

    tokenizer = pretrained_run(run).tokenizer
    ids = tokenizer.encode(text).tolist()
    pieces = [tokenizer.token_bytes[i] for i in ids]
    text_of = lambda piece: piece.decode("utf-8", "backslashreplace")
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for i, piece in enumerate(pieces):
        shown, colour = escaped(text_of(piece)), 42 + i % 5  # the background; the text is black
        shown = f"\x1b[30;{colour}m{shown}\x1b[0m" if colours else f"[{shown}]"
        print(shown, end="", file=getattr(sys.stdout, "drawn", None))
    print(f"\n{len(ids):,} tokens, {sum(map(len, pieces)):,} bytes")
    for i, piece in zip(ids, pieces, strict=True):
        quoted = repr(text_of(piece)).replace(r"\\", "\\")
        print(f"{i:7}  {piece.hex(' '):24}  {quoted}")


def view(
    run: str, *, text: str | None = None, live: bool = False, open: bool = False,
    device: str = "auto",
) -> None:  # fmt: skip
    """Write a page to look at: a run's curves and samples, or a text inside the model."""
    from minilm.view import command

    command.view(run, lambda run: minilm.load(run, device), text, live, open)


def estimate(config: PretrainConfig) -> None:
    """Say what a training will take: parameters, FLOPs, memory, time. Takes the flags of
    train_pretrain.py; reads no text, trains on random tokens for a few seconds, writes nothing."""
    from minilm.cli import scripts
    from minilm.runs.device import choose_machine

    machine = choose_machine(config.device, config.precision)
    training = scripts.random_training(config, machine)
    _, planned = scripts.estimate(training, config.minutes)
    print(f"{training.config.size}, {config.objective}, {machine.why}\n{planned}", flush=True)


def trace(run: str, text: str, *, device: str = "auto") -> None:
    """Print one text's way through the model, step by step, with each step's function."""
    from minilm.learn import trace

    model = _load(run, device, "must_predict")
    model.must_predict()
    trace.trace(model, text)


def fetch(name: str) -> None:
    """Download a corpus into data/, unless it is there already."""
    from minilm.corpora import fetch

    fetch.fetch(name)


def import_(folder: str, run: str) -> None:
    """Make a run of Hugging Face's weights and tokenizer: of the types bert, gpt2, modernbert,
    modernbert-decoder."""
    from minilm.huggingface.folders import find_folder, import_folder
    from minilm.runs.run import Run

    made = import_folder(find_folder(folder.removeprefix("hf:")), Run(run))
    shape, objective = made.model_config(), made.config["flags"]["objective"]
    print(f"{run}: {shape.n_layers} x {shape.d_model}, vocabulary {shape.vocab_size:,}, "
          f"{objective}")  # fmt: skip


def export(run: str, folder: Path) -> None:
    """Write a run as a folder that Hugging Face's transformers opens."""
    from minilm.huggingface.folders import export_run
    from minilm.runs.run import Run

    print(export_run(Run(run), folder))


def _load(run: str, device: str, method: str):
    """minilm.load, of a run that can do what is asked. Raises UserError where it cannot."""
    model = minilm.load(run, device)
    if not hasattr(model, method):
        raise UserError(f"{run} is a {model.config['kind']} run, which cannot do that: name a run "
                        f"of the other kind")  # fmt: skip
    return model


def commands() -> dict[str, Callable]:
    """All of them, by name."""
    from minilm.compare.command import compare  # which stands above: it calls the scripts

    some = (
        pretrain, finetune, generate, fill, predict, evaluate, tokenize, view, compare, estimate,
        trace, learn, fetch, import_, export,
    )  # fmt: skip
    return {command.__name__.rstrip("_"): command for command in some}
