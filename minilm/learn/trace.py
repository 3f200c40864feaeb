"""`python -m minilm trace RUN "a text"`: one text through the whole computation, step by step, with
the function of the book that each step is. Of a tensor the numbers of one position are shown."""

import math

import numpy as np
import torch
from torch import Tensor

from minilm.config import UserError
from minilm.data import draws, frame
from minilm.io.terminal import escaped
from minilm.model import attention, visibility
from minilm.objectives import IGNORE, causal, masked, token_nll
from minilm.tokenizer import PIECE, Tokenizer

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
    T, kept = tokens.shape[1], []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`attention`, whose inputs are noted."""
        kept.append((q, k, v, mask))
        return attention(q, k, v, mask)

    show("embedding", "model.Transformer.embed", model.embedding(tokens), norm=True)
    show("normed", "model.Transformer.embed", x := model.embed(tokens, 0), norm=True)
    mask = visibility(T, 0, is_causal, device=tokens.device)
    for i, block in enumerate(model.blocks, 1):
        x = block(x, mask, (model.cos[:T], model.sin[:T]), attend, None)
        if i == 1:
            q, k, v, _ = kept[0]  # (1, H, T, d)
            for letter, part in zip("qkv", (q, k, v), strict=True):
                show(f"{letter}, head 1", "model.SelfAttention.project", part[:, 0])
            scores, ones = q / math.sqrt(q.shape[-1]) @ k.mT, torch.ones(T, T).bool()
            show("scores", "model.attention", scores[:, 0])
            show("may see", "model.visibility", ones[None] if mask is None else mask[0])
            identity = torch.eye(T).to(v).expand(*k.shape[:3], -1)  # in the place of v
            show("weights", "model.attention", attention(q, k, identity, mask)[:, 0])
        show(f"block {i}", "model.Block.forward", x, norm=True)
    show("norm", "model.LayerNorm.forward", hidden := model.norm(x), norm=True)
    show("logits", "model.Transformer.logits", logits := model.logits(hidden[0]))
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
