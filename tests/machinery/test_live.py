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
from minilm.view import live
from minilm.view.pages import text_of
from tests.machinery.small import pretrained

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
def test_twenty_texts_have_pytorchs_logits_both_ways_and_with_a_cache(lm):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(3, lm.tokenizer.vocab_size, n + 1).tolist() for n in range(20)]
    found = asked(live.data_of(lm, None, exact=True), tokens=tokens)
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


def test_two_thousand_odd_strings_have_the_tokenizers_tokens(lm):
    texts = odd_strings(2000)
    found = asked(live.data_of(lm, None), texts=texts)["ids"]
    assert found == [lm.tokenizer.encode(text).tolist() for text in texts]
