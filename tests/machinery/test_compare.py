"""A whole comparison, of toy size: what is asked, what is done, what is kept, and what is drawn."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from minilm import compare, corpora
from minilm.compare import arms, experiment, labels, outcomes, plan, report
from minilm.compare.plan import BAG, CompareOptions, arm, declared
from minilm.config import SIZES, ModelConfig, NonFiniteError, UserError
from minilm.corpora import splits
from minilm.corpora.files import Example
from minilm.corpora.tokens import PreparedText
from minilm.data import draws, frame
from minilm.fast.bpe import FastTokenizer
from minilm.model import Transformer
from minilm.objectives import IGNORE
from minilm.runs.device import Machine
from minilm.runs.loop import Stopped
from minilm.view import charts
from minilm.view.pages import text_of

for library in ("scipy", "sklearn", "jinja2"):
    pytest.importorskip(library)

EVIL = "<script>alert(1)</script> & <b>"
TOY = dict(d_model=32, n_layers=2, n_heads=2, d_ff=64, vocab_size=400, max_length=32,
           batch_size=16, steps=24, learning_rate=0.02)  # fmt: skip


def sentences(n, seed):
    """Texts with an order to learn and a topic to label; some would like to run in a page."""
    rng = np.random.default_rng(seed)
    words = {"pos": ["cat", "dog", "horse", "cow"], "neg": ["saw", "hammer", "drill", "file"]}
    for i in range(n):
        topic = ("pos", "neg")[i % 2]
        a, b = rng.choice(words[topic], 2)
        kind = rng.choice(["old", "new", "big"])
        text = f"The {kind} {a} number {i} is near the {b} of the house."
        yield Example(text + f" {EVIL}" * (i % 20 == 0), topic)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with corpora and sizes in which a comparison takes seconds; and the options."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compare"))
        parts = dict(train=list(sentences(240, 1)), valid=list(sentences(20, 2)),
                     test=list(sentences(40, 3)))  # fmt: skip
        patch.setitem(splits.NAMED["classify"], "python-docs", lambda: parts)
        patch.setitem(corpora._DOCUMENTS, "python-docs",
                      lambda: (e.text for e in [*sentences(900, 4), *parts["train"]]))  # fmt: skip
        patch.setattr("minilm.corpora.python_docs.version", lambda: "toy")
        patch.setitem(SIZES, "tiny", TOY)
        pair = {"sentence_good": "The old cat is near.", "sentence_bad": "The is old cat near."}
        experiment.Path("order.jsonl").write_text(json.dumps(pair) + "\n")
        patch.setattr(labels, "TEXTS", 64)
        patch.setattr(labels, "PASSES", 1)
        patch.setattr(experiment, "CURVE", (20,))
        patch.setattr(experiment, "FACTORS", (1.0,))
        patch.setattr(experiment, "FINETUNING", (0.003, 0.01))
        yield


def options(**changes):
    """Of a toy comparison on the CPU."""
    given = dict(seeds=3, steps=24, batch_size=16, labels=40, finetunings=2, pairs=60, rows=40,
                 device="cpu", precision="float32", run="runs/toy", blimp=".")  # fmt: skip
    return CompareOptions(**given | changes)


@pytest.fixture(scope="module")
def finished(toy):
    """The folder of a comparison that was stopped in the middle and went on."""
    real, count = arms.pretrain, []

    def interrupted(*arguments):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "pretrain", interrupted)
        with pytest.raises(Stopped, match="--resume"):
            compare.compare(options())
        resume = options(resume=True)
        resume.given = frozenset({"run", "resume"})
        compare.compare(resume)
    assert len(count) == 10  # three arms of three seeds, one of them twice
    return experiment.Experiment(options(), experiment.Path("runs/toy"))


def test_the_pairs_and_the_arms_are_declared_beforehand():
    names = ["scratch", "causal", "masked", "hybrid"]
    asked = declared(names)
    assert len(asked) == 9 and ("masked", "hybrid") in asked and ("hybrid", BAG) in asked
    assert arm("hybrid-0.25").objective == "hybrid" and arm("hybrid").shift == 1
    with pytest.raises(UserError, match="hybrid-SHARE"):
        arm("hybrid-2")
    with pytest.raises(UserError, match="choose from"):
        CompareOptions(arms=["causal", "cleverest"])
    assert CompareOptions(steps=8).pace() == (6, 16)  # evaluated at six places


def test_arms_see_the_same_windows_and_mask_the_same_positions():
    tokenizer = FastTokenizer([])
    windows = np.random.default_rng(0).integers(3, 259, (8, 33))
    rate = lambda step: plan.MASK_RATE * (1 - 0.5 * step / 20)
    batches = {
        name: [arms.arm_batch(arm(name), windows, rate(i), draws(5, i, "masks"), tokenizer.special)
               for i in range(20)]
        for name in ("causal", "masked", "hybrid", "hybrid-1", "hybrid-0", "causal-then-masked",
                     "sparse-causal")
    }  # fmt: skip
    for step in range(20):
        hidden = batches["masked"][step].targets
        for name in ("hybrid", "hybrid-1", "causal-then-masked"):
            batch = batches[name][step]
            expected = batches["causal"][step].targets if batch.causal else hidden
            assert (batch.targets == expected).all()
    causal = {name: [batch.causal for batch in of_name] for name, of_name in batches.items()}
    assert not any(causal["hybrid-1"]) and all(causal["hybrid-0"])
    assert 4 < sum(causal["hybrid"]) < 16
    assert causal["causal-then-masked"] == [True] * 10 + [False] * 10
    for name in ("sparse-causal", "masked"):
        share = np.mean([batch.targets != IGNORE for batch in batches[name]])
        assert abs(share - arm(name).target_share) < 0.03


def test_swapped_neighbours_are_the_same_tokens_and_an_oracle_knows_which_are_original():
    tokenizer = FastTokenizer([])
    tokens = np.random.default_rng(0).integers(3, 259, 24 * 50)
    swaps = outcomes.make_swaps(tokens, 40, tokenizer.special)
    assert len(swaps.windows) == 40 and swaps.places.min() > 0
    assert (np.sort(swaps.windows) == np.sort(swaps.exchanged)).all()
    assert ((swaps.windows != swaps.exchanged).sum(1) == 2).all()
    model = Oracle(swaps.windows)
    for name in ("causal", "masked", "hybrid"):
        model.shift = arm(name).shift
        right = outcomes.swapped(model, arm(name), swaps, tokenizer.special)
        assert all(set(found) == {1.0} for found in right.values()), name


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


def test_minimal_pairs_are_read_scored_and_refused_in_one_line(tmp_path):
    row = {"sentence_good": "The cats sleep.", "sentence_bad": "The cats sleeps.",
           "linguistics_term": "subject_verb"}  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    tokenizer, folder = FastTokenizer([]), str(tmp_path)
    pairs = outcomes.read_blimp(folder, tokenizer, 64)
    name, *sides = pairs[0]
    assert name == "subject verb" and len(pairs) == 1
    assert [tokenizer.decode(side[1:-1]) for side in sides] == [
        "The cats sleep.",
        "The cats sleeps.",
    ]
    model = Transformer(ModelConfig(259, 64, 8, 1, 1, 8), seed=3)
    for name in ("causal", "masked", "hybrid"):
        assert outcomes.minimal_pairs(model, arm(name), pairs, tokenizer)[0] in (0.0, 1.0)
    (tmp_path / "a.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="line 1"):
        outcomes.read_blimp(folder, tokenizer, 64)
    with pytest.raises(UserError, match=r"no \.jsonl"):
        outcomes.read_blimp(str(tmp_path / "none"), tokenizer, 64)
    assert outcomes.read_blimp(None, tokenizer, 64) == []


def test_a_pseudo_log_likelihood_hides_the_rest_of_the_word():
    tokenizer, seen = FastTokenizer([]), []

    class Watched(Transformer):
        def forward(self, tokens, causal, is_real=None, cache=None):
            seen.extend(tokens.tolist())
            return super().forward(tokens, causal, is_real, cache)

    text = frame(tokenizer.encode("ab c"), 16, tokenizer.special)
    outcomes.pseudo_log_likelihood(Watched(ModelConfig(259, 16, 8, 1, 1, 8)), [text], tokenizer, 0)
    _, a, b, blank, c, _ = text.tolist()
    assert seen == [[2, 1, 1, blank, c, 2], [2, a, 1, blank, c, 2], [2, a, b, 1, c, 2],
                    [2, a, b, blank, 1, 2]]  # fmt: skip


@pytest.fixture
def bench(toy):
    """What pretrainings share in an experiment."""
    tokens = np.random.default_rng(0).integers(3, 259, 4000).astype(np.uint16)
    text = PreparedText(FastTokenizer([]), tokens, tokens[:500], 5.0)
    swaps = outcomes.make_swaps(tokens, 10, text.tokenizer.special)
    return SimpleNamespace(
        text=text,
        shape=ModelConfig(259, 32, 32, 2, 2, 64),
        swaps=swaps,
        options=options(batch_size=4),
        machine=Machine(torch.device("cpu")),
    )


def test_a_pretraining_that_diverges_says_where(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "swapped", lambda *_: {"causal": [np.nan]})
    with pytest.raises(NonFiniteError, match="after step 2: the validation score"):
        arms.pretrain(bench, arm("causal"), 0, 12, 0.01, tmp_path / "run", lambda share: None)


def test_equal_budgets_are_equal(bench):
    every = [arm(name) for name in ("scratch", "causal", "masked", "sparse-causal")]
    steps = {kind: arms.budgets(bench, every, 600, kind)
             for kind in ("tokens", "targets", "flops", "seconds")}  # fmt: skip
    assert steps["tokens"] == dict.fromkeys(("causal", "masked", "sparse-causal"), 600)
    assert abs(steps["targets"]["masked"] * arm("masked").target_share - 600) < 3
    assert abs(steps["targets"]["sparse-causal"] * plan.SPARSE - 600) < 1
    assert 600 < steps["flops"]["masked"] < 2 * 600
    assert steps["seconds"]["causal"] % plan.PLACES == 0 and steps["seconds"]["causal"] > 0


def test_a_comparison_keeps_every_outcome_per_item_and_goes_on_where_it_stopped(finished):
    for each in finished.arms:
        for seed in finished.seeds:
            found = finished.measure(each, seed)
            assert len(found["swapped"][each.reads[0]]) == finished.plan["pairs"] > 20
            assert [len(run["right"]) for run in found["labels"]] == [40, 40]
            assert len(found["grammar"]) == 1 and len(found["labels"][0]["her_minus_his"]) == 32
            assert len(found["frozen"]["layers"]) == 3 and set(found["frozen"]["sizes"]) == {"20"}
            if each.objective:
                curve = found["pretraining"]["curve"]
                assert [line["tokens"] for line in curve] == [i * 4 * 16 * 32 for i in range(1, 7)]
    learnt = {each.name: np.mean(finished.measure(each, 0)["swapped"][each.reads[0]])
              for each in finished.arms}  # fmt: skip
    assert learnt["causal"] > 0.7 > 0.65 > learnt["scratch"]  # word order can be learnt
    one, other = (finished.measure(finished.arms[1], seed)["labels"][0] for seed in (0, 1))
    assert one["confidence"] != other["confidence"]


def test_the_texts_of_the_labels_that_are_tested_on_are_not_pretrained_on(toy, tmp_path):
    held = splits.NAMED["classify"]["python-docs"]()
    twice = [e.text for e in held["test"][:5]] + ["something else"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(splits.NAMED["classify"], "imdb", lambda: held)
        patch.setitem(corpora._DOCUMENTS, "imdb", lambda: iter(twice))
        (path,) = experiment.pretraining_data("imdb", tmp_path)
    assert [json.loads(line)["text"] for line in experiment.Path(path).open()] == ["something else"]


def test_the_report_is_drawn_again_without_training_and_nothing_in_it_can_run(finished, capsys):
    before = (finished.folder / "report.html").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "pretrain", None)
        compare.compare(options(report=True))
    page = (finished.folder / "report.html").read_text()
    assert page == before
    assert "<script" not in page and "alert(1)" in page  # the text is there, as text
    assert "Word order" in capsys.readouterr().out
    for title in ("Swapped neighbours", "Few labels", "Run card", "How to cite", "Her name for"):
        assert title in page
    assert page.count("<svg") == page.count("</svg>") > 20 and "nan" not in page.lower()


def test_the_sentences_and_the_rows_are_what_the_jobs_say(finished):
    found = report.Findings(finished)
    right = [run["right"] for run in finished.measure(arm("causal"), 1)["labels"]]
    assert np.allclose(found.tables["labels"]["causal"][1], np.mean(right, axis=0))
    assert found.tables["swapped"][BAG].shape == (1, finished.plan["pairs"])
    assert len(found.verdicts) == 18 and all(v.real is not None for v in found.verdicts)
    low, high = found.levels["labels"]["masked"].interval
    assert low < np.mean(found.tables["labels"]["masked"]) < high
    drawn = found.dots("title", "note", {"masked": found.levels["labels"]["masked"]}, 50.0)
    assert f'class="row c{report.COLOURS["masked"]}"' in drawn and "title" in drawn


def test_a_sweep_chooses_rates_with_seeds_of_its_own_and_writes_down_how(toy, monkeypatch):
    names, folder = ["masked", "scratch"], experiment.Path("runs/swept")
    asked = options(sweep=True, seeds=1, finetunings=1, arms=names, run=str(folder))
    with monkeypatch.context() as patch:
        patch.setattr(labels.FewLabels, "finetune", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(Stopped, match="2 jobs are saved, go on with the same command"):
            compare.compare(asked)
    compare.compare(asked)
    found = json.loads((folder / "rates.json").read_text())
    assert found["chosen"]["pretraining"] == {"masked": 0.02}
    assert set(found["chosen"]["finetuning"]) == {"scratch", "masked"}
    assert len(found["finetuning"]["masked"]["0.003"]) == len(experiment.SWEEP_SEEDS)
    assert "fewer than three seeds" in (folder / "report.html").read_text()


def test_deleting_a_token_is_measured_by_what_it_does(toy):
    tokenizer = FastTokenizer([])
    task = labels.FewLabels("python-docs", tokenizer, 32, 1, Machine(torch.device("cpu")))
    task.classes = ["a", "b"]
    task.data["test"] = [row] = task.encode([Example("one two", "b")])
    model = Transformer(ModelConfig(259, 32, 8, 1, 1, 8), seed=1)
    classifier = labels.Classifier(model, 2)
    torch.nn.init.normal_(classifier.head.weight, generator=torch.Generator().manual_seed(0))
    found = task.deletion(classifier, 0)
    both = [row, row._replace(tokens=np.delete(row.tokens, 3))]
    p = np.exp(task.solve(classifier, both, None))[:, 1]
    assert found["label"] == "b" and found["tokens"][2] == "e"
    assert abs(found["falls"][2] - (p[0] - p[1])) < 1e-4


def test_attention_distance_of_an_even_attention_is_what_it_is_compared_with():
    model = Transformer(ModelConfig(259, 32, 8, 2, 2, 8))
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.zero_()
    tokens = draws(0, 0, "sample").integers(3, 259, 200)
    for causal in (True, False):
        *layers, even = outcomes.attention_distance(model, tokens, causal)
        assert np.allclose(layers, even) and abs(even - (7.75 if causal else 10.66)) < 0.01


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


def test_charts_stay_inside_and_escape():
    evil = charts.Row(EVIL, 120.0, (-50.0, 130.0), 9, EVIL)
    drawn = charts.intervals(EVIL, EVIL, [evil], 0, 100, mark=50, unit=EVIL[:0])
    line = charts.Line(EVIL, [(0, 1.0), (1, 2.0, 0.5, 3.0)], 1)
    drawn += charts.curves(EVIL, EVIL, [line], EVIL, marks=[(EVIL, 2.0)], high=2.0)
    drawn += charts.tokens([(EVIL, -3.0, EVIL)])
    assert "<script" not in drawn and "<b>" not in drawn
    places = [float(x) for x in re.findall(r'[xyc]+\d?="(-?[\d.]+)%?"', drawn)]
    assert len(places) > 20 and min(places) >= 0 and max(places) <= charts.HEIGHT + 20


def test_help_comes_before_torch():
    code = "import sys, minilm.compare; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    here = experiment.Path(compare.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=here).returncode == 0


def test_what_is_missing_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match="pip install jinja2 scipy"):
        compare.compare(options(run="runs/never"))
    assert not experiment.Path("runs/never").exists()
