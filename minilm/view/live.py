"""What a live page computes with: a run's weights, its tokenizer, and what int8 changes."""

import base64
import copy

import numpy as np
import torch
from torch import Tensor

from minilm.config import UserError
from minilm.data import evaluation_windows
from minilm.io.terminal import escaped
from minilm.metrics import evaluate_language_model
from minilm.objectives import evaluation_batches
from minilm.tokenizer import PATTERN
from minilm.view.recording import token_name

MOST, CHECKED = 30_000_000, 256  # weights of a page; texts on which it is held against the run


def cannot(model) -> str:
    """Why no page computes what a model of cli/api.py does, in a line; "" where one can."""
    family, run = model.config["family"], model.opened.folder
    task = task_of(model)
    if task in ("tag", "answer"):
        return f"{run} learnt to {task}, which no page shows: leave --live and --text out"
    n = sum(W.numel() for W in model.model.parameters())
    why = f"is a {family}" if family != "ours" else f"has {n:,} weights" if n > MOST else ""
    use = "python -m minilm predict" if task == "translate" else '--text "a text"'
    return why and f"{run} {why}, which no page computes: use {use}"


def task_of(model) -> str | None:
    """What a fine-tuned run learnt; None of a language model."""
    return model.task.config.task if hasattr(model, "task") else None


def data_of(model, corpus=None, exact: bool = False) -> dict:
    """All that model.js and live.js need of a LanguageModel, a Classifier or a translator of
    cli/api.py. corpus: what `prepare` returned, if that is here; exact: float32 instead of int8."""
    own, config, task = model.tokenizer, model.config, task_of(model)
    weights = {k.removeprefix("transformer."): W for k, W in model.model.state_dict().items()}
    objective = getattr(model, "objective", "prefix")
    views = dict(causal=("causal", "hybrid"), bidirectional=("masked", "hybrid"))
    views = {"prefix": ("prefix",)} if task else views
    counts = corpus and np.bincount(corpus.train, minlength=own.vocab_size)
    return dict(
        task=task, shape=config["model"], objective=objective, shift=getattr(model, "shift", 1),
        prefix=task == "translate", pattern=PATTERN, merges=own.merges,
        names=[token_name(own, i) for i in range(own.vocab_size)],
        views=[dict(name=name, trained=objective in by) for name, by in views.items()],
        weights={name: packed(W, exact) for name, W in weights.items()},
        unigrams=corpus and packed(torch.from_numpy(counts / counts.sum()), exact=True),
        classes=[escaped(name) for name in config.get("classes", ())],
        pooling=config["flags"].get("pooling", "mean"),
        causal=config["flags"].get("attention") == "causal",
        change=0.0 if exact else change(model, corpus and corpus.valid),
    )  # fmt: skip


def rounded(W: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix as int8 numbers, and the scale that each row is multiplied with."""
    scale = (W.abs().amax(1) / 127).clamp(min=1e-12)  # (n_out,)
    return (W / scale[:, None]).round().to(torch.int8), scale


def packed(W: Tensor, exact: bool) -> dict[str, str]:
    """Numbers as base 64: a matrix as int8 with a scale a row, others and `exact` ones float32."""
    W, text = W.float().cpu(), lambda x: base64.b64encode(x.numpy().tobytes()).decode()
    if exact or W.dim() < 2:
        return dict(values=text(W))
    return dict(zip(("values", "scales"), map(text, rounded(W)), strict=True))


@torch.inference_mode()
def change(model, valid: np.ndarray | None) -> float | None:
    """What int8 costs, in nats a target: a language model on valid (N,), others on up to CHECKED of
    their test texts. None where these are not here."""
    rough = copy.deepcopy(model.model)
    for W in rough.parameters():
        if W.dim() == 2:
            numbers, scale = rounded(W)
            W.copy_(numbers * scale[:, None])
    if hasattr(model, "task"):
        try:
            (task := model.task).load_tested()
        except UserError:
            return None
        task.data[task.part] = task.data[task.part][:CHECKED]
        before, after = (task.mean_loss(each, task.part) for each in (model.model, rough))
        return after - before
    if valid is None:
        return None
    windows, losses = evaluation_windows(valid, model.max_length, most=CHECKED // 8), []
    how = model.objective, windows, model.tokenizer.special, model.shift
    for each in (model.model, rough):
        found = evaluate_language_model(each, evaluation_batches(*how))
        losses.append(np.array([found[name] for name in found if name.endswith("loss")]))
    return float(max(losses[1] - losses[0], key=abs))
