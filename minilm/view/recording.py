"""What a text looks like inside the model: attention weights, hidden states and predictions, kept
from ordinary forward passes of the book's model, which is not changed for it."""

import base64
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minilm.config import UserError
from minilm.data import frame
from minilm.io.terminal import escaped
from minilm.model import Transformer, attention, visibility
from minilm.tasks.translate import beam_search

TOP, LENS_TOP = 5, 3  # tokens named for a position, and for a position after each layer
MOST, ROOM = 48, 450_000  # tokens of a text that are shown; bytes that its attention may take


class Recording(NamedTuple):
    """What one forward pass computed."""

    hidden: Tensor  # (B, T, D), what the pass returns
    states: list[Tensor]  # L + 1 of (B, T, D): the embeddings, then the output of each block
    weights: list[Tensor]  # L of (B, H, T, T): the softmax of `attention`; or none


def recorded(
    model: Transformer, tokens: Tensor, causal: bool, is_real: Tensor | None = None,
    prefix: Tensor | None = None, weights: bool = True,
) -> Recording:  # fmt: skip
    """The steps of `Transformer.forward`, without dropout, and what passes through them: nothing is
    hung into the model, so that two threads may ask at once. weights=False: the states only.

    The weights are those of the book: with the identity in the place of V, `attention` returns
    softmax(Q Kᵀ / √d) itself."""
    T, kept = tokens.shape[1], []

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """`attention`, whose weights are noted."""
        identity = torch.eye(T, dtype=q.dtype, device=q.device).expand(*k.shape[:3], -1)
        kept.append(attention(q, k, identity, mask))
        return attention(q, k, v, mask)

    use, see = (attend, visibility) if weights else (model.attend, model.visibility)
    mask = see(T, 0, causal, is_real, tokens.device, prefix=prefix)
    states = [model.embed(tokens, 0)]
    for block in model.blocks:
        states.append(block(states[-1], mask, (model.cos[:T], model.sin[:T]), use, None))
    return Recording(model.norm(states[-1]), states, kept)


