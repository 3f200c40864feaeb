"""Do the tests of the book notice when it is wrong? Random changes of a sign, an operator, a bound
or a constant, a dozen a page, each in a process of its own.

    python -m tests.benchmarks.guard [CHANGES A PAGE] [SEED]

What no test notices is printed as a difference: it changes nothing, or a test is missing.
"""

import difflib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from minilm.learn.book import PAGES, changes
from minilm.learn.runner import run_here

ROOT = Path(__file__).parents[2]
SECONDS = 120  # of processor time, after which what runs has failed


def too_long(*_):
    """What the timer does to a test."""
    raise TimeoutError


def noticed(task: tuple[str, str]) -> bool:
    """Whether a test of tests/book fails where the page of a function (model.attention) has this
    text. Changes its process: the folder, and which minilm is imported."""
    page, text = task[0].split(".")[0], task[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name in ("minilm", "tests/book"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, Path(folder, name), ignore=ignored)
        for name in ("tests/__init__.py", "tests/conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, Path(folder, name))
        Path(folder, "minilm", f"{page}.py").write_text(text, "utf-8")
        for name in [n for n in sys.modules if n.split(".")[0] in ("minilm", "tests")]:
            del sys.modules[name]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.path[:0], sys.dont_write_bytecode = [folder], True
        os.chdir(folder)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGPROF, too_long)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
        files = sorted(path.name for path in Path("tests/book").glob("test_*.py"))
        files.sort(key=lambda name: not name.startswith(f"test_{page}"))  # the page's own first
        return bool(run_here(page, [f"tests/book/{name}" for name in files], "-x"))


def unnoticed(tasks: list[tuple[str, str]], workers: int = 2) -> Iterator[tuple[str, str]]:
    """The tasks that no test notices; each runs in a process that has loaded torch already."""
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(["torch", "torch._dynamo", "pytest"])
    with context.Pool(workers, maxtasksperchild=1) as pool:
        for task, found in zip(tasks, pool.imap(noticed, tasks), strict=True):
            if not found:
                yield task


def main(a_page: int = 12, seed: int = 0) -> None:
    """Try random changes of every page, and print those that nothing notices."""
    source = {page: (ROOT / "minilm" / f"{page}.py").read_text("utf-8") for page in PAGES}
    tasks, lost = [], []
    for page, text in source.items():
        options = list(changes(page, text))
        tasks += random.Random(f"{page} {seed}").sample(options, min(a_page, len(options)))
    for title, text in unnoticed(tasks):
        lost.append(title)
        before = source[title.split(".")[0]].splitlines()
        difference = difflib.unified_diff(before, text.splitlines(), n=0, lineterm="")
        print(title, *itertools.islice(difference, 3, None), sep="\n", flush=True)
    print(f"{len(tasks) - len(lost)} of {len(tasks)} changes were noticed")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
