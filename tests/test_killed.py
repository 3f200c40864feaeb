"""Real processes that are killed or asked to leave at random moments, and then go on."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from small import FINETUNE, PRETRAIN, lines_without_times, saved_bytes, script

import train_finetune
import train_pretrain

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither fork nor signals")

PRETRAIN = f"{PRETRAIN} --steps 24 --evaluations 4 --dropout 0.1 --seed 3 --objective"
EVERY = {
    "causal": ("pretrain", f"{PRETRAIN} causal"),
    "masked": ("pretrain", f"{PRETRAIN} masked --accumulate 2"),
    "hybrid": ("pretrain", f"{PRETRAIN} hybrid --optimizer adamw"),
    "finetune": ("finetune", f"{FINETUNE} --pretrained {{home}}/first --epochs 3"),
}
TIME_LIMIT = 300  # seconds, for what hangs


def child(folder, name, arguments):
    """In a process of its own: a script, in a working folder of its own. A signal that comes before
    or after main() waits: it would hit this test, not the script."""
    signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs behind nohup
    module = {"pretrain": train_pretrain, "finetune": train_finetune}[name]
    main = module.main

    def open_to_signals():
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            main()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    module.main = open_to_signals
    os.chdir(folder)
    log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    torch.set_num_threads(1)
    Path("started").touch()
    sys.exit(script(name, arguments))


@pytest.fixture(scope="module")
def processes():
    """Forked from a server that has everything imported already: a start takes no second."""
    if os.name != "nt":
        context = multiprocessing.get_context("forkserver")
        # What a training imports late, too: each child would pay seconds for it.
        late = ["torch._dynamo", "sklearn.linear_model", "sklearn.feature_extraction.text"]
        context.set_forkserver_preload(["test_killed", *late])
        return context


@pytest.fixture(scope="module")
def launch(processes, small_home):
    """launch(folder, name, arguments): a running script whose folder holds the small world's
    texts, not yet tokenised."""

    def start(folder, name, arguments):
        if not folder.exists():
            folder.mkdir()
            for file in ("own.txt", "own.csv"):
                shutil.copy(small_home / file, folder)
        (folder / "started").unlink(missing_ok=True)
        arguments = arguments.format(home=small_home)
        process = processes.Process(target=child, args=(folder, name, arguments))
        process.start()
        began = time.perf_counter()
        while not (folder / "started").exists():
            assert time.perf_counter() - began < TIME_LIMIT
            time.sleep(0.001)
        return process

    return start


def finish(process, folder):
    process.join(TIME_LIMIT)
    assert process.exitcode == 0, (folder / "log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(launch, tmp_path_factory):
    """What each of EVERY ends with when nobody interrupts it, and the seconds within which to
    interrupt it."""
    found = {}
    for what, (name, arguments) in EVERY.items():
        folder = tmp_path_factory.mktemp("whole") / what
        process = launch(folder, name, f"{arguments} --run run")
        began = time.perf_counter()
        finish(process, folder)
        seconds = time.perf_counter() - began
        found[what] = [saved_bytes(folder / "run"), lines_without_times(folder / "run"), seconds]
    return found


def interrupt_and_go_on(launch, whole, folder, what, number, rng):
    """Send a signal at a random moment, then let the run go on (or, where it had not begun, begin)
    and compare it with the whole one. Returns the interrupted process's exit status: 0 where it
    ended before, since the machine has become faster; the next signal comes sooner."""
    name, arguments = EVERY[what]
    weights, lines, seconds = whole[what]
    process = launch(folder, name, f"{arguments} --run run")
    time.sleep(rng.uniform(0.01, seconds))
    with contextlib.suppress(ProcessLookupError):  # it was faster
        os.kill(process.pid, number)
    process.join(TIME_LIMIT)
    assert process.exitcode is not None
    if process.exitcode == 0:
        whole[what][2] *= 0.8
    begun = (folder / "run" / "config.json").exists()
    again = "--run run --resume" if begun else f"{arguments} --run run"
    finish(launch(folder, name, again), folder)
    assert saved_bytes(folder / "run") == weights
    assert lines_without_times(folder / "run") == lines
    log = (folder / "log").read_text(encoding="utf-8")
    assert "Traceback" not in log and "damaged" not in log
    shutil.rmtree(folder)
    return process.exitcode


@pytest.mark.parametrize("n", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments_a_run_ends_as_if_it_had_never_been(launch, whole, tmp_path, n):
    rng, killed = random.Random(n), 0
    for i in range(3 * n):
        what, folder = list(EVERY)[i % 4], tmp_path / str(i)
        code = interrupt_and_go_on(launch, whole, folder, what, signal.SIGKILL, rng)
        assert code in (-signal.SIGKILL, 0)
        killed += code != 0
        if killed == n:
            return
    raise AssertionError(f"only {killed} were killed, the others were faster")


@pytest.mark.parametrize("n", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_asked_to_leave_at_random_moments_a_run_saves_and_goes_on(launch, whole, tmp_path, n):
    rng, asked = random.Random(n), 0
    for i in range(3 * n):
        number = (signal.SIGINT, signal.SIGTERM)[i % 2]
        what = list(EVERY)[(n - 1 - i) // 2 % 4]
        code = interrupt_and_go_on(launch, whole, tmp_path / str(i), what, number, rng)
        assert code in (128 + number, 0)
        asked += code != 0
        if asked == n:
            return
    raise AssertionError(f"only {asked} were asked in time")
