"""What a file that was made to do harm can do: nothing. It is refused within a second and takes no
memory, and no code in it runs."""

import ast
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from test_checkpoint import reseal, save

from minilm import checkpoint, durable
from minilm.config import UserError
from minilm.durable import LARGEST_JSON
from minilm.runs import Run
from minilm.tokenizer import Tokenizer

ROOT = Path(checkpoint.__file__).parents[1]


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


def shape(**changes):
    return lambda config: config["model"].update(changes)


# In which file of which run: its whole content, or what is done to it before it is sealed again.
HOSTILE_JSON = {
    "a path upwards": ("first", "manifest.json", lambda m: m.update(files={"../../x.pt": "0"})),
    "a path from the root": ("first", "manifest.json", lambda m: m.update(files={"/dev/zero": 0})),
    "no list of files": ("first", "manifest.json", lambda m: m.update(files=10**9)),
    "a step without end": ("first", "manifest.json", lambda m: m.update(step="9" * 10**6)),
    "a deep manifest": ("first", "manifest.json", b"[" * (LARGEST_JSON - 1)),
    "a long manifest": ("first", "manifest.json", b"[" + b"[]," * (LARGEST_JSON // 3 - 9) + b"0]"),
    "a sealed long one": ("first", "manifest.json", lambda m: m.update(spent=[0] * (2**16))),
    "a number of megabytes": ("first", "config.json", b'{"a":' + b"9" * 10**6 + b"}"),
    "a million layers": ("first", "config.json", shape(n_layers=2**20)),
    "a million words": ("first", "config.json", shape(vocab_size=2**20)),
    "a million heads": ("first", "config.json", shape(n_heads=2**20, d_model=2**20)),
    "a million positions": ("first", "config.json", shape(max_length=2**20)),
    "so many learned ones": ("first", "config.json", shape(max_length=2**16, positions="learned")),
    "a wide layer": ("first", "config.json", shape(d_ff=2**20)),
    "a shape of words": ("first", "config.json", lambda c: c.update(model="small")),
    "too many labels": ("labels", "config.json", lambda c: c.update(classes=[0] * 2**16)),
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
        run = Run(folder)
        run.classifier() if run.config["kind"] == "finetune" else run.transformer()
        outcome = "used"
    except UserError as error:
        outcome = str(error)
    print(json.dumps([folder.name, outcome, time.process_time() - began, at() - begun]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows counts memory in another way")
def test_hostile_files_run_nothing_and_exhaust_nothing(tmp_path, small_world, monkeypatch):
    """Each in the place of the weights, the manifest or the config of a run whose every hash was
    made to fit."""
    hostile = {what: ("first", "model.pt", code) for what, code in HOSTILE.items()} | HOSTILE_JSON
    (tmp_path / "whole").mkdir()
    save(tmp_path / "whole", 1)
    for name in ("first", "labels"):
        run = shutil.copytree(name, tmp_path / name)
        for other in checkpoint.checkpoints(run)[:-1]:
            shutil.rmtree(other.folder)
    monkeypatch.chdir(tmp_path)
    for i, (run, name, harm) in enumerate(hostile.values()):
        folder = shutil.copytree(run, Path("hostile", f"{i:02}"))
        path = next(folder.rglob(name))
        if callable(harm):
            facts = durable.unseal(path)
            harm(facts)
            harm = durable.seal(facts)
        path.write_bytes(harm)
        if name == "model.pt":
            reseal(path.parent)
    command = [sys.executable, "-c", READ, str(ROOT), str(ROOT / "tests")]
    lines = subprocess.check_output(command, text=True, timeout=120).splitlines()
    assert len(lines) == len(hostile) >= 20
    for what, line in zip(hostile, map(json.loads, lines), strict=True):
        _, outcome, seconds, megabytes = line
        assert outcome != "used" and "\n" not in outcome, what
        assert seconds < 1 and megabytes < 300, (what, line)
    assert not list(tmp_path.rglob("exploded"))


def test_a_file_larger_than_memory_could_be_is_not_read(tmp_path, small_world):
    save(tmp_path, 1, 2)
    shutil.copytree("first", tmp_path / "first")
    for name in ("step-00000002/manifest.json", "first/tokenizer.json", "first/config.json"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(2**40)  # a sparse file: it takes no room
    assert checkpoint.newest(tmp_path).step == 1
    with pytest.raises(UserError, match="too large"):
        Tokenizer.load(tmp_path / "first" / "tokenizer.json")
    with pytest.raises(UserError, match="too large"):
        Run(tmp_path / "first").flags("pretrain")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path):
    save(tmp_path, 1, score=0.5)
    save(tmp_path, 2, 3)
    for path in ("step-00000003/model.pt", "step-00000002/manifest.json", "tokenizer.json"):
        (tmp_path / path).unlink(missing_ok=True)
        os.mkfifo(tmp_path / path)
    assert checkpoint.newest(tmp_path).step == 1
    with pytest.raises(UserError, match="no file"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_nothing_is_sealed_that_could_not_be_read_again(tmp_path):
    for n in (LARGEST_JSON // 2, LARGEST_JSON):
        facts = {"classes": ["x" * n]}
        with suppress(UserError):
            (tmp_path / "config.json").write_bytes(durable.seal(facts))
            assert durable.unseal(tmp_path / "config.json") == facts
    with pytest.raises(UserError, match="give fewer labels"):
        durable.seal(facts)


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
