"""`python -m minilm`: what each command prints, and one line for whatever is wrong."""

import csv
import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from minilm import checkpoint, commands
from minilm import generate as language_model
from minilm.__main__ import COMMANDS, main
from minilm.config import FinetuneConfig, ModelConfig, PretrainConfig, UserError
from minilm.corpora import fetch
from minilm.device import choose_machine
from minilm.experiments import estimate
from minilm.heads import Classifier
from minilm.labelled import frame
from minilm.model import Transformer
from minilm.runs import Run
from minilm.tokenizer import DOC, MASK, N_SPECIAL, Tokenizer

TEXT = "The film was good . The plot was bad . The actors were good , and the end was bad .\n" * 40
TOKENIZER = Tokenizer.train([[TEXT]], 300)
SHAPE = ModelConfig(TOKENIZER.vocab_size, 16, d_model=16, n_layers=1, n_heads=2, d_ff=32)
ROWS = [("good film", "pos"), ("bad film , and a bad plot , and a bad end .", "neg")] * 3
ROWS += [("the end was good", "pos"), ("good " * 40, "neg")]


def scramble(model):
    """Random weights everywhere: a new model's sub-layers and heads give zero."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.5, generator=generator)
    return model


def write_run(folder, config, model, **facts):
    """A run folder with one checkpoint."""
    kind = "pretrain" if isinstance(config, PretrainConfig) else "finetune"
    folder.mkdir()
    flags, shape = dataclasses.asdict(config), dataclasses.asdict(SHAPE)
    Run(folder).create(dict(kind=kind, flags=flags, model=shape, **facts), TOKENIZER)
    spent = dict(tokens=1, targets=1, seconds=1.0)
    checkpoint.save(folder, 1, spent, model=model.state_dict(), optimizers=[])


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder with runs and files, in which every test of this file is at home."""
    place = tmp_path_factory.mktemp("commands")
    (place / "own.txt").write_text(TEXT, encoding="utf-8")
    (place / "other.txt").write_text(TEXT.upper(), encoding="utf-8")
    table = "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in ROWS)
    (place / "own.csv").write_text(table, encoding="utf-8")
    (place / "strange.csv").write_text("text,label\nwhat,odd\n", encoding="utf-8")
    (place / "lines.txt").write_text("good film\n\n  bad film\n", encoding="utf-8")
    (place / "taken.jsonl").write_text("mine", encoding="utf-8")
    own = dict(data=["own.txt"], max_length=16)
    for objective in ("causal", "masked", "hybrid"):
        config = PretrainConfig(objective=objective, **own)
        write_run(place / objective, config, scramble(Transformer(SHAPE)), facts={})
    uniform = Transformer(SHAPE)
    uniform.embedding.weight.data.zero_()
    write_run(place / "uniform", PretrainConfig(**own), uniform, facts={})
    classifier = scramble(Classifier(Transformer(SHAPE), 2)).eval()
    with torch.no_grad():  # the two labels are to come about equally often
        texts = [
            torch.tensor(frame(TOKENIZER.encode(text), 16)[None].astype(int)) for text, _ in ROWS
        ]
        logits = [classifier(text, torch.ones_like(text).bool(), causal=False) for text in texts]
        classifier.head.bias -= torch.cat(logits).median(dim=0).values
    config = FinetuneConfig(train="own.csv", test="own.csv", max_length=16)
    write_run(place / "labels", config, classifier, classes=["neg", "pos"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


@pytest.fixture
def run(capsys):
    """run("fill", ...) -> what the command printed."""

    def run(*argv):
        main([str(word) for word in argv])
        return capsys.readouterr().out

    return run


def test_generate_prints_the_prompt_and_the_words_that_follow(run):
    prompt, model = "The film", Run("hybrid").transformer()
    how = dict(temperature=1.5, top_k=40, top_p=0.9, seed=4)
    model.to(torch.bfloat16 if choose_machine("cpu").bfloat16 else torch.float32)
    words = language_model.generate(model, TOKENIZER.encode(prompt), 8, **how)
    expected = prompt + TOKENIZER.decode(list(words))
    settings = ("--temperature", 1.5, "--top-k", 40, "--top-p", 0.9, "--seed", 4)
    assert run("generate", "hybrid", prompt, "--tokens", 8, *settings) == expected + "\n"


def test_generate_shows_words_as_they_are_made_and_characters_when_they_are_whole(
    monkeypatch, capsys
):
    seen = []

    def words(*_, **how):
        for byte in "aé⏎".encode():
            yield N_SPECIAL + byte
            seen.append(capsys.readouterr().out)

    monkeypatch.setattr(language_model, "generate", words)
    main(["generate", "causal", "<mask>"])
    assert seen == ["<mask>a", "", "é", "", "", "⏎"]


def test_special_tokens_in_a_prompt_are_plain_text(monkeypatch, run):
    prompts = []
    monkeypatch.setattr(language_model, "generate", lambda _, p, *a, **b: prompts.append(p) or [])
    run("generate", "causal", "<mask><doc>")
    run("generate", "causal")
    assert min(prompts[0]) >= N_SPECIAL and not len(prompts[1])


def test_options_may_stand_before_the_text(run):
    after = run("generate", "hybrid", "The", "--tokens", 3)
    assert run("generate", "hybrid", "--tokens", 3, "The") == after
    assert run("generate", "--tokens", 3, "hybrid", "The") == after


def test_a_mask_takes_the_space_before_it(monkeypatch, run):
    asked = []
    monkeypatch.setattr(language_model, "fill", lambda model, t, *_: asked.append(t) or [])
    run("fill", "hybrid", "was  <mask> . <doc>")
    expected = [*TOKENIZER.encode("was"), MASK, *TOKENIZER.encode(" . <doc>")]
    assert asked[0].tolist() == expected and DOC not in asked[0]


@pytest.mark.parametrize("objective", ["causal", "masked", "hybrid"])
def test_fill_names_five_words_for_each_mask_the_likeliest_first(run, objective):
    lines = run("fill", objective, "The <mask> was <mask> .").splitlines()
    assert ("left" in lines[0]) == (objective == "causal")
    lines = lines[objective == "causal" :]
    assert lines[::6] == ["<mask> 1 of 2", "<mask> 2 of 2"] and len(lines) == 12
    tokens = [TOKENIZER.encode("The"), [MASK], TOKENIZER.encode(" was"), [MASK]]
    tokens = np.concatenate([*tokens, TOKENIZER.encode(" .")])
    found = language_model.fill(Run(objective).transformer(), tokens, objective)
    for i, words in enumerate(found):
        for line, (word, p) in zip(lines[6 * i + 1 : 6 * i + 6], words, strict=True):
            assert line.split(maxsplit=1) == [f"{p:.1%}", repr(TOKENIZER.decode([word]))]


def test_predict_names_every_label_the_likeliest_first(run):
    shares = [float(line.split("%")[0]) for line in run("predict", "labels", "good").splitlines()]
    assert len(shares) == 2 and shares[0] > shares[1] and sum(shares) == pytest.approx(100, abs=0.2)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_file_in_is_a_file_out_in_the_same_order(run, ending, tmp_path):
    out = tmp_path / f"out.{ending}"
    assert str(out) in run("predict", "labels", "--file", "own.csv", "--out", out)
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file) if ending == "csv" else map(json.loads, file))
    assert [row["text"] for row in rows] == [text for text, _ in ROWS]
    assert len({row["label"] for row in rows}) == 2
    for row in rows[-4:]:  # each text once
        first = run("predict", "labels", row["text"]).splitlines()[0]
        share, label = re.fullmatch(r" *([\d.]+)%  (\w+)", first).groups()
        assert label == row["label"]
        assert float(share) / 100 == pytest.approx(float(row["probability"]), abs=0.02)  # bfloat16


