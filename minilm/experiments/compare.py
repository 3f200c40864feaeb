"""Which objective is better for what? `python -m minilm compare`: the same net, text, order of the
text and budget for every arm, then the same labels, and intervals on every difference.

The folder of a comparison:

config.json      what was asked for, sealed; a second call goes on where the first one stopped
pretrain/        one run folder for each arm and seed, as train_pretrain.py makes them
jobs/            one small JSON file for each fine-tuning that is done
results.json     everything below; tables.md and report.html are made from it alone

results.json, where ARM is a name in "arms" and a "draw" is one sample of the labels with one seed
(accuracies are shares of 1, losses nats a target):

    {"format": 1,
     "card": {"command", "size", "data", "quick", "budget", "shape": {ModelConfig's fields},
              "parameters", "steps", "train_tokens", "valid_tokens", "tokens", "flops",
              "seconds", "watts", "watts_source", "watt_hours", "threads", "machine",
              "seeds", "pretrainings", "versions": {name: version}, "data_hash",
              "labels": {"train", "valid", "test"}, "length", "classes": [names]},
     "arms": ["scratch", "causal", ...],        in the order in which to show them
     "baselines": ["majority class", "bag of words"],      the second only with scikit-learn
     "about": {ARM or baseline: one line on what it is},
     "readings": {ARM: ["causal"] or ["masked"] or both},   what its loss is measured as
     "lines": {"unigram", "trigram"},           what counting words reaches on validation text
     "pretraining": {ARM: [one a pretraining: {"seed", "learning_rate", "steps", "tokens",
                           "targets", "flops", "seconds", "epochs", "run": folder,
                           "curve": [{"step", "tokens", "targets", "flops", "seconds",
                                      "causal_loss"?, "masked_loss"?, "bits_per_byte"?,
                                      "masked_accuracy"?}]}]},          not for "scratch"
     "pretraining_sweep": {"rates": [r, ...], "steps": {ARM: n}, "loss": {ARM: [validation, one a
                           rate]}, "chosen": {ARM: r}},
     "sweep": {"labels": N, "rates": [r, ...], "accuracy": {ARM: [validation, one a rate]},
               "chosen": {ARM: r}},
     "label_curve": {"sizes": [100, ...], "draws": [10, ...],
                     "accuracy": {ARM or baseline: [[one a draw], one list a size]},
                     "mean": {ARM or baseline: [one a size]},
                     "low", "high": likewise, a t-interval over draws (null for a single draw),
                     "labels_saved": {ARM but scratch: [{"labels", "scratch_needs", "saved"},
                                      one a size; null where scratch never gets there]}},
     "axes": {"labels": N, "points": [{"arm", "seed", "share": of the pretraining (0.0, 0.5, 1.0),
                                       "tokens", "targets", "flops", "seconds", "accuracy"}]},
     "finals": {"labels": N, "rows": N,
                "truth": [a class number a test row],
                "runs": {ARM or baseline: [{"seed", "accuracy", "macro_f1",
                                            "predicted": [a class number a row]}]},
                "mean": {...: x}, "row_interval": {...: [low, high]}, a bootstrap over test rows
                "seed_interval": {...: [low, high] or null}},         t over seeds
     "verdicts": [{"a", "b", "difference": accuracy a - b, "rows": [low, high],
                   "seeds": [low, high] or null, "mcnemar": [p, one a seed],
                   "verdict": "real" or "undecided"}],     each pair once, baselines too
     "pooling": {"labels": N, "settings": ["mean/bidirectional", "last/causal", ...],
                 "accuracy": {ARM: [[one a draw], one list a setting]}},
     "pairs": {"counts": {phenomenon: minimal pairs}, "examples": {phenomenon: [right, wrong]},
               "rows": {"unigram" or "trigram": {phenomenon: share right}}},
     "analyses": {ARM: what analyses.analyse returned},
     "answers": [{"question", "answer"}]}

A key whose part has not been reached yet is absent: a report can be drawn at any time.
"""

import dataclasses
import json
import platform
import zlib
from pathlib import Path

import numpy as np
import torch

import minilm
from minilm.config import SIZES, PretrainConfig, UserError, flag_name, resumed
from minilm.data import prepare
from minilm.device import choose_machine
from minilm.durable import write_file
from minilm.experiments import compare_report, summary, tables, yardsticks
from minilm.experiments.arms import Bench
from minilm.experiments.compare_config import CompareConfig, about
from minilm.experiments.estimate import WATTS, count_parameters, energy_counters, watts_between
from minilm.experiments.experiment import Experiment
from minilm.experiments.finetuning import RATES, SETTINGS, encode_task, read_labels
from minilm.experiments.work import Work, shown
from minilm.model import training_flops
from minilm.runs import Run, new_folder, runs_of
from minilm.stopping import Stopped


