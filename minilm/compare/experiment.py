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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minilm import corpora
from minilm.cli.options import saved_options
from minilm.cli.scripts import checksum, fitting_length, open_run
from minilm.compare import arms, labels, outcomes
from minilm.compare.plan import Arm, CompareOptions, arm
from minilm.config import SIZES, ModelConfig, UserError
from minilm.corpora.files import normalised
from minilm.corpora.splits import splits
from minilm.corpora.tokens import prepare
from minilm.model import Transformer
from minilm.runs.device import Machine
from minilm.runs.durable import write_file
from minilm.runs.loop import Stopped
from minilm.runs.run import Run, newest_run

RATES = Path(__file__).with_name("rates.json")  # both scripts' defaults; --sweep finds others
FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the size's learning rate, tried by --sweep
FINETUNING = (0.0015, 0.003, 0.006, 0.012, 0.024)  # learning rates tried by --sweep
SWEEP_SEEDS = (1_000_001, 1_000_002)  # that no comparison uses
CURVE = (100, 1000)  # numbers of labels for the frozen features, besides --labels
TRAIN, JUDGE = 3, 60  # time, in tokens read: to train on a token, to judge a pair
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"


class Experiment:
    """The jobs of a comparison: each leaves a small JSON file, which a second call reads instead of
    doing the job again. One that is not prepared only reads."""

    machine = None

    def __init__(self, options: CompareOptions, folder: Path):
        self.options, self.folder, self.bar = options, folder, tqdm(disable=True)
        self.arms = [arm(name) for name in options.arms]
        self.seeds = range(options.seed, options.seed + options.seeds)
        self.plan = Run(folder).config["plan"] if (folder / "config.json").exists() else {}

    def prepare(self, run: Run, machine: Machine) -> None:
        """Texts, labels, learning rates and budgets; written down, or held against what was."""
        options, size, old = self.options, SIZES[self.options.size], self.options.resume
        steps, batch_size = options.pace()
        source = pretraining_data(options.data, self.folder), size["vocab_size"]
        self.text = text = prepare(*source, run.tokenizer if old else None)
        tokenizer, length = text.tokenizer, fitting_length(size["max_length"], text)
        width = (size[name] for name in ("d_model", "n_layers", "n_heads", "d_ff"))
        self.shape = ModelConfig(tokenizer.vocab_size, length, *width)
        most = min(options.max_length or length, length)
        self.task = task = labels.Task(options.data, tokenizer, most, options.rows, machine)
        fits = range(len(task.classes) + 1, len(task.train) + 1)
        self.sizes = [options.labels, *(n for n in CURVE if n in fits and n != options.labels)]
        self.grammar = outcomes.read_blimp(options.blimp, tokenizer, length)
        self.swaps = outcomes.make_swaps(text.valid, options.pairs, tokenizer.special)
        self.machine = machine
        (self.folder / "jobs").mkdir(exist_ok=True)
        sums = [checksum(text.train), checksum(task.train)]
        if old:
            if run.config["checksums"] != sums:
                raise UserError(f"{self.folder} was started with other texts: start a new one")
            return
        found = self.sweep(steps) if options.sweep else json.loads(RATES.read_text())["chosen"]
        lengths = [len(text) for text in task.test.tokens]
        self.plan = dict(
            rates=found, steps=arms.budgets(self, self.arms, steps, options.budget),
            batch_size=batch_size, machine=machine.why, train_tokens=len(text.train),
            valid_tokens=len(text.valid), unigram=text.unigram_entropy, classes=task.classes,
            rows=len(lengths), pairs=len(self.swaps.windows), mean_length=float(np.mean(lengths)),
            row=next((i for i, n in enumerate(lengths) if 14 < n < 30), 0), longest=most,
            share_cut=task.test.share_cut, grammar=[name for name, *_ in self.grammar],
            model=asdict(self.shape), command=" ".join(sys.argv[1:]),
        )  # fmt: skip
        precision = str(machine.dtype).removeprefix("torch.")
        flags = asdict(options) | dict(run=str(self.folder), precision=precision)
        facts = dict(family="ours", flags=flags, model=asdict(self.shape), checksums=sums)
        run.create(dict(kind="compare", plan=self.plan, **facts), tokenizer)

    def begin(self, cost: float) -> None:
        """Show a bar for jobs that cost so much in all, in whatever unit `job` gets."""
        self.bar.close()
        self.bar = tqdm(total=cost, bar_format=BAR, disable=None, leave=False)

    def job(self, name: str, words: str, cost: float, do: Callable[[Callable], object]):
        """What do(advance) finds, or found before; `words`: what is being done, for people;
        advance(the share that is done) moves the bar."""
        path, began, before = self.folder / f"jobs/{name}.json", time.perf_counter(), self.bar.n
        advance = lambda share: self.bar.update(before + share * cost - self.bar.n)
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
        costs = [cost for each in self.arms for _, _, cost, _ in self.jobs(each, self.seeds[0])]
        self.begin(len(self.seeds) * sum(costs))
        for seed in self.seeds:
            self.baseline(seed)
            for each in self.arms:
                self.measure(each, seed)

    def measure(self, each: Arm, seed: int) -> dict:
        """What the jobs of one pretraining found, by their names; "labels": one a fine-tuning."""
        found, of = {}, f"{each.name}, seed {self.seeds.index(seed) + 1} of {len(self.seeds)}"
        for name, words, cost, do in self.jobs(each, seed):
            found[name] = self.job(f"{name}-{each.name}-{seed}", f"{of}: {words}", cost, do)
        found["labels"] = [found.pop(f"labels-{i}") for i in range(self.options.finetunings)]
        return found

    def jobs(self, each: Arm, seed: int) -> Iterator[tuple]:
        """The jobs of a pretraining: name, words for people, cost, do(advance)."""
        plan, tuning = self.plan, labels.TEXTS * self.plan["mean_length"] * TRAIN
        folder = self.folder / "pretrain" / f"{each.name}-{seed}"
        model = functools.cache(lambda: arms.pretrained(self, each, seed, folder))
        if each.objective:
            how = plan["steps"][each.name], plan["rates"]["pretraining"][each.objective], folder
            cost = how[0] * plan["batch_size"] * plan["model"]["max_length"] * TRAIN
            do = lambda advance: arms.pretrain(self, each, seed, *how, advance)
            yield "pretraining", "pretraining", cost, do
        do = lambda _: outcomes.swapped(model(), each, self.swaps, self.text.tokenizer.special)
        yield "swapped", "judging swapped neighbours", JUDGE * plan["pairs"], do
        for i, draw in enumerate(self.draws(seed)):
            do = lambda advance, draw=draw: self.finetune(model(), each, draw, advance)
            yield f"labels-{i}", f"fine-tuning {i + 1}", tuning, do
        do = lambda _: labels.frozen(model(), self.task, self.sizes, self.draws(seed)[0])
        yield "frozen", "classifying its frozen features", tuning, do
        do = lambda _: self.inside(model(), each, seed)
        yield "inside", "writing, filling in, attending", 0, do
        if plan["grammar"]:
            do = lambda _: outcomes.minimal_pairs(model(), each, self.grammar, self.text.tokenizer)
            yield "grammar", "judging minimal pairs", 0, do

    def draws(self, seed: int) -> list[int]:
        """The seeds of the label samples of a pretraining: the same for every arm."""
        return [1000 * seed + i for i in range(self.options.finetunings)]

    def baseline(self, seed: int) -> dict:
        """What the bag of tokens does with the same labels. Which of two neighbours comes first it
        can only guess: both windows have the same tokens."""

        def do(_) -> dict:
            draws, bag = self.draws(seed), functools.partial(labels.bag_of_tokens, self.task)
            return {"labels": [bag(self.sizes[0], draw) for draw in draws],
                    "swapped": [0.5] * len(self.swaps.windows),
                    "sizes": {n: bag(n, draws[0])["right"] for n in self.sizes[1:]}}  # fmt: skip

        return self.job(f"bag-{seed}", "bag of tokens", 0, do)

    def finetune(self, model: Transformer, each: Arm, draw: int, advance: Callable) -> dict:
        """`labels.results` of a fine-tuning; of the first also what deleting tokens does."""
        rate, task = self.plan["rates"]["finetuning"][each.objective or "scratch"], self.task
        classifier = labels.finetune(model, task, self.options.labels, draw, rate, advance)
        found = labels.results(task, labels.probabilities(classifier, task.test.tokens))
        if draw == self.draws(self.seeds[0])[0]:
            found["deletion"] = labels.deletion(classifier, task, self.plan["row"])
        if set(task.classes) == labels.SENTIMENT:
            found["her_minus_his"] = labels.her_minus_his(classifier, task)
        return found

    def inside(self, model: Transformer, each: Arm, seed: int) -> dict:
        """How far attention reaches; of the first seed also what it writes and fills in."""
        reach = functools.partial(outcomes.attention_distance, model, self.text.valid)
        found = {"distance": {how: reach(how == "causal") for how in each.reads}}
        if seed == self.seeds[0]:
            tokens = self.task.test.tokens[self.plan["row"]][1:-1].astype(np.int64)
            found |= outcomes.samples(model, each, tokens, self.text.tokenizer)
        return found

    def sweep(self, steps: int) -> dict:
        """Learning rates for this data and size, in rates.json: the lowest validation loss after
        whole pretrainings, the fewest validation texts wrong after fine-tunings of the best."""
        base = SIZES[self.options.size]["learning_rate"]
        names = dict.fromkeys(each.objective or "scratch" for each in self.arms)
        tables: dict = {"pretraining": {}, "finetuning": {}}
        chosen: dict = {"pretraining": {}, "finetuning": {}}
        run = lambda name, rate, seed: self.folder / "sweep" / f"{name}-{rate}-{seed}"

        def loss(name: str, rate: float, seed: int, advance: Callable) -> float:
            how = arm(name), seed, steps, rate, run(name, rate, seed), advance
            return arms.pretrain(self, *how)["curve"][-1]["score"]

        def error(name: str, rate: float, seed: int, advance: Callable) -> float:
            best = run(name, chosen["pretraining"].get(name), seed)
            model, task = arms.pretrained(self, arm(name), seed, best), self.task
            classifier = labels.finetune(model, task, self.options.labels, seed, rate, advance)
            p = labels.probabilities(classifier, task.valid.tokens)
            return float((p.argmax(1) != task.valid.labels).mean())

        kinds = {"pretraining": ([round(base * factor, 6) for factor in FACTORS], loss),
                 "finetuning": (FINETUNING, error)}  # fmt: skip
        self.begin(len(names) * (len(FACTORS) + len(FINETUNING)) * len(SWEEP_SEEDS))
        for name, (kind, (rates, score)) in itertools.product(names, kinds.items()):
            if (name, kind) == ("scratch", "pretraining"):
                continue
            table = tables[kind][name] = {rate: [] for rate in rates}
            for rate, seed in itertools.product(rates, SWEEP_SEEDS):
                job, words = f"sweep-{kind}-{name}-{rate}-{seed}", f"sweep: {kind}, {name}, {rate}"
                do = functools.partial(score, name, rate, seed)
                table[rate].append(self.job(job, words, 1, do))
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
    experiment = Experiment(options, run.folder)
    try:
        experiment.prepare(run, machine)
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
    path, (parts, _) = folder / "texts.jsonl", splits(name)
    held_out = {normalised(e.text) for part in ("valid", "test") for e in parts.get(part, ())}
    if not path.exists():
        kept = (text for text in corpora.documents([name]) if normalised(text) not in held_out)
        write_file(path, "\n".join(json.dumps({"text": text}) for text in kept).encode())
    return [str(path)]
