"""What a comparison does, one job after the other: each leaves a small JSON file, which a second
call reads instead of doing the job again."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from minilm.config import UserError
from minilm.runs.durable import write_file

Advance = Callable[[float], None]  # share of the job that has been done since the last call


class Work:
    """Jobs, their results in `folder`, and a bar that says in words what is being done.

    `do=False` only reads: a job that was not done raises UserError."""

    def __init__(self, folder: Path, do: bool = True):
        self.folder, self.do, self.bar = folder, do, None

    def begin(self, cost: float) -> None:
        """Show a bar for jobs that cost so much in all, in whatever unit `job` gets."""
        self.folder.mkdir(exist_ok=True)
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        self.bar = tqdm(total=cost, bar_format=shape, disable=None, leave=False)

    def end(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def done(self, name: str) -> bool:
        """Whether a job has left its result."""
        return self._path(name).exists()

    def job(self, name: str, words: str, cost: float, do: Callable[[Advance], dict]) -> dict:
        """The result of a job, which `do` finds unless it was found before; `words`: what is being
        done, for people."""
        path = self._path(name)
        if self.done(name):
            self._advance(cost)
            try:
                return json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise UserError(f"{path} is damaged: delete it and --resume") from None
        if not self.do:
            raise UserError(f"{path} is missing: the comparison is not finished, so --resume it")
        left = [cost]

        def advance(share: float) -> None:
            """Some of the job's cost."""
            some = min(left[0], share * cost)
            left[0] -= some
            self._advance(some)

        began = time.perf_counter()
        if self.bar is not None:
            self.bar.set_description_str(words)
        found = do(advance)
        write_file(path, json.dumps(found).encode())
        self._advance(left[0])
        if self.bar is not None and self.bar.disable:  # no terminal: a line a job
            print(f"{words}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        return found

    def _advance(self, some: float) -> None:
        if self.bar is not None:
            self.bar.update(some)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


class Told:
    """What `runs.loop.train` shows its progress with: here, a part of one bar."""

    def __init__(self, advance: Advance, steps: int):
        self.advance, self.steps, self.step = advance, steps, 0

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Steps were done up to this one."""
        self.advance((step - self.step) / self.steps)
        self.step = step

    def evaluated(self, step: int, best: float, text: str) -> None:
        """Evaluations are for the report."""

    def say(self, text: str) -> None:
        """Nothing is said in between."""

    def close(self) -> None:
        """The bar goes on."""
