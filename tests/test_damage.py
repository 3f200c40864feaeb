"""What damage and malice can do to a checkpoint: it is passed over or refused, never used."""

import ast
import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from test_checkpoint import hold_what_was_saved, reseal, save, states

from minilm import checkpoint, tensor_file
from minilm.config import NonFiniteError, UserError
from minilm.runs import Run

ROOT = Path(checkpoint.__file__).parents[1]


def damaged(rng, content, others):
    """The content of a file, changed in one of many ways. others: those of other files."""
    content, at, length = bytearray(content), rng.randrange(len(content)), rng.randrange(1, 600)
    what = rng.choice(["bit", "byte", "cut", "zero", "swap", "append", "exchange", "digit", "json"])
    if what == "bit":
        content[at] ^= 1 << rng.randrange(8)
    elif what == "byte":
        content[at] = rng.randrange(256)
    elif what == "cut":
        del content[at:]
    elif what == "zero":  # a page that never reached the disk
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif what == "swap":
        other = rng.randrange(len(content))
        one, two = content[at : at + 64], content[other : other + 64]
        content[at : at + 64], content[other : other + 64] = two, one
    elif what == "append":
        content += rng.randbytes(length)
    elif what == "exchange":
        content = rng.choice(others)
    elif what == "digit":
        digits = [i for i, byte in enumerate(content) if byte in b"0123456789"]
        content[rng.choice(digits)] = rng.choice(b"0123456789")
    elif content[:1] == b"{":
        facts = json.loads(content)
        changed = [0, 1.0, -1, "1", None, [], {}, 1e300, *facts.values()]
        facts[rng.choice(sorted(facts))] = rng.choice(changed)
        content = json.dumps(facts).encode()
    return bytes(content)


