"""Valid tables and configs, changed at random: whatever comes of it, both scripts and the commands
end in one line and at once, never in a traceback, never in a hang."""

import contextlib
import json
import random
import shutil
import signal
import sys
from pathlib import Path

import pytest
from small import FINETUNE, PRETRAIN, everything, script

from minilm import device, durable, training
from minilm.__main__ import main
from minilm.config import UserError

pytestmark = pytest.mark.usefixtures("small_world")

PIECES = [b'"', b",", b"\t", b"\n", b"\r", b"\n\n", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0",
          b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b":", b"null", b"true", b"1e999",
          b"NaN", b"-1", b"9" * 5000, b"[" * 5000, b"text", b"label", b"yes", b" "]  # fmt: skip


def many(n):
    """So many mutations; in the default run a few."""
    return pytest.mark.parametrize("n", [12, pytest.param(n, marks=pytest.mark.slow)])


def mutated(rng, content):
    """The content of a file with one to four changes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(content) + 1), rng.choice([0, 1, 1, 2, 5, 30])
        what = rng.randrange(5)
        if what == 0:
            content[at:at] = rng.choice(PIECES)
        elif what == 1:
            content[at : at + length] = rng.choice(PIECES)
        elif what == 2:
            content[at : at + length] = rng.randbytes(length)
        elif what == 3:
            content[at:at] = content[at : at + 10 * length]
        else:
            del content[at : at + 10 * length]
    return bytes(content)


@contextlib.contextmanager
def at_once(seconds=10):
    """Fail what takes more processor time than that."""

    def too_long(*_):
        raise AssertionError(f"{seconds} seconds of processor time have gone by")

    if not hasattr(signal, "setitimer"):  # on Windows a hang is seen, but not by the test
        yield
        return
    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def command(argv):
    """Run a command of `python -m minilm` in this process. Returns its exit status."""
    with pytest.raises(SystemExit) as ended:
        main(argv)
        sys.exit(0)
    return ended.value.code


def ends_in_one_line(status, capfd):
    """Whether it was refused in one line; it may have been used."""
    error = capfd.readouterr().err
    assert "Traceback" not in error and status in (0, 2)
    if status == 2:
        *warnings, last = error.splitlines()
        assert last.startswith("error: ")
        assert all(line.startswith("warning: ") or "damaged" in line for line in warnings), error
    return status == 2


@pytest.fixture
def only_reading(monkeypatch):
    """The scripts stop where the training would begin: it reads no file. Nor is the machine's
    speed measured."""

    def train(*_, **__):
        raise UserError("all was read")

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(device, "matrix_rate", lambda *_: 1.0)


def table(ending):
    """A small table with labels, as CSV or JSONL."""
    words = ["good", "bad", "odd", "dull", "fine", "long"] * 2
    texts = [f'a {word} film, "{"so " * n}" she said' for n, word in enumerate(words)]
    rows = [(text, ("yes", "no")[n % 2]) for n, text in enumerate(texts)]
    if ending == "jsonl":
        return "\n".join(json.dumps(dict(text=t, label=lab)) for t, lab in rows).encode()
    quoted = "\n".join('"' + t.replace('"', '""') + f'",{lab}' for t, lab in rows)
    return f"text,label\n{quoted}\n".encode()


@many(500)  # two scripts: 1,000 of each kind of table
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_script_refuses_or_reads_a_mutated_table(
    tmp_path, monkeypatch, capfd, only_reading, name, ending, n
):
    first = Path("first").resolve()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(first, "first")
    flags = {"pretrain": f"{PRETRAIN} --data", "finetune": f"{FINETUNE} --train"}[name]
    rng, whole, used = random.Random(n), table(ending), 0
    for i in range(n):
        path = Path(f"mutated.{ending}")
        path.write_bytes(mutated(rng, whole))
        with at_once():
            status = script(name, f"{flags} {path} --run {i}")
        error = capfd.readouterr().err.splitlines()
        assert status == 2 and error[-1].startswith("error: "), error
        assert not any("Traceback" in line for line in error)
        used += error[-1] == "error: all was read"
        shutil.rmtree(str(i), ignore_errors=True)
        shutil.rmtree("data", ignore_errors=True)
    assert 0 < used < n


@many(250)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_command_refuses_or_reads_a_mutated_table(tmp_path, capfd, only_reading, ending, n):
    rng, whole, used = random.Random(n), table(ending), 0
    path, out = tmp_path / f"mutated.{ending}", tmp_path / "out.csv"
    for i in range(n):
        path.write_bytes(mutated(rng, whole))
        read = ["predict", "labels", "--device", "cpu", "--out", str(out), "--file", str(path)]
        test = ["evaluate", "labels", "--device", "cpu", "--test", str(path)]
        with at_once():
            status = command(read if i % 2 else test)
        used += not ends_in_one_line(status, capfd)
        assert out.exists() == (status == 0 and i % 2 == 1)
        out.unlink(missing_ok=True)
    assert 0 < used < n


@many(500)  # of two kinds of runs
@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("kind", ["first", "labels"])
def test_whatever_reads_a_run_refuses_or_uses_a_mutated_config(
    tmp_path, monkeypatch, capfd, only_reading, kind, sealed, n
):
    """Sealed: the seal was made to fit, as one who means harm can."""
    home = Path.cwd()
    monkeypatch.chdir(tmp_path)
    for name in ("first", "labels"):
        shutil.copytree(home / name, name)
    for name in ("own.txt", "own.csv"):
        shutil.copy2(home / name, name)
    path = Path(kind, "config.json")
    whole, others = path.read_bytes(), {k: v for k, v in everything().items() if k != path}
    commands = {
        "first": [["generate", kind, "--tokens", "2"], ["fill", kind, "<mask>"]],
        "labels": [["predict", kind, "text"], ["evaluate", kind, "--test", "own.csv"]],
    }[kind]
    rng, refused = random.Random(n), 0
    for i in range(n):
        changed = mutated(rng, whole)
        if sealed:
            with contextlib.suppress(ValueError, RecursionError, UserError):
                facts = json.loads(changed)
                facts.pop("sha256", None)
                changed = durable.seal(facts)
        path.write_bytes(changed)
        with at_once():
            if i % 3 == 2:
                name = {"first": "pretrain", "labels": "finetune"}[kind]
                status = script(name, f"--resume --run {kind}")
            else:
                status = command([*commands[i % 3], "--device", "cpu"])
        refused += ends_in_one_line(status, capfd)
    assert refused > n / 2
    assert {path: digest for path, digest in everything().items() if path in others} == others
