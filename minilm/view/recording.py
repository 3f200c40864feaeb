"""What a text looks like inside the model: attention weights, hidden states and predictions, kept
from ordinary forward passes of the book's model, which is not changed for it."""

import base64
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minilm.cli.terminal import escaped
from minilm.data import frame
from minilm.model import Transformer, attention, visibility

TOP, LENS_TOP = 5, 3  # tokens named for a position, and for a position after each layer
MOST, ROOM = 48, 450_000  # tokens of a text that are shown; bytes that its attention may take


class Recording(NamedTuple):
    """What one forward pass left behind, an entry a layer."""

    weights: list[Tensor]  # L of (B, H, T, T): the softmax of `attention`; or none
    states: list[Tensor]  # L + 1 of (B, T, D): the embeddings, then the output of each block
    masks: list[Tensor | None]  # what `visibility` returned


@contextlib.contextmanager
def recorded(model: Transformer, weights: bool = True) -> Iterator[Recording]:
    """Keep what passes through the model while this is open; weights=False: the states only.

    The weights are those of the book: with the identity in the place of V, `attention` returns
    softmax(Q Kᵀ / √d) itself."""
    kept = Recording([], [], [])

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`attention`, whose weights are noted."""
        identity = torch.eye(k.shape[2], dtype=q.dtype, device=q.device).expand(*k.shape[:3], -1)
        kept.weights.append(attention(q, k, identity, mask))
        return attention(q, k, v, mask)

    def look(*args, **more) -> Tensor | None:
        """`visibility`, whose mask is noted."""
        kept.masks.append(visibility(*args, **more))
        return kept.masks[-1]

    usual = model.attend, model.visibility
    if weights:
        model.attend, model.visibility = attend, look
    hooks = [model.blocks[0].register_forward_pre_hook(lambda _, x: kept.states.append(x[0]))]
    for block in model.blocks:
        hooks.append(block.register_forward_hook(lambda _, x, out: kept.states.append(out)))
    try:
        yield kept
    finally:
        model.attend, model.visibility = usual
        for hook in hooks:
            hook.remove()


def shown_tokens(shape) -> int:
    """How many positions of a text a page of less than a megabyte can show."""
    maps = 4 * shape.n_layers * shape.n_heads  # about two views, each kept one and a half times
    return min(MOST + 2, shape.max_length, int((ROOM / maps) ** 0.5))


def inside(model: Transformer, tokenizer, text: str, shift: int, objective: str, unigrams) -> dict:
    """What the page about a text needs: every pass that its controls can ask for.

    shift: where a masked token is predicted, as in `objectives.masked`. objective: what the run was
    trained on. unigrams: the probability of each token (V,), or None.
    """
    model.eval()
    special = tokenizer.special
    whole = tokenizer.encode(text)
    ids = frame(whole[: shown_tokens(model.config) - 2], model.config.max_length, special)
    tokens = torch.from_numpy(ids.astype(np.int64)).to(model.embedding.weight.device)  # (T,)
    T = len(tokens)
    record = Recorder(model, tokens, special.mask, shift)
    with torch.inference_mode():
        views = [record.causal(objective != "masked"), record.bidirectional(objective != "causal")]
    likeliest = None if unigrams is None else _top(torch.from_numpy(unigrams), TOP)
    used = set(ids.tolist()) | {i for i, _ in likeliest or []}
    for view in views:
        used.update(i for row in view["top"] for best in row if best for i, _ in best)
        used.update(i for layer in view["lens"] for place in layer for i, _ in place["top"])
    merges = getattr(tokenizer, "merges", [])  # of the last ids, as they were learnt
    merges = dict(enumerate(merges, tokenizer.vocab_size - len(merges)))
    used.update(part for i in tuple(used) for part in merges.get(i, ()))
    return dict(
        tokens=ids.tolist(), views=views, left_out=len(whole) + 2 - T, mask_id=special.mask,
        layers=model.config.n_layers, heads=model.config.n_heads, unigrams=likeliest,
        frequency=None if unigrams is None else [float(f"{unigrams[i]:.4g}") for i in ids],
        names={i: token_name(tokenizer, i) for i in sorted(used)},
        bytes={i: tokenizer.token_bytes[i].hex(" ") for i in sorted(used)},
        parts={i: merges[i] for i in sorted(used) if i in merges},
    )  # fmt: skip


class Recorder:
    """Passes of one text (T,) through a model."""

    def __init__(self, model: Transformer, tokens: Tensor, mask: int | None, shift: int):
        self.model, self.tokens, self.mask, self.shift = model, tokens, mask, shift

    def causal(self, trained: bool) -> dict:
        """Position t is predicted from those before it. To hide a token is to let no position see
        it: then what follows is predicted without it."""
        T = len(self.tokens)
        surprisal, top = [], []
        for hide in range(T - 1):  # position 0 is <doc>: to "hide" it is to hide nothing
            is_real = torch.ones(1, T, dtype=torch.bool, device=self.tokens.device)
            is_real[0, hide] = hide == 0
            with recorded(self.model) as kept:
                hidden = self.model(self.tokens[None], causal=True, is_real=is_real)[0, :-1]
            nats, best = self.predictions(hidden[hide:], self.tokens[1 + hide :])
            surprisal.append([None] * (hide + 1) + nats)  # what stands before is as in pass 0
            top.append([None] * (hide + 1) + best)
            if hide == 0:
                weights, mask = torch.stack(kept.weights)[:, 0], kept.masks[0]  # (L, H, T, T)
                lens = self.lens([state[0, :-1] for state in kept.states], self.tokens[1:])
        return dict(name="causal", trained=trained, surprisal=surprisal, top=top, lens=lens,
                    attention=_packed(weights), mask=_grid(mask, T), shift=1)  # fmt: skip

    def bidirectional(self, trained: bool) -> dict:
        """Every position sees all others; each token is predicted in a pass in which it alone is
        hidden behind <mask> (or, where the vocabulary has none, seen by no position)."""
        T, shift = len(self.tokens), self.shift
        with recorded(self.model) as kept:
            self.model(self.tokens[None], causal=False)
        weights, mask = torch.stack(kept.weights)[:, 0], kept.masks[0]  # (L, H, T, T)
        rows, states, hidden = [], [], []
        for hide in range(1, T - 1):
            corrupted, is_real = self.tokens.clone()[None], None
            if self.mask is None:
                is_real = torch.arange(T, device=self.tokens.device)[None] != hide
            else:
                corrupted[0, hide] = self.mask
            with recorded(self.model) as kept:
                out = self.model(corrupted, causal=False, is_real=is_real)[0, hide - shift]
            hidden.append(out)
            rows.append(torch.stack(kept.weights)[:, 0, :, hide - shift])  # (L, H, T)
            states.append(torch.stack([state[0, hide - shift] for state in kept.states]))
        targets = self.tokens[1:-1]
        if hidden:
            nats, best = self.predictions(torch.stack(hidden), targets)
            lens = self.lens(torch.stack(states, dim=1), targets)  # of (L + 1, T - 2, D)
            packed_rows = _packed(torch.stack(rows))  # (T - 2, L, H, T)
        else:
            nats, best, packed_rows = [], [], ""
            lens = [[] for _ in kept.states]
        return dict(name="bidirectional", trained=trained, surprisal=[[None, *nats, None]],
                    top=[[None, *best, None]], lens=lens, attention=_packed(weights),
                    rows=packed_rows, mask=_grid(mask, T), shift=shift)  # fmt: skip

    def predictions(self, hidden: Tensor, targets: Tensor) -> tuple[list, list]:
        """- log P(target) in nats, and the likeliest tokens, of hidden (N, D), targets (N,)."""
        log_p = self.model.logits(hidden).float().log_softmax(-1)  # (N, V)
        nats = -log_p.gather(1, targets[:, None])[:, 0]
        return [round(x, 3) for x in nats.tolist()], [_top(row.exp(), TOP) for row in log_p]

    def lens(self, states, targets: Tensor) -> list[list[dict]]:
        """What the model would predict if it ended after each layer: logits(norm(state)).

        states: L + 1 of (N, D). Returns for each, and each position, the likeliest tokens and P of
        the token that stands there."""
        layers = []
        for state in states:
            p = self.model.logits(self.model.norm(state)).float().softmax(-1)  # (N, V)
            right = p.gather(1, targets[:, None])[:, 0].tolist()
            best = [_top(row, LENS_TOP) for row in p]
            layers.append([dict(top=b, p=_short(r)) for b, r in zip(best, right, strict=True)])
        return layers


def token_name(tokenizer, token: int) -> str:
    """A token as it is shown: spaces, line ends and what is no character made visible."""
    text = tokenizer.token_bytes[token].decode("utf-8", "backslashreplace")
    return escaped(text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣"))


def _top(p: Tensor, n: int) -> list[tuple[int, float]]:
    """The n likeliest of probabilities (V,), with them."""
    values, tokens = p.topk(min(n, len(p)))
    return [(i, _short(x)) for i, x in zip(tokens.tolist(), values.tolist(), strict=True)]


def _short(x: float) -> float:
    return float(f"{x:.3g}")


def _grid(mask: Tensor | None, T: int) -> str:
    """The mask of a pass over T positions, (T, T), packed."""
    return _packed(torch.ones(T, T) if mask is None else mask.expand(1, 1, T, T)[0, 0].float())


def _packed(shares: Tensor) -> str:
    """Numbers from 0 to 1 as one byte each, in base 64."""
    return base64.b64encode((shares.cpu() * 255).round().byte().numpy().tobytes()).decode()
