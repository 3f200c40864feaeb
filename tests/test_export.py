"""Runs of ours, written for Hugging Face's transformers: it opens them, and says what they say."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from small import everything, some_text

from minilm import checkpoint
from minilm.config import FinetuneConfig, PretrainConfig, UserError
from minilm.heads import Classifier
from minilm.interop import export_run, read_folder
from minilm.interop.words import BERT_ROLES, GPT2_ROLES, from_merges, from_vocab_txt
from minilm.labelled import frame
from minilm.model import Transformer
from minilm.runs import Run
from minilm.tokenizer import STAND_IN, Tokenizer
from minilm.vocabularies import make_foreign

TOKENIZER = Tokenizer.train([[some_text(300, 1)]], 300)
TEXT = some_text(12, 2)
TOKENS = torch.from_numpy(frame(TOKENIZER.encode(TEXT), 30).astype(np.int64))
BATCH = torch.stack([TOKENS, torch.cat([TOKENS[:9], torch.zeros(len(TOKENS) - 9).long()])])
IS_REAL = BATCH != 0
SHAPE = dict(d_model=24, n_layers=4, n_heads=3, d_ff=40, max_length=30)


def shaken(module):
    """The module with all its weights random, so that none hides an error. Gains are near 1: small
    ones, block after block, would make all tokens of a BERT alike, and any pooling right."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        gain = parameter.dim() == 1 and name.endswith("weight")
        parameter.data.normal_(float(gain), 0.3, generator=generator)
    return module.eval()


def make_run(folder, objective, family):
    """A pretraining run whose weights are random."""
    flags = PretrainConfig(objective=objective, family=family, **SHAPE).with_defaults()
    shape = flags.model(TOKENIZER.vocab_size)
    if family == "modernbert":
        shape = dataclasses.replace(shape, local_window=4)  # so that it matters in a short text
    model = shaken(Transformer(shape))
    return save(folder, "pretrain", flags, model, shape)


def make_classifier(folder, family, pooling, attention="bidirectional", tokenizer=TOKENIZER):
    """A fine-tuned run whose weights are random."""
    shape = PretrainConfig(family=family, **SHAPE).with_defaults().model(tokenizer.vocab_size)
    flags = FinetuneConfig(train="own.csv", pooling=pooling, attention=attention)
    model = shaken(Classifier(Transformer(shape), 3, pooling))
    return save(folder, "finetune", flags, model, shape, tokenizer, classes=["a", "b", "c"])


def save(folder, kind, flags, model, shape, tokenizer=TOKENIZER, **more):
    run = Run(folder)
    run.claim(resume=False)
    checkpoint.save(folder, 1, dict(tokens=0, targets=0, seconds=0.0), model=model.state_dict())
    facts = dict(kind=kind, flags=vars(flags), model=dataclasses.asdict(shape), **more)
    run.create(facts, tokenizer)
    return run, model


EXPORTS = [
    ("ours", "causal", "CausalLM"),
    ("ours", "hybrid", "CausalLM"),
    ("ours", "masked", "CausalLM"),  # reads in both directions all the same
    ("gpt2", "causal", "CausalLM"),
    ("bert", "masked", "MaskedLM"),
    ("bert", "causal", "CausalLM"),
    ("modernbert", "masked", "MaskedLM"),
    ("modernbert", "causal", "CausalLM"),
]


