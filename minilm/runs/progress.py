"""What a person sees of a training that runs. Nothing here can end it."""

import sys
import time

from tqdm import tqdm


class Progress:
    """A bar where the output is a terminal, a plain line every few seconds where it is not. A
    display that fails (a closed terminal, a broken pipe) is given up."""

    def __init__(self, steps: int, start: int = 0, shown: bool = True):
        self.steps, self.step, self.tokens, self.shown = steps, start, 0, shown
        self.curve, self.best = Curve(), ""
        self.begun, self.last_line = time.perf_counter(), -60.0
        disable = None if shown else True  # None: where the output is no terminal
        self.bar = tqdm(total=steps, initial=start, unit="step", disable=disable, leave=False)

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Show that steps were done up to this one, whose loss is given, and `tokens` read."""
        self.curve.add(loss)
        self.tokens += tokens
        now = time.perf_counter()
        rate = f"{self.tokens / (now - self.begun):,.0f} tokens/s{self.best}"
        self._try(self.bar.set_postfix_str, f"loss {loss:.3f} {self.curve}, {rate}", refresh=False)
        self._try(self.bar.update, step - self.step)
        self.step = step
        if self.bar.disable and now - self.last_line > 10:
            self.last_line = now
            self.say(f"step {step}/{self.steps}  loss {loss:.3f}  {rate}")

    def evaluated(self, step: int, best: float, text: str) -> None:
        """Show what an evaluation said, and from now on the best score so far."""
        self.best = f", best validation {best:.3f}"
        self.say(f"step {step}/{self.steps}  {text}")

    def say(self, text: str) -> None:
        """Print a text without breaking the bar."""
        self._try(tqdm.write, text, file=sys.stdout)
        self._try(lambda: sys.stdout.flush())

    def close(self) -> None:
        """Remove the bar."""
        self._try(self.bar.close)

    def _try(self, show, *args, **options) -> None:
        try:
            if self.shown:
                show(*args, **options)
        except Exception:  # whatever the terminal cannot do
            self.shown = False


class Curve:
    """A curve of one line of text, however many values it is made of: where it has no more room,
    neighbours become their mean.

    >>> curve = Curve()
    >>> for value in (8, 6, 4, 2, 1, 1): curve.add(value)
    >>> str(curve)
    '█▆▄▂▁▁'
    """

    def __init__(self, width: int = 16):
        self.width, self.means, self.each, self.rest = width, [], 1, []

    def add(self, value: float) -> None:
        """Add one value at the end."""
        self.rest.append(value)
        if len(self.rest) == self.each:
            self.means.append(sum(self.rest) / self.each)
            self.rest = []
        if len(self.means) == self.width:  # which is even
            pairs = zip(self.means[::2], self.means[1::2], strict=True)
            self.means, self.each = [(a + b) / 2 for a, b in pairs], 2 * self.each

    def __str__(self):
        low, high = min(self.means, default=0), max(self.means, default=0)
        scale = 7 / (high - low) if high > low else 0
        return "".join("▁▂▃▄▅▆▇█"[round((mean - low) * scale)] for mean in self.means)
