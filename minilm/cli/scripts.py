"""What the two scripts share: to open a run, to write it down, to say what begins and what came
out."""

import dataclasses
import json
import zlib
from collections import Counter
from types import SimpleNamespace

import numpy as np

from minilm.cli.options import Options, resumed
from minilm.config import ModelConfig, UserError
from minilm.corpora import splits
from minilm.data import Windows
from minilm.huggingface.folders import pretrained_run
from minilm.io.durable import read_json, write_file
from minilm.runs import checkpoint, loop
from minilm.runs.device import Machine, choose_machine
from minilm.runs.pretraining import Pretraining, estimate, require_memory, training_flops
from minilm.runs.run import Run, family, make_model, new_folder, newest_run
from minilm.tokenizer import DOC, MASK, N_SPECIAL, PAD, SpecialTokens
from minilm.view.pages import write_run_page


def open_run(config: Options, kind: str) -> tuple[Run, Options, Machine]:
    """The run, held by the first process, and where to compute: a new folder, or the one that goes
    on, with the options and the precision that it was started with. Raises UserError where it
    cannot be had."""
    machine = choose_machine(config.device, config.precision)
    find = newest_run if config.resume else new_folder
    run = Run(config.run or machine.first(lambda: find(kind)))
    if config.resume:
        config = resumed(config, run.of_kind(kind)["flags"])
        config = dataclasses.replace(config, resume=True, run=str(run.folder))
        machine = choose_machine(config.device, config.precision)
    if machine.rank == 0:
        run.claim(config.resume)
    return run, config, machine


