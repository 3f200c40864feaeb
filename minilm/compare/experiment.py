"""A comparison from beginning to end. Its folder, besides report.html:

config.json   what was asked, and the plan: learning rates, steps of each arm
pretrain/     a run for each arm and seed, as train_pretrain.py makes them
jobs/         what each job found, per pair and text, for any other analysis
"""

import functools
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from minilm import corpora
from minilm.cli.scripts import checksum, fitting_length, open_run
from minilm.compare import arms, labels, outcomes
from minilm.compare.plan import Arm, CompareOptions, arm
from minilm.compare.work import Advance, Work
from minilm.config import SIZES, ModelConfig, UserError
from minilm.corpora.files import normalised
from minilm.corpora.splits import splits
from minilm.corpora.tokens import prepare
from minilm.model import Transformer
from minilm.runs.device import Machine, choose_machine
from minilm.runs.durable import write_file
from minilm.runs.run import Run
from minilm.runs.stopping import Stopped

RATES = Path(__file__).with_name("rates.json")  # both scripts' defaults; --sweep finds others
FACTORS = (0.5, 1.0, 2.0, 4.0)  # of the size's learning rate, tried by --sweep
FINETUNING = (0.0015, 0.003, 0.006, 0.012, 0.024)  # learning rates tried by --sweep
SWEEP_SEEDS = (1_000_001, 1_000_002)  # that no comparison uses
CURVE = (100, 1000)  # numbers of labels for the frozen features, besides --labels
TRAIN, JUDGE = 3, 60  # time, in tokens read: to train on a token, to judge a pair


