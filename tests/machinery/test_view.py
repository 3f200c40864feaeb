"""The pages of `python -m minilm view`: their numbers are PyTorch's; only their script runs."""

import base64
import copy
import re
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

import minilm
from minilm.cli.commands import run_command
from minilm.config import ModelConfig
from minilm.data import frame
from minilm.model import Transformer, visibility
from minilm.tokenizer import Tokenizer
from minilm.view import command, live, pages, recording
from tests.machinery import browser
from tests.machinery.small import TEXTS, finetuned, pretrained, stirred

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='hacked=2'>\u202e \x1b[2J\""
SELF_CHECK = Path(__file__).with_name("self_check.js")
TEXT = "Return the array."
Example = namedtuple("Example", "text label")
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("masked", "causal", "prefix")]
needs_browser = pytest.mark.skipif(not browser.CHROMIUM, reason="no Chromium here")


def checked(path) -> dict:
    """What self_check.js finds on the page about a text."""
    with browser.opened(path) as page:
        return page.value(SELF_CHECK.read_text())


@pytest.fixture(scope="module", params=["hybrid", "masked", "causal", "prefix"])
def lm(request, tmp_path_factory):
    """A language model of each objective; one that learnt to translate for "prefix"."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    if request.param == "prefix":
        finetuned(folder, (), task="translate", train="none.csv")
    else:
        pretrained(folder, request.param)
    return minilm.load(str(folder), device="cpu")


def recorded_of(lm, text=TEXT) -> dict:
    if hasattr(lm, "task"):
        pytest.skip("what translates is not recorded")
    return recording.inside(lm.model, lm.tokenizer, text, lm.shift, lm.objective)


def tokens_of(lm, text):
    """The tokens that the page shows, (1, T), and how many of them are a source."""
    special, most, source = lm.tokenizer.special, 24, 0
    room = most // 2 - 2 if hasattr(lm, "task") else most
    ids = frame(lm.tokenizer.encode(text)[:room], most, special).astype(np.int64).tolist()
    if hasattr(lm, "task"):  # the likeliest token each time
        source = len(ids)
        while len(ids) < most and ids[source:][-1:] != [special.eos]:
            hidden = lm.model(torch.tensor([ids]), True, prefix=torch.tensor([source]))[0, -1]
            logits = lm.model.logits(hidden)
            logits[[special.pad, special.mask]] = -torch.inf
            ids.append(logits.argmax().item())
        assert len(ids) > source + 2
    return torch.tensor([ids]), source


def natural(tokens, p_of):
    """Position-weighted surprisal, by the probabilities at each position that is predicted."""
    return sum((t + 1) * -p[tokens[0, t]].log().item() for t, p in p_of.items())


def passed(model, tokens, *how, **more):
    """P after each position, and the attention weights (layers x heads, T, T)."""
    weights = recording.recorded(model, tokens, *how, **more).weights
    return model.logits(model(tokens, *how, **more)[0]).softmax(-1), torch.cat(weights).flatten(
        0, 1
    )


def causal_view(model, tokens, prefix=0, computed=False):
    """By plain forward passes: probabilities, attention, sums of surprisal and a head's rows with
    each token hidden in turn (the rows of a recording: with nothing hidden)."""
    T, first = tokens.shape[1], max(1, prefix)
    more = dict(prefix=torch.tensor([prefix])) if prefix else {}
    p, weights = passed(model, tokens, True, **more)
    without, rows = 0.0, weights[-1][1:-1].clone()
    for t in range(1, T - 1):
        q, w = passed(model, tokens, True, torch.arange(T)[None] != t, **more)
        without += natural(tokens, {i: q[i - 1] for i in range(first, T)})
        rows[t - 1] = w[-1][t] if computed else rows[t - 1]
    seen = sum(max(t + 1, prefix) for t in range(T))
    return {t: p[t - 1] for t in range(first, T)}, weights, without, rows, seen


def bidirectional_view(model, tokens, shift, mask, computed):
    """The same where each token is predicted in a pass in which it is masked: it alone, and in a
    page that computes the one that is hidden, too."""
    T, p_of, answers, without = tokens.shape[1], {}, [], 0.0
    for t in range(1, T - 1):
        hidden = tokens.clone()
        hidden[0, t] = mask
        p, weights = passed(model, hidden, False)
        p_of[t] = p[t - shift]
        answers.append(weights[-1, t - shift])
        others = {}
        for i in range(1, T - 1):
            (both := hidden.clone())[0, i] = mask
            others[i] = model.logits(model(both, False)[0, i - shift]).softmax(-1)
        without += natural(tokens, others)
    without = without if computed else (T - 2) * natural(tokens, p_of)
    return p_of, passed(model, tokens, False)[1], without, torch.stack(answers), T * T


@needs_browser
@pytest.mark.parametrize("lm", ["hybrid", *OTHERS], indirect=True)
@pytest.mark.parametrize("computed", [False, True], ids=["recorded", "computed"])
@torch.inference_mode()
def test_every_control_of_the_page_shows_pytorchs_numbers(lm, computed, tmp_path, monkeypatch):
    (tokens, source), shift, model = tokens_of(lm, TEXT), getattr(lm, "shift", 1), lm.model
    if not computed:
        recorded_of(lm)
        monkeypatch.setattr(live, "MOST", 10)
    found = checked(command.write_inside_page(lm, TEXT, exact=True))
    T = tokens.shape[1]
    views = [causal_view(model, tokens, source, computed)]
    if not source:
        views.append(bidirectional_view(model, tokens, shift, lm.tokenizer.special.mask, computed))
    place, heads = torch.arange(1, T + 1), torch.arange(1, 5)[:, None, None]
    for v, (p_of, weights, without, answers, seen) in enumerate(views):
        assert found["surprisal"][v] == pytest.approx(natural(tokens, p_of), rel=1e-3)
        assert found["hidden"][v] == pytest.approx(without, rel=1e-3)
        top = sum((k + 1) * x for p in p_of.values() for k, x in enumerate(p.topk(5)[0].tolist()))
        assert found["top"][v] / 100 == pytest.approx(top, rel=0.01)
        attention, pixels = ((heads * w * place).sum().item() for w in (weights, weights.sqrt()))
        assert found["attention"][v] / 100 == pytest.approx(attention, rel=0.005)
        assert found["pixels"][v] == pytest.approx(pixels, rel=0.01)
        hidden = (answers * place).sum().item()
        assert found["hiddenAttention"][v] / 100 == pytest.approx(hidden, rel=0.02)
        assert found["seen"][v] == seen
    assert len(found["seen"]) == len(views)
    assert found["together"] == T  # one token lights up in all strips
    assert found["keys"] == [0, 0, 1, 1, 0, 0] and found["requests"] == 0


@torch.inference_mode()
def test_what_is_hidden_is_seen_by_no_position(lm):
    model, generator = copy.deepcopy(lm.model), torch.Generator().manual_seed(0)
    for weight in model.blocks.parameters():  # after a few steps it hardly matters what is seen
        weight.copy_(torch.randn(weight.shape, generator=generator))
    record = recording.inside(model, lm.tokenizer, TEXT, 1, "hybrid")
    tokens = torch.tensor([[token["id"] for token in record["tokens"]]])
    T, said = tokens.shape[1], record["views"][0]["surprisal"]
    for hide in (1, T // 2):
        p, _ = passed(model, tokens, True, torch.arange(T)[None] != hide)
        nats = [-p[t - 1, tokens[0, t]].log().item() for t in range(hide + 1, T)]
        assert said[hide][hide + 1 :] == pytest.approx(nats, abs=1e-3)
        assert said[0][hide + 1 :] != pytest.approx(nats, abs=1e-2)


@torch.inference_mode()
def test_the_recorded_lens_ends_as_the_model_does_and_nothing_unseen_is_attended_to(lm):
    record, T = recorded_of(lm), tokens_of(lm, TEXT)[0].shape[1]
    masks = [visibility(T, 0, True)[0, 0].numpy(), np.ones((T, T), bool)]
    for view, wanted in zip(record["views"], masks, strict=True):
        for t, place in enumerate(view["lens"]):
            if place is not None:
                assert -np.log(place[-1]["p"]) == pytest.approx(view["surprisal"][0][t], abs=0.01)
                assert place[-1]["top"] == view["top"][0][t][:3]
                assert len(place) == lm.model.config.n_layers + 1
        mask, weights = (
            np.frombuffer(base64.b64decode(view[name]), np.uint8).reshape(-1, T, T)
            for name in ("mask", "attention")
        )
        assert np.array_equal(mask[0] == 255, wanted)
        assert weights.any() and not weights[:, ~wanted].any()


@needs_browser
def test_no_text_becomes_markup_or_script(tmp_path, monkeypatch):
    pretrained(tmp_path / "run", texts=TEXTS + [HOSTILE] * 3)
    lm = minilm.load(str(tmp_path / "run"), device="cpu")
    for most in (10, live.MOST):  # recorded, then computed
        monkeypatch.setattr(live, "MOST", most)
        found = checked(command.write_inside_page(lm, HOSTILE[:18]))
        assert found["hacked"] == "undefined" and found["requests"] == 0
        text = "".join(found["text"])
        assert "<script>" in text.replace("␣", " ") and "\u202e" not in text
    line = dict(step=3, score=1.0, causal_loss=1.0, sample=HOSTILE)
    run = finetuned(tmp_path / HOSTILE[:14].replace("/", ""), [HOSTILE, "b"], [line])
    clf = minilm.load(str(run.folder), device="cpu")
    examples = {"test": [Example(HOSTILE, label) for label in (HOSTILE, "b")]}
    monkeypatch.setattr(clf.task, "load_tested", lambda: clf.task.load(examples, [HOSTILE, "b"]))
    more = dict(tested=command.of_tested(clf), text=command.of_text(clf, HOSTILE))
    for path in (pages.write_run_page(run, **more), command.write_inside_page(clf, HOSTILE)):
        with browser.opened(path) as page:
            until = time.monotonic() + 20
            while page.value("'data' in window && !document.body.dataset.answered"):
                assert time.monotonic() < until
                time.sleep(0.02)
            assert page.value("document.querySelectorAll('img').length") == 0
            assert page.value("String(window.hacked)") == "undefined"
            shown = page.value("document.body.innerText")
        assert "<script>window.hacked=1</script>" in shown and "\u202e" not in shown


@pytest.mark.slow
def test_the_recording_of_a_large_model_and_a_long_text_stays_below_a_megabyte(tmp_path):
    tokenizer = Tokenizer.train(TEXTS, 280)
    model = stirred(Transformer(ModelConfig(16384, 256, 24, 12, 6, 48)))
    record = recording.inside(model, tokenizer, "Return the array. " * 50, 1, "hybrid")
    path = pages.write_page(tmp_path / "a.html", "inside.html", "t", record)
    assert record["leftOut"] > 0 and 100_000 < path.stat().st_size < 1_000_000


METRICS = [
    dict(step=1, loss=5.0, tokens=10, targets=9, seconds=1.0),
    dict(step=2, loss=4.0, tokens=20, targets=18, seconds=2.0),
    dict(step=2, score=3.0, causal_loss=3.0, tokens=20, targets=18, seconds=2.0, sample="first"),
    dict(step=3, loss=3.0, tokens=30, targets=27, seconds=3.0),
    dict(step=3, score=3.5, causal_loss=3.5, tokens=30, targets=27, seconds=3.0, sample="then"),
]


def test_a_runs_page_names_the_best_step_and_that_validation_got_worse(tmp_path):
    page = pages.write_run_page(pretrained(tmp_path / "new")).read_text()
    assert "Nothing is measured yet" in page and "--live" in page
    assert "--live" not in pages.next_commands("run", "finetune", {"task": "tag"})  # is refused
    run = pretrained(tmp_path / "run", metrics=METRICS)
    page = pages.write_run_page(run).read_text()
    assert "Step 2 is the best on validation" in page and "after step 2 the run overfits" in page
    assert "first" in page and "then" in page and "not finished" in page
    assert 'http-equiv="refresh"' in page  # a browser shows a run that goes on
    rows = {"these weights": dict(loss=0.5, macro_f1=0.25)}
    run.finish(dict(parameters=1234, rows=rows, part="test", texts=7))
    page = pages.write_run_page(run).read_text()
    assert 'http-equiv="refresh"' not in page and "1234" in page
    assert "<th>macro f1</th>" in page and "<td>0.50</td><td>25.0 %</td>" in page
    assert "http://" not in page and "https://" not in page and "src=" not in page


def test_the_default_run_is_drawn_beside_a_run_whose_losses_are_comparable():
    flags = dict(data=["python-docs"], vocab_size=4096)
    lines = pages.default_run("pretrain", flags)
    assert [line.name for line in lines] == ["default run: next token", "default run: masked token"]
    assert all(line.points[0][1] > line.points[-1][1] > 0 for line in lines)
    assert lines[0].points[-1][1] > lines[1].points[-1][1]  # the masked token is the easier one
    for other in (dict(vocab_size=8192), dict(data=["a.txt"])):
        assert pages.default_run("pretrain", flags | other) == []
    evaluated = [dict(step=n, score=1 / n, causal_loss=1 / n) for n in (10, 20)]
    assert "default run: next token" in pages.learning(evaluated, evaluated, None, lines)["loss"]


def test_each_word_is_shaded_by_what_its_deletion_does(tmp_path):
    clf = minilm.load(str(finetuned(tmp_path / "run").folder), device="cpu")
    with_it, without = clf.predict_proba(["an error", "error"])[:, 1]
    shaded = command.without_each_word(clf, "an error", 1)
    assert f'title="{100 * (with_it - without):+.1f} points"' in shaded


def test_the_classifiers_page_counts_what_it_takes_for_what(tmp_path, monkeypatch):
    clf = minilm.load(str(finetuned(tmp_path / "run").folder), device="cpu")
    texts = ["an error", "the array", "index " * 5, "of"]
    predicted = clf.predict(texts).tolist()
    wrong = next(name for name in clf.classes_ if name != predicted[0])
    examples = [Example(*pair) for pair in zip(texts, [wrong, *predicted[1:]], strict=True)]
    loaded = lambda: clf.task.load({"test": examples}, clf.task.classes)
    monkeypatch.setattr(clf.task, "load_tested", loaded)
    tested = command.of_tested(clf)
    page = pages.write_run_page(clf.opened, tested=tested).read_text()
    assert "accuracy 75.0 %" in page and f"{wrong}, taken for {predicted[0]}" in page
    tested["classes"] = [f"label {i}" for i in range(40)]
    assert 'class="matrix"' in page
    assert 'class="matrix"' not in pages.write_run_page(clf.opened, tested=tested).read_text()


def test_the_scripts_flags_as_arguments_train_and_leave_pages(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("Return the array of the elements.\n\n<|endoftext|>" * 60)
    rows = [f"Return the array {i},docs\nan error number {i},mail" for i in range(30)]
    Path("a.csv").write_text("text,label\n" + "\n".join(rows))
    small = dict(device="cpu", precision="float32", batch_size=4)
    shape = dict(d_model=16, n_layers=1, n_heads=2, d_ff=16, vocab_size=280, max_length=16)
    lm = minilm.pretrain(data=["a.txt"], steps=4, evaluations=2, **shape, **small)
    assert lm.opened.folder == Path("runs/pretrain-1") and lm.generate("Return", tokens=3)
    assert "page: runs/pretrain-1/view.html" in capsys.readouterr().out
    assert "finished" in Path("runs/pretrain-1/view.html").read_text()
    clf = minilm.finetune(train="a.csv", epochs=1, baselines="none", **small)
    assert set(clf.classes_) == {"docs", "mail"}
    for how in ([], ["--text", "the array"], ["--live"]):
        for run in ("pretrain-1", "finetune-1"):
            run_command(["view", f"runs/{run}", "--device", "cpu", *how])
    assert "The most confident mistakes" not in Path("runs/finetune-1/view.html").read_text()
    said = [re.search("loss by (.*?) nats", Path(f"runs/{run}/inside.html").read_text())[1]
            for run in ("pretrain-1", "finetune-1")]  # fmt: skip
    assert all(abs(float(change)) < 0.02 for change in said), said
    assert '"unigrams":{' in Path("runs/pretrain-1/inside.html").read_text()
