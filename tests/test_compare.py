"""`python -m minilm compare`, whole: what it writes, and that it goes on where it stopped."""

import json
from pathlib import Path

import pytest
import torch
from compare_example import EXAMPLE
from small import everything, some_rows

from minilm import config
from minilm.__main__ import run_command
from minilm.config import UserError
from minilm.experiments import experiment, intervals, report, tables
from minilm.experiments.compare import flags
from minilm.experiments.compare_config import CompareConfig
from minilm.experiments.finetuning import LEAST_STEPS
from minilm.flags import parse_flags
from minilm.runs import Run
from minilm.stopping import Stopped

SHAPE = dict(
    d_model=16, n_layers=1, n_heads=2, vocab_size=300, max_length=16, batch_size=4, steps=12,
    learning_rate=7e-3,
)  # fmt: skip
FLAGS = (
    "compare --data sms-spam --labels 8 24 --draws 3 --seeds 2 --pretrainings 1 --steps 12 "
    "--batch-size 4 --length 12 --epochs 1 --test-rows 20 --device cpu --precision float32 "
    "--arms scratch causal --run"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a small labelled corpus and a finished comparison, `whole`; of each of its
    fine-tunings what the first weights add up to, how many texts were read, in how many steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compare"))
        patch.setitem(config.SIZES, "tiny", SHAPE)
        patch.setattr(intervals, "RESAMPLES", 100)
        folder = Path("data/sms-spam")
        folder.mkdir(parents=True)
        for part, rows in (("train", some_rows(120, 1)), ("test", some_rows(40, 2))):
            lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
            (folder / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        finetune, calls = experiment.finetune, []

        def watched(task, weights, indices, epochs, *rest, progress):
            begin, steps = weights.embedding.weight.sum().item(), []
            trained = finetune(task, weights, indices, epochs, *rest, progress=steps.append)
            calls.append((begin, len(indices) * epochs, len(steps)))
            return trained

        patch.setattr(experiment, "finetune", watched)
        run_command([*FLAGS.split(), "whole"])
        patch.setattr(experiment, "finetune", finetune)
        yield calls


def results_of(folder):
    return json.loads(Path(folder, "results.json").read_text(encoding="utf-8"))


def without_times(found):
    """Everything but what a clock decides."""
    if isinstance(found, dict):
        return {k: without_times(v) for k, v in found.items()
                if k not in ("seconds", "watt_hours", "run", "answers", "command")}  # fmt: skip
    return [without_times(v) for v in found] if isinstance(found, list) else found


def test_results_hold_what_the_specification_says(home):
    found = results_of("whole")
    assert found.keys() == EXAMPLE.keys()
    assert found["analyses"]["causal"].keys() == EXAMPLE["analyses"]["causal"].keys()
    for key in ("finals", "sweep", "pretraining_sweep", "pooling", "label_curve"):
        assert found[key].keys() == EXAMPLE[key].keys(), key
    assert EXAMPLE["card"].keys() <= found["card"].keys()
    for key in ("verdicts", "answers"):
        assert found[key][0].keys() == EXAMPLE[key][0].keys(), key
    assert found["axes"]["points"][0].keys() == EXAMPLE["axes"]["points"][0].keys()
    run, expected = found["pretraining"]["causal"][0], EXAMPLE["pretraining"]["causal"][0]
    assert run.keys() == expected.keys()
    assert expected["curve"][0].keys() <= run["curve"][0].keys()


def test_every_draw_of_every_size_is_there_for_arms_and_baselines(home):
    curve = results_of("whole")["label_curve"]
    assert curve["sizes"] == [8, 24] and curve["draws"] == [3, 2]
    for name, by_size in curve["accuracy"].items():
        assert [len(draws) for draws in by_size] == [3, 2], name
    assert {"scratch", "causal", "majority class"} <= curve["accuracy"].keys()


def test_each_arm_is_pretrained_at_the_rate_that_its_own_validation_liked_best(home):
    found = results_of("whole")
    sweep, (run,) = found["pretraining_sweep"], found["pretraining"]["causal"]
    best = sweep["rates"][sweep["loss"]["causal"].index(min(sweep["loss"]["causal"]))]
    assert run["learning_rate"] == sweep["chosen"]["causal"] == best
    assert sweep["rates"] == [3.5e-3, 7e-3, 14e-3] and len(set(sweep["loss"]["causal"])) == 3
    assert sweep["loss"].keys() == {"causal"} and sweep["steps"] == {"causal": 2}


def test_an_arm_is_tested_half_way_too(home):
    points = [p for p in results_of("whole")["axes"]["points"] if p["arm"] == "causal"]
    assert [(p["share"], p["seed"]) for p in points] == [
        (share, draw) for share in (0.5, 1.0) for draw in range(3)
    ]
    assert [p["tokens"] for p in points] == [6 * 4 * 16] * 3 + [12 * 4 * 16] * 3
    half, whole = Run("whole/pretrain/causal-0/half"), Run("whole/pretrain/causal-0")
    weights = [run.transformer().embedding.weight for run in (half, whole)]
    assert not torch.equal(*weights)


def test_every_pooling_is_tried_with_every_seed_on_the_same_labels(home):
    found = results_of("whole")
    for arm, rows in found["pooling"]["accuracy"].items():
        assert [len(draws) for draws in rows] == [2] * 6
        assert rows[0] == found["label_curve"]["accuracy"][arm][0][:2]  # mean, bidirectional


def test_nothing_is_fine_tuned_twice(home):
    assert len(home) == len(list(Path("whole/jobs").glob("*/[0-9]*.json"))) > 20


def test_fine_tuning_begins_from_scratch_from_half_and_from_the_whole_pretraining(home):
    assert len({begin for begin, *_ in home}) == 3


def test_few_labels_are_read_in_steps_enough(home):
    assert all(steps >= min(texts, LEAST_STEPS) for _, texts, steps in home)


def test_every_pair_has_one_verdict(home):
    found = results_of("whole")
    names = [*found["arms"], *found["baselines"]]
    pairs = {frozenset((v["a"], v["b"])) for v in found["verdicts"]}
    assert len(pairs) == len(found["verdicts"]) == len(names) * (len(names) - 1) // 2


def test_a_comparison_that_was_interrupted_comes_to_the_same_results(home, monkeypatch):
    calls = []

    def interrupted(*args, **how):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return finetune(*args, **how)

    finetune = experiment.finetune
    monkeypatch.setattr(experiment, "finetune", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_command([*FLAGS.split(), "stopped"])
    done = len(list(Path("stopped/jobs").rglob("*.json")))
    run_command(["compare", "--run", "stopped", "--resume"])
    assert 10 < done < len(list(Path("stopped/jobs").rglob("*.json")))
    assert without_times(results_of("stopped")) == without_times(results_of("whole"))


def test_a_stopped_pretraining_says_how_the_comparison_goes_on(home, monkeypatch):
    def stopped(bench, arm, seed, steps, rate, folder, progress):
        raise Stopped(15, 3, folder / arm)

    monkeypatch.setattr(experiment, "pretrain", stopped)
    with pytest.raises(Stopped, match="--run terminated --resume") as error:
        run_command([*FLAGS.split(), "terminated"])
    assert error.value.status == 143


def test_a_finished_comparison_trains_nothing_again(home, monkeypatch):
    monkeypatch.setattr(experiment, "finetune", None)
    monkeypatch.setattr(experiment, "pretrain", None)
    before = results_of("whole")
    run_command(["compare", "--run", "whole", "--resume"])
    assert without_times(results_of("whole")) == without_times(before)


def test_a_comparison_does_not_write_over_another(home):
    before = everything("whole")
    with pytest.raises(UserError, match="--resume"):
        run_command([*FLAGS.split(), "whole"])
    assert everything("whole") == before


def test_what_was_asked_for_cannot_change_on_resume(home):
    with pytest.raises(UserError, match="--seeds 5"):
        run_command(["compare", "--run", "whole", "--resume", "--seeds", "5"])


def test_a_damaged_job_is_named(home):
    path = Path("whole/jobs/lines.json")
    whole = path.read_bytes()
    path.write_bytes(whole[:9])
    with pytest.raises(UserError, match=r"lines\.json is damaged"):
        run_command(["compare", "--run", "whole", "--resume"])
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--arms causl", "--arms causl: choose from scratch, causal"),
        ("--arms scratch causal-then-masked", "add causal"),
        ("--quick --full", "choose one"),
        ("--seeds 0", "--seeds is 0"),
        ("--labels 1", "2 or more"),
        ("--data tinyshakespeare", "has no labels"),
        ("--budget grams", "invalid choice"),
    ],
)
def test_what_cannot_be_compared_is_one_line(home, flags, message):
    with pytest.raises(UserError, match=message) as error:
        run_command(["compare", *flags.split(), "--run", "never"])
    assert "\n" not in str(error.value) and not Path("never/config.json").exists()


def test_a_markdown_table_has_a_row_for_every_arm_and_baseline():
    lines = tables.finals(EXAMPLE).splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "| arm", "| ---", "| scratch", "| causal", "| majority class",
    ]  # fmt: skip
    assert "0.0 to 100.0" in lines[2] and "75.0%" in lines[3]


