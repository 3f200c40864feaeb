"""Pretraining as the loop needs it: a loss, what updates the weights, a batch for each step; the
evaluation on validation text, and a sample of it for people to read."""

import functools
from collections.abc import Iterator

import numpy as np

from minilm.data import Windows, draws
from minilm.fast import compute
from minilm.generate import fill_masks, sample
from minilm.metrics import evaluate_language_model
from minilm.objectives import OBJECTIVES, Batch, evaluation_batches, masked
from minilm.optim import make_optimizers
from minilm.runs.device import Machine
from minilm.runs.loop import share_out
from minilm.training import Plan


class Pretraining:
    """A Transformer, on a machine's device, and how the options (`PretrainConfig`) train it: loss,
    optimizers, plan and batch are what `loop.train` takes."""

    def __init__(self, model, config, windows: Windows, tokenizer, machine: Machine):
        self.config, self.windows, self.tokenizer = config, windows, tokenizer
        self.machine, self.compiled = machine, compute.compiles(config.compile, machine.device)
        formula = functools.partial(compute.fast_nll, compiled=self.compiled)
        self.loss = compute.MixedPrecision(model, formula, machine.dtype)
        if self.compiled:
            compute.compile_blocks(self.loss.copy)
        rule = config.optimizer, config.learning_rate, config.weight_decay
        orthogonalise = functools.partial(compute.fast_orthogonalise, compiled=self.compiled)
        self.optimizers = make_optimizers(model, *rule, orthogonalise=orthogonalise)
        self.plan = Plan(config.steps or 1000, warmup=0.03, cooldown=0.4, seed=config.seed)
        self.objective = OBJECTIVES[config.objective]
        if config.objective == "masked":
            self.objective = functools.partial(masked, shift=config.shift)

    def batch(self, step: int) -> list[tuple]:
        """This process's micro-batches of a step."""
        config = self.config
        rate = config.mask_rate * (1 - 0.5 * step / self.plan.steps)  # falls to half of it
        windows = self.windows.batch(step, config.batch_size)  # (B, T + 1)
        rng = draws(config.seed, step, "masks")
        whole = self.objective(windows, rate, rng, self.tokenizer.special)
        parts = share_out(whole, self.machine, config.accumulate)
        return [compute.gather_targets(Batch(*part), self.machine.device) for part in parts]

    def evaluate(self, validation: list[np.ndarray]) -> tuple[float, dict]:
        """The mean loss of what the objective trains, and all that was measured, on windows."""
        config, special = self.config, self.tokenizer.special
        batches = (
            evaluation_batches(config.objective, windows, i, special, config.shift)
            for i, windows in enumerate(in_chunks(validation, 32))
        )
        with compute.eager():
            model = self.loss.refresh()
            values = evaluate_language_model(model, batches, self.tokenizer.token_bytes)
        losses = [value for name, value in values.items() if name.endswith("_loss")]
        return sum(losses) / len(losses), values

    def show(self, text: np.ndarray) -> str:
        """The beginning of a text (T,) continued, or tokens of it masked and filled in, whichever
        the objective trains: lines to print."""
        model, special = self.loss.refresh(), self.tokenizer.special
        line = lambda tokens: self.tokenizer.decode(tokens).replace("\n", "⏎")
        ordinary = (text >= special.ordinary.start) & (text < special.ordinary.stop)
        tokens, shown = text[ordinary][: min(24, model.config.max_length - 2)], ""
        with compute.eager():
            if self.config.objective != "masked":
                more = list(sample(model, tokens[:8], 24, special))
                shown += f"\n    continued: {line(tokens[:8])}[{line(more)}]"
            if self.config.objective != "causal":
                parts = [line([token]) for token in tokens]
                tokens[4::6] = special.mask
                how = dict(causal=False, shift=self.config.shift, top=1)
                found = fill_masks(model, tokens, special, **how)
                parts[4::6] = [f"[{line([best[0][0]])}]" for best in found]
                shown += f"\n    filled in: {''.join(parts)}"
        return shown


def in_chunks(windows: list[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Arrays of windows, cut to at most `size` rows."""
    for rows in windows:
        yield from (rows[i : i + size] for i in range(0, len(rows), size))