@pytest.mark.parametrize(("family", "objective", "opens"), EXPORTS)
def test_a_language_model_says_there_what_it_says_here(tmp_path, family, objective, opens):
    transformers = pytest.importorskip("transformers")
    run, ours = make_run(tmp_path / "run", objective, family)
    assert f"AutoModelFor{opens}.from" in export_run(run, tmp_path / "out")
    found = getattr(transformers, f"AutoModelFor{opens}").from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    theirs, info = found
    assert not any(info.values()), info
    with torch.no_grad():
        for is_real in (torch.ones_like(IS_REAL), IS_REAL):
            mask = is_real.long()
            logits = theirs.eval()(input_ids=BATCH, attention_mask=mask).logits[is_real]
            hidden = ours(BATCH, causal=objective != "masked", is_real=is_real)
            torch.testing.assert_close(ours.logits(hidden)[is_real], logits, rtol=0, atol=1e-4)
            assert logits.std() > 0.1
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    end = [] if objective != "masked" else TOKENS[-1:].tolist()
    assert tokenizer(TEXT).input_ids == TOKENS[:-1].tolist() + end
    assert tokenizer.decode(TOKENS[1:-1]) == TEXT and tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    ("family", "pooling", "attention"),
    [
        ("ours", "last", "bidirectional"),
        ("ours", "last", "causal"),
        ("gpt2", "last", "causal"),
        ("bert", "first", "bidirectional"),
        ("ours", "mean", "bidirectional"),
        ("ours", "mean", "causal"),
        ("gpt2", "mean", "bidirectional"),
        ("gpt2", "mean", "causal"),
        ("bert", "mean", "bidirectional"),
        ("bert", "mean", "causal"),
    ],
)
def test_a_classifier_says_there_what_it_says_here(tmp_path, family, pooling, attention):
    transformers = pytest.importorskip("transformers")
    run, ours = make_classifier(tmp_path / "run", family, pooling, attention)
    lines = export_run(run, tmp_path / "out")
    opens = "TokenClassification" if pooling == "mean" else "SequenceClassification"
    theirs, info = getattr(transformers, f"AutoModelFor{opens}").from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(info.values()), info
    with torch.no_grad():
        logits = theirs.eval()(input_ids=BATCH, attention_mask=IS_REAL.long()).logits
        if pooling == "mean":  # theirs are scores of tokens
            assert logits[0].std(0).max() > 0.1
            logits = torch.stack([z[real].mean(0) for z, real in zip(logits, IS_REAL, strict=True)])
        mine = ours(BATCH, IS_REAL, causal=attention == "causal")
    torch.testing.assert_close(mine, logits, rtol=0, atol=1e-4)
    assert theirs.config.id2label == {0: "a", 1: "b", 2: "c"}
    said = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert said["architectures"] == [type(theirs).__name__]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXT).input_ids == TOKENS.tolist()

    *begin, last = lines.replace("A text.", TEXT).splitlines()
    known: dict = {}
    exec("\n".join(begin), known)  # what a reader is told to type
    with torch.no_grad():
        found = eval(last, known)
    torch.testing.assert_close(found, mine[:1].softmax(-1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_an_exported_classifier_puts_around_words_of_others_what_ours_read(tmp_path, family):
    """GPT-2's words put nothing there, so that the means were of two tokens fewer."""
    transformers = pytest.importorskip("transformers")
    if family == "gpt2":
        vocab = {name: i for i, name in enumerate([*STAND_IN.values(), "<|endoftext|>"])}
        words = make_foreign(from_merges(vocab, []), GPT2_ROLES)
    else:
        words = make_foreign(from_vocab_txt([*BERT_ROLES.values(), *TEXT.split()], {}), BERT_ROLES)
    run, _ = make_classifier(tmp_path / "run", family, "mean", tokenizer=words)
    export_run(run, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    framed = frame(words.encode(TEXT[:20]), 30, words.special)
    assert tokenizer(TEXT[:20]).input_ids == framed.tolist()


def exported_twice(run, folder):
    """The files of two exports of a run."""
    for name in ("one", "two"):
        export_run(run, folder / name)
    return (
        {path.name: digest for path, digest in everything(folder / name).items()}
        for name in ("one", "two")
    )


@pytest.mark.parametrize("family", ["ours", "gpt2", "bert"])
def test_an_exported_classifier_is_the_same_twice(tmp_path, family):
    one, two = exported_twice(make_classifier(tmp_path / "run", family, "mean")[0], tmp_path)
    assert one == two and len(one) == 4


@pytest.mark.parametrize("family", ["ours", "gpt2", "bert", "modernbert"])
def test_an_export_is_the_same_twice_and_can_come_back(tmp_path, family):
    run, model = make_run(tmp_path / "run", "masked" if family == "bert" else "causal", family)
    one, two = exported_twice(run, tmp_path)
    assert one == two and len(one) == 4
    shape, weights, _ = read_folder(tmp_path / "one")
    again = Transformer(shape).eval()
    again.load_state_dict(weights)
    with torch.no_grad():
        for causal in (True, False):
            was, now = (m.logits(m(BATCH, causal=causal)) for m in (model, again))
            torch.testing.assert_close(now, was, rtol=0, atol=1e-6)


def test_what_is_there_is_not_written_over_and_what_has_no_type_is_said(tmp_path):
    run, _ = make_run(tmp_path / "run", "causal", "ours")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(UserError, match="not an empty folder"):
        export_run(run, tmp_path / "full")
    for family, pooling, advice in (
        ("ours", "first", "--pooling mean or last"),
        ("bert", "last", "--pooling mean or first"),
        ("modernbert", "mean", "pretrained with --family ours, bert or gpt2"),
    ):
        tuned, _ = make_classifier(tmp_path / family, family, pooling)
        with pytest.raises(UserError, match=f"^[^\\n]*{advice} to export$"):
            export_run(tuned, tmp_path / "out")
    assert not (tmp_path / "out").exists()
