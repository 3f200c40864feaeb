"""A whole comparison, of toy size: what is asked, what is done, what is kept, and what is drawn."""

import csv
import json
import re

import numpy as np
import pytest
import torch

from minilm import corpora
from minilm.cli import scripts
from minilm.compare import experiment, outcomes, plan, report
from minilm.compare.plan import BAG, CompareOptions, arms_of, config_of, questions
from minilm.config import SIZES, ModelConfig, UserError
from minilm.corpora import splits
from minilm.corpora.files import Example
from minilm.corpora.tokens import evenly
from minilm.fast.bpe import FastTokenizer
from minilm.model import Transformer
from minilm.objectives import IGNORE
from minilm.runs.device import Machine
from minilm.runs.loop import Stopped
from minilm.runs.pretraining import measured
from minilm.view import charts
from minilm.view.pages import text_of
from train_finetune import finetune
from train_pretrain import pretrain

pytest.importorskip("scipy")

EVIL = "<script>alert(1)</script> & <b>"
TOY = dict(d_model=32, n_layers=1, n_heads=2, d_ff=64, vocab_size=400, max_length=32,
           batch_size=16, steps=16, learning_rate=0.03)  # fmt: skip
OWN = "small: --objective masked --vocab-size 300 --d-model 16"


def sentences(n, seed):
    """Texts with an order to learn and a topic to label."""
    rng = np.random.default_rng(seed)
    words = {"pos": ["cat", "dog", "horse", "cow"], "neg": ["saw", "hammer", "drill", "file"]}
    for i in range(n):
        topic = ("pos", "neg")[i % 2]
        a, b = rng.choice(words[topic], 2)
        kind = rng.choice(["old", "new", "big"])
        text = f"The {kind} {a} number {i} is near the {b} of the house, which is red."
        yield Example(text, topic)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a corpus and a size in which a comparison takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compare"))
        parts = dict(train=list(sentences(200, 1)), test=list(sentences(40, 3)))
        patch.setitem(splits.NAMED["classify"], "sms-spam", lambda: parts)
        patch.setitem(corpora._DOCUMENTS, "sms-spam", lambda: (e.text for e in sentences(900, 4)))
        patch.setitem(SIZES, "tiny", TOY)
        patch.setattr("minilm.tasks.task.LEAST_STEPS", 4)
        patch.setattr(experiment, "measured", lambda *what, seconds: measured(*what, seconds=0.0))
        yield


def options(**changes):
    """Of a toy comparison on the CPU."""
    given = dict(data="sms-spam", seeds=3, steps=16, batch_size=16, labels=20, finetunings=1,
                 pairs=60, rows=40, device="cpu", precision="float32", run="toy",
                 arms=["scratch", "causal"], arm=[OWN])  # fmt: skip
    return CompareOptions(**given | changes)


def resumed(**what):
    """What `compare --run toy --resume`, or --report, is given."""
    again = CompareOptions(run="toy", **what)
    again.given = frozenset({"run", *what})
    return again


@pytest.fixture(scope="module")
def finished(toy):
    """A comparison that was stopped in the middle of a run, and went on."""
    count = []

    def interrupted(config, advance):
        def stop(share):
            advance(share)
            if len(count) == 3 and share > 0.4:
                raise KeyboardInterrupt

        count.append(config.run)
        return pretrain(config, stop)

    with pytest.raises(Stopped, match="--run toy --resume"):
        experiment.compare(options(), pretrain=interrupted, finetune=finetune)
    found = experiment.compare(resumed(resume=True), pretrain=interrupted, finetune=finetune)
    assert len(count) == 7 and len(set(count)) == 6  # two arms of three seeds, one of them twice
    report.write(found)
    return found


def test_an_arm_is_a_line_of_flags_and_what_is_compared_is_declared_beforehand():
    asked = options(arm=["muon: --optimizer muon --steps 6", "b: --size small"])
    arms = arms_of(asked)
    assert list(arms) == ["scratch", "causal", "muon", "b"]
    muon, b = (config_of(arms, name, asked, seed=3) for name in ("muon", "b"))
    assert (muon.steps, muon.size, muon.seed, b.size, b.steps) == (6, "tiny", 3, "small", 16)
    assert list(arms_of(CompareOptions())) == plan.DEFAULT
    assert list(arms_of(CompareOptions(factors=True))) == plan.FACTORS
    names = [question.name for question in questions(["scratch", "causal", "b"], options())]
    assert names == ["causal, less scratch", f"causal, less {BAG}", "b, less scratch",
                     f"b, less {BAG}", "causal, less b"]  # fmt: skip
    for line, said in (
        ("muon --optimizer", "NAME: FLAGS"),
        ("a: --optimiser muon", "--optimizer"),
        ("a: --seed 3", "leave out --seed"),
        ("causal: --steps 2", "new name"),
    ):
        with pytest.raises(UserError, match=said):
            arms_of(options(arm=[line]))
    for wrong, said in ((["cleverest"], "choose from"), (["scratch"], "without pretraining")):
        with pytest.raises(UserError, match=said):
            arms_of(options(arms=wrong, arm=[]))


