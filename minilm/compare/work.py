"""What a comparison does, one job after the other: each leaves a small JSON file, which a second
call reads instead of doing the job again."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minilm.config import UserError
from minilm.runs.durable import write_file

Advance = Callable[[float], None]  # takes the share of a job that is done


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

    def job(self, name: str, words: str, cost: float, do: Callable[[Advance], Any]):
        """What `do` finds, or found before; `words`: what is being done, for people."""
        path, began, before = self.folder / f"{name}.json", time.perf_counter(), self.bar.n
        advance = lambda share: self.bar.update(before + share * cost - self.bar.n)
        if not path.exists():
            if not self.do:
                raise UserError(f"{path} is missing: the comparison is not finished: --resume it")
            self.bar.set_description_str(words)
            write_file(path, json.dumps(do(advance)).encode())
            if self.bar.disable:  # no terminal: a line a job
                print(f"{words}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        advance(1.0)
        return json.loads(path.read_text(encoding="utf-8"))
