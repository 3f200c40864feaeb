"""Work on all cores that Ctrl-C ends at once: no hang, no tracebacks of the workers.

They are processes in a session of their own, which no terminal interrupts, and end with their
input. (The standard library's pools wait for work in progress, and import the caller's script
anew, which may have no `if __name__ == "__main__":`, or be no file.)
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from minilm.config import UserError

FEW = 8  # items that are not worth a process
CODE = """import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from minilm.corpora.workers import work
work()"""
PIPES = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def parallel(function: Callable, items: Iterable) -> Iterator:
    """Yield function(item) for every item, in order. Items are read only as they are needed. Raises
    UserError where a worker process dies."""
    items = iter(items)
    first = list(islice(items, FEW))
    n = min(os.cpu_count() or 1, 16)
    if len(first) < FEW or n == 1 or not sys.executable:
        yield from map(function, chain(first, items))
        return
    workers, waiting = [], deque()
    try:
        for i, item in enumerate(chain(first, items)):
            if i < n:
                workers.append(subprocess.Popen([sys.executable, "-c", CODE], **PIPES))
                pickle.dump(sys.path, workers[i].stdin)
                pickle.dump(function, workers[i].stdin)
            else:
                yield pickle.load(waiting.popleft().stdout)
            waiting.append(workers[i % n])  # the one whose result came just now
            pickle.dump(item, waiting[-1].stdin)
            waiting[-1].stdin.flush()
        while waiting:
            yield pickle.load(waiting.popleft().stdout)
    except (EOFError, OSError, pickle.UnpicklingError):
        raise UserError("a worker process ended early: is there too little memory?") from None
    finally:
        for worker in workers:
            worker.kill()
            with contextlib.suppress(OSError):  # what was not yet written
                worker.communicate()


def work() -> None:
    """What a worker does: a function, then its arguments, come from standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else is written among the results
    with contextlib.suppress(EOFError, OSError):  # the parent has ended
        function = pickle.load(sys.stdin.buffer)
        while True:
            pickle.dump(function(pickle.load(sys.stdin.buffer)), results)
            results.flush()
