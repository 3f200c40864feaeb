"""The arms of a comparison: what each reads, how long its budget lasts, where it begins."""

import numpy as np
import pytest
from small import some_text

from minilm import checkpoint
from minilm.config import PretrainConfig, UserError
from minilm.data import Windows, prepare
from minilm.device import choose_machine
from minilm.experiments import arms
from minilm.experiments.arms import (
    EVALUATIONS,
    Bench,
    plan_steps,
    pretrain,
    share_of_targets,
    step_cost,
    task_of,
    thin,
)
from minilm.experiments.compare_config import CompareConfig
from minilm.experiments.estimate import mean_mask_rate
from minilm.objectives import IGNORE, causal
from minilm.progress import Progress
from minilm.runs import Run

ARMS = ["causal", "masked", "hybrid", "causal-then-masked", "sparse-causal", "hybrid-1of8"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("arms"))
        with open("own.txt", "w", encoding="utf-8") as file:
            file.write(some_text(4000, 1))
        yield make_bench("tokens")


def make_bench(budget):
    config = CompareConfig(budget=budget, arms=ARMS, steps=12, batch_size=4).with_defaults()
    pre = PretrainConfig(
        data=["own.txt"], d_model=16, n_layers=1, n_heads=2, vocab_size=330, max_length=16,
        batch_size=4, steps=12, precision="float32",
    ).with_defaults()  # fmt: skip
    return Bench(config, pre, prepare(pre.data, pre.vocab_size), choose_machine("cpu", "float32"))


def test_every_arm_reads_the_same_windows(bench):
    windows = Windows(bench.text.train, 16, 5).batch(3, 4)
    for arm in ARMS:
        task = task_of(bench, arm, 5, 12)(3)
        known = task.targets != IGNORE
        where = windows[:, 1:] if arm != "masked" and "then" not in arm else windows[:, :-1]
        assert known.any() and (task.targets[known] == where[known]).all(), arm


@pytest.mark.parametrize("arm", ARMS[:-1])
def test_as_many_positions_have_a_target_as_the_plan_says(bench, arm):
    tasks = [task_of(bench, arm, 0, 2000)(step) for step in range(2000)]
    share = sum(task.count for task in tasks) / sum(task.targets.size for task in tasks)
    assert share == pytest.approx(share_of_targets(arm, mean_mask_rate(bench.pretrain)), abs=0.03)


def test_thinning_leaves_a_target_in_every_row():
    task = thin(causal(np.full((50, 9), 300)), 0.01, np.random.default_rng(0))
    assert ((task.targets != IGNORE).sum(1) >= 1).all() and task.count < 70


@pytest.mark.parametrize("budget", ["tokens", "targets", "flops"])
def test_a_budget_is_the_same_for_every_arm(bench, budget):
    bench = make_bench(budget)
    steps = plan_steps(bench)
    for arm in ("masked", "hybrid", "sparse-causal"):
        spent = steps[arm] * step_cost(bench, arm)
        whole = steps["causal"] * step_cost(bench, "causal")
        assert abs(spent - whole) <= EVALUATIONS / 2 * step_cost(bench, arm), arm
    assert steps["causal-then-masked"] == steps["causal"] // 2 + steps["masked"] // 2
    if budget == "targets":
        assert steps["sparse-causal"] > 6 * steps["causal"]


def test_a_budget_of_seconds_gives_a_slow_arm_fewer_steps(bench, monkeypatch):
    bench, asked = make_bench("seconds"), []

    def measured(trainer):
        trainer.step(0)
        asked.append(trainer)
        return 0.5 if len(asked) == 1 else 1.0  # causal is asked first

    monkeypatch.setattr(arms, "seconds_of_a_step", measured)
    steps = plan_steps(bench)
    assert steps["causal"] == 12 and steps["masked"] == steps["hybrid"] == 6
    assert len(asked) == len(ARMS) - 1  # causal-then-masked is made of two of them


def pretrained(bench, arm, folder, rate=7e-3):
    return pretrain(bench, arm, 0, 12, rate, folder, Progress(12, 0, shown=False))


def test_causal_then_masked_goes_on_from_half_of_causal(bench, tmp_path):
    pretrained(bench, "causal", tmp_path)
    left = checkpoint.newest(tmp_path / "causal-0" / "half")
    assert left.step == 6 and left.spent["tokens"] == 6 * 4 * 16
    found = pretrained(bench, "causal-then-masked", tmp_path)
    readings = [(p["step"], "causal_loss" in p, "masked_loss" in p) for p in found["curve"]]
    assert readings == [
        *((step, True, False) for step in (2, 4, 6)),
        *((step, False, True) for step in (6, 8, 10, 12)),
    ]
    heir = tmp_path / "causal-then-masked-0"
    assert found["tokens"] == 12 * 4 * 16 and Run(heir).transformer()


def test_causal_then_masked_does_not_begin_from_nothing(bench, tmp_path):
    with pytest.raises(UserError, match="half-way weights are missing"):
        pretrained(bench, "causal-then-masked", tmp_path)


def test_a_pretraining_that_is_done_is_not_done_again(bench, tmp_path):
    once = pretrained(bench, "masked", tmp_path)
    assert pretrained(bench, "masked", tmp_path) == once
    assert once["steps"] == 12 and once["epochs"] == once["tokens"] / len(bench.text.train)
