"""Real processes: killed, asked to leave, or training together."""

import functools
import multiprocessing
import os
import random
import signal
import socket
import sys
import time

import pytest
import torch

from minilm.config import UserError
from minilm.runs import checkpoint
from minilm.runs.device import choose_machine
from tests.machinery.tiny import Training, saved

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
LONG = dict(steps=24, every=4)


def work(kind, folder, options, environment):
    """What a process does: train, and say in a log what a terminal would show."""
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what runs behind nohup
    torch.set_num_threads(1)
    try:
        Training(kind, machine=choose_machine("cpu", "float32"), **options).run(folder)
    except UserError as error:
        sys.exit(error.status)


def start(kind, folder, options, **environment):
    """A process of a server's that has loaded torch already, but started no thread."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.machinery.tiny"])
    process = context.Process(target=work, args=(kind, folder, options, environment))
    process.start()
    return process


def interrupt_and_go_on(folder, kind, number, rng):
    """Send a signal at a random moment, then let the run go on. Returns the exit status."""
    process, lines = start(kind, folder, LONG), folder / "metrics.jsonl"
    until = rng.randrange(1, 20)
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= until):
        time.sleep(0.01)
        assert process.is_alive(), folder.with_suffix(".log").read_text()
    time.sleep(rng.uniform(0, 0.02))
    os.kill(process.pid, number)
    process.join(60)
    done = checkpoint.newest(folder)
    assert (done.step if done else 0) > until - 2 * 4
    Training(kind, **LONG).run(folder)
    log = folder.with_suffix(".log").read_text()
    assert "Traceback" not in log and "damaged" not in log
    return process.exitcode


SLOW = [pytest.param(number, 25, marks=pytest.mark.slow)
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)]  # fmt: skip


@pytest.mark.parametrize("number, n", [(signal.SIGKILL, 1), (signal.SIGTERM, 1), *SLOW])
def test_interrupted_at_random_moments_a_run_ends_as_if_it_had_never_been(
    tmp_path, number, n, whole
):
    kinds, rng = ["hybrid", "labels"], random.Random(n + number)
    for i in range(n):
        status = interrupt_and_go_on(tmp_path / str(i), kinds[i % 2], number, rng)
        assert status == (-number if number == signal.SIGKILL else 128 + number)
        assert saved(tmp_path / str(i)) == whole(kinds[i % 2])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run of a kind that is not interrupted ends with."""

    @functools.cache
    def saved_by(kind):
        Training(kind, **LONG).run(folder := tmp_path_factory.mktemp(kind) / "run")
        return saved(folder)

    return saved_by


def test_two_processes_learn_what_one_learns(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    places = dict(WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
    folder, options = tmp_path / "two", dict(steps=4, dropout=0.0)
    both = [start("hybrid", folder, options, RANK=str(rank), **places) for rank in range(2)]
    for process in both:
        process.join(120)
        assert process.exitcode == 0, (tmp_path / "two.log").read_text()
    Training(**options).run(tmp_path / "one")
    one, two = (checkpoint.newest(tmp_path / name) for name in ("one", "two"))
    assert (one.step, one.spent["targets"]) == (two.step, two.spent["targets"])
    for name, weight in one.read("model").items():
        torch.testing.assert_close(two.read("model")[name], weight, rtol=1e-4, atol=1e-5)
