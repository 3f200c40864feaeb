"""What the two scripts share: to open a run, to write it down, to say what begins and what came
out."""

import dataclasses
import json
import zlib
from collections import Counter

import numpy as np

from minilm.cli.options import Options, resumed
from minilm.cli.terminal import printable
from minilm.config import ModelConfig, UserError
from minilm.runs import checkpoint, loop
from minilm.runs.device import Machine
from minilm.runs.durable import write_file
from minilm.runs.run import Run, family, new_folder, newest_run
from minilm.view.run_page import write_run_page


def open_run(config: Options, kind: str, machine: Machine) -> tuple[Run, Options]:
    """The run, held by the first process: a new folder, or the one that goes on, with the options
    that it was started with. Raises UserError where it cannot be had."""
    find = newest_run if config.resume else new_folder
    run = Run(config.run or machine.first(lambda: find(kind)))
    if config.resume:
        config = resumed(config, run.of_kind(kind)["flags"])
        config = dataclasses.replace(config, resume=True, run=str(run.folder))
    if machine.rank == 0:
        run.claim(config.resume)
    return run, config


def recipe(init: Run, config) -> dict:
    """What a pretraining run that starts from another's weights takes over: family, size, shape,
    and where a masked token is predicted."""
    saved = init.of_kind("pretrain")
    flags = saved["flags"]
    shape = {f.name: saved["model"][f.name] for f in dataclasses.fields(ModelConfig)}
    taken = {"family": saved["family"], "size": flags.get("size") or "tiny", **shape}
    if config.objective == "masked" and flags.get("objective") != "causal":
        taken["shift"] = flags.get("shift", 0)
    return taken


def shape_of(config, vocab_size: int, length: int) -> ModelConfig:
    """The shape of a new model. Raises UserError where it cannot be."""
    shape = config.model(vocab_size, length)
    return family(config.family)[1](**dataclasses.asdict(shape))


