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
from minilm.runs.progress import Progress

Advance = Callable[[float], None]  # the share of a job that was done since the last call


class Work:
    """Jobs, their results in `folder`, and a bar that says in words what is being done.

    `do=False` only reads: a job that was not done raises UserError."""

    def __init__(self, folder: Path, do: bool = True):
        self.folder, self.do, self.bar = folder, do, tqdm(disable=True)

    def begin(self, cost: float) -> None:
        """Show a bar for jobs that cost so much in all, in whatever unit `job` gets."""
        self.folder.mkdir(exist_ok=True)
        self.bar.close()
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        self.bar = tqdm(total=cost, bar_format=shape, disable=None, leave=False)

    def job(self, name: str, words: str, cost: float, do: Callable[[Advance], dict]) -> dict:
        """The result of a job, which `do` finds unless it was found before; `words`: what is being
        done, for people."""
        path, began, left = self.folder / f"{name}.json", time.perf_counter(), [cost]

        def advance(share: float) -> None:
            """Some of the job's cost."""
            some = min(left[0], share * cost)
            left[0] -= some
            self.bar.update(some)

        if not path.exists():
            if not self.do:
                raise UserError(f"{path} is missing: the comparison is not finished: --resume it")
            self.bar.set_description_str(words)
            write_file(path, json.dumps(do(advance)).encode())
            if self.bar.disable:  # no terminal: a line a job
                print(f"{words}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        advance(1.0)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{path} is damaged: delete it and --resume") from None


class Told(Progress):
    """What `loop.train` shows its progress with: here, a part of another bar."""

    def __init__(self, advance: Advance, steps: int):
        super().__init__(steps, shown=False)
        self.advance = advance

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Steps were done up to this one."""
        self.advance((step - self.step) / self.steps)
        self.step = step
