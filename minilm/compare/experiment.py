"""A comparison from beginning to end. Its folder, besides report.html:

config.json   what was asked, and the plan: learning rates, steps of each arm
pretrain/     a run for each arm and seed, as train_pretrain.py makes them
jobs/         what each job found, per pair and text, for any other analysis
"""

import functools
import itertools
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from minilm import corpora
from minilm.cli.options import saved_options
from minilm.cli.scripts import checksum, fitting_length, open_run, write_down
from minilm.compare import arms, labels, outcomes
from minilm.compare.plan import BAG, Arm, CompareOptions, arm
from minilm.config import SIZES, ModelConfig, UserError
from minilm.corpora.files import normalised
from minilm.corpora.splits import divide, load
from minilm.corpora.tokens import prepare
from minilm.io.durable import write_file
from minilm.runs.device import Machine
from minilm.runs.loop import Stopped
from minilm.runs.run import Run, newest_run

RATES = Path(__file__).with_name("rates.json")  # both scripts' defaults; --sweep finds others
FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the size's learning rate, tried by --sweep
FINETUNING = (0.0015, 0.003, 0.006, 0.012, 0.024)  # learning rates tried by --sweep
SWEEP_SEEDS = (1_000_001, 1_000_002)  # that no comparison uses
CURVE = (100, 1000)  # numbers of labels for the frozen features, besides --labels
BAR = "{desc} |{bar}| {n:.1f} of {total} jobs, {elapsed}"


