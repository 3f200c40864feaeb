"""The model that a live page computes with is the book's: the same logits, tokens, continuation."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import minilm
from minilm.config import UserError
from minilm.generate import sample
from minilm.tasks.translate import beam_search
from minilm.view import command, live
from minilm.view.pages import text_of
from tests.machinery.small import finetuned, pretrained

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(not NODE, reason="no node here")
CHECK = Path(__file__).with_name("live_check.js")


def asked(data: dict, texts=(), tokens=(), questions=()) -> dict:
    """What the page's JavaScript answers."""
    script = text_of("model.js") + text_of("live.js") + CHECK.read_text()
    given = json.dumps(dict(data=data, texts=texts, tokens=tokens, questions=questions))
    done = subprocess.run([NODE, "-e", script], input=given, capture_output=True, text=True)
    assert not done.stderr, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["hybrid", "masked", "causal"])
def lm(request, tmp_path_factory):
    """A language model of each objective."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    pretrained(folder, request.param)
    return minilm.load(str(folder), device="cpu")


@torch.inference_mode()
def test_ten_texts_have_pytorchs_logits_both_ways_and_with_a_cache(lm):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(3, lm.tokenizer.vocab_size, n).tolist() for n in range(1, 21, 2)]
    found = asked(live.data_of(lm, exact=True), tokens=tokens)
    for i, ids in enumerate(tokens):
        both = [lm.model.logits(lm.model(torch.tensor([ids]), way)[0]) for way in (True, False)]
        for logits, own in zip(
            [*both, both[0]], [*found["logits"][i], found["cached"][i]], strict=True
        ):
            assert own == pytest.approx(logits.flatten().tolist(), abs=1e-4)
    assert both[0].abs().max() > 1 and not torch.allclose(*both)


def odd_strings(n: int) -> list[str]:
    """Texts of characters that rarely stand together, as JavaScript holds them: two halves of a
    pair, side by side, are a character."""
    rng, texts = random.Random(0), ["x" * 10_000, "न" * 3000, " ", "", "\ud800", "don't we'll I'd'"]
    kinds = [range(0x20, 0x7F), range(32), range(0x7F, 0x250), range(0x590, 0x700),
             range(0x900, 0x980), range(0x3000, 0x3100), range(0xD800, 0xE000),
             range(0xFFF0, 0x10000), range(0x1F300, 0x1F700), range(0x200B, 0x2070),
             range(0x110000), (32, 9, 10, 13, 39)]  # fmt: skip
    while len(texts) < n:
        some = rng.choices(kinds, k=3)
        texts.append("".join(chr(rng.choice(rng.choice(some))) for _ in range(rng.randint(1, 40))))
    return [
        text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") for text in texts
    ]


def test_two_thousand_odd_strings_have_the_tokenizers_tokens(tmp_path):
    lm = minilm.load(str(pretrained(tmp_path / "run").folder), device="cpu")
    texts = odd_strings(2000)
    found = asked(live.data_of(lm), texts=texts)["ids"]
    assert found == [lm.tokenizer.encode(text).tolist() for text in texts]


def test_fifty_greedy_tokens_are_those_of_sample_with_a_cache_and_without(lm):
    text, special = "Return the", lm.tokenizer.special
    how = dict(ask="write", text=text, temperature=0, n=50)
    questions = [how, {**how, "cached": False}, dict(ask="fill", text="Return <mask> array")]
    *found, [filled] = asked(live.data_of(lm, exact=True), questions=questions)["answers"]
    ids = sample(lm.model, lm.tokenizer.encode(text), 50, special, temperature=0)
    ids = list(ids)  # more than the window holds, unless the text ends
    for parts in found:
        assert [part["id"] for part in parts] == ids and len(ids) > 5
    likeliest = lm.fill("Return <mask> array", top=1)[0][0][0]
    assert filled["filled"] == [likeliest]


@torch.inference_mode()
def test_a_page_labels_translates_and_says_what_it_left_out(tmp_path):
    clf = minilm.load(str(finetuned(tmp_path / "c", train="none.csv").folder), device="cpu")
    texts = ["an error", "Return the array of the elements. " * 9, ""]
    asks = [dict(ask="classify", text=text) for text in texts]
    found = asked(live.data_of(clf, exact=True), questions=asks)["answers"]
    for [first, *_], p in zip(found, clf.predict_proba(texts), strict=True):
        assert first["p"] == pytest.approx(p.tolist(), abs=1e-5)
    p = clf.predict_proba(["an error", "error"])
    label = p[0].argmax()
    assert found[0][1]["effect"] == pytest.approx(float(p[0, label] - p[1, label]), abs=1e-5)
    assert found[1][0]["leftOut"] > 0 == found[0][0]["leftOut"]
    run = finetuned(tmp_path / "t", (), task="translate", train="none.csv")
    model, source = minilm.load(str(run.folder), device="cpu"), "Return the"
    data = live.data_of(model, exact=True)
    [[first, *_]] = asked(data, questions=[dict(ask="look", text=source)])["answers"]
    ids = model.tokenizer.encode(source)
    how = dict(width=1, most=2 * len(ids) + 30)
    [target] = beam_search(model.model, ids[None], model.tokenizer.special, **how)
    assert first["translated"] == model.tokenizer.decode(target)


def test_a_page_begins_with_a_text_of_the_runs_own(tmp_path):
    rows = [f'{{"source": "ein Hund {i}", "target": "a dog {i}"}}\n' for i in range(9)]
    (own := tmp_path / "own.jsonl").write_text("".join(rows))
    files = dict(train=str(own), test=str(own))
    run = finetuned(tmp_path / "t", (), task="translate", **files)
    shown = lambda: command.view(str(run.folder), minilm.load, live=True).read_text()
    assert ">ein Hund 0</textarea>" in shown()
    own.unlink()
    assert f">{command.TEXT}</textarea>" in shown()


def test_what_no_page_computes_is_one_line(tmp_path, monkeypatch):
    tagger = finetuned(tmp_path / "a", ("O",), task="tag", train="none.csv", positions="both")
    for folder, why in (
        (tagger.folder, "learnt to tag"),
        (pretrained(tmp_path / "b").folder, "--text"),
    ):
        with pytest.raises(UserError, match=why):
            command.view(str(folder), minilm.load, live=True)
        monkeypatch.setattr(live, "MOST", 10)
