"""The next step's batch is made while the device computes this one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Prefetch:
    """batch(step), one step ahead: as the batch is a function of the step alone, it is the same."""

    def __init__(self, batch: Callable[[int], list]):
        self.batch, self.waiting = batch, {}
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def __call__(self, step: int) -> list:
        """What batch(step) gives."""
        future: Future | None = self.waiting.pop(step, None)
        self.waiting = {step + 1: self.pool.submit(self.batch, step + 1)}
        return future.result() if future else self.batch(step)