def test_the_readme_table_says_how_sure_each_mean_is():
    lines = report.comparison({"compare": EXAMPLE}).splitlines()
    assert lines[3] == "| causal | 50.0% | 75.0% | 50.0% to 100.0% | 75.0% to 75.0% |"


def test_losses_of_two_readings_stand_in_two_columns():
    row = tables.spent(EXAMPLE).splitlines()[2].split(" | ")
    assert row[-2:] == ["5.00", " |"] or row[-2:] == ["5.00", "|"]


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "--full --size small --length 128 --steps 240",
        "--size small",
        "--full",
        "--seeds 2 --arms causal masked --labels 100 3000 --budget flops",
    ],
)
def test_the_command_on_the_run_card_makes_the_same_comparison_again(asked):
    def read(line):
        return parse_flags(CompareConfig, "", line.split()).with_defaults()

    config = read(asked)
    assert vars(read(flags(config))) == vars(config) and len(flags(config)) <= len(asked) + 20


def test_few_labels_are_read_more_often_than_many():
    plan = CompareConfig(epochs=3).with_defaults()
    assert [plan.epochs_for(n) for n in (100, 300, 1000, 5000)] == [6, 4, 3, 3]


def test_the_ratios_are_arms_of_their_own():
    arms = CompareConfig(ratios=True).with_defaults().arms
    assert {"hybrid-0", "hybrid-1of8", "hybrid", "hybrid-7of8", "hybrid-1"} <= set(arms)