def inside(model, tokenizer, text: str, shift: int, objective: str, unigrams=None) -> dict:
    """What the page about a text needs: every pass that its controls can ask for.

    shift: where a masked token is predicted, as in `objectives.masked`. objective: what the run was
    trained on; where that is "prefix", the text is shown with its translation. unigrams: the
    probability of each token (V,), or None. Raises UserError for an empty text."""
    model.eval()
    shape, whole, special = model.config, tokenizer.encode(text), tokenizer.special
    if not len(whole):
        raise UserError("the text has no token to look at")
    translates = objective == "prefix"
    maps = (6 if translates else 4) * shape.n_layers * shape.n_heads  # of the views, as base 64
    most = min(MOST, shape.max_length - 2, int((ROOM / maps) ** 0.5))
    ids = shown = whole[: most // 2 if translates else most]
    if translates:
        [target] = beam_search(model, shown[None], special, width=1, most=most - len(shown) - 1)
        ids = np.concatenate([shown, [special.eos], target])
    ids = frame(ids, shape.max_length, special).tolist()  # T of them
    record = Recorder(model, tokenizer, ids, shift)
    with torch.inference_mode():
        views = [record.causal(), record.bidirectional()]
        views += [record.causal(prefix=len(shown) + 2)] if translates else []
    for view in views:
        trained = dict(causal=("causal", "hybrid"), bidirectional=("masked", "hybrid"))
        view["trained"] = objective in trained.get(view["name"], ("prefix",))
    merges = getattr(tokenizer, "merges", [])  # of the last ids, as they were learnt
    merges = dict(enumerate(merges, tokenizer.vocab_size - len(merges)))
    tokens = [
        dict(id=i, name=token_name(tokenizer, i), bytes=tokenizer.token_bytes[i].hex(" "),
             parts=[token_name(tokenizer, part) for part in merges.get(i, ())],
             p=None if unigrams is None else _short(unigrams[i]))
        for i in ids
    ]  # fmt: skip
    anywhere = None if unigrams is None else record.top(torch.as_tensor(unigrams), TOP)
    return dict(tokens=tokens, views=views, left_out=len(whole) - len(shown), layers=shape.n_layers,
                heads=shape.n_heads, unigrams=anywhere)  # fmt: skip


class Recorder:
    """Passes of one text, T ids, through a model."""

    def __init__(self, model: Transformer, tokenizer, ids: list[int], shift: int):
        self.model, self.tokenizer, self.shift = model, tokenizer, shift
        self.tokens = torch.tensor(ids, device=model.embedding.weight.device)  # (T,)

    def run(
        self, tokens: Tensor, causal: bool, hide: int = 0, prefix: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A pass in which no position sees `hide` (0: every token is seen). Returns hidden (T, D),
        attention weights (L, H, T, T) and states (L + 1, T, D)."""
        is_real = torch.arange(len(tokens), device=tokens.device)[None] != hide if hide else None
        kept = recorded(self.model, tokens[None], causal, is_real, prefix)
        return kept.hidden[0], torch.stack(kept.weights)[:, 0], torch.stack(kept.states)[:, 0]

    def causal(self, prefix: int = 0) -> dict:
        """Position t is predicted from those before it; after a prefix, which all positions see,
        from all of it, too. To hide a token is to let no position see it: then what follows is
        predicted without it."""
        surprisal, top, seen = [], [], None
        if prefix:
            seen = torch.tensor([prefix], device=self.tokens.device)
        for hide in range(len(self.tokens) - 1):  # 0 is <doc>: to "hide" it is to hide nothing
            hidden, weights, states = self.run(self.tokens, True, hide, seen)
            first = max(hide + 1, prefix)  # that is predicted, and without what is hidden
            at, targets, none = slice(first - 1, -1), self.tokens[first:], [None] * first
            nats, best = self.predictions(hidden[at], targets)
            surprisal.append(none + [round(x, 3) for x in nats])
            top.append(none + best)
            if hide == 0:
                lens = [none + layer for layer in self.lens(states[:, at], targets)]
                whole = dict(lens=lens, attention=_packed(weights), shift=1)
        mask = visibility(len(self.tokens), 0, True, device=self.tokens.device, prefix=seen)
        return dict(name="prefix" if prefix else "causal", mask=_packed(mask.float()), **whole,
                    surprisal=surprisal, top=top)  # fmt: skip

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
        nats, best = self.predictions(hidden, self.tokens[1:-1])
        lens = self.lens(states.transpose(0, 1), self.tokens[1:-1])
        _, weights, _ = self.run(self.tokens, False)
        return dict(
            name="bidirectional", surprisal=[[None, *(round(x, 3) for x in nats), None]],
            top=[[None, *best, None]], lens=[[None, *layer, None] for layer in lens],
            attention=_packed(weights), rows=_packed(rows), shift=self.shift,
            mask=_packed(torch.ones(2 * [len(self.tokens)])),  # all see all
        )  # fmt: skip

    def predictions(self, hidden: Tensor, targets: Tensor, n: int = TOP) -> tuple[list, list]:
        """- log P(target) in nats, and the n likeliest tokens, of hidden (N, D), targets (N,)."""
        log_p = self.model.logits(hidden).float().log_softmax(-1)  # (N, V)
        nats = -log_p.gather(1, targets[:, None])[:, 0]
        return nats.tolist(), [self.top(row.exp(), n) for row in log_p]

    def lens(self, states: Tensor, targets: Tensor) -> list[list[dict]]:
        """What the model would predict if it ended after each layer: logits(norm(state)).

        states (L + 1, N, D). For each and each position the likeliest tokens, and P of targets."""
        layers = [self.predictions(x, targets, LENS_TOP) for x in self.model.norm(states)]
        return [
            [dict(top=top, p=_short(math.exp(-nats))) for nats, top in zip(*layer, strict=True)]
            for layer in layers
        ]

    def top(self, p: Tensor, n: int) -> list[tuple[str, float]]:
        """The n likeliest tokens by name, with their probabilities. p (V,)."""
        best = p[: self.tokenizer.vocab_size].topk(n)  # a matrix may have more rows than tokens
        names = [token_name(self.tokenizer, i) for i in best.indices.tolist()]
        return list(zip(names, map(_short, best.values), strict=True))


def token_name(tokenizer, token: int) -> str:
    """A token as it is shown: spaces, line ends and what is no character made visible."""
    text = tokenizer.token_bytes[token].decode("utf-8", "backslashreplace")
    return escaped(text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣"))


def _short(x) -> float:
    return float(f"{float(x):.3g}")


def _packed(shares: Tensor) -> str:
    """Numbers from 0 to 1 as one byte each, in base 64."""
    return base64.b64encode((shares.cpu() * 255).round().byte().numpy().tobytes()).decode()
