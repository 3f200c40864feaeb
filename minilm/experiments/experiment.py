"""The jobs of a comparison, arm by arm: pretrain, sweep the learning rate, then fine-tune for every
number of labels and every draw. Each is done once, whenever the comparison was interrupted."""

import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from minilm.config import UserError
from minilm.data import evaluation_windows
from minilm.experiments import minimal_pairs
from minilm.experiments.analyses import Pretrained, analyse
from minilm.experiments.arms import (
    FACTORS,
    TRIAL,
    Bench,
    objective_of,
    plan_steps,
    pretrain,
    share_of_targets,
    try_rate,
)
from minilm.experiments.compare_config import CompareConfig
from minilm.experiments.estimate import mean_mask_rate
from minilm.experiments.finetuning import (
    RATES,
    SETTINGS,
    LabelledTask,
    finetune,
    tested,
)
from minilm.experiments.work import Steps, Work
from minilm.heads import Classifier
from minilm.model import Transformer, training_flops
from minilm.runs import Run

COUNTED = 2**23  # tokens of the text that words are counted in


class Experiment:
    """A comparison's jobs, in the folder of a comparison."""

    def __init__(self, bench: Bench, task: LabelledTask, work: Work, folder: Path):
        self.bench, self.task, self.work, self.folder = bench, task, work, folder
        self.config: CompareConfig = bench.config
        self.sizes = sample_sizes(self.config.labels, task)
        self.middle = self.sizes[(len(self.sizes) - 1) // 2]
        self.steps = work.job("plan", 0, lambda advance: {"steps": plan_steps(bench)})["steps"]
        self.weights = functools.lru_cache(maxsize=8)(self._weights)
        self._last: tuple[str, Classifier] | None = None

    # What there is to do

    @property
    def seeds(self) -> range:
        """The seeds of fine-tuning; of the fewest labels there are more draws."""
        return range(self.config.seeds)

    def draws(self, labels: int) -> range:
        """The draws of so many labels, shared by the arms."""
        return range(self.config.draws) if labels == self.sizes[0] else self.seeds

    def test_rows(self, labels: int) -> int:
        """How many test texts a classifier of so many labels is asked, the first ones: those that
        are in the final test are asked more."""
        config = self.config
        return config.final_rows if labels == self.sizes[-1] else config.test_rows

    def cost(self, arm: str) -> float:
        """About the FLOPs of all that an arm takes."""
        tuned = [self.tuning_cost(n) * len(self.draws(n)) for n in self.sizes]
        rest = self.tuning_cost(self.middle) * (len(RATES) - 1)
        rest += self.tuning_cost(self.sizes[0]) * (len(SETTINGS) - 1) * len(self.seeds)
        pretrained = self.pretraining_cost(arm) * self.config.pretrainings
        if self.chooses_rate(arm):
            pretrained += len(FACTORS) * self.trial_steps(arm) * self.step_flops(arm)
        if arm != "scratch":  # what half of it is worth
            rest += self.tuning_cost(self.middle) * len(self.draws(self.middle))
        return pretrained + sum(tuned) + rest

    def chooses_rate(self, arm: str) -> bool:
        """Whether an arm has a learning rate of pretraining of its own."""
        return arm not in ("scratch", "causal-then-masked")

    def trial_steps(self, arm: str) -> int:
        """How many steps each learning rate is tried for."""
        return max(1, self.steps[arm] // TRIAL)

    def pretraining_cost(self, arm: str) -> float:
        """The FLOPs of one pretraining of an arm."""
        return 0.0 if arm == "scratch" else self.steps_to_do(arm) * self.step_flops(arm)

    def steps_to_do(self, arm: str) -> int:
        """Of its own: the causal-then-masked arm inherits half of causal's."""
        inherited = self.steps["causal"] // 2 if arm == "causal-then-masked" else 0
        return self.steps[arm] - inherited

    def step_flops(self, arm: str) -> float:
        """The expected FLOPs of a step of pretraining."""
        pre = self.bench.pretrain
        tokens = pre.batch_size * pre.max_length
        targets = tokens * share_of_targets(arm, mean_mask_rate(pre))
        return training_flops(self.bench.shape, tokens, targets, pre.max_length)

    def tuning_cost(self, labels: int) -> float:
        """The FLOPs of a fine-tuning and its test (forward only, a third of a training step's)."""
        lengths = [len(text) for text in self.task.encoded["train"].tokens]
        read = labels * self.config.epochs_for(labels)
        read += min(self.test_rows(labels), len(self.task.encoded["test"].tokens)) / 3
        return self.token_flops() * read * float(np.mean(lengths))

    def token_flops(self) -> float:
        """The FLOPs of fine-tuning on one token."""
        return training_flops(self.bench.shape, 1, 0, self.task.recipe.max_length)

    # Doing it

    def pretraining_rates(self) -> list[float]:
        """The learning rates that each arm's pretraining is tried with."""
        return [factor * self.bench.pretrain.learning_rate for factor in FACTORS]

    def pretraining_sweep(self, arm: str) -> list[float]:
        """The validation loss at each of these rates, none where the arm does not choose."""
        if not self.chooses_rate(arm):
            return []
        cost = self.trial_steps(arm) * self.step_flops(arm)

        def loss_at(rate: float) -> dict:
            """One of them."""

            def do(advance: Callable[[float], None]) -> dict:
                """Pretrain for a part of the steps."""
                bar = Steps(0, self.step_flops(arm), advance)
                return {"loss": try_rate(self.bench, arm, self.trial_steps(arm), rate, bar)}

            return self.work.job(f"{arm}/pretrain-rate-{rate:g}", cost, do)

        return [loss_at(rate)["loss"] for rate in self.pretraining_rates()]

    def pretraining_rate(self, arm: str) -> float:
        """The best of these rates; causal-then-masked goes on at that of causal."""
        losses = self.pretraining_sweep("causal" if arm == "causal-then-masked" else arm)
        return self.pretraining_rates()[int(np.argmin(losses))]

    def pretrain(self, arm: str) -> list[dict]:
        """All pretrainings of an arm."""
        return [] if arm == "scratch" else [
            self.pretrain_once(arm, seed) for seed in range(self.config.pretrainings)
        ]  # fmt: skip

    def pretrain_once(self, arm: str, seed: int) -> dict:
        """One of them."""
        rate = self.pretraining_rate(arm)

        def do(advance: Callable[[float], None]) -> dict:
            """Train, or go on training."""
            bar = Steps(0, self.step_flops(arm), advance)
            folder = self.folder / "pretrain"
            folder.mkdir(exist_ok=True)
            spent = pretrain(self.bench, arm, seed, self.steps[arm], rate, folder, bar)
            return {"spent": spent}

        return self.work.job(f"{arm}/pretrain-{seed}", self.pretraining_cost(arm), do)["spent"]

    def _weights(self, arm: str, seed: int, half: bool) -> Transformer:
        """The weights an arm begins fine-tuning with, and never changes: those at the end of its
        pretraining or half-way. Those of scratch are the ones the others were pretrained from."""
        changes = dict(max_length=self.task.recipe.max_length, dropout=self.task.recipe.dropout)
        if arm == "scratch":
            return Transformer(dataclasses.replace(self.bench.shape, **changes), seed)
        run = self.run_of(arm, seed) / "half" if half else self.run_of(arm, seed)
        return Run(run).transformer(**changes)

    def run_of(self, arm: str, seed: int) -> Path:
        """The run folder of one pretraining."""
        return self.folder / "pretrain" / f"{arm}-{seed}"

    def classifier(
        self, arm, labels, draw, rate, setting=SETTINGS[0], half=False, advance=lambda flops: None
    ):
        """Fine-tune a copy of the weights. What it returns last it need not do again."""
        key = f"{arm} {labels} {draw} {rate} {setting} {half}"
        if self._last is None or self._last[0] != key:
            weights = copy.deepcopy(self.weights(arm, draw % self.config.pretrainings, half))
            per_token = self.token_flops()
            trained = finetune(
                self.task, weights, self.task.sample(labels, draw), self.config.epochs_for(labels),
                rate, draw, *setting, progress=lambda tokens: advance(tokens * per_token),
            )  # fmt: skip
            self._last = key, trained
        return self._last[1]

    def tune(self, arm, labels, draw, rate, setting=SETTINGS[0], half=False) -> dict:
        """A fine-tuning's test: "accuracy", "macro_f1", "predicted", "seed", "valid" (the accuracy
        on validation texts, for a sweep)."""

        def do(advance: Callable[[float], None]) -> dict:
            """Fine-tune, then test."""
            classifier = self.classifier(arm, labels, draw, rate, setting, half, advance)
            rows = self.test_rows(labels)
            found = tested(self.task, classifier, "test", rows, setting[1])
            valid = None
            if (labels, draw) == (self.middle, 0):  # for the sweep
                rows = self.config.test_rows
                valid = tested(self.task, classifier, "valid", rows, setting[1])["accuracy"]
            return {"seed": draw, "valid": valid, **found}

        name = f"{arm}/{labels}-{draw}-{rate:g}-{'-'.join(setting)}" + "-half" * half
        return self.work.job(name, self.tuning_cost(labels), do)

    def sweep(self, arm: str) -> list[float]:
        """The validation accuracy at each learning rate of the sweep."""
        return [self.tune(arm, self.middle, 0, rate)["valid"] for rate in RATES]

    def curve(self, arm: str, rate: float) -> list[list[dict]]:
        """The tests of every draw, one list a number of labels. The first draw comes last, for
        `classifier` to remember."""
        return [
            [self.tune(arm, labels, draw, rate) for draw in reversed(self.draws(labels))][::-1]
            for labels in self.sizes
        ]

    def half_way(self, arm: str, rate: float) -> list[dict]:
        """The tests of the middle number of labels from what an arm knew half-way; none where its
        budget has no evaluation there."""
        runs = [self.run_of(arm, seed) / "half" for seed in range(self.config.pretrainings)]
        if not all(run.exists() for run in runs):
            return []
        draws = self.draws(self.middle)
        return [self.tune(arm, self.middle, draw, rate, half=True) for draw in draws]

    def pooling(self, arm: str, rate: float) -> list[list[float]]:
        """The accuracies of each setting of pooling and attention, with the fewest labels."""
        return [
            [self.tune(arm, self.sizes[0], draw, rate, s)["accuracy"] for draw in self.seeds]
            for s in SETTINGS
        ]

    def analyse(self, arm: str, rate: float) -> dict:
        """What is to be seen in an arm's first net and classifier."""

        def do(advance: Callable[[float], None]) -> dict:
            """Look at the net as it was pretrained, at its own window."""
            if arm == "scratch":
                model, objective = Transformer(self.bench.shape, 0), None
            else:
                model = Run(self.run_of(arm, 0)).transformer()
                objective = objective_of(arm)
            run = Pretrained(model, self.bench.text.tokenizer, objective)
            classifier = self.classifier(arm, self.sizes[-1], 0, rate)
            length = min(64, self.bench.shape.max_length)
            windows = evaluation_windows(self.bench.text.valid, length, most=32)[:, :length]
            how = 0, self.config.quick, self.pairs, windows
            return {"found": analyse(run, classifier, self.task, *how)}

        return self.work.job(f"{arm}/analyses", 0, do)["found"]

    @functools.cached_property
    def pairs(self) -> list[minimal_pairs.Pair]:
        """The minimal pairs that every arm is asked."""
        if self.config.blimp:
            return minimal_pairs.read_blimp(self.config.blimp)
        text = self.bench.text.tokenizer.decode(self.bench.text.train[:COUNTED])
        return minimal_pairs.make_pairs(Counter(minimal_pairs.words_of(text)))


def sample_sizes(wanted: list[int], task: LabelledTask) -> list[int]:
    """The numbers of labels that there are enough for; one close to all there are becomes all.
    Raises UserError where none is left."""
    sizes = sorted({n if n <= 0.9 * task.size else task.size for n in wanted})
    sizes = [n for n in sizes if n >= len(task.classes)]
    if not sizes:
        raise UserError(
            f"--labels: there are {len(task.classes)} classes: give at least one number of as many"
        )
    return sizes
