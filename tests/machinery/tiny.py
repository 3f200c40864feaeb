"""Trainings that take a fraction of a second, and what to compare of the runs they leave."""

import dataclasses

import numpy as np
import torch

from minilm.config import ModelConfig
from minilm.data import draws
from minilm.fast.compute import MixedPrecision
from minilm.heads import Classifier, classification_nll
from minilm.model import Transformer
from minilm.objectives import OBJECTIVES, language_model_nll
from minilm.optim import make_optimizers
from minilm.runs import checkpoint
from minilm.runs.device import Machine
from minilm.runs.loop import train
from minilm.runs.run import Run
from minilm.tokenizer import SpecialTokens
from minilm.training import Plan

V, T = 40, 12
SPECIAL = SpecialTokens(pad=0, mask=1, bos=2, eos=2, ordinary=np.arange(3, V))
CPU = Machine(torch.device("cpu"))
SHAPE = ModelConfig(V, T, d_model=16, n_layers=2, n_heads=2, d_ff=24, dropout=0.1)


class Training:
    """What loop.train takes, for an objective or for "labels". before(step) is called when
    the batch of a step is made."""

    def __init__(self, objective="hybrid", steps=8, every=2, machine=CPU, optimizer="muon",
                 accumulate=2, before=lambda step: None, dropout=0.1, **more):  # fmt: skip
        self.objective, self.machine = objective, machine
        self.accumulate, self.before = accumulate, before
        self.model = Transformer(dataclasses.replace(SHAPE, dropout=dropout))
        if objective == "labels":
            self.model = Classifier(self.model, 3)
        self.loss = MixedPrecision(self.model, self.formula)
        self.optimizers = make_optimizers(self.model, optimizer, 0.01, 0.1)
        self.plan = Plan(steps, warmup=0.1, cooldown=0.4, seed=3)
        self.evaluate_every, self.patience, self.show = every, None, lambda: ""
        vars(self).update(more)

    def formula(self, model, *batch):
        if self.objective != "labels":
            return language_model_nll(model, *batch)
        tokens, is_real, labels = batch
        return classification_nll(model(tokens, is_real), labels)

    def batch(self, step):
        self.before(step)
        windows = draws(3, step, "windows").integers(3, V, (6, T + 1))
        if self.objective != "labels":
            masks = draws(3, step, "masks")
            arrays = OBJECTIVES[self.objective](windows, 0.3, masks, SPECIAL)
        else:
            lengths = 3 + windows[:, :1] % 9
            arrays = windows[:, :T], np.arange(T) < lengths, windows[:, 0] % 3
        return self.machine.share_out(arrays, self.accumulate)

    def evaluate(self):
        """The loss on a fixed batch, and some value more."""
        self.model.eval()
        torch.rand(7)  # what an evaluation draws must not reach the training
        self.before, before = lambda step: None, self.before
        with torch.no_grad():
            batches = map(self.machine.tensors, self.batch(10_000))
            sums = [self.formula(self.model, *batch) for batch in batches]
        self.before = before
        score = sum(float(s) for s, _ in sums) / sum(int(n) for _, n in sums)
        return score, {"half": score / 2}

    def run(self, folder):
        """Train in a run folder, to the end or from where it was left."""
        folder.mkdir(exist_ok=True)
        return train(self, Run(folder))


def bits_of(state):
    """The bytes of every tensor in nested dicts and lists, and the numbers."""
    if isinstance(state, torch.Tensor):
        return state.flatten().view(torch.uint8).numpy().tobytes()
    if isinstance(state, dict):
        return {key: bits_of(value) for key, value in state.items()}
    return [*map(bits_of, state)] if isinstance(state, list) else state


def saved(folder):
    """All that resuming could get wrong: the bits of the last checkpoint, and what was noted."""
    last = checkpoint.newest(folder)
    bits = bits_of(last.read("model")), bits_of(last.read("optimizers"))
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in Run(folder).metrics()]
    return bits, lines, last.scores, last.values