def with_first_weights(config, machine: Machine) -> tuple[Run | None, Options]:
    """The run whose weights come first, if --init names one, and the options with every None
    filled: from what that run is (its family, size, shape, and where it predicts a masked token),
    or from --size. Raises UserError where a flag asks for something else, or for what cannot be."""
    init, taken = None, {}
    if config.init:
        init = machine.first(lambda: pretrained_run(config.init))
        saved = init.of_kind("pretrain")
        flags = saved["flags"]
        shape = {f.name: saved["model"][f.name] for f in dataclasses.fields(ModelConfig)}
        taken = {"family": saved["family"], "size": flags.get("size") or "tiny", **shape}
        if config.objective == "masked" and flags.get("objective") != "causal":
            taken["shift"] = flags.get("shift") or 0
    slow = (config.precision, machine.device.type, machine.dtype.itemsize) == ("auto", "cpu", 4)
    if slow and not init and config.size in (None, "tiny") and not config.steps:
        config = dataclasses.replace(config, minutes=config.minutes or 5.0)
    config = config.with_defaults(machine.device.type, **taken)
    shape, length = shape_of(config, config.vocab_size, config.max_length), config.max_length
    rows = -(-config.batch_size // (config.accumulate * machine.world))
    require_memory(shape, machine, rows * length, length)
    return init, config


def with_steps(config, training: Pretraining, n_tokens: int) -> Options:
    """The options with a number of steps: the one that they have, or as many as fit into their
    minutes, and how many passes over the text of `n_tokens` that is, is said."""
    if config.steps:
        return config
    steps, _ = estimate(training, config.minutes)
    training.plan_for(steps)
    if training.machine.rank == 0:
        passes = steps * config.batch_size * training.model.config.max_length / n_tokens
        print(f"{steps:,} steps fit into {config.minutes:g} minutes in {training.machine.why}: "
              f"{passes:.1f} passes over the text")  # fmt: skip
    return dataclasses.replace(config, steps=steps, minutes=None)


def shape_of(config, vocab_size: int, length: int) -> ModelConfig:
    """The shape of a new model. Raises UserError where it cannot be."""
    how = config.d_model, config.n_layers, config.n_heads, config.d_ff, config.dropout
    return family(config.family)[1](vocab_size, length, *how)


def fitting_length(length: int, text) -> int:
    """The window's length: as asked for, or as long as a short text allows, which is said."""
    most = max(2, len(text.train) // 4)
    if length > most:
        print(f"the text has {len(text.train):,} tokens: windows of {most} instead of {length}")
    return min(length, most)


def write_down(
    run: Run, config, shape: ModelConfig, tokenizer, machine: Machine, trained_on, **facts
) -> None:
    """Write config.json with these facts, unless the run goes on: then hold what it was trained on
    against what is there now."""
    is_array = isinstance(trained_on, np.ndarray)
    facts["checksum"] = (zlib.crc32 if is_array else splits.checksum)(trained_on)
    if config.resume:
        saved = run.config
        now = tokenizer.fingerprint, facts["checksum"]
        if (saved["tokenizer"], saved.get("checksum")) != now:
            raise UserError(f"{run.folder} was trained on other texts: start a new run")
    elif machine.rank == 0:
        precision = str(machine.dtype).removeprefix("torch.")
        flags = dataclasses.asdict(config) | dict(run=str(run.folder), precision=precision)
        run.create(dict(**facts, model=dataclasses.asdict(shape), flags=flags), tokenizer)


def introduce(run: Run, config, training: Pretraining, text) -> None:
    """Say what is about to be trained."""
    if training.machine.rank:
        return
    parameters = sum(p.numel() for p in training.model.parameters())
    wanted, V = config.vocab_size, text.tokenizer.vocab_size
    few = f" (too little text for {wanted:,})" if wanted > V else ""
    how = training.machine.why + ", blocks compiled in the first step" * training.compiled
    print(f"text: {len(text.train):,} tokens to train on, {len(text.valid):,} to validate; "
          f"vocabulary {V:,}{few}\n"
          f"model: {parameters:,} parameters, {config.objective} objective, {how}\n"
          f"run: {run.folder}, {config.steps} steps of {config.batch_size} x "
          f"{training.model.config.max_length} tokens", flush=True)  # fmt: skip


ROWS = (  # at the end of a pretraining
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


def conclude_pretraining(run: Run, model, spent: dict, text) -> None:
    """Write result.json, and say what came out and what to do next."""
    used, last, summary = loop.summary(run)
    tokens, seconds, length = spent["tokens"], max(spent["seconds"], 1e-9), model.config.max_length
    flops = training_flops(model.config, tokens, spent["targets"], length)
    result = dict(
        losses=used.values, step=used.step, steps=last, unigram_entropy=text.unigram_entropy,
        parameters=sum(p.numel() for p in model.parameters()), **spent,
        tokens_per_second=tokens / seconds, flops_per_second=flops / seconds,
    )  # fmt: skip
    run.finish(result)
    print(summary)
    values = {**result, **used.values}
    for name, label, form in ROWS:
        if name in values:
            print(f"  {label:20} {form.format(values[name])}")
    print(f"page: {write_run_page(run)}")
    print(f"next: python -m minilm finetune --pretrained {run.folder}")


def search(config, what: list[tuple[float, str]], run: Run, train) -> tuple:
    """Train with each learning rate and optimizer; keep the best checkpoint as the run's own.
    Returns its options and what all trials spent. Goes on where an earlier search was stopped."""
    path, folder = run.folder / "search.json", run.folder / "search"
    trials = {
        f"{rate}-{name}": dataclasses.replace(config, learning_rate=rate, optimizer=name)
        for rate, name in what
    }
    if not path.exists():
        scores, spent = {}, Counter()
        for name, options in trials.items():
            print(f"trying learning rate {options.learning_rate:g} with {options.optimizer}")
            spent.update(train(options, run.part(f"search/{name}")))
            scores[name] = checkpoint.best(folder / name).score
        write_file(path, json.dumps(dict(scores=scores, spent=spent)).encode())
    found = read_json(path, dict(scores=dict.fromkeys(trials, float), spent=checkpoint.SPENT))
    best, *_ = ranked = sorted(trials, key=found["scores"].get)
    print("  validation score  learning rate  optimizer")
    for name in ranked:
        score, options = 1 - found["scores"][name], trials[name]
        print(f"  {score:16.1%}  {options.learning_rate:13g}  {options.optimizer}")
    if not checkpoint.newest(run.folder, evaluated=True):
        winner = checkpoint.best(folder / best)
        facts = winner.step, winner.spent, winner.scores, winner.values
        checkpoint.save(run.folder, *facts, model=winner.read("model"))
    for name in trials:  # their weights have done their work
        checkpoint.delete_after(folder / name, -1)
    return trials[best], found["spent"]


def conclude_finetuning(run: Run, config, spent: dict, task, rows: dict[str, dict]) -> None:
    """Print what each classifier does on the test texts, and write result.json: of labels also
    which texts were right, 1 or 0."""
    first = next(iter(rows.values()))
    used, _, summary = loop.summary(run)
    print(f"{summary}\n{task.part} part, of the first row in detail:")
    print(task.report(first))
    if task.part == "valid" and task.patience:
        print("these texts chose the checkpoint, so the figures flatter it: give --test")
    width, numbers = max(map(len, rows)), {}
    print(" " * width, *(heading for _, heading, _ in task.columns), sep="  ")
    for name, row in rows.items():
        cells = [f"{form.format(row[key]):>{len(head)}}" for key, head, form in task.columns]
        print(f"{name:{width}}", *cells, sep="  ")
        numbers[name] = {key: value for key, value in row.items() if isinstance(value, int | float)}
    right = {name: row["right"].tolist() for name, row in rows.items() if "right" in row}
    run.finish(dict(
        part=task.part, texts=len(task.examples[task.part]), rows=numbers, step=used.step,
        learning_rate=config.learning_rate, optimizer=config.optimizer, **spent, right=right,
    ))  # fmt: skip
    mistakes = f"; with its mistakes: python -m minilm view {run.folder}"
    print(f"page: {write_run_page(run)}" + mistakes * (config.task == "classify"))
    print(f"next: python -m minilm predict {run.folder} {task.example}")


def random_training(config, machine: Machine) -> Pretraining:
    """What the options train, on random tokens. Raises UserError where it does not fit here."""
    _, config = with_first_weights(config, machine)
    shape = shape_of(config, config.vocab_size, config.max_length)
    ordinary = np.arange(N_SPECIAL, config.vocab_size)
    tokenizer = SimpleNamespace(special=SpecialTokens(PAD, MASK, DOC, DOC, ordinary))
    tokens = np.random.default_rng(0).choice(ordinary, 2**20)
    windows = Windows(tokens.astype(np.uint16), config.max_length, 0)
    model = make_model(shape, config.seed, config.family)
    return Pretraining(model, config, windows, tokenizer, machine)