class Experiment:
    """The jobs of a comparison: what they do, and what they found."""

    def __init__(self, options: CompareOptions, folder: Path, do: bool = True):
        self.options, self.folder, self.work = options, folder, Work(folder / "jobs", do)
        self.arms = [arm(name) for name in options.arms]
        self.seeds = range(options.seed, options.seed + options.seeds)
        self.model = functools.lru_cache(1)(self._model)  # the one that was used last is kept
        self.plan = Run(folder).config["plan"] if (folder / "config.json").exists() else {}

    def prepare(self, run: Run, machine: Machine) -> None:
        """Texts, labels, learning rates and budgets; written down, or held against what was."""
        options, size, old = self.options, SIZES[self.options.size], self.options.resume
        steps, batch_size = options.pace()
        source = pretraining_data(options.data, self.folder), size["vocab_size"]
        text = prepare(*source, run.tokenizer if old else None)
        length = fitting_length(size["max_length"], text)
        width = size["d_model"], size["n_layers"], size["n_heads"], size["d_ff"]
        shape = ModelConfig(text.tokenizer.vocab_size, length, *width)
        most = min(options.max_length or length, length)
        self.task = task = labels.read_task(options.data, text.tokenizer, most, options.rows)
        fits = range(len(task.classes) + 1, len(task.train) + 1)
        self.sizes = [n for n in CURVE if n in fits and n != options.labels]
        self.grammar = outcomes.read_blimp(options.blimp, text.tokenizer, length)
        swaps = outcomes.make_swaps(text.valid, options.pairs, text.tokenizer.special)
        how = options.size, options.compile, batch_size, machine, swaps
        self.bench = arms.Bench(text, shape, *how)
        sums = [checksum(text.train), checksum(task.train)]
        if old:
            if run.config["checksums"] != sums:
                raise UserError(f"{self.folder} was started with other texts: start a new one")
            return
        found = self.sweep(steps) if options.sweep else json.loads(RATES.read_text())["chosen"]
        lengths = [len(text) for text in task.test.tokens]
        self.plan = dict(
            rates=found, steps=arms.budgets(self.bench, self.arms, steps, options.budget),
            batch_size=batch_size, machine=machine.why, train_tokens=len(text.train),
            valid_tokens=len(text.valid), unigram=text.unigram_entropy, classes=task.classes,
            rows=len(lengths), pairs=len(swaps.windows), mean_length=float(np.mean(lengths)),
            row=next((i for i, n in enumerate(lengths) if 14 < n < 30), 0), longest=most,
            share_cut=task.test.share_cut, grammar=[name for name, *_ in self.grammar],
            model=asdict(shape), command=" ".join(sys.argv[1:]),
        )  # fmt: skip
        precision = str(machine.dtype).removeprefix("torch.")
        flags = asdict(options) | dict(run=str(self.folder), precision=precision)
        facts = dict(family="ours", flags=flags, model=asdict(shape), checksums=sums)
        run.create(dict(kind="compare", plan=self.plan, **facts), text.tokenizer)

    def carry_out(self) -> None:
        """Every job, one seed after the other, so that what is there can be looked at early."""
        costs = [cost for each in self.arms for _, _, cost, _ in self.jobs(each)]
        self.work.begin(len(self.seeds) * sum(costs))
        for seed in self.seeds:
            self.baseline(seed)
            for each in self.arms:
                self.measure(each, seed)

    def jobs(self, each: Arm) -> Iterator[tuple]:
        """The jobs of a pretraining: name, words for people, cost, do(arm, seed, advance)."""
        plan, tuning = self.plan, labels.TEXTS * self.plan["mean_length"] * TRAIN
        if each.objective:
            a_step = plan["batch_size"] * plan["model"]["max_length"] * TRAIN
            yield "pretraining", "pretraining", plan["steps"][each.name] * a_step, self.pretrain
        yield "swapped", "judging swapped neighbours", JUDGE * plan["pairs"], self.swapped
        for i in range(self.options.finetunings):
            do = functools.partial(self.finetune, i)
            yield f"labels-{i}", f"fine-tuning {i + 1}", tuning, do
        yield "frozen", "classifying its frozen features", tuning, self.frozen
        yield "inside", "writing, filling in, attending", 0, self.inside
        if plan["grammar"]:
            yield "grammar", "judging minimal pairs", 0, self.judge_grammar

    def measure(self, each: Arm, seed: int) -> dict:
        """What the jobs of one pretraining found, by their names; "labels": one a fine-tuning."""
        found, number = {}, f"{self.seeds.index(seed) + 1} of {len(self.seeds)}"
        for name, words, cost, do in self.jobs(each):
            words = f"{each.name}, seed {number}: {words}"
            job = functools.partial(do, each, seed)
            found[name] = self.work.job(f"{name}-{each.name}-{seed}", words, cost, job)
        found["labels"] = [found.pop(f"labels-{i}") for i in range(self.options.finetunings)]
        return found

    def baseline(self, seed: int) -> dict:
        """What the bag of tokens does with the same labels, and with swapped neighbours."""

        def do(advance: Advance) -> dict:
            task, text, draws = self.task, self.bench.text, self.draws(seed)
            counts = np.bincount(text.train, minlength=text.tokenizer.vocab_size)
            bag = lambda n, draw: labels.bag_of_tokens(task, task.draw(n, draw))
            return {"labels": [bag(self.options.labels, draw) for draw in draws],
                    "swapped": outcomes.swapped_bag(self.bench.swaps, counts),
                    "sizes": {n: bag(n, draws[0])["right"] for n in self.sizes}}  # fmt: skip

        return self.work.job(f"bag-{seed}", "bag of tokens", 0, do)

    def draws(self, seed: int) -> list[int]:
        """The seeds of the label samples of a pretraining: the same for every arm."""
        return [1000 * seed + i for i in range(self.options.finetunings)]

    def _model(self, each: Arm, seed: int) -> Transformer:
        return arms.pretrained(self.bench, each, seed, self._run(each, seed))

    def _run(self, each: Arm, seed: int) -> Path:
        return self.folder / "pretrain" / f"{each.name}-{seed}"

    def pretrain(self, each: Arm, seed: int, advance: Advance) -> dict:
        """See `arms.pretrain`."""
        how = self.plan["steps"][each.name], self.plan["rates"]["pretraining"][each.objective]
        return arms.pretrain(self.bench, each, seed, *how, self._run(each, seed), advance)

    def swapped(self, each: Arm, seed: int, advance: Advance) -> dict:
        """See `outcomes.swapped`."""
        how = self.model(each, seed), each, self.bench.swaps, self.task.tokenizer.special
        return outcomes.swapped(*how)

    def judge_grammar(self, each: Arm, seed: int, advance: Advance) -> list:
        """See `outcomes.minimal_pairs`."""
        how = self.model(each, seed), each, self.grammar, self.task.tokenizer
        return outcomes.minimal_pairs(*how)

    def finetune(self, i: int, each: Arm, seed: int, advance: Advance) -> dict:
        """`labels.results` of a fine-tuning; of the first also what deleting tokens does."""
        rate = self.plan["rates"]["finetuning"][each.objective or "scratch"]
        draw, task, model = self.draws(seed)[i], self.task, self.model(each, seed)
        texts = task.draw(self.options.labels, draw)
        classifier = labels.finetune(model, task, texts, rate, draw, self.bench.machine, advance)
        p = labels.probabilities(classifier, task.test.tokens)
        found = labels.results(task.test, p)
        if (seed, i) == (self.seeds[0], 0):
            found["deletion"] = labels.deletion(classifier, task, self.plan["row"])
        if set(task.classes) == labels.SENTIMENT:
            found["her_minus_his"] = labels.her_minus_his(classifier, task)
        return found

    def frozen(self, each: Arm, seed: int, advance: Advance) -> dict:
        """{"layers": right or not of each test text by each layer's features, "sizes": by the last
        layer's, with other numbers of labels}."""
        model, task, asked = self.model(each, seed), self.task, self.options.labels
        of_test, right = labels.features(model, task, task.test), {}
        for n in [asked, *self.sizes]:
            texts = task.draw(n, self.draws(seed)[0])
            of_train = labels.features(model, task, texts)
            layers = range(len(of_test)) if n == asked else [-1]
            guesses = [labels.probe(of_train[i], texts.labels, of_test[i]) for i in layers]
            right[n] = [(guess == task.test.labels).tolist() for guess in guesses]
        return {"layers": right.pop(asked), "sizes": {n: last for n, (last,) in right.items()}}

    def inside(self, each: Arm, seed: int, advance: Advance) -> dict:
        """How far attention reaches; of the first seed also what it writes and fills in."""
        model, text, found = self.model(each, seed), self.bench.text, {}
        if seed == self.seeds[0]:
            tokens = self.task.test.tokens[self.plan["row"]][1:-1].astype(np.int64)
            found = outcomes.samples(model, each, tokens, text.tokenizer)
        far = {h: outcomes.attention_distance(model, text.valid, h == "causal") for h in each.reads}
        return {**found, "distance": far}

    def sweep(self, steps: int) -> dict:
        """Learning rates for this data and size, in rates.json: the lowest validation loss after
        whole pretrainings, the fewest validation texts wrong after fine-tunings of the best."""
        task, bench, base = self.task, self.bench, SIZES[self.options.size]["learning_rate"]
        tables: dict = {"pretraining": {}, "finetuning": {}}
        chosen: dict = {"pretraining": {}, "finetuning": {}}
        names = dict.fromkeys(each.objective or "scratch" for each in self.arms)
        self.work.begin(len(names) * (len(FACTORS) + len(FINETUNING)) * len(SWEEP_SEEDS))

        def score(kind: str, name: str, rate: float, seed: int, advance: Advance) -> float:
            """The validation loss of a pretraining, or the error of a fine-tuning of the best."""
            best = rate if kind == "pretraining" else chosen["pretraining"].get(name)
            folder = self.folder / "sweep" / f"{name}-{best}-{seed}"
            if kind == "pretraining":
                how = arm(name), seed, steps, rate, folder, advance
                return arms.pretrain(bench, *how)["curve"][-1]["score"]
            model = arms.pretrained(bench, arm(name), seed, folder)
            how = task.draw(self.options.labels, seed), rate, seed, bench.machine, advance
            classifier = labels.finetune(model, task, *how)
            p = labels.probabilities(classifier, task.valid.tokens)
            return float((p.argmax(1) != task.valid.labels).mean())

        for name in names:
            tried = {"pretraining": [round(base * factor, 6) for factor in FACTORS]}
            for kind, rates in ({**tried, "finetuning": FINETUNING}).items():
                if kind == "finetuning" or arm(name).objective:
                    tables[kind][name] = table = {
                        rate: [self.work.job(f"sweep-{kind}-{name}-{rate}-{seed}",
                                             f"sweep: {kind}, {name}, {rate}", 1,
                                             functools.partial(score, kind, name, rate, seed))
                               for seed in SWEEP_SEEDS] for rate in rates}  # fmt: skip
                    means = {rate: np.mean(values) for rate, values in table.items()}
                    chosen[kind][name] = min(means, key=means.get)
        found = dict(command="python -m minilm " + " ".join(sys.argv[1:]), chosen=chosen, **tables)
        write_file(self.folder / "rates.json", json.dumps(found, indent=1).encode())
        return chosen


def compare(options: CompareOptions) -> Experiment:
    """Do a comparison, or what is left of it."""
    machine = choose_machine(options.device, options.precision)
    if machine.world > 1:
        raise UserError("a comparison runs in one process: start it without torchrun")
    run, options = open_run(options, "compare", machine)
    experiment = Experiment(options, run.folder)
    try:
        experiment.prepare(run, machine)
        print(f"comparison: {run.folder}, {', '.join(options.arms)}; {machine.why}", flush=True)
        experiment.carry_out()
    except (Stopped, KeyboardInterrupt) as stopped:  # what goes on is all of it, not one run
        done = len(list(run.folder.glob("jobs/*.json")))
        raise Stopped(getattr(stopped, "number", signal.SIGINT), done, run.folder) from None
    finally:
        experiment.work.bar.close()
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
