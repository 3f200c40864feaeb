"""`python -m minilm trace RUN "a text"`: one text through the whole computation, step by step, with
the function of the book that each step is. Of a tensor the numbers of one position are shown."""

import math

import numpy as np
import torch
from torch import Tensor

from minilm.config import UserError
from minilm.data import draws, frame
from minilm.io.terminal import escaped
from minilm.objectives import IGNORE, causal, masked, token_nll
from minilm.tokenizer import PIECE, Tokenizer
from minilm.view.recording import recorded

RATE, ROW, FEW = 0.15, 2, 7  # of the tokens masked; which position is shown; of it how many numbers


@torch.inference_mode()
def trace(model, text: str) -> None:
    """Print what a LanguageModel of cli/api.py computes of a text, with both objectives. Raises
    UserError where the text has no token or the vocabulary no mask."""
    tokenizer, special = model.tokenizer, model.tokenizer.special
    if not len(ids := tokenizer.encode(text)) or special.mask is None:
        raise UserError(f"{model.run} has no <mask>, or the text no token: give another")
    print(f"(of a tensor position {ROW} is shown, its first {FEW} numbers)")
    if isinstance(tokenizer, Tokenizer):
        show("pieces", "tokenizer.count_pieces", map(repr, PIECE.findall(text)))
    show("tokens", "tokenizer.Tokenizer.encode", ids.tolist())
    windows = frame(ids, model.max_length, special).astype(np.int64)[None]  # (1, T + 1)
    show("in a window", "data.frame", windows[0].tolist())
    name = lambda token: repr(tokenizer.decode([token])) if token in special.ordinary else "<doc>"
    how = windows, RATE, draws(0, 0, "masks"), special, model.shift
    for function, batch in ("causal", causal(windows)), ("masked", masked(*how)):
        print()
        show("inputs", f"objectives.{function}", batch.inputs[0].tolist())
        shown = ["-" if target == IGNORE else target for target in batch.targets[0]]
        show("targets", f"objectives.{function}", shown)
        inputs, targets = (torch.from_numpy(a).to(model.model.cos.device) for a in batch[:2])
        logits = forward(model.model, inputs, batch.causal)
        for i in (targets[0] != IGNORE).nonzero()[:, 0].tolist():
            nats, _ = token_nll(logits[i : i + 1], targets[0, i : i + 1])
            said = f"{nats:.3f} nats for {name(targets[0, i].item())}"
            best = f"likeliest: {name(logits[i].argmax().item())}"
            show(f"loss at {i}", "objectives.token_nll", [f"{said:31}", best])


def forward(model, tokens: Tensor, is_causal: bool) -> Tensor:
    """The steps of `Transformer.forward`, each shown. tokens (1, T). Returns logits (T, V)."""
    kept = recorded(model, tokens, is_causal)
    show("embedding", "model.Transformer.embed", model.embedding(tokens), norm=True)
    show("normed", "model.Transformer.embed", kept.states[0], norm=True)
    q, k, v, mask = kept.asked[0]  # (1, H, T, d)
    for letter, part in zip("qkv", (q, k, v), strict=True):
        show(f"{letter}, head 1", "model.SelfAttention.project", part[:, 0])
    scores = (q / math.sqrt(q.shape[-1]) @ k.mT)[:, 0]
    show("scores", "model.attention", scores)
    all_see = torch.ones_like(scores, dtype=torch.bool)
    show("may see", "model.visibility", all_see if mask is None else mask[0])
    show("weights", "model.attention", kept.weights[0][:, 0])
    for i, x in enumerate(kept.states[1:], 1):
        show(f"block {i}", "model.Block.forward", x, norm=True)
    show("norm", "model.LayerNorm.forward", kept.hidden, norm=True)
    show("logits", "model.Transformer.logits", logits := model.logits(kept.hidden[0]))
    return logits


def show(what: str, function: str, values, norm: bool = False) -> None:
    """A line: what it is, the function it is from, its shape; of a tensor position ROW."""
    shape = ""
    if isinstance(values, Tensor):
        shape, rows = str(tuple(values.shape)), values.flatten(0, -2)
        row = rows[min(ROW, len(rows) - 1)]
        more = [f"… norm {row.norm():.2f}"] if norm else ["…"] if len(row) > FEW else []
        values = [f"{x:6.3f}" if row.is_floating_point() else str(x) for x in row[:FEW].tolist()]
        values += more
    print(f"{what:12}{function:28}{shape:15}{escaped(' '.join(map(str, values)))}")
