"""What a person sees of a training."""

import sys
import time

import numpy as np
from tqdm import tqdm

from minilm.io.terminal import printable


class Progress:
    """What a person sees: a bar where the output is a terminal, else a plain line every few
    seconds. A display that fails (a closed terminal, a broken pipe) is given up, and ends nothing.
    """

    def __init__(self, steps: int, start: int, shown: bool):
        self.steps, self.shown = steps, shown
        self.tokens, self.losses, self.best, self.last_line = 0, [], "", -60.0
        self.begun, how = time.perf_counter(), dict(total=steps, unit="step", leave=False)
        bar = self._try(tqdm, initial=start, disable=None, **how)  # None: where this is no terminal
        self.bar = bar or tqdm(disable=True)

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Show that steps were done up to this one, whose loss is given, and `tokens` read."""
        self.losses.append(loss)
        self.tokens += tokens
        now = time.perf_counter()
        rate = f"{self.tokens / (now - self.begun):,.0f} tokens/s{self.best}"
        if not self.bar.disable:
            text = f"loss {loss:.3f} {curve(self.losses)}, {rate}"
            self._try(self.bar.set_postfix_str, text, refresh=False)
            self._try(self.bar.update, step - self.bar.n)
        elif now - self.last_line > 10:
            self.last_line = now
            self.say(f"step {step}/{self.steps}  loss {loss:.3f}  {rate}")

    def say(self, text: str) -> None:
        """Print a text without breaking the bar."""
        self._try(lambda: (tqdm.write(printable(text), file=sys.stdout), sys.stdout.flush()))

    def close(self) -> None:
        """Remove the bar."""
        self._try(self.bar.close)

    def _try(self, show, *args, **options):
        try:
            return show(*args, **options) if self.shown else None
        except Exception:  # whatever the terminal cannot do
            self.shown = False


def curve(values: list[float], width: int = 12) -> str:
    """A curve of one line of text, of means where there are more values than it has room for.

    >>> curve([8, 6, 4, 2, 1, 1])
    '█▆▄▂▁▁'
    """
    parts = np.array_split(values[-4096:], min(width, len(values)))
    means = np.array([part.mean() for part in parts])
    heights = (means - means.min()) / max(np.ptp(means), 1e-9)  # 0 to 1
    return "".join("▁▂▃▄▅▆▇█"[round(7 * height)] for height in heights)
