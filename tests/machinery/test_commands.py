"""Every command with every flag once, as a person types it, and each succeeds."""

import copy
import dataclasses
import functools
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import minilm
from minilm.cli import commands, scripts
from minilm.cli.flags import flag_name, flags_of, parse_flags
from minilm.cli.options import FinetuneConfig, PretrainConfig
from minilm.config import UserError
from minilm.runs.device import Machine
from minilm.view.pages import write_run_page
from tests.machinery.small import finetuned, pretrained
from tests.machinery.small_hf import folder_of_gpt2

TINY = "--d-model 8 --n-layers 1 --n-heads 2 --d-ff 16 --vocab-size 262 --max-length 16"
FAST = "--batch-size 2 --accumulate 2 --device cpu --precision float32 --no-compile --seed 3"
RATE = "--learning-rate 1e-3 --optimizer adamw --weight-decay 0 --dropout 0.1"
LEARN = f"--pretrained base {FAST} {RATE} --max-length 20 --epochs 1 --baselines none"
# Of each command the lines that hold all its flags: a new flag wants a place in one of them. In the
# folder are runs: base, labels, answers; files; and data/tinyshakespeare, which is there already.
LINES = {
    "pretrain": [
        f"--data own.csv --text-column said --encoding utf-16 {TINY} {FAST} {RATE} --size tiny "
        f"--steps 2 --evaluations 1 --objective hybrid --family ours --mask-rate 0.4 --shift 1 "
        f"--run new",
        "--resume --run new",
        f"--data own.txt --document-separator END --init base {FAST} --minutes 0.01 "
        f"--objective causal --corrupt --target-share 0.5 --max-tokens 1000 --run on",
    ],
    "finetune": [
        f"--task classify --train own.jsonl --valid own.jsonl --test own.jsonl --text-column said "
        f"--label-column kind --encoding utf-8 --pooling last --attention causal --freeze "
        f"--layer-decay 0.9 --patience 2 {LEARN} --run c",
        "--resume --run c",
        f"--train own.jsonl --text-column said --label-column kind --labels 12 --balanced --search "
        f"--from-scratch {LEARN} --run s",
        f"--task tag --data wnut17 --positions own {LEARN} --run t",
        f"--task translate --train own.jsonl --source-column said --target-column kind --beam 2 "
        f"{LEARN} --run x",
    ],
    "generate": ["base 'the array' --tokens 3 --temperature 0.5 --top-k 9 --top-p 0.9 --seed 4 "
                 "--device cpu"],
    "fill": ["base 'the <mask>.' --top 2 --device cpu"],
    "predict": ["labels 'the array' --device cpu",
                "labels --file own.csv --out o.jsonl --text-column said --encoding utf-16",
                "answers 'a text' --question 'which one?'"],
    "evaluate": ["base --data own.csv --text-column said --encoding utf-16 --device cpu",
                 "labels --test own.jsonl --text-column said --label-column kind",
                 "pairs --test own.jsonl --source-column said --target-column kind"],
    "tokenize": ["base 'the array'"],
    "view": ["base --text 'the array' --open --device cpu", "base --live"],
    # Read, but not done: a comparison of toy size takes a minute (test_compare.py).
    "compare": ["--data own --size small --arms causal --arm 'a: --steps 9' --arm 'b: --shift 1' "
                "--factors --grid --sweep --seeds 2 --steps 9 --batch-size 2 --labels 9 --pairs 12 "
                "--finetunings 1 --rows 11 --max-length 9 --device cpu --precision float32 "
                "--no-compile --seed 3 --run toy", "--resume --run toy", "--report"],
    "estimate": [f"{TINY} {FAST} --steps 9"],
    "trace": ["base 'the array' --device cpu"],
    "fetch": ["tinyshakespeare"],
    "import": ["gpt2 imported"],
    "export": ["base exported", "labels exported-too"],
}  # fmt: skip
NEEDS = ["safetensors", "tokenizers"]
SAME = {"estimate": "pretrain"}  # takes the flags of the other, which writes nothing with them


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Runs and files; made once."""
    folder = tmp_path_factory.mktemp("commands")
    base = pretrained(folder / "base", texts=["Return the array END of it."] * 40)
    kept = base.config
    kept["flags"]["data"] = ["own.txt"]
    (folder / "base/config.json").write_text(json.dumps(kept))
    finetuned(folder / "labels")
    finetuned(folder / "answers", (), task="answer")
    finetuned(folder / "pairs", (), task="translate", train="none.csv", beam=1)
    said = [f"Return the array {i}" for i in range(30)]
    (folder / "own.txt").write_text(" END ".join(said))
    (folder / "own.csv").write_text("said\n" + "\n".join(said), encoding="utf-16")
    rows = [dict(said=text, kind=("docs", "mail")[i % 2]) for i, text in enumerate(said)]
    tagged = [dict(words=text.split(), tags=["O", "O", "B-thing", "O"]) for text in said]
    for name in ("wnut17", "tinyshakespeare"):
        (folder / "data" / name).mkdir(parents=True)
    (folder / "data/tinyshakespeare/input.txt").touch()
    for name, lines in (("own", rows), ("data/wnut17/train", tagged)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.mark.parametrize("name", LINES)
def test_a_command_does_what_is_typed(name, world, monkeypatch, capsys):
    for library in dict(compare=["scipy"], export=NEEDS, **{"import": NEEDS}).get(name, ()):
        pytest.importorskip(library)
    monkeypatch.chdir(world)
    monkeypatch.setattr("webbrowser.open", lambda url: None)
    monkeypatch.setattr(scripts, "estimate", functools.partial(scripts.estimate, measure=0.1))
    if name == "import":
        folder_of_gpt2(world / "gpt2")
    if name == "compare":
        monkeypatch.setattr("minilm.compare.experiment.compare", lambda options, **scripts: options)
        monkeypatch.setattr("minilm.compare.report.write", lambda options: None)
    for line in LINES[name]:
        try:
            commands.main([name, *shlex.split(line)])
        except SystemExit as ended:
            pytest.fail(f"{name} {line}: status {ended.code}, {capsys.readouterr().err}")


def test_whatever_a_config_holds_a_run_is_used_or_refused_in_one_line(tmp_path):
    runs, missing = (pretrained(tmp_path / "base"), finetuned(tmp_path / "labels")), {}
    flags = [("flags", name) for name in ("objective", "shift", "size", "max_length", "task")]
    for run in runs:
        whole, refused = run.config, 0
        places = [(name,) for name in whole] + [("model", name) for name in whole["model"]] + flags
        for *inside, name in places:
            for value in (missing, None, ["x"], 7, 10**400):
                part = config = copy.deepcopy(whole)
                for key in inside:
                    part = part[key]
                part[name] = value
                if value is missing:
                    del part[name]
                (run.folder / "config.json").write_text(json.dumps(config))
                try:
                    write_run_page(run)
                    lm = minilm.load(run.folder, "cpu")
                    lm.predict(["a"]) if run is runs[1] else lm.fill("<mask> of")
                except UserError as error:
                    assert "\n" not in str(error)
                    refused += 1
        assert 60 < refused < 5 * len(places)


def test_what_a_run_was_trained_with_is_used_again_or_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("Return the array of it.\n" * 200)
    base, again = pretrained(tmp_path / "base"), PretrainConfig(init="base", steps=1)
    whole, refused = base.config, 0
    whole["flags"]["data"] = ["own.txt"]
    names = ("none", "data", "text_column", "encoding", "document_separator", "size")
    for name, value in itertools.product(names, (7, ["x", 7], 10**400)):
        flags = whole["flags"] | ({name: value} if name != "none" else {})
        (tmp_path / "base/config.json").write_text(json.dumps(whole | dict(flags=flags)))
        try:
            if value == 7:
                commands.run_command(["view", "base", "--live", "--device", "cpu"])
            minilm.load("base", "cpu").evaluate()
            scripts.with_first_weights(again, Machine(torch.device("cpu")))
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused == 3 * (len(names) - 1)


def test_every_flag_of_every_command_is_in_a_line():
    learn = Path(__file__).with_name("test_learn.py").read_text("utf-8")  # where these are typed
    for name, command in commands.commands().items():
        lines = LINES.get(name, [learn]) + LINES.get(SAME.get(name), [])
        typed = {*re.findall(r"--[\w-]+", " ".join(lines))}
        for field in dataclasses.fields(flags_of(command, commands.ABOUT)):
            flag = flag_name(field.name)
            is_there = not field.kw_only or {flag, flag.replace("--", "--no-", 1)} & typed
            assert is_there, f"{name} {flag}"


def test_a_flag_takes_what_its_field_says():
    options = lambda words: parse_flags(FinetuneConfig, "", words.split())
    assert options("").compile is None and options("").given == frozenset()
    found = options("--no-compile --freeze --layer-decay 1 --labels 20")
    assert (found.compile, found.freeze, found.layer_decay, found.labels) == (False, True, 1, 20)
    assert found.given == {"compile", "freeze", "layer_decay", "labels"}
    assert parse_flags(PretrainConfig, "", ["--data", "a", "b"]).data == ["a", "b"]
    wrong = {"--layer-decay nan": "0.01 to 1", "--labels 2.5": "--labels", "--be 1": "--beam",
             "--batchsize 3": "--batch-size", "--task x": "classify"}  # fmt: skip
    for words, said in wrong.items():
        with pytest.raises(UserError, match=said):
            options(words)
    for value in ("3", None, [3], 2.5):
        with pytest.raises(UserError, match="--seed cannot be"):
            FinetuneConfig(seed=value)


def test_a_shell_starts_them(world):
    """As a process: the status is 0; without torch one line says what to install."""
    how = dict(cwd=world, capture_output=True, text=True)
    root = str(Path(commands.__file__).parents[2])
    start = f"import sys; sys.path.insert(0, {root!r}); "
    run = "from minilm.cli.commands import main; main(sys.argv[1:])"
    line = ["tokenize", "base", "the array"]
    shown = subprocess.run([sys.executable, "-c", start + run, *line], **how)
    assert shown.returncode == 0 and "9 bytes" in shown.stdout, shown.stderr
    none = start + "sys.modules['torch'] = None; " + run
    told = subprocess.run([sys.executable, "-c", none, *line], **how)
    assert told.returncode == 2 and told.stderr.startswith("error: torch is missing: pip install")
    assert told.stderr.count("\n") == 1


def test_a_file_is_read_as_in_training_and_data_that_have_changed_are_said(
    world, monkeypatch, capsys
):
    monkeypatch.chdir(world)
    rows = [f"meta,good film {i},{i % 2}" for i in range(20)]
    Path("films.csv").write_text("\n".join(["text,review,label", *rows, ""]))
    how = dict(pretrained="base", epochs=1, baselines="none", device="cpu")
    minilm.finetune(train="films.csv", text_column="review", run="reviews", **how)
    commands.run_command(["predict", "reviews", "--file", "films.csv"])
    first = json.loads(Path("films.csv.predicted.jsonl").read_text().splitlines()[0])
    assert first["text"] == "good film 0"
    for added, said in (("", False), ("x,another,0\n", True)):
        with open("films.csv", "a") as file:
            file.write(added)
        capsys.readouterr()
        commands.run_command(["evaluate", "reviews"])
        assert ("the data have changed" in capsys.readouterr().err) == said
