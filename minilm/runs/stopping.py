"""Ctrl-C and SIGTERM: the first asks a training to save and leave, a second one leaves at once."""

import contextlib
import signal
from pathlib import Path

from minilm.config import UserError


class Stopped(UserError):
    """Ctrl-C or SIGTERM, after everything was saved."""

    def __init__(self, number: int | None, step: int, folder: Path):
        super().__init__(f"stopped at step {step}, which is saved in {folder}: go on with "
                         f"--run {folder} --resume")  # fmt: skip
        self.number, self.step = number, step
        self.status = 128 + (number or signal.SIGTERM)


class StopSignal:
    """Within this context the first SIGINT or SIGTERM is only noted, or raises KeyboardInterrupt
    where that may be `at_once`; a second one acts as if this were not here."""

    number: int | None = None
    _at_once = False

    def __enter__(self):
        self.before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for s in self.before:
            signal.signal(s, self._note)
        return self

    @contextlib.contextmanager
    def at_once(self, wanted: bool):
        """Where nothing can be lost, there is nothing to wait for."""
        self._at_once = wanted
        try:
            if wanted and self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self._at_once = False

    def _note(self, number, frame):
        self.number = number
        self.__exit__()
        if self._at_once:
            raise KeyboardInterrupt

    def __exit__(self, *_):
        for s, handler in self.before.items():
            signal.signal(s, handler)