def test_a_grid_reads_the_same_number_of_tokens_from_ever_less_text():
    asked = CompareOptions(grid=True, steps=100, batch_size=8)
    arms = arms_of(asked)
    assert len(arms) == 18 and {"causal-1", "masked-16-half", "hybrid-4"} <= arms.keys()
    configs = {name: config_of(arms, name, asked).with_defaults() for name in arms}
    tokens = 100 * 8 * SIZES["tiny"]["max_length"]
    assert configs["masked-4"].max_tokens == tokens // 4
    assert configs["masked-4-half"].d_model == configs["masked-4"].d_model // 2
    declared = questions(list(arms), asked)
    assert all(question.weights.keys() <= arms.keys() for question in declared)
    assert all(sum(question.weights.values()) == 0 for question in declared)
    assert [len(q.predicted) for q in declared if q.weights.get("masked-16") == 1.0] == [2]
    text = evenly(np.arange(100_000), 10_000)
    assert len(text) == len(set(text)) == 10_000 and text[0] == 0 and text[-1] > 95_000


def test_by_its_flags_each_factor_changes_one_thing_in_what_a_step_reads():
    asked = CompareOptions(factors=True, steps=10, batch_size=4)
    arms, steps = arms_of(asked), {}
    for name in plan.FACTORS[1:5]:
        machine = Machine(torch.device("cpu"))
        (batch,) = scripts.random_training(config_of(arms, name, asked), machine).batch(3)
        inputs, index, targets, causal = batch
        n = len(targets) if index is None else (targets != IGNORE).sum()  # the rest fills up
        steps[name] = inputs, index, targets, causal
        assert n == inputs.size if name == "causal" else 0.2 < n / inputs.size < 0.3  # 0.3 x 0.85
    same = lambda a, b: [np.array_equal(*pair) for pair in zip(steps[a], steps[b], strict=True)]
    assert same("causal", "fewer-targets") == [True, False, False, True]
    assert same("fewer-targets", "corrupted") == [False, True, True, True]
    assert same("corrupted", "both-sides") == [True, True, True, False]


def test_swapped_neighbours_are_the_same_tokens_and_an_oracle_knows_which_are_original():
    tokenizer = FastTokenizer([])
    tokens = np.random.default_rng(0).integers(3, 259, 24 * 50)
    swaps = outcomes.make_swaps(tokens, 40, tokenizer.special)
    assert len(swaps.windows) == 40 and swaps.places.min() > 0
    assert (np.sort(swaps.windows) == np.sort(swaps.exchanged)).all()
    assert ((swaps.windows != swaps.exchanged).sum(1) == 2).all()
    model = Oracle(swaps.windows)
    for reads, model.shift in ((["causal"], 0), (["masked"], 0), (["causal", "masked"], 1)):
        right = outcomes.swapped(model, reads, model.shift, swaps, tokenizer.special)
        assert list(right) == reads and all(set(found) == {1.0} for found in right.values())


class Oracle(Transformer):
    """Knows its windows by heart: ten nats for the token that each position was trained to name."""

    def __init__(self, windows):
        super().__init__(ModelConfig(259, 32, 8, 1, 1, 8))
        self.windows, self.shift = torch.from_numpy(windows), 0

    def forward(self, tokens, causal, is_real=None, cache=None):
        """The tokens, in the place of hidden states, of the window that is most like each row."""
        n, shift = tokens.shape[1], int(causal or self.shift)
        best = [(self.windows[:, :n] == row).sum(1).argmax() for row in tokens]
        window = self.windows[torch.stack(best)]
        return torch.cat([window, window[:, :1]], dim=1)[:, shift : shift + n, None]

    def logits(self, hidden):
        """Ten nats for the token."""
        return torch.zeros(len(hidden), 259).scatter(1, hidden, 10.0)


def test_a_comparison_goes_on_where_it_stopped_and_keeps_which_texts_were_right(finished):
    for name in finished.arms:
        for seed in finished.seeds:
            found = finished.measure(name, seed)
            assert 20 < len(next(iter(found["swapped"].values()))) <= 60
            assert [len(found[draw]["right"]["these weights"]) for draw in "0"] == [40]
            assert (found["pretraining"] is None) == (name == "scratch")
    ones = [finished.measure("causal", seed) for seed in finished.seeds]
    assert len({one["pretraining"]["losses"]["causal_loss"] for one in ones}) == 3
    right = [one["swapped"]["causal"] for one in ones]
    assert np.mean(right) > 0.7  # word order can be learnt
    whole = finished.folder / "pretrain" / "whole"  # the same bits as without the stop
    stopped = finished.folder_of("pretrain", "causal", 1)
    pretrain(finished.config("causal", seed=1, run=str(whole)))
    same = [json.loads((run / "result.json").read_text())["losses"] for run in (whole, stopped)]
    assert same[0] == same[1]