def fitting_length(length: int, text) -> int:
    """The window's length: as asked for, or as long as a short text allows, which is said."""
    most = max(2, len(text.train) // 4)
    if length > most:
        print(f"the text has {len(text.train):,} tokens: windows of {most} instead of {length}")
    return min(length, most)


def checksum(data) -> int:
    """A number that changes with what is trained on."""
    is_array = isinstance(data, np.ndarray)
    return zlib.crc32(data if is_array else repr(data).encode("utf-8", "replace"))


def write_down(
    run: Run, config, kind: str, shape: ModelConfig, tokenizer, machine: Machine, **data
):
    """Write config.json, unless the run goes on: then hold what it was trained on against what is
    there now. data: text=PreparedText, or examples=... and classes=..."""
    if text := data.get("text"):
        facts = dict(train_tokens=len(text.train), unigram_entropy=text.unigram_entropy)
    else:
        facts = dict(classes=data["classes"])
    facts["checksum"] = checksum(text.train if text else data["examples"])
    if config.resume:
        saved = run.config
        if (saved["tokenizer"], saved["checksum"]) != (tokenizer.fingerprint, facts["checksum"]):
            raise UserError(f"{run.folder} was trained on other texts: start a new run")
        return
    precision = "float32" if machine.dtype.itemsize == 4 else "bfloat16"
    flags = dataclasses.asdict(config) | dict(run=str(run.folder), precision=precision)
    name = data.get("family") or flags.get("family") or "ours"
    model = dataclasses.asdict(shape)
    if machine.rank == 0:
        run.create(dict(kind=kind, family=name, model=model, flags=flags, **facts), tokenizer)


def introduce(run: Run, config, model, machine: Machine, text, compiled: bool) -> None:
    """Say what is about to be trained."""
    if machine.rank:
        return
    wanted, V = config.vocab_size, text.tokenizer.vocab_size
    few = f" (too little text for {wanted:,})" if wanted > V else ""
    print(f"text: {len(text.train):,} tokens to train on, {len(text.valid):,} to validate; "
          f"vocabulary {V:,}{few}")  # fmt: skip
    parameters = sum(p.numel() for p in model.parameters())
    print(f"model: {parameters:,} parameters, {config.objective} objective, {machine.why}"
          + ", blocks compiled in the first step" * compiled)  # fmt: skip
    print(f"run: {run.folder}, {config.steps} steps of {config.batch_size} x "
          f"{model.config.max_length} tokens", flush=True)  # fmt: skip


ROWS = (
    ("causal_loss", "next-token loss", "{:.3f} nats a token"),
    ("bits_per_byte", "bits per byte", "{:.3f}"),
    ("masked_loss", "masked-token loss", "{:.3f} nats a token"),
    ("masked_accuracy", "masked tokens right", "{:.1%}"),
    ("unigram_entropy", "unigram entropy", "{:.3f} nats a token: what token frequencies reach"),
    ("tokens", "tokens seen", "{:,}"),
    ("seconds", "seconds of training", "{:.0f}"),
    ("tokens_per_second", "tokens per second", "{:,.0f}"),
    ("flops_per_second", "FLOP per second", "{:.2e}"),
)


def conclude_pretraining(run: Run, model, spent: dict, flops: float, text) -> None:
    """Write result.json, and say what came out and what to do next."""
    used, last, summary = loop.summary(run)
    seconds = max(spent["seconds"], 1e-9)
    result = dict(
        losses=used.values, step=used.step, steps=last, unigram_entropy=text.unigram_entropy,
        parameters=sum(p.numel() for p in model.parameters()), **spent,
        tokens_per_second=spent["tokens"] / seconds, flops_per_second=flops / seconds,
    )  # fmt: skip
    run.finish(result)
    print(summary)
    values = {**result, **used.values}
    for name, label, form in ROWS:
        if name in values:
            print(f"  {label:20} {form.format(values[name])}")
    print(f"page: {write_run_page(run)}")
    print(f"next: python -m minilm finetune --pretrained {run.folder}")


def search(trials: list[tuple], run: Run, train) -> tuple:
    """Train each (options, trial run); keep the best checkpoint as the run's own. Returns its
    options and what all trials spent. Goes on where an earlier search was stopped."""
    decided, found, spent = checkpoint.newest(run.folder, evaluated=True), [], Counter()
    for options, trial in trials:
        trial.folder.mkdir(parents=True, exist_ok=True)
        if not decided:
            print(f"trying learning rate {options.learning_rate:g} with {options.optimizer}")
            try:
                spent.update(train(options, trial))
            except loop.Stopped as stopped:  # what goes on is the search, not the trial
                raise loop.Stopped(stopped.number, stopped.step, run.folder) from None
            best = checkpoint.best(trial.folder)
            write_file(trial.folder / "score.json", json.dumps([best.score, best.spent]).encode())
        found.append((json.loads((trial.folder / "score.json").read_bytes())[0], options, trial))
    found.sort(key=lambda row: row[0])
    print("  validation score  learning rate  optimizer")
    for score, options, _ in found:
        print(f"  {1 - score:16.1%}  {options.learning_rate:13g}  {options.optimizer}")
    _, options, winner = found[0]
    if not decided:
        best = checkpoint.best(winner.folder)
        checkpoint.save(run.folder, best.step, best.spent, best.earlier, model=best.read("model"))
        checkpoint.rate(run.folder, best.step, best.score, best.values)
    for _, _, trial in found:  # the weights of the others have done their work
        checkpoint.delete_after(trial.folder, -1)
    return options, dict(spent) or dict(checkpoint.best(run.folder).spent)


def conclude_finetuning(run: Run, config, spent: dict, task, rows: dict[str, dict]) -> None:
    """Print what each classifier does on the test texts, and write result.json."""
    first = next(iter(rows.values()))
    used, _, summary = loop.summary(run)
    print(f"{summary}\n{task.part} part, of the first row in detail:")
    print(printable(task.report(first)))
    if task.part == "valid":
        print("these texts chose the checkpoint, so the figures flatter it: give --test")
    width = max(map(len, rows))
    print(" " * width, *(heading for _, heading, _ in task.columns), sep="  ")
    for name, row in rows.items():
        cells = [f"{form.format(row[key]):>{len(head)}}" for key, head, form in task.columns]
        print(f"{name:{width}}", *cells, sep="  ")
    rows = {
        name: {k: v for k, v in row.items() if isinstance(v, int | float)}
        for name, row in rows.items()
    }
    chosen = dict(learning_rate=config.learning_rate, optimizer=config.optimizer)
    tested = len(task.examples[task.part])
    result = dict(part=task.part, texts=tested, rows=rows, step=used.step)
    run.finish({**result, **chosen, **spent})
    print(f"page: {write_run_page(run)}; with its mistakes: python -m minilm view {run.folder}")
    print(f"next: python -m minilm predict {run.folder} {task.example}")
