"""Timing several contenders fairly: by turns, each in a process of its own.

A machine's speed changes from minute to minute, so whoever runs in another minute runs on another
machine. Here every round times each contender once, and what is compared are medians of rounds.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable


def alternate(contenders: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each contender took in each round.

    contenders: for each name the arguments after `python` of a process that calls `serve`.
    """
    processes = {
        name: subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name, arguments in contenders.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for process in processes.values():
            process.stdout.readline()  # all have warmed up: nobody disturbs the first round
        for _ in range(rounds):
            for name, process in processes.items():
                process.stdin.write("go\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                if not answer:
                    raise RuntimeError(f"{name} ended: see what it printed above")
                seconds[name].append(float(answer))
                print(f"  {name}: {seconds[name][-1]:.3f} s", file=sys.stderr, flush=True)
    finally:
        for process in processes.values():
            process.kill()
    return seconds


def serve(work: Callable[[], None]) -> None:
    """Do the work once to warm up, then once for each line of standard input, and answer with the
    seconds that it took."""
    work()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        print(time.perf_counter() - start, flush=True)


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """The median of each contender's rounds."""
    return {name: statistics.median(times) for name, times in seconds.items()}
