"""A comparison from beginning to end: it calls the two scripts. Its folder, besides the report:

config.json         what was asked, and the plan: arms, differences, predictions
labelled/           what fine-tunings learn from and are tested on
pretrain/, sweep/   a run for each arm and seed, as train_pretrain.py makes them
finetune/           a run for each of these and each draw of labels: result.json says what was right
jobs/               what each pretrained model answered
output.txt          what the scripts printed
"""

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minilm.cli import scripts
from minilm.cli.options import FinetuneConfig, PretrainConfig, saved_options
from minilm.compare import outcomes, plan
from minilm.compare.plan import CompareOptions
from minilm.config import UserError
from minilm.corpora.splits import load
from minilm.corpora.tokens import prepare
from minilm.io.durable import damage, read_json, write_file
from minilm.runs import checkpoint
from minilm.runs.loop import Stopped
from minilm.runs.pretraining import measured, one_of_each_kind
from minilm.runs.run import Run, make_model, newest_run

A_FINETUNING = 3600  # texts that one with few labels reads, about
BAR = "{desc} |{bar}| {percentage:.0f} %, {remaining} left"  # by what went before


class Experiment:
    """The jobs of a comparison. What is finished is not made again, what was interrupted goes on.
    calls: the scripts by name, pretrain and finetune; without them only what is there is read."""

    def __init__(self, options: CompareOptions, folder: Path, facts: dict, calls=None):
        self.options, self.folder, self.plan, self.calls = options, folder, facts, calls
        self.arms, self.device = facts["arms"], "cpu"
        self.expected, self.bar = {}, tqdm(disable=True)  # seconds, by folder
        self.seeds = range(options.seed, options.seed + options.seeds)
        self.trained = [name for name, flags in self.arms.items() if flags is not None]
        self.draws = [*map(str, range(options.finetunings)), *["tags"] * facts["tags"]]

    def folder_of(self, kind: str, name: str, *number) -> Path:
        """The run of an arm: pretrain, seed; finetune, seed, draw; sweep, times its rate."""
        if kind == "pretrain" and name not in self.trained:  # the one that has its shape
            name = self.trained[0]
        return self.folder / kind / "-".join(map(str, (name, *number)))

    def begin(self, machine) -> None:
        """Say how long it will take, and show it: what a step of each arm takes is measured."""
        found, times, a_token, self.device = {}, {}, 0.0, machine.device
        (self.folder / "jobs").mkdir(exist_ok=True)
        for name in self.trained:
            training = scripts.random_training(self.config(name), machine)
            rounds = one_of_each_kind(training.batch, training.plan.steps // 2)
            _, seconds, tokens, _ = measured(training, rounds, seconds=0.5)
            times[name] = 1.1 * seconds * training.plan.steps  # evaluations, too
            a_token = max(a_token, seconds / tokens)
            for factor in plan.SWEEP * self.options.sweep:
                found[self.folder_of("sweep", name, factor)] = times[name]
        texts = A_FINETUNING + self.plan["rows"] / 3  # a test is a third of the work
        a_finetuning = 2 + a_token * texts * self.plan["length"]
        for name in self.arms:
            for seed in self.seeds:
                drawn = (self.folder_of("finetune", name, seed, draw) for draw in self.draws)
                found |= dict.fromkeys(drawn, a_finetuning)
                if name in times:
                    found[self.folder_of("pretrain", name, seed)] = times[name]
        self.expected = {at: s for at, s in found.items() if not (at / "result.json").exists()}
        total = sum(self.expected.values())
        print(f"{self.folder}: {len(self.expected)} jobs, about {total / 60:.0f} minutes; "
              f"a pretraining: {', '.join(f'{name} {s:.0f} s' for name, s in times.items())}; "
              f"a fine-tuning: {a_finetuning:.0f} s", flush=True)  # fmt: skip
        self.bar = tqdm(total=total, bar_format=BAR, smoothing=0, disable=None, leave=False)

    @contextlib.contextmanager
    def during(self, folder: Path, words: str):
        """Within this context a job is done, whose output goes into a file. Gives the function that
        moves the bar to a share of it."""
        began, done, expected = time.perf_counter(), self.bar.n, self.expected.get(folder, 0.0)
        advance = lambda share: self.bar.update(done + share * expected - self.bar.n)
        self.bar.set_description_str(words)
        with (
            open(self.folder / "output.txt", "a", encoding="utf-8") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            yield advance
        advance(1.0)
        if self.bar.disable and expected:  # no terminal: a line a job
            print(f"{words}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)

    def measure(self, name: str, seed: int) -> dict:
        """All that is found of one pretraining: {"pretraining", "swapped", and by draw of the
        labels, or "tags": what fine-tuning left}."""
        found = dict(pretraining=self.pretrain(name, seed), swapped=self.ask(name, seed))
        return found | {draw: self.finetune(name, seed, draw) for draw in self.draws}

    def kept(self, path: Path, words: str, make, **shape) -> dict:
        """What a job left in a file of JSON, whose values are of these types. make(advance): do the
        job, where it is not there, or damaged. Raises UserError where that cannot be done."""
        try:
            return read_json(path, shape)
        except UserError as error:
            if not self.calls:
                raise UserError(f"{error}: go on with --resume, which makes it anew") from None
        with self.during(path.parent, words) as advance:
            make(advance)
        return read_json(path, shape)

    def run(self, which: str, folder: Path, config, **shape) -> dict:
        """The result.json of a run of a script; config(run=, resume=): its options."""
        there = (folder / "config.json").exists()
        make = lambda advance: self.calls[which](config(run=str(folder), resume=there), advance)
        return self.kept(folder / "result.json", f"{which} {folder.name}", make, **shape)

    def config(self, name: str, **more):
        """How an arm is pretrained."""
        return plan.config_of(self.arms, name, self.options, **more)

    def rates(self, name: str) -> dict[float, float]:
        """{learning rate: validation loss at the end} of an arm's sweep."""
        own, found = self.config(name).with_defaults().learning_rate, {}
        for factor in plan.SWEEP:
            rate, folder = float(f"{own * factor:.3g}"), self.folder_of("sweep", name, factor)
            how = dict(seed=plan.SWEEP_SEED, learning_rate=rate)
            config = functools.partial(self.config, name, **how)
            losses = self.run("pretrain", folder, config, losses=dict)["losses"]
            found[rate] = float(np.mean([v for k, v in losses.items() if k.endswith("_loss")]))
        return found

    def pretrain(self, name: str, seed: int) -> dict | None:
        """The result.json of a pretraining, its flags, its learning curve; of scratch nothing."""
        if name not in self.trained:
            return None
        folder, how = self.folder_of("pretrain", name, seed), dict(seed=seed)
        if self.options.sweep:
            found = self.rates(name)
            how["learning_rate"] = min(found, key=found.get)
        config, run = functools.partial(self.config, name, **how), Run(folder)
        shape = dict(tokens=int, targets=int, seconds=float, flops_per_second=float)
        result = self.run("pretrain", folder, config, **shape)
        facts, curve = run.of_kind("pretrain"), [x for x in run.metrics() if "score" in x]
        known = {key: facts.get(key) for key in ("flags", "train_tokens", "unigram_entropy")}
        return result | known | {"curve": curve}

    def ask(self, name: str, seed: int) -> dict:
        """What a model answers: {attention: 1 for each pair whose right order is likelier}."""
        run, trained = Run(self.folder_of("pretrain", name, seed)), name in self.trained
        path = self.folder / "jobs" / f"{name}-{seed}.json"

        def make(_) -> None:
            config, tokenizer = saved_options(PretrainConfig, run.config["flags"]), run.tokenizer
            reads = plan.READS[config.objective] if trained else ["causal"]
            new = lambda: make_model(run.model_config(), seed, config.family)
            model = (run.transformer() if trained else new()).to(self.device)
            text = prepare(config, tokenizer if config.init else None)
            swaps = outcomes.make_swaps(text.valid, self.options.pairs, tokenizer.special)
            found = outcomes.swapped(model, reads, config.shift, swaps, tokenizer.special)
            write_file(path, json.dumps({"swapped": found}).encode())

        return self.kept(path, f"questions to {path.stem}", make, swapped=dict)["swapped"]

    def finetune(self, name: str, seed: int, draw: str) -> dict:
        """The result.json of a fine-tuning on few labels; draw "tags": of tags for words."""
        folder, tags = self.folder_of("finetune", name, seed, draw), draw == "tags"
        bag = name == self.trained[0] and not tags
        labelled = self.folder / "labelled" / ("tag" if tags else "classify")
        files = {file.stem: str(file) for file in labelled.glob("*.jsonl")}
        same = {key: getattr(self.options, key)
                for key in ("labels", "max_length", "device", "precision", "compile")}  # fmt: skip
        config = functools.partial(
            FinetuneConfig, **files, **same, task=labelled.name,
            pretrained=str(self.folder_of("pretrain", name, seed)),
            from_scratch=name not in self.trained, baselines="bag" if bag else "none",
            seed=1000 * seed + (0 if tags else int(draw)),
        )  # fmt: skip
        found = self.run("finetune", folder, config, right=dict, rows=dict)
        if self.calls:  # its weights have done their work
            checkpoint.delete_after(folder, -1)
        return found


def compare(options: CompareOptions, **calls) -> Experiment:
    """Do a comparison, or what is left of it, by calls of the scripts (pretrain, finetune); with
    --report only find it."""
    if options.report:
        run = Run(options.run or newest_run("compare"))
        facts = run.of_kind("compare")
        with damage(f"{run.folder / 'config.json'} is damaged: use another run"):
            options = saved_options(CompareOptions, facts["flags"])
            return Experiment(options, run.folder, facts["plan"])
    arms = plan.arms_of(options)
    run, options, machine = scripts.open_run(options, "compare")
    with run, contextlib.ExitStack() as at_the_end:
        if machine.world > 1:
            raise UserError("a comparison runs in one process: start it without torchrun")
        precision = "float32" if machine.dtype.itemsize == 4 else "bfloat16"
        options = dataclasses.replace(options, precision=precision)
        if options.resume:
            facts = run.of_kind("compare")["plan"]
        else:
            facts = dict(labelled(options, run.folder), arms=arms, machine=machine.why,
                         command=" ".join(sys.argv[1:]),
                         questions=plan.questions(list(arms), options))  # fmt: skip
        experiment = Experiment(options, run.folder, facts, calls)
        init, config = scripts.with_first_weights(experiment.config(experiment.trained[0]), machine)
        text = prepare(config, init and init.tokenizer)
        shape = scripts.shape_of(config, text.tokenizer.vocab_size, config.max_length)
        what = dict(kind="compare", family=config.family, plan=facts)
        scripts.write_down(run, options, shape, text.tokenizer, machine, text.train, **what)
        try:
            experiment.begin(machine)
            at_the_end.callback(experiment.bar.close)
            for seed in experiment.seeds:  # one after the other: to be looked at early
                for name in dict.fromkeys([*experiment.trained, *experiment.arms]):
                    experiment.measure(name, seed)
        except (Stopped, KeyboardInterrupt) as stopped:  # what goes on is all of it, not one run
            stop = Stopped(getattr(stopped, "number", signal.SIGINT), 0, run.folder)
            stop.args = (f"stopped: go on with --run {run.folder} --resume",)
            raise stop from None
    return experiment


def labelled(options: CompareOptions, folder: Path) -> dict:
    """Write the labelled parts into the folder. Returns what the plan says of them. Raises
    UserError where the corpus has no labels, or nothing to test on."""
    facts = dict(tags=options.data == "python-docs")
    for task, data in dict(tag="python-docs-tags", classify=options.data).items():
        if task == "tag" and not facts["tags"]:
            continue
        parts = load(FinetuneConfig(task=task, data=data))
        if "test" not in parts:
            raise UserError(f"--data {data} has no texts to test on: choose another corpus")
        parts["test"] = parts["test"][: options.rows]
        for part, examples in parts.items():
            (place := folder / "labelled" / task).mkdir(parents=True, exist_ok=True)
            lines = "\n".join(json.dumps(example._asdict()) for example in examples)
            write_file(place / f"{part}.jsonl", lines.encode())
    texts, most = parts["test"], options.max_length or 1e9
    length = min(float(np.mean([len(example.text) / 4 for example in texts])), most)  # in tokens
    classes = len({example.label for example in parts["train"]})
    return facts | dict(rows=len(texts), classes=classes, length=length)