class Experiment:
    """The jobs of a comparison: each leaves a small JSON file, which a second call reads instead of
    doing the job again. One without a machine only reads."""

    def __init__(self, options: CompareOptions, folder: Path, machine: Machine | None = None):
        self.options, self.folder, self.machine = options, folder, machine
        self.bar, self.arms = tqdm(disable=True), [arm(name) for name in options.arms]
        self.seeds = range(options.seed, options.seed + options.seeds)
        self.plan = Run(folder).config["plan"] if (folder / "config.json").exists() else {}

    def prepare(self, run: Run) -> None:
        """Texts, labels, learning rates and budgets; written down, or held against what was."""
        options, size, machine = self.options, SIZES[self.options.size], self.machine
        source = pretraining_data(options.data, self.folder), size["vocab_size"]
        self.text = text = prepare(*source, run.tokenizer if options.resume else None)
        tokenizer, length = text.tokenizer, fitting_length(size["max_length"], text)
        width = (size[name] for name in ("d_model", "n_layers", "n_heads", "d_ff"))
        self.shape = ModelConfig(tokenizer.vocab_size, length, *width)
        most = min(options.max_length or length, length)
        self.task = labels.FewLabels(options.data, tokenizer, most, options.rows, machine)
        train, test = self.task.examples["train"], self.task.data["test"]
        fits = range(len(self.task.classes) + 1, len(train) + 1)
        self.sizes = [options.labels, *(n for n in CURVE if n in fits and n != options.labels)]
        self.grammar = outcomes.read_blimp(options.blimp, tokenizer, length)
        self.swaps = outcomes.make_swaps(text.valid, options.pairs, tokenizer.special)
        (self.folder / "jobs").mkdir(exist_ok=True)
        if not options.resume:
            steps, batch_size = options.pace()
            found = self.sweep(steps) if options.sweep else json.loads(RATES.read_text())["chosen"]
            lengths = [len(row.tokens) for row in test]
            self.plan = dict(
                rates=found, steps=arms.budgets(self, self.arms, steps, options.budget),
                batch_size=batch_size, machine=machine.why, train_tokens=len(text.train),
                valid_tokens=len(text.valid), unigram=text.unigram_entropy,
                classes=self.task.classes, rows=len(test), pairs=len(self.swaps.windows),
                mean_length=float(np.mean(lengths)), longest=most,
                row=next((i for i, n in enumerate(lengths) if 14 < n < 30), 0),
                share_cut=float(np.mean([row.cut for row in test])),
                grammar=[name for name, *_ in self.grammar], model=asdict(self.shape),
                command=" ".join(sys.argv[1:]),
            )  # fmt: skip
        facts = dict(kind="compare", family="ours", plan=self.plan)
        read = checksum(text.train), checksum(train)
        write_down(run, options, self.shape, tokenizer, machine, read, **facts)

    def begin(self, jobs: int) -> None:
        """Show a bar for so many jobs."""
        self.bar.close()
        self.bar = tqdm(total=jobs, bar_format=BAR, disable=None, leave=False)

    def job(self, of: str, seed: int, what: str, do):
        """What do(advance) finds, or found before. advance(share): so much of it is done."""
        path = self.folder / "jobs" / f"{what}-{of}-{seed}.json".replace(" ", "-")
        words, began, before = f"{of}, seed {seed}: {what}", time.perf_counter(), self.bar.n
        advance = lambda share: self.bar.update(before + share - self.bar.n)
        if not path.exists():
            if not self.machine:
                raise UserError(f"{path} is missing: the comparison is not finished: --resume it")
            self.bar.set_description_str(words)
            write_file(path, json.dumps(do(advance)).encode())
            if self.bar.disable:  # no terminal: a line a job
                print(f"{words}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        advance(1.0)
        return json.loads(path.read_text(encoding="utf-8"))

    def carry_out(self) -> None:
        """Every job, one seed after the other, so that what is there can be looked at early."""
        each_has = 3 + self.options.finetunings + bool(self.grammar)
        pretrained = sum(each.objective is not None for each in self.arms)
        self.begin(len(self.seeds) * (1 + pretrained + each_has * len(self.arms)))
        for seed in self.seeds:
            self.baseline(seed)
            for each in self.arms:
                self.measure(each, seed)

    def measure(self, each: Arm, seed: int) -> dict:
        """Do what there is to do with one pretraining. Returns what was found."""
        job, found, plan = functools.partial(self.job, each.name, seed), {}, self.plan
        folder, draws = self.folder / "pretrain" / f"{each.name}-{seed}", self.draws(seed)
        model = functools.cache(lambda: arms.pretrained(self, each, seed, folder))
        if each.objective:
            how = plan["steps"][each.name], plan["rates"]["pretraining"][each.objective], folder
            do = lambda advance: arms.pretrain(self, each, seed, *how, advance)
            found["pretraining"] = job("pretraining", do)
        do = lambda _: outcomes.swapped(model(), each, self.swaps, self.text.tokenizer.special)
        found["swapped"] = job("swapped neighbours", do)
        do = lambda draw: functools.partial(self.finetune, model, each, draw)
        found["labels"] = [job(f"fine-tuning {i}", do(draw)) for i, draw in enumerate(draws, 1)]
        do = lambda _: self.task.frozen(model(), self.sizes, draws[0])
        found["frozen"] = job("frozen features", do)
        found["inside"] = job("samples and attention", lambda _: self.inside(model(), each, seed))
        if plan["grammar"]:
            do = lambda _: outcomes.minimal_pairs(model(), each, self.grammar, self.text.tokenizer)
            found["grammar"] = job("minimal pairs", do)
        return found

    def draws(self, seed: int) -> list[int]:
        """The seeds of the label samples of a pretraining: the same for every arm."""
        return [1000 * seed + i for i in range(self.options.finetunings)]

    def baseline(self, seed: int) -> dict:
        """The same of the bag of tokens, whose only features are the tokens. Which of two
        neighbours comes first it can only guess: both windows have the same tokens."""

        def do(_) -> dict:
            draws, bag = self.draws(seed), self.task.bag_of_tokens
            found = [bag(self.sizes[0], draw) for draw in draws]
            others = {n: bag(n, draws[0])["right"] for n in self.sizes[1:]}
            return {"labels": found, "swapped": {"guessed": [0.5] * len(self.swaps.windows)},
                    "frozen": {"layers": [found[0]["right"]], "sizes": others}}  # fmt: skip

        return self.job(BAG, seed, "labels", do)

    def finetune(self, model, each: Arm, draw: int, advance) -> dict:
        """`FewLabels.results` of a fine-tuning; of the first also what deleting tokens does."""
        rate, task = self.plan["rates"]["finetuning"][each.objective or "scratch"], self.task
        classifier = task.finetune(model(), self.options.labels, draw, rate, advance)
        found = task.results(task.solve(classifier, task.data["test"], None))
        if draw == self.draws(self.seeds[0])[0]:
            found["deletion"] = task.deletion(classifier, self.plan["row"])
        if set(task.classes) == labels.SENTIMENT:
            found["her_minus_his"] = task.her_minus_his(classifier)
        return found

    def inside(self, model, each: Arm, seed: int) -> dict:
        """How far attention reaches; of the first seed also what it writes and fills in."""
        reach = functools.partial(outcomes.attention_distance, model, self.text.valid)
        found = {"distance": {how: reach(how == "causal") for how in each.reads}}
        if seed == self.seeds[0]:
            tokens = self.task.data["test"][self.plan["row"]].tokens[1:-1].astype(np.int64)
            found |= outcomes.samples(model, each, tokens, self.text.tokenizer)
        return found

    def sweep(self, steps: int) -> dict:
        """Learning rates for this data and size, in rates.json: the lowest validation loss after
        whole pretrainings, the fewest validation texts wrong after fine-tunings of the best."""
        base = SIZES[self.options.size]["learning_rate"]
        names = dict.fromkeys(each.objective or "scratch" for each in self.arms)
        tables, chosen = ({"pretraining": {}, "finetuning": {}} for _ in range(2))
        run = lambda name, rate, seed: self.folder / "sweep" / f"{name}-{rate}-{seed}"

        def loss(name: str, rate: float, seed: int, advance) -> float:
            how = arm(name), seed, steps, rate, run(name, rate, seed), advance
            return arms.pretrain(self, *how)["curve"][-1]["score"]

        def error(name: str, rate: float, seed: int, advance) -> float:
            best = run(name, chosen["pretraining"].get(name), seed)
            model, task = arms.pretrained(self, arm(name), seed, best), self.task
            classifier = task.finetune(model, self.options.labels, seed, rate, advance)
            found = task.results(task.solve(classifier, task.data["valid"], None), "valid")
            return found["right"].count(False) / len(found["right"])

        rates = [round(base * factor, 6) for factor in FACTORS]
        kinds = {"pretraining": (rates, loss), "finetuning": (FINETUNING, error)}
        self.begin(len(names) * (len(FACTORS) + len(FINETUNING)) * len(SWEEP_SEEDS))
        for name, (kind, (rates, score)) in itertools.product(names, kinds.items()):
            if (name, kind) == ("scratch", "pretraining"):
                continue
            table = tables[kind][name] = {rate: [] for rate in rates}
            for rate, seed in itertools.product(rates, SWEEP_SEEDS):
                do = functools.partial(score, name, rate, seed)
                table[rate].append(self.job(f"{name} {rate}", seed, f"sweep {kind}", do))
            chosen[kind][name] = min(rates, key=lambda rate, table=table: np.mean(table[rate]))
        found = dict(command="python -m minilm " + " ".join(sys.argv[1:]), chosen=chosen, **tables)
        write_file(self.folder / "rates.json", json.dumps(found, indent=1).encode())
        return chosen


def compare(options: CompareOptions) -> Experiment:
    """Do a comparison, or what is left of it; with --report only find it."""
    if options.report:
        run = Run(options.run or newest_run("compare"))
        flags = run.of_kind("compare")["flags"]
        return Experiment(saved_options(CompareOptions, flags), run.folder)
    run, options, machine = open_run(options, "compare")
    if machine.world > 1:
        raise UserError("a comparison runs in one process: start it without torchrun")
    experiment = Experiment(options, run.folder, machine)
    try:
        experiment.prepare(run)
        print(f"comparison: {run.folder}, {', '.join(options.arms)}; {machine.why}", flush=True)
        experiment.carry_out()
    except (Stopped, KeyboardInterrupt) as stopped:  # what goes on is all of it, not one run
        done = len(list(run.folder.glob("jobs/*.json")))
        stop = Stopped(getattr(stopped, "number", signal.SIGINT), done, run.folder)
        if not (run.folder / "config.json").exists():  # nothing but a sweep's jobs is there yet
            stop.args = (f"stopped: {done} jobs are saved, go on with the same command",)
        raise stop from None
    finally:
        experiment.bar.close()
        run.release()
    return experiment


def pretraining_data(name: str, folder: Path) -> list[str]:
    """What to pretrain on: a corpus without the texts that its labels are validated or tested on.
    (python-docs leaves them out by itself.)"""
    if name.startswith("python-docs"):
        return ["python-docs"]
    path = folder / "texts.jsonl"
    parts = divide(load(SimpleNamespace(task="classify", data=name, train=None)))
    held_out = {normalised(e.text) for part in ("valid", "test") for e in parts.get(part, ())}
    if not path.exists():
        kept = (text for text in corpora.documents([name]) if normalised(text) not in held_out)
        write_file(path, "\n".join(json.dumps({"text": text}) for text in kept).encode())
    return [str(path)]
