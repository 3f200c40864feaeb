"""What a text looks like inside the model: attention weights, hidden states and predictions, kept
from ordinary forward passes of the book's model, which is not changed for it."""

import base64
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minilm.config import UserError
from minilm.data import frame
from minilm.io.terminal import escaped
from minilm.model import Transformer, attention, visibility

TOP, LENS_TOP = 5, 3  # tokens named for a position, and for a position after each layer
MOST, ROOM = 48, 450_000  # tokens of a text that are shown; bytes that its attention may take


class Recording(NamedTuple):
    """What one forward pass computed."""

    hidden: Tensor  # (B, T, D), what the pass returns
    states: list[Tensor]  # L + 1 of (B, T, D): the embeddings, then the output of each block
    weights: list[Tensor]  # L of (B, H, T, T): the softmax of `attention`; or none
    asked: list[tuple]  # L of what `attention` was given: q, k, v (B, H, T, d), mask; or none


def recorded(
    model: Transformer, tokens: Tensor, causal: bool, is_real: Tensor | None = None,
    prefix: Tensor | None = None, weights: bool = True,
) -> Recording:  # fmt: skip
    """The steps of `Transformer.forward`, without dropout, and what passes through them: nothing is
    hung into the model, so that two threads may ask at once. weights=False: the states only.

    The weights are those of the book: with the identity in the place of V, `attention` returns
    softmax(Q Kᵀ / √d) itself."""
    T, kept, asked = tokens.shape[1], [], []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`attention`, whose weights are noted."""
        asked.append((q, k, v, mask))
        identity = torch.eye(T, dtype=q.dtype, device=q.device).expand(*k.shape[:3], -1)
        kept.append(attention(q, k, identity, mask))
        return attention(q, k, v, mask)

    use, see = (attend, visibility) if weights else (model.attend, model.visibility)
    mask = see(T, 0, causal, is_real, tokens.device, prefix=prefix)
    states = [model.embed(tokens, 0)]
    for block in model.blocks:
        states.append(block(states[-1], mask, (model.cos[:T], model.sin[:T]), use, None))
    return Recording(model.norm(states[-1]), states, kept, asked)


def inside(model: Transformer, tokenizer, text: str, shift: int, objective: str) -> dict:
    """What the page about a text needs where it does not compute: every pass that its controls can
    ask for. shift: where a masked token is predicted, as in `objectives.masked`. objective: what
    the run was trained on. Raises UserError for an empty text."""
    whole, shape = tokenizer.encode(text), model.eval().config
    if not len(whole):
        raise UserError("the text has no token to look at")
    maps = 4 * shape.n_layers * shape.n_heads  # of the views, as base 64
    shown = whole[: min(MOST, shape.max_length - 2, int((ROOM / maps) ** 0.5))]
    ids = torch.from_numpy(frame(shown, shape.max_length, tokenizer.special).astype(np.int64))
    record = Recorder(model, tokenizer, ids.to(model.embedding.weight.device), shift)
    with torch.inference_mode():
        views = [record.causal(), record.bidirectional()]
    for view, by in zip(views, ("causal", "masked"), strict=True):
        view["trained"] = objective in (by, "hybrid")
    tokens = [
        dict(id=i, name=token_name(tokenizer, i), bytes=tokenizer.token_bytes[i].hex(" "), parts=[])
        for i in ids.tolist()
    ]
    shape = dict(n_layers=shape.n_layers, n_heads=shape.n_heads)
    return dict(tokens=tokens, views=views, leftOut=len(whole) - len(shown), shape=shape)


class Recorder:
    """Passes of one text, tokens (T,), through a model."""

    def __init__(self, model: Transformer, tokenizer, tokens: Tensor, shift: int):
        self.model, self.tokenizer, self.tokens, self.shift = model, tokenizer, tokens, shift

    def run(self, tokens: Tensor, causal: bool, hide: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """A pass in which no position sees `hide` (0: every token is seen). Returns hidden (T, D),
        attention weights (L, H, T, T) and states (L + 1, T, D)."""
        is_real = torch.arange(len(tokens), device=tokens.device)[None] != hide if hide else None
        kept = recorded(self.model, tokens[None], causal, is_real)
        return kept.hidden[0], torch.stack(kept.weights)[:, 0], torch.stack(kept.states)[:, 0]

    def causal(self) -> dict:
        """Position t is predicted from those before it. To hide a token is to let no position see
        it: then what follows is predicted without it."""
        surprisal, top = [], []
        for hide in range(len(self.tokens) - 1):  # 0 is <doc>: to "hide" it is to hide nothing
            hidden, rows, states = self.run(self.tokens, True, hide)
            targets, none = self.tokens[hide + 1 :], [None] * (hide + 1)
            nats, best, _ = self.predictions(hidden[hide:-1], targets)
            surprisal.append(none + nats)
            top.append(none + best)
            if hide == 0:
                lens, weights = [None, *self.lens(states[:, :-1], targets)], _packed(rows)
        mask = visibility(len(self.tokens), 0, True, device=self.tokens.device)
        return dict(name="causal", surprisal=surprisal, top=top, lens=lens, attention=weights,
                    mask=_packed(mask.float()))  # fmt: skip

    def bidirectional(self) -> dict:
        """Every position sees all others; each token is predicted in a pass in which it alone is
        hidden behind <mask> (or, where the vocabulary has none, seen by no position)."""
        special, answers = self.tokenizer.special.mask, []
        for hide in range(1, len(self.tokens) - 1):
            tokens, at = self.tokens.clone(), hide - self.shift
            if special is not None:
                tokens[hide] = special
            hidden, rows, states = self.run(tokens, False, hide if special is None else 0)
            answers.append((hidden[at], rows[:, :, at], states[:, at]))
        hidden, rows, states = (torch.stack(part) for part in zip(*answers, strict=True))
        nats, top, _ = self.predictions(hidden, self.tokens[1:-1])
        lens = self.lens(states.transpose(0, 1), self.tokens[1:-1])
        _, weights, _ = self.run(self.tokens, False)
        return dict(
            name="bidirectional", surprisal=[[None, *nats, None]], top=[[None, *top, None]],
            lens=[None, *lens, None], attention=_packed(weights), rows=_packed(rows),
            shift=self.shift, mask=_packed(torch.ones(2 * [len(self.tokens)])),  # all see all
        )  # fmt: skip

    def predictions(self, hidden: Tensor, targets: Tensor, n: int = TOP) -> tuple[list, list, list]:
        """- log P(target) in nats, the n likeliest tokens by name with their probabilities, and P,
        of hidden (N, D), targets (N,)."""
        log_p = self.model.logits(hidden).float().log_softmax(-1)  # (N, V)
        of_target = log_p.gather(1, targets[:, None])[:, 0]
        best = log_p[:, : self.tokenizer.vocab_size].exp().topk(n)  # there may be more rows
        names = [[token_name(self.tokenizer, i) for i in row] for row in best.indices.tolist()]
        top = [[*zip(*row, strict=True)] for row in zip(names, _short(best.values), strict=True)]
        return _short(-of_target), top, _short(of_target.exp())

    def lens(self, states: Tensor, targets: Tensor) -> list[list[dict]]:
        """What the model would predict if it ended after each layer: logits(norm(state)).

        states (L + 1, N, D). For each position and layer the likeliest tokens, and P of targets."""
        layers = [self.predictions(x, targets, LENS_TOP)[1:] for x in self.model.norm(states)]
        places = zip(*(zip(*layer, strict=True) for layer in layers), strict=True)
        return [[dict(top=top, p=p) for top, p in place] for place in places]


def token_name(tokenizer, token: int) -> str:
    """A token as it is shown: spaces, line ends and what is no character made visible."""
    text = tokenizer.token_bytes[token].decode("utf-8", "backslashreplace")
    return escaped(text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣"))


def _short(x: Tensor) -> list:
    """Numbers with four digits, for which a file has room."""
    if x.dim() > 1:
        return [*map(_short, x)]
    return [float(f"{value:.4g}") for value in x.tolist()]


def _packed(shares: Tensor) -> str:
    """Numbers from 0 to 1 as one byte each, in base 64."""
    return base64.b64encode((shares.cpu() * 255).round().byte().numpy().tobytes()).decode()