def test_what_is_kept_is_read_with_a_check_and_made_anew_where_it_is_damaged(finished, monkeypatch):
    path = finished.folder / "jobs" / "causal-0.json"
    good = path.read_bytes()
    for damaged in (b"", b"[]", b'{"swapped": 3}'):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"causal-0.json is damaged .*--resume"):
            report.Findings(experiment.compare(resumed(report=True)))
    experiment.compare(resumed(resume=True), pretrain=None, finetune=None)
    assert path.read_bytes() == good


def test_the_report_says_what_the_jobs_say_and_nothing_in_it_can_run(finished, capsys):
    before = (finished.folder / "report.html").read_text()
    report.write(experiment.compare(resumed(report=True)))
    page = (finished.folder / "report.html").read_text()
    assert page == before and "Word order" in capsys.readouterr().out
    assert "<script" not in page and "continued:" in page and "filled in:" in page
    assert page.count("<svg") == page.count("</svg>") > 10 and "nan" not in page.lower()
    found = report.Findings(finished)
    runs = [finished.measure("causal", 1)[draw]["right"]["these weights"] for draw in "0"]
    assert np.allclose(found.tables["labels"]["causal"][1], np.mean(runs, axis=0))
    assert len(found.verdicts) == 10 and all(v.real is not None for v in found.verdicts)
    with open(finished.folder / "outcomes.csv") as file:
        rows = [row["right"] for row in csv.DictReader(file)
                if [*row.values()][:3] == ["labels", "causal", "1"]]  # fmt: skip
    assert [*map(float, rows)] == np.mean(runs, axis=0).tolist()
    summary = json.loads((finished.folder / "findings.json").read_text())
    mean = np.mean(found.tables["labels"]["causal"])
    assert summary["levels"]["labels"]["causal"]["mean"] == mean


@pytest.mark.slow
def test_a_sweep_gives_each_arm_its_own_rate(toy):
    asked = options(sweep=True, seeds=1, finetunings=1, arms=["causal"], arm=[], run="swept")
    found = experiment.compare(asked, pretrain=pretrain, finetune=finetune)
    tried = found.rates("causal")
    assert list(tried) == [0.015, 0.03, 0.06]
    assert found.pretrain("causal", 0)["flags"]["learning_rate"] == min(tried, key=tried.get)
    report.write(found)
    assert "fewer than three seeds" in (found.folder / "report.html").read_text()


def test_a_prediction_came_true_only_where_the_difference_is_real():
    verdict = report.verdicts(
        {"swapped": {"a": np.tile([1.0, 1.0, 0.9], (3, 50)), "b": np.zeros((3, 150))}},
        {"a, less b": {"a": 1, "b": -1}, "b, less a": {"a": -1, "b": 1}}, 0.05,
    )  # fmt: skip
    assert [report.came_true(v) for v in verdict] == ["came true", "the opposite is true"]
    assert report.came_true(verdict[0]._replace(real=False)) == "undecided"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_is_legible_as_text(scheme):
    """A contrast of 4.5 (WCAG 2.1, 1.4.3) on both backgrounds."""
    light, dark = text_of("style.css").split("prefers-color-scheme: dark")
    found = dict(re.findall(r"--(\w+): #(\w{6})", light if scheme == "light" else dark))

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return np.dot([0.2126, 0.7152, 0.0722], linear)

    for name in ("ink", "quiet", *(f"c{i}" for i in range(8))):
        for paper in ("paper", "raised"):
            low, high = sorted([luminance(found[name]), luminance(found[paper])])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, paper)


def test_what_a_corpus_and_a_command_line_contribute_stays_text(finished, monkeypatch):
    found = report.Findings(finished)
    found.plan["command"] = found.of["causal"][0]["pretraining"]["curve"][-1]["sample"] = EVIL
    monkeypatch.setattr(report, "Findings", lambda _: found)
    report.write(finished)
    page = (finished.folder / "report.html").read_text()
    assert "<script" not in page and "<b>" not in page and page.count("alert(1)") == 2


@pytest.mark.parametrize("value", [120.0, -1e12, 1e299])
def test_charts_stay_inside_and_escape(value):
    drawn = charts.intervals(EVIL, EVIL, [charts.Row(EVIL, value, (-50, value), 9, EVIL)], 0, 100)
    for points in ([(0, value)], [(0, 1.0), (1, value, 0.5, value)]):
        line, level = charts.Line(EVIL, points, 1), [(EVIL, 2.0)]
        drawn += charts.curves(EVIL, EVIL, [line], EVIL, EVIL, level, low=0.0, high=3.0)
        charts.curves(EVIL, EVIL, [line], EVIL)  # on a scale of its own
    assert "<script" not in drawn and "<b>" not in drawn
    places = [float(x) for x in re.findall(r'[xyc]+\d?="([^"]*?)%?"', drawn) if x != "2.6rem"]
    assert len(places) > 90 and min(places) >= 0 and max(places) <= charts.HEIGHT + 20
