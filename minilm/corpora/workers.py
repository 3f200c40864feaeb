"""Work on all cores that Ctrl-C ends at once: no hang, no tracebacks of the workers.

(The standard library's pools wait for work in progress, or hang when their workers are killed.)
"""

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
        _start(workers, n, function)
        for i, item in enumerate(chain(first, items)):
            if i >= n:
                yield waiting.popleft().recv()
            waiting.append(workers[i % n][1])  # the one whose result came just now
            waiting[-1].send(item)
        while waiting:
            yield waiting.popleft().recv()
    except (EOFError, OSError):
        raise UserError("a worker process ended before its work was done: too little memory, or "
                        "a script without `if __name__ == '__main__':`?") from None  # fmt: skip
    finally:
        for process, pipe in workers:
            process.kill()
            pipe.close()


def _start(workers: list, n: int, function: Callable) -> None:
    """Add n processes and their pipes. They never see Ctrl-C, which here waits until the end."""
    spawn = multiprocessing.get_context("spawn")
    if os.name != "nt":  # there the workers ignore it, a little later
        resource_tracker.ensure_running()  # its start would lift the mask
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for _ in range(n):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_work, args=(function, theirs), daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
    finally:
        if os.name != "nt":
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(function: Callable, pipe) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        while True:
            pipe.send(function(pipe.recv()))