def compare(config: CompareConfig) -> None:
    """Do the whole comparison, or what is left of it. Writes results.json and tables.md after every
    arm, report.html at the end. Raises UserError, and Stopped where a signal came."""
    given, resume = config.given, config.resume
    run = Run(config.run or (_newest() if resume else new_folder("compare")))
    config = config.with_defaults()
    config.given = given
    if resume:
        if run.config["kind"] != "compare":
            raise UserError(f"{run.folder} is a {run.config['kind']} run, not a comparison")
        config = resumed(config, run.config["flags"])
    machine = choose_machine(config.device, config.precision)
    if machine.world > 1:
        raise UserError("a comparison runs in one process: start it without torchrun")
    examples, classes = read_labels(config.data)
    run.claim(resume)

    given_plan = dict(steps=config.steps, batch_size=config.batch_size)
    pretrain = PretrainConfig(
        data=[config.data], objective="causal", size=config.size, evaluations=1, **given_plan,
        precision="bfloat16" if machine.bfloat16 else "float32", compile=config.compile,
    ).with_defaults()  # fmt: skip
    text = prepare(pretrain.data, pretrain.vocab_size, run.tokenizer if resume else None)
    bench = Bench(config, pretrain, text, machine)
    task = encode_task(examples, classes, text.tokenizer, config.length, machine)
    checksum = zlib.crc32(repr(sorted(task.examples.items())).encode("utf-8", "surrogatepass"),
                          zlib.crc32(text.train))  # fmt: skip
    if not resume:
        config.precision, config.run = pretrain.precision, str(run.folder)
        facts = dict(flags=dataclasses.asdict(config), model=dataclasses.asdict(bench.shape))
        run.create(dict(kind="compare", checksum=checksum, **facts), text.tokenizer)
    elif run.config["checksum"] != checksum:
        raise UserError(f"{run.folder} was started with other texts: start a new comparison")
    print(f"comparison: {run.folder}, {', '.join(config.arms)}; {machine.why}", flush=True)

    work = Work(run.folder / "jobs")
    try:
        with shown(work, 1.0):
            experiment = Experiment(bench, task, work, run.folder)
        with shown(work, sum(experiment.cost(arm) for arm in config.arms)):
            results = carry_out(experiment, run)
    except Stopped as stopped:  # what goes on is the comparison, not the pretraining
        raise Stopped(stopped.number, stopped.step, run.folder) from None
    except KeyboardInterrupt:
        print(f"go on with python -m minilm compare --run {run.folder} --resume")
        raise
    print(tables.all_tables(results))
    try:
        compare_report.write_report(results, run.folder / "report.html")
    except UserError as missing:  # matplotlib
        print(missing)
        return
    print(f"the report: {run.folder / 'report.html'}; its figures: {run.folder / 'results.json'}")


def carry_out(experiment: Experiment, run: Run) -> dict:
    """The baselines, then every arm. Returns results.json, which is written after each arm."""
    config, task, before = experiment.config, experiment.task, energy_counters()
    truth = task.encoded["test"].labels[: config.final_rows].tolist()
    results: dict = {"format": 1, "arms": [], "baselines": [], "about": {}, "readings": {}}
    results["lines"] = yardsticks.lines(experiment)
    results["pairs"] = yardsticks.counted_pairs(experiment)
    curve: dict[str, list[list[dict]]] = {}
    for name, what in yardsticks.BASELINES.items():
        if found := yardsticks.baseline(experiment, name):
            curve[name] = found
            results["baselines"].append(name)
            results["about"][name] = what
    pretraining, first_sweep, sweep, halves, pooling, analyses = {}, {}, {}, {}, {}, {}
    for arm in config.arms:
        if losses := experiment.pretraining_sweep(arm):
            first_sweep[arm] = losses
        pretraining[arm] = experiment.pretrain(arm)
        sweep[arm] = experiment.sweep(arm)
        rate = RATES[int(np.argmax(sweep[arm]))]
        pooling[arm] = experiment.pooling(arm, rate)
        halves[arm] = experiment.half_way(arm, rate)
        curve[arm] = experiment.curve(arm, rate)
        analyses[arm] = experiment.analyse(arm, rate)

        results["arms"].append(arm)
        results["about"][arm] = about(arm)
        if arm != "scratch":
            results["readings"][arm] = summary.readings(arm)
        results["pretraining"] = {name: runs for name, runs in pretraining.items() if runs}
        results["pretraining_sweep"] = {
            "rates": experiment.pretraining_rates(),
            "steps": {name: experiment.trial_steps(name) for name in first_sweep},
            "loss": first_sweep,
            "chosen": {name: experiment.pretraining_rate(name) for name in first_sweep},
        }
        results["sweep"] = {
            "labels": experiment.middle,
            "rates": list(RATES),
            "accuracy": sweep,
            "chosen": {name: RATES[int(np.argmax(a))] for name, a in sweep.items()},
        }
        results["label_curve"] = summary.label_curve(experiment.sizes, curve)
        results["label_curve"]["labels_saved"] = summary.labels_saved(
            results["label_curve"], results["arms"]
        )
        ordered = [*results["arms"], *results["baselines"]]
        finals = {name: curve[name][-1] for name in ordered}
        results["finals"] = summary.final_test(experiment.sizes[-1], truth, finals)
        results["verdicts"] = summary.verdicts(truth, finals)
        middle = {name: curve[name][experiment.sizes.index(experiment.middle)] for name in sweep}
        results["axes"] = {
            "labels": experiment.middle,
            "points": summary.axes(pretraining, halves, middle, config.pretrainings),
        }
        results["pooling"] = {
            "labels": experiment.sizes[0],
            "settings": ["/".join(setting) for setting in SETTINGS],
            "accuracy": pooling,
        }
        results["analyses"] = analyses
        results["card"] = run_card(experiment, results, before)
        results["answers"] = summary.answers(results, times_of_sizes(results))
        write(run.folder, results)
    return results