def test_of_a_txt_each_line_is_a_text(run, place):
    run("predict", "labels", "--file", "lines.txt")
    lines = (place / "lines.txt.predicted.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["good film", "bad film"]


def test_a_prediction_that_fails_leaves_no_file(monkeypatch, tmp_path, capsys):
    def fail(*_):
        raise UserError("no")

    monkeypatch.setattr(commands.Labeller, "read", fail)
    with pytest.raises(SystemExit):
        main(["predict", "labels", "--file", "own.csv", "--out", str(tmp_path / "out.csv")])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("choice, name", [((), "own.txt"), (("--data", "other.txt"), "other.txt")])
def test_evaluate_measures_a_language_model_on_validation_text(run, choice, name):
    printed = run("evaluate", "uniform", *choice)
    assert f"validation part of {name}," in printed
    entropy = f"{math.log(TOKENIZER.vocab_size):.3f}"
    assert re.search(f"causal loss +{entropy}", printed)
    assert re.search(f"masked loss +{entropy}", printed)
    assert "unigram entropy" in printed


@pytest.mark.parametrize("choice", [(), ("--test", "own.csv")])
def test_evaluate_measures_a_classifier_on_test_texts(run, tmp_path, choice):
    run("predict", "labels", "--file", "own.csv", "--out", tmp_path / "out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    predicted = [json.loads(line)["label"] for line in lines]
    right = sum(p == label for p, (_, label) in zip(predicted, ROWS, strict=True))
    assert 0 < right < len(ROWS)
    printed = run("evaluate", "labels", *choice)
    assert f"accuracy {100 * right / len(ROWS):.1f} %" in printed and "own.csv:" in printed


def test_estimate_takes_the_flags_of_pretraining(run, monkeypatch):
    monkeypatch.setattr(estimate, "seconds_per_step", lambda *_: 0.5)
    flags = ("--d-model", 16, "--n-layers", 1, "--n-heads", 2, "--vocab-size", 300, "--watts", 50)
    printed = run("estimate", *flags, "--max-length", 8, "--batch-size", 2, "--steps", 90000)
    assert "90,000 of 16 tokens" in printed and "at 50 W (as given)" in printed


def test_fetch_passes_on_the_name(monkeypatch, run):
    names = []
    monkeypatch.setattr(fetch, "fetch", names.append)
    run("fetch", "imdb")
    assert names == ["imdb"]


LONG = "<mask>" + " film" * 14
PREDICT = ("predict", "labels", "--file", "own.csv")


@pytest.mark.parametrize(
    "argv, says",
    [
        ([], "COMMAND"),
        (["genrate"], "did you mean generate?"),
        (["xyz"], "choose one of generate, fill"),
        (["generate"], "RUN"),
        (["generate", "nowhere"], "nowhere is not a run"),
        (["generate", "hybrid", "--tempratur", "1"], "did you mean --temperature?"),
        (["generate", "hybrid", "--temperature", "-1"], "'-1': give a number of 0 or more"),
        (["generate", "hybrid", "--temperature", "nan"], "give a number"),
        (["generate", "hybrid", "--temperature", "inf"], "give a number"),
        (["generate", "hybrid", "--tokens", "0"], "'0': give a number of 1 or more"),
        (["generate", "hybrid", "--tokens", "1.5"], "'1.5': give a number"),
        (["generate", "hybrid", "--top-p", "2"], "'2': give a number from 0 to 1"),
        (["generate", "masked"], "--objective causal or hybrid"),
        (["generate", "labels"], "labels is a finetune run"),
        (["fill", "labels", "<mask>"], "labels is a finetune run"),
        (["fill", "masked", "no mask"], "there is no <mask>"),
        (["fill", "masked", LONG], "15 tokens, and masked reads 14 at most"),
        (["predict", "masked", "text"], "masked is a pretrain run"),
        (["predict", "labels"], "either"),
        (["predict", "labels", "text", "--file", "own.csv"], "either"),
        (["predict", "labels", "text", "--out", "a.csv"], "either"),
        ([*PREDICT, "--out", "taken.jsonl"], "taken.jsonl exists"),
        ([*PREDICT, "--out", "a.txt"], ".jsonl or .csv"),
        ([*PREDICT, "--out", "no/folder/a.csv"], "cannot be written"),
        ([*PREDICT, "--text-column", "body"], "no column 'body'"),
        (["predict", "labels", "--file", "nowhere.csv"], "no such file"),
        (["evaluate", "masked", "--test", "own.csv"], "--data"),
        (["evaluate", "masked", "--data", "a", "--test", "b"], "choose one"),
        (["evaluate", "labels", "--test", "strange.csv"], "'odd', which this run never learnt"),
        (["estimate", "--step", "5"], "did you mean --steps?"),
        (["estimate", "--d-model", "10", "--n-heads", "4"], "multiple of the number of heads"),
        (["fetch", "moon"], "no such corpus"),
    ],
)
def test_whatever_is_wrong_is_one_line_and_exit_status_2(argv, says, capsys, place):
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == before


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_needs_no_torch(command, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "minilm.commands", None)
    monkeypatch.setitem(sys.modules, "minilm.device", None)
    with pytest.raises(SystemExit) as caught:
        main([*command.split(), "--help"])
    assert not caught.value.code and f"usage: python -m minilm {command}" in capsys.readouterr().out


def test_help_is_answered_without_torch_and_a_wrong_command_with_exit_status_2():
    def answer(argument):
        command = f"from minilm.__main__ import main; main(['{argument}'])"
        return subprocess.run(
            [sys.executable, "-c", "import sys; sys.modules['torch'] = None; " + command],
            capture_output=True,
            cwd=commands.__file__.rsplit("minilm", 1)[0],
        )

    assert b"generate" in answer("--help").stdout
    assert answer("genrate").returncode == 2
