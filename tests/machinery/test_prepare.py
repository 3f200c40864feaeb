"""Texts become files of tokens: whole or not there, and Ctrl-C ends it at once."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minilm.cli.options import PretrainConfig
from minilm.config import UserError
from minilm.corpora import tokens
from minilm.corpora.workers import parallel
from minilm.tokenizer import DOC, Tokenizer

ROOT = Path(__file__).parents[2]
WORDS = ["the", "cat", "dog", "bird", "sees", "likes", "a", "red", "small", "old", "tree", "house"]


def some_text(path: Path, lines: int, seed=0) -> str:
    rng = random.Random(seed)
    path.write_text("".join(" ".join(rng.choices(WORDS, k=8)) + ".\n" for _ in range(lines)))
    return str(path)


def prepare(data: list[str], vocab_size: int, tokenizer=None, **how) -> tokens.PreparedText:
    return tokens.prepare(PretrainConfig(data=data, vocab_size=vocab_size, **how), tokenizer)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def names() -> list[str]:
    return sorted(path.name for path in tokens.PREPARED.glob("*"))


def test_the_tokens_are_those_of_every_document_and_its_end(monkeypatch):
    monkeypatch.setattr(tokens, "_BLOCK", tokens.re.compile(r"(?s:.{50})[^ \t-\r]{0,50}"))
    text = Path(some_text(Path("a.txt"), 2000)).read_text()
    text = text.replace("\n", "\n<|endoftext|>", 1800)  # the last one has 200 lines
    Path("a.txt").write_text(text)
    found = prepare(["a.txt"], 300)
    both = np.concatenate([found.train, found.valid])
    ends = np.flatnonzero(both == DOC)
    documents = [found.tokenizer.decode(part[part != DOC]) for part in np.split(both, ends)]
    wanted = [document.strip("\n") for document in text.split("<|endoftext|>")]
    assert sorted(documents) == sorted(["", *wanted]) and found.tokenizer.vocab_size == 300
    again = np.concatenate([found.tokenizer.encode(document) for document in documents])
    assert again.tolist() == both[both != DOC].tolist()  # wherever it was cut into blocks
    assert 0.01 < len(found.valid) / len(both) < 0.2
    assert tokens.unigram_entropy(np.array([0, 0, 1]), np.array([0]), 2) == np.log(5 / 3)


def test_three_hundred_short_lines_are_enough_and_less_is_refused(capsys):
    found = prepare([some_text(Path("a.txt"), 300)], 400)
    assert len(found.valid) == 256 < len(found.train)
    assert "its last 256 are the validation part" in capsys.readouterr().err
    for text, n in (("hi", 3), ("x" * 30, 31)):  # of so few, one to validate on may be <doc> alone
        Path("b.txt").write_text(text)
        with pytest.raises(UserError, match=f"{n} tokens in all, too few"):
            prepare(["b.txt"], 300, tokenizer=Tokenizer([]))
    Path("b.txt").write_text("x" * 31)
    assert len(prepare(["b.txt"], 300, tokenizer=Tokenizer([])).valid) == 6


def test_a_text_is_prepared_once_and_anew_where_it_or_a_file_has_changed(monkeypatch):
    some_text(Path("a.txt"), 400)
    first = prepare(["a.txt"], 300)
    (name,) = names()
    os.utime("a.txt", (1, 1))  # a time is not content
    with monkeypatch.context() as patched:
        patched.setattr(tokens, "_write_tokens", lambda *_: pytest.fail("again"))
        assert prepare(["a.txt"], 300).train.tolist() == first.train.tolist()
    for file in (tokens.PREPARED / name).iterdir():
        file.write_bytes(b"{" + file.read_bytes()[1:-1])
        assert prepare(["a.txt"], 300).train.tolist() == first.train.tolist()
    some_text(Path("a.txt"), 400, seed=1)
    os.utime("a.txt", (1, 1))
    prepare(["a.txt"], 300)
    assert names() != [name] and len(names()) == 1  # the older copy is gone
    prepare(["a.txt"], 300, tokenizer=Tokenizer([]))
    prepare(["a.txt"], 300, document_separator="red")
    assert len(names()) == 3


def test_what_a_killed_preparation_left_is_removed_after_a_day():
    some_text(Path("a.txt"), 300)
    for name in ("old.part", "new.part"):
        (tokens.PREPARED / name).mkdir(parents=True)
    os.utime(tokens.PREPARED / "old.part", (1, 1))
    prepare(["a.txt"], 300, tokenizer=Tokenizer([]))
    assert "new.part" in names() and len(names()) == 2


def test_work_on_all_cores_comes_back_in_order_and_a_dead_worker_is_one_line(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match="a worker process ended"):
        list(parallel(os._exit, range(1, 20)))
    if os.name != "nt":  # a terminal's Ctrl-C does not reach a worker, and none is left behind
        started, start = [], subprocess.Popen
        keep = lambda *a, **how: started.append(start(*a, **how)) or started[-1]
        monkeypatch.setattr(subprocess, "Popen", keep)
        assert os.getsid(0) not in parallel(os.getsid, [0] * 9)
        assert [worker.returncode for worker in started] == [-signal.SIGKILL] * 2
    code = "from minilm.corpora.workers import parallel; print(*parallel(abs, range(-9, 0)))"
    # `python -`: no file to import anew, nor `if __name__ == "__main__"`.
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert (done.stdout, done.stderr) == ("9 8 7 6 5 4 3 2 1\n", "")


SCRIPT = """
import sys
from minilm.cli.options import PretrainConfig
from minilm.corpora.tokens import prepare
try:
    print("ready", flush=True)
    prepare(PretrainConfig(data=["long.txt"], vocab_size=300))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(os.name == "nt", reason="a terminal's signal as Unix has it")
@pytest.mark.parametrize("turns", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_ctrl_c_ends_it_at_once_without_tracebacks(tmp_path, turns):
    Path("script.py").write_text(SCRIPT)
    some_text(Path("long.txt"), 3_000)
    Path("long.txt").write_text(Path("long.txt").read_text() * 100)
    for turn in range(turns):
        child = subprocess.Popen(
            [sys.executable, "script.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        child.stdout.readline()
        time.sleep(1 if turns == 1 else random.Random(turn).uniform(0, 8))
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the workers, too
        _, said = child.communicate(timeout=20)
        assert child.returncode in (130, 0) and b"Traceback" not in said
        assert not [name for name in names() if name.endswith(".part")]
