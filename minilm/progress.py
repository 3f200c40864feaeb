"""What a person sees of a training that runs."""

import sys
import time

from tqdm import tqdm


class Progress:
    """A bar where the output is a terminal, a plain line every few seconds where it is not."""

    def __init__(self, steps: int, start: int, shown: bool):
        self.steps, self.step, self.tokens, self.shown = steps, start, 0, shown
        self.begun = self.last_line = time.perf_counter()
        self.bar = tqdm(
            total=steps, initial=start, unit="step", disable=None if shown else True, leave=False
        )

    def update(self, loss: float, tokens: int) -> None:
        """Show that a step was done."""
        self.step += 1
        self.tokens += tokens
        now = time.perf_counter()
        rate = self.tokens / (now - self.begun)
        self.bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s", refresh=False)
        self.bar.update()
        if self.shown and self.bar.disable and (now - self.last_line > 10 or self.tokens == tokens):
            self.last_line = now
            print(
                f"step {self.step}/{self.steps}  loss {loss:.3f}  {rate:,.0f} tokens/s", flush=True
            )

    def say(self, text: str) -> None:
        """Print a text without breaking the bar."""
        if self.shown:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()
