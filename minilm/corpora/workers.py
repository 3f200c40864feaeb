"""Work on all cores that Ctrl-C ends at once: no hang, no tracebacks of the workers."""

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from multiprocessing import resource_tracker

from minilm.config import UserError

FEW = 8  # items that are not worth a process


def parallel(function: Callable, items: Iterable) -> Iterator:
    """Yield function(item) for every item, in order. Items are read only as they are needed.

    Raises UserError where a worker process dies.
    """
    items = iter(items)
    first = list(islice(items, FEW))
    n = min(os.cpu_count() or 1, 16)
    if len(first) < FEW or n == 1:
        yield from map(function, chain(first, items))
        return
    workers, waiting = [], deque()
    try:
        with _no_interrupts():
            for _ in range(n):
                workers.append(_start(function))
        for i, item in enumerate(chain(first, items)):
            if i >= n:
                yield waiting.popleft().recv()
            waiting.append(workers[i % n][1])  # the one whose result came just now
            waiting[-1].send(item)
        while waiting:
            yield waiting.popleft().recv()
    except (EOFError, OSError):
        raise UserError(
            "a worker process ended before its work was done: is there too little memory, or does "
            "your own script lack `if __name__ == '__main__':`?"
        ) from None
    finally:
        for process, pipe in workers:
            process.kill()
            pipe.close()


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes started within this context never see Ctrl-C. Here it waits until the end."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows: the workers ignore it, a little later
        yield
        return
    resource_tracker.ensure_running()  # its start would lift the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(function: Callable) -> tuple:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(function, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _work(function: Callable, pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        while True:
            pipe.send(function(pipe.recv()))
