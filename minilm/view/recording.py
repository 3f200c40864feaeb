"""What a text looks like inside the model: attention weights, hidden states and predictions, kept
from ordinary forward passes of the book's model, which is not changed for it."""

import base64
import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from minilm.cli.terminal import escaped
from minilm.config import UserError
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


def inside(model, tokenizer, text: str, shift: int, objective: str, unigrams=None, **more) -> dict:
    """What the page about a text needs: every pass that its controls can ask for.

    shift: where a masked token is predicted, as in `objectives.masked`. objective: what the run was
    trained on. unigrams: the probability of each token (V,), or None. more: prefix, a number of
    tokens that all may see, where the run has learnt that. Raises UserError for an empty text.
    """
    model.eval()
    shape, whole = model.config, tokenizer.encode(text)
    if not len(whole):
        raise UserError("the text has no token to look at")
    maps = 4 * shape.n_layers * shape.n_heads  # two views, each with its maps and hidden rows
    most = min(MOST, shape.max_length - 2, int((ROOM / maps) ** 0.5))
    ids = frame(whole[:most], shape.max_length, tokenizer.special).tolist()  # T of them
    record = Recorder(model, tokenizer, ids, shift)
    with torch.inference_mode():
        views = [dict(name="causal", trained=objective != "masked", **record.causal())]
        views.append(dict(name="bidirectional", trained=objective != "causal"))
        views[1] |= record.bidirectional()
        if prefix := more.get("prefix"):
            views.append(dict(name="prefix", trained=True, **record.causal(prefix)))
    merges = getattr(tokenizer, "merges", [])  # of the last ids, as they were learnt
    merges = dict(enumerate(merges, tokenizer.vocab_size - len(merges)))
    tokens = [
        dict(id=i, name=token_name(tokenizer, i), bytes=tokenizer.token_bytes[i].hex(" "),
             parts=[token_name(tokenizer, part) for part in merges.get(i, ())],
             p=None if unigrams is None else _short(unigrams[i]))
        for i in ids
    ]  # fmt: skip
    return dict(tokens=tokens, views=views, left_out=len(whole) - most, layers=shape.n_layers,
                heads=shape.n_heads,
                unigrams=None if unigrams is None else record.top(torch.as_tensor(unigrams), TOP),
    )  # fmt: skip


class Recorder:
    """Passes of one text, T ids, through a model."""

    def __init__(self, model: Transformer, tokenizer, ids: list[int], shift: int):
        self.model, self.tokenizer, self.shift = model, tokenizer, shift
        self.tokens = torch.tensor(ids, device=model.embedding.weight.device)  # (T,)

    def run(self, tokens: Tensor, causal: bool, hide: int = 0, prefix: int = 0):
        """A pass in which no position sees `hide` (0: every token is seen). Returns hidden (T, D),
        attention weights (L, H, T, T), states (L + 1, T, D), and the mask as a picture."""
        T = len(tokens)
        positions = torch.arange(T, device=tokens.device)[None]
        how = dict(prefix=torch.tensor([prefix], device=tokens.device)) if prefix else {}
        with recorded(self.model) as kept:
            is_real = positions != hide if hide else None
            hidden = self.model(tokens[None], causal=causal, is_real=is_real, **how)[0]
        mask = torch.ones(1, 1, T, T) if kept.masks[0] is None else kept.masks[0].float()
        states = torch.stack(kept.states)[:, 0]
        return hidden, torch.stack(kept.weights)[:, 0], states, _packed(mask.expand(1, 1, T, T))

    def causal(self, prefix: int = 0) -> dict:
        """Position t is predicted from those before it (or in the prefix). To hide a token is to
        let no position see it: then what follows is predicted without it."""
        surprisal, top = [], []
        for hide in range(len(self.tokens) - 1):  # 0 is <doc>: to "hide" it is to hide nothing
            begin = max(hide, prefix - 1)  # from here on predictions differ from those of pass 0
            hidden, weights, states, mask = self.run(self.tokens, True, hide, prefix)
            nats, best = self.predictions(hidden[begin:-1], self.tokens[begin + 1 :])
            surprisal.append([None] * (begin + 1) + nats)
            top.append([None] * (begin + 1) + best)
            if hide == 0:
                lens = [
                    [None] * (begin + 1) + layer
                    for layer in self.lens(states[:, begin:-1], self.tokens[begin + 1 :])
                ]
                whole = dict(lens=lens, attention=_packed(weights), mask=mask, shift=1)
        return dict(surprisal=surprisal, top=top, **whole)

    def bidirectional(self) -> dict:
        """Every position sees all others; each token is predicted in a pass in which it alone is
        hidden behind <mask> (or, where the vocabulary has none, seen by no position)."""
        _, weights, _, mask = self.run(self.tokens, False)
        special, answers = self.tokenizer.special.mask, []
        for hide in range(1, len(self.tokens) - 1):
            tokens, at = self.tokens.clone(), hide - self.shift
            if special is not None:
                tokens[hide] = special
            hidden, rows, states, _ = self.run(tokens, False, hide if special is None else 0)
            answers.append((hidden[at], rows[:, :, at], states[:, at]))
        hidden, rows, states = (torch.stack(part) for part in zip(*answers, strict=True))
        nats, best = self.predictions(hidden, self.tokens[1:-1])
        lens = self.lens(states.transpose(0, 1), self.tokens[1:-1])
        return dict(surprisal=[[None, *nats, None]], top=[[None, *best, None]],
                    lens=[[None, *layer, None] for layer in lens], attention=_packed(weights),
                    rows=_packed(rows), mask=mask, shift=self.shift)  # fmt: skip

    def predictions(self, hidden: Tensor, targets: Tensor) -> tuple[list, list]:
        """- log P(target) in nats, and the likeliest tokens, of hidden (N, D), targets (N,)."""
        log_p = self.model.logits(hidden).float().log_softmax(-1)  # (N, V)
        nats = -log_p.gather(1, targets[:, None])[:, 0]
        return [round(x, 3) for x in nats.tolist()], [self.top(row.exp(), TOP) for row in log_p]

    def lens(self, states: Tensor, targets: Tensor) -> list[list[dict]]:
        """What the model would predict if it ended after each layer: logits(norm(state)).

        states (L + 1, N, D). For each and each position the likeliest tokens, and P of targets."""
        p = self.model.logits(self.model.norm(states)).float().softmax(-1)  # (L + 1, N, V)
        right = p.gather(2, targets[None, :, None].expand(len(p), -1, 1))[..., 0].tolist()
        return [
            [dict(top=self.top(row, LENS_TOP), p=_short(x)) for row, x in zip(*layer, strict=True)]
            for layer in zip(p, right, strict=True)
        ]

    def top(self, p: Tensor, n: int) -> list[tuple[str, float]]:
        """The n likeliest tokens by name, with their probabilities. p (V,)."""
        best = p[: self.tokenizer.vocab_size].topk(n)  # a matrix may have more rows than tokens
        return [(token_name(self.tokenizer, i), _short(x))
                for x, i in zip(*(part.tolist() for part in best), strict=True)]  # fmt: skip


def token_name(tokenizer, token: int) -> str:
    """A token as it is shown: spaces, line ends and what is no character made visible."""
    text = tokenizer.token_bytes[token].decode("utf-8", "backslashreplace")
    return escaped(text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣"))


def _short(x: float) -> float:
    return float(f"{x:.3g}")


def _packed(shares: Tensor) -> str:
    """Numbers from 0 to 1 as one byte each, in base 64."""
    return base64.b64encode((shares.cpu() * 255).round().byte().numpy().tobytes()).decode()
