"""A long list of jobs: each done once, its result kept in a file, all under one bar."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from minilm.config import UserError
from minilm.durable import write_file
from minilm.progress import Progress

PATIENCE = 20  # seconds between two plain lines


class Work:
    """The jobs of a folder. Work is counted in FLOPs, which is known before a job is done; from
    the speed of what was counted so far follows the time left."""

    def __init__(self, folder: Path):
        self.folder, self.bar = folder, None
        self.doing = ""

    def begin(self, total: float) -> None:
        """Show the bar where the output is a terminal, or else a line from time to time."""
        form = "{desc}: {percentage:.0f}%|{bar}|"
        self.bar = tqdm(total=total, bar_format=form, disable=None, leave=False)
        self.begun = self.last = self.last_line = time.perf_counter()
        self.total, self.done, self.busy = total, 0.0, 0.0

    def end(self) -> None:
        """Remove the bar."""
        self.bar.close()

    def job(self, name: str, cost: float, do: Callable[[Callable[[float], None]], dict]) -> dict:
        """do(advance)'s result, with the "seconds" it took; from its file where it was done before.
        advance(flops) moves the bar."""
        path = self.folder / f"{name}.json"
        if path.exists():
            self._forget(cost)
            return read_result(path)
        self.doing, before = name, self.done
        self.bar.set_description_str(name)
        start = self.last = time.perf_counter()
        result = do(self._advance)
        result = {"seconds": time.perf_counter() - start, **result}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(result).encode())
        self._forget(cost - (self.done - before))
        return result

    def seconds(self) -> float:
        """What all jobs done so far took."""
        return sum(read_result(path)["seconds"] for path in self.folder.rglob("*.json"))

    def elapsed(self) -> float:
        """Seconds since `begin`."""
        return time.perf_counter() - self.begun

    def _forget(self, cost: float) -> None:
        """Take work that needs not be done, after all, out of the plan."""
        self.total -= cost
        self.bar.total = max(self.total, self.done)
        self.bar.refresh()

    def _advance(self, flops: float) -> None:
        now = time.perf_counter()
        self.done, self.busy, self.last = self.done + flops, self.busy + now - self.last, now
        total = max(self.total, self.done)  # what a job costs is not known exactly
        left = f"{(total - self.done) * self.busy / self.done / 60:.1f} min left"
        self.bar.set_description_str(f"{self.doing}, {left}", refresh=False)
        self.bar.update(flops)
        if self.bar.disable and now - self.last_line > PATIENCE:
            self.last_line = now
            print(f"{self.done / total:.0%}, {left}: {self.doing}", flush=True)


class Steps(Progress):
    """What `train` shows its steps to instead of a bar of its own."""

    def __init__(self, first: int, flops: float, advance: Callable[[float], None]):
        self.step, self.flops, self.advance = first, flops, advance

    def update(self, loss: float, tokens: int) -> None:
        """Note that a step was done, of `flops`."""
        self.step += 1
        self.advance(self.flops)

    def say(self, text: str) -> None:
        """Nothing: what is measured is in the run's metrics.jsonl."""

    def close(self) -> None:
        """Nothing: the bar goes on."""


def read_result(path: Path) -> dict:
    """Read a job's file. Raises UserError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged: delete it, and the job is done again") from None


@contextlib.contextmanager
def shown(work: Work, total: float) -> Iterator[None]:
    """The bar, while there is work."""
    work.begin(total)
    try:
        yield
    finally:
        work.end()
        sys.stdout.flush()