@pytest.mark.parametrize("n", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_of_so_many_damaged_checkpoints_none_is_used_and_the_older_one_is(tmp_path, n, capsys):
    whole, run = tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    save(whole, 1, 2, score=0.5)
    files = {path.name: path.read_bytes() for path in (whole / "step-00000002").iterdir()}
    shutil.copytree(whole, run)
    older, folder = run / "step-00000001", run / "step-00000002"
    facts = checkpoint.newest(whole).score, checkpoint.newest(whole).spent
    rng, passed_over = random.Random(n), 0
    for _ in range(n):
        name = rng.choice(sorted(files))
        changed = damaged(rng, files[name], [*files.values(), (older / name).read_bytes()])
        (folder / name).write_bytes(changed)
        if rng.random() < 0.05:
            (folder / name).unlink()
        found = checkpoint.newest(run)
        said = f"{folder} is damaged and not used" in capsys.readouterr().err
        assert said == (found.step == 1)
        assert hold_what_was_saved(found) and (found.score, found.spent) == facts
        if changed != files[name] and name != "manifest.json":  # in which blanks may change
            assert found.step == 1
        passed_over += found.step == 1
        (folder / name).write_bytes(files[name])
    assert passed_over > 0.8 * n


@pytest.mark.parametrize("n", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_damaged_config_is_refused_or_says_the_same(small_world, tmp_path, n):
    whole = Run("first").config
    files = [Path("first", name).read_bytes() for name in ("config.json", "tokenizer.json")]
    shutil.copy(Path("first", "tokenizer.json"), tmp_path)
    rng, refused = random.Random(n), 0
    for _ in range(n):
        (tmp_path / "config.json").write_bytes(damaged(rng, files[0], files))
        try:
            assert Run(tmp_path).config == whole
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > n / 2


def test_damaged_lines_of_the_metrics_are_said_and_not_used(tmp_path, capsys):
    run = Run(tmp_path)
    for bad in (b"\0\0\0", b"[]", b'{"step": "2"}', b'{"loss": 1}', b'{"step": NaN}', b"\xff"):
        good = b'{"step": 1, "loss": 2.0}\n'
        (tmp_path / "metrics.jsonl").write_bytes(good + bad + b"\n" + good)
        assert run.metrics() == [{"step": 1, "loss": 2.0}]
        assert "line 2 is damaged and not used" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"st')  # what a kill leaves
    assert run.metrics() == [{"step": 1}] and not capsys.readouterr().err


# Malice


def pickled(code):
    """A .pt file whose description is this pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(64))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def calls(name, *arguments):
    """A pickle that calls a function when it is read."""
    module, _, name = name.rpartition(".")
    body = b"".join(pickle.dumps(a, protocol=2)[2:-1] for a in arguments)
    return b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n(" + body + b"tR."


def torch_file(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def packed(value):
    """The same file with its records compressed: a megabyte that unpacks to a gigabyte."""
    buffer = io.BytesIO()
    old = zipfile.ZipFile(io.BytesIO(torch_file(value)))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return buffer.getvalue()


def nested(depth):
    return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."


def a_cycle():
    value = {}
    value["w"] = [value]
    return value


def doubled(times):
    value = [torch.zeros(1)]
    for _ in range(times):
        value = [value, value]
    return {"w": value}


HOSTILE = {
    "a shell command": pickled(calls("os.system", "touch exploded")),
    "a shell command, another way": pickled(calls("subprocess.getoutput", "touch exploded")),
    "code to evaluate": pickled(calls("builtins.eval", "open('exploded', 'w')")),
    "code to execute": pickled(calls("builtins.exec", "open('exploded', 'w')")),
    "a file to open": pickled(calls("builtins.open", "exploded", "w")),
    "a module to import": pickled(calls("importlib.import_module", "antigravity")),
    "a bare pickle": pickle.dumps({"w": 1}, protocol=2),
    "a pickle that calls": calls("os.system", "touch exploded"),
    "a terabyte of nothing": pickled(calls("__builtin__.bytearray", 10**12)),
    "a terabyte tensor": pickled(calls("torch.FloatTensor", 10**12)),
    "a stretched tensor": torch_file({"w": torch.zeros(1).expand(10**12)}),
    "a stretched tensor of halves": torch_file([torch.zeros(1).half().expand(10**6, 10**6)]),
    "a zip bomb": packed({"w": torch.zeros(2**23)}),
    "deeply nested": pickled(nested(10**5)),
    "a cycle": torch_file(a_cycle()),
    "doubled forty times": torch_file(doubled(40)),
    "another object": pickled(calls("collections.Counter", "abc")),
    "a torch program": pickled(calls("torch.jit.load", "exploded")),
    "not a zip": b"PK\x03\x04" + bytes(1000),
    "nothing": b"",
    "a zip of nothing": pickled(b""),
    "no tensors": torch_file({"w": 7}),
    "a list": torch_file([torch.zeros(3)]),
    "other types": torch_file({"w": "words", "b": torch.zeros(2, dtype=torch.int64)}),
}

READ = """
import json, pathlib, resource, shutil, sys, time
sys.path[:0] = sys.argv[1:3]
import torch
from minilm import checkpoint
from minilm.config import ModelConfig, UserError
from minilm.runs import Run
at = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
checkpoint.newest(pathlib.Path("whole")).read("model")
Run("first").transformer()
begun = at()
for folder in sorted(pathlib.Path("hostile").iterdir()):
    began = time.process_time()
    try:
        Run(folder).transformer()
        outcome = "used"
    except UserError as error:
        outcome = str(error)
    print(json.dumps([folder.name, outcome, time.process_time() - began, at() - begun]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows counts memory in another way")
def test_hostile_files_run_nothing_and_exhaust_nothing(tmp_path, small_world, monkeypatch):
    """Each in the place of the weights of a run whose every hash was made to fit."""
    (tmp_path / "whole").mkdir()
    save(tmp_path / "whole", 1)
    shutil.copytree("first", tmp_path / "first")
    monkeypatch.chdir(tmp_path)
    last = checkpoint.best(Path("first")).folder.name
    for i, content in enumerate(HOSTILE.values()):
        run = Path("hostile", f"{i:02}")
        (run / last).mkdir(parents=True)
        for name in ("config.json", "tokenizer.json", f"{last}/manifest.json"):
            shutil.copy(Path("first", name), run / name)
        (run / last / "model.pt").write_bytes(content)
        reseal(run / last)
    command = [sys.executable, "-c", READ, str(ROOT), str(ROOT / "tests")]
    lines = subprocess.check_output(command, text=True, timeout=120).splitlines()
    assert len(lines) == len(HOSTILE) >= 20
    for what, line in zip(HOSTILE, map(json.loads, lines), strict=True):
        _, outcome, seconds, megabytes = line
        assert outcome != "used" and "\n" not in outcome, what
        assert seconds < 10 and megabytes < 300, (what, line)
    assert not list(tmp_path.rglob("exploded"))


def test_a_manifest_larger_than_memory_could_be_is_not_read(tmp_path):
    save(tmp_path, 1, 2)
    with open(tmp_path / "step-00000002" / "manifest.json", "wb") as file:
        file.truncate(2**40)  # a sparse file: it takes no room
    assert checkpoint.newest(tmp_path).step == 1


FORBIDDEN = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


def test_the_package_neither_unpickles_nor_evaluates_text():
    for path in [*ROOT.glob("train_*.py"), *(ROOT / "minilm").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names}
                names.add((getattr(node, "module", None) or "").split(".")[0])
                assert not names & FORBIDDEN, path
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__"), path
                if called == "torch.load":
                    assert "weights_only=True" in ast.unparse(node), path
                if called in ("np.load", "numpy.load"):
                    assert "allow_pickle=True" not in ast.unparse(node), path


# Numbers that are none


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_tensor_that_is_not_finite_is_packed_wherever_it_lies(value):
    tensor_file.pack(states(1))
    for broken in ({"a": [{"b": torch.tensor([1.0, value])}]}, [torch.tensor(value)]):
        with pytest.raises(NonFiniteError, match="is not finite, so it is not saved"):
            tensor_file.pack(broken)