def write(folder: Path, results: dict) -> None:
    """Write results.json and what is made from it."""
    write_file(folder / "results.json", json.dumps(results).encode())
    write_file(folder / "tables.md", tables.all_tables(results).encode())


def run_card(experiment: Experiment, results: dict, before: list) -> dict:
    """The "card" of results.json."""
    config, bench, task = experiment.config, experiment.bench, experiment.task
    runs = [run for of_arm in results["pretraining"].values() for run in of_arm]
    seconds, threads = experiment.work.seconds(), torch.get_num_threads()
    kind = bench.machine.device.type
    watts = watts_between(before, energy_counters(), experiment.work.elapsed())
    source = "the processor's energy counter"
    if not watts:
        cores = threads if kind == "cpu" else 1
        watts, source = WATTS[kind] * cores, f"assumed: {WATTS[kind]} W for each of {cores}"
    return {
        "command": f"python -m minilm compare {flags(config)}".strip(),
        "size": config.size,
        "data": config.data,
        "quick": config.quick,
        "budget": config.budget,
        "shape": dataclasses.asdict(bench.shape),
        "parameters": count_parameters(bench.shape),
        "steps": bench.pretrain.steps,
        "train_tokens": len(bench.text.train),
        "valid_tokens": len(bench.text.valid),
        "tokens": sum(run["tokens"] for run in runs),
        "flops": sum(run["flops"] for run in runs),
        "seconds": seconds,
        "watts": watts,
        "watts_source": source,
        "watt_hours": watts * seconds / 3600,
        "threads": threads,
        "machine": bench.machine.why,
        "seeds": config.seeds,
        "pretrainings": config.pretrainings,
        "versions": {
            "minilm": minilm.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "data_hash": f"{Run(experiment.folder).config['checksum']:08x}",
        "labels": {part: len(texts) for part, texts in task.examples.items()},
        "length": config.length,
        "classes": task.classes,
    }


def flags(config: CompareConfig) -> str:
    """The flags that make this comparison again, but for what --full and --size say anyhow."""
    decisive = CompareConfig(full=config.full, size=config.size).with_defaults()
    said, unsaid = [], ("run", "resume", "given", "quick", "precision")
    for name, value in vars(config).items():
        plain = CompareConfig() if name in ("full", "size") else decisive
        if name in unsaid or value == getattr(plain, name):
            continue
        text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
        said.append(flag_name(name) + f" {text}" * (value is not True))
    return " ".join(said)


def times_of_sizes(results: dict) -> list[dict]:
    """How long the default causal pretraining of each size would take at this speed."""
    runs = results["pretraining"].get("causal")
    if not runs:
        return []
    rate = sum(run["flops"] for run in runs) / sum(run["seconds"] for run in runs)
    planned = []
    for size in SIZES:
        p = PretrainConfig(size=size).with_defaults()
        tokens = p.steps * p.batch_size * p.max_length
        flops = training_flops(p.model(p.vocab_size), tokens, tokens, p.max_length)
        planned.append({"size": size, "seconds": flops / rate})
    return planned


def _newest() -> Path:
    found = runs_of("compare")
    if not found:
        raise UserError("there is no comparison in runs/ yet: start one without --resume")
    return found[-1]
