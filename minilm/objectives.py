"""What a position may see, and what it must predict: the objectives of pretraining.

An objective turns windows of text into a `Batch`: inputs, targets, and which attention mask holds.
Everything else (model, optimizer, loop) is the same for all of them, and so is the loss,

    L = - Σ_i log P(w_i | what its position sees; θ)

summed over the positions that have a target."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from minilm.config import UserError
from minilm.data import draws, pad
from minilm.tokenizer import SpecialTokens

IGNORE = -100  # the target of a position that has none; never the id of a token


class Batch(NamedTuple):
    """What a model is given, what it must predict, and whether its attention is causal."""

    inputs: np.ndarray  # (B, T) token ids
    targets: np.ndarray  # (B, T) token ids or IGNORE
    causal: bool


def causal(windows: np.ndarray) -> Batch:
    """Causal language modelling, CLM (Radford et al. 2018, "Improving Language Understanding by
    Generative Pre-Training", eq. 1), at every position:

        L = - Σ_i log P(w_i | w_1 … w_{i-1}; θ)

    windows (B, T + 1): position i sees w_1 … w_i and must predict w_{i+1}.

    >>> causal(np.array([[11, 12, 13]]))[:2]
    (array([[11, 12]]), array([[12, 13]]))
    """
    return Batch(windows[:, :-1], windows[:, 1:], causal=True)


def masked(
    windows: np.ndarray, rate: float, rng: Generator, special: SpecialTokens, shift: int = 0
) -> Batch:
    """Masked language modelling, MLM (Devlin et al. 2019, arXiv 1810.04805, section 3.1), over a
    random share `rate` of the positions, M:

        L = - Σ_{i ∈ M} log P(w_i | w_∖M; θ)

    shift 0: w_i is predicted at its own position, as in BERT. shift 1: one position earlier, as in
    `causal` (GPT-BERT, arXiv 2410.24159), so that both halves of `hybrid` ask the same of a
    position, "what comes next?", and differ only in what they let it see.

    windows (B, T + 1), whose first token is never chosen: both shifts have the same targets."""
    corrupted, chosen = corrupt(windows, rate, rng, special)
    targets = np.where(chosen, windows, IGNORE)[:, 1:]
    return Batch(corrupted[:, :-1] if shift else corrupted[:, 1:], targets, causal=False)


def masked_inputs(
    windows: np.ndarray, rate: float, rng: Generator, special: SpecialTokens
) -> Batch:
    """Causal language modelling on corrupted inputs w̃, the regularisation of arXiv 2606.06888:

        L = - Σ_i log P(w_i | w̃_1 … w̃_{i-1}; θ)

    windows (B, T + 1). The inputs are those of `masked` with the same rng and shift 1; but `masked`
    lets both sides be seen, and counts the masked targets only."""
    corrupted, _ = corrupt(windows, rate, rng, special)
    return Batch(corrupted[:, :-1], windows[:, 1:], causal=True)


def fewer_targets(
    batch: Batch, windows: np.ndarray, share: float, rng: Generator, special: SpecialTokens
) -> Batch:
    """The batch of some windows (B, T + 1), of whose targets only a random share counts: those at
    the positions M that `masked` with this rate and rng masks.  L = - Σ_{i ∈ M} log P(w_i | …)"""
    _, chosen = corrupt(windows, share, rng, special)
    return batch._replace(targets=np.where(chosen[:, 1:], batch.targets, IGNORE))


def hybrid(
    windows: np.ndarray, rate: float, rng: Generator, special: SpecialTokens, masked_share=0.5
) -> Batch:
    """Each step is one or the other, at random, as in AntLM (arXiv 2412.03275), which alternates
    them; GPT-BERT (arXiv 2410.24159, section 2.2) mixes both in every step:

        L = masked_share · L_masked + (1 - masked_share) · L_causal   in expectation

    windows (B, T + 1). The masks are drawn first, so that `masked` with the same rng masks the same
    positions."""
    batch = masked(windows, rate, rng, special, shift=1)
    return batch if rng.random() < masked_share else causal(windows)


def prefix(
    sources: list, targets: list, special: SpecialTokens, most: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prefix language modelling (Liu et al. 2018, arXiv 1801.10198; Raffel et al. 2020, arXiv
    1910.10683, section 3.2.1), to translate s into t: the source is seen both ways, the target
    causally, and the loss is on the target alone:

        L = - Σ_i log P(t_i | s, t_1 … t_{i-1}; θ)

    sources, targets: arrays of tokens; most: as in `pad`. Rows are <doc> s <doc> t <doc>. Returns
    inputs (B, T); targets (B, T), IGNORE but for t and the last <doc>; and how many positions of
    each row every position sees, (B,). Padding stands at the end, where no other token sees it."""
    begin, end = [special.bos], [special.eos]
    rows = [np.concatenate([begin, s, end, t, end]) for s, t in zip(sources, targets, strict=True)]
    tokens, is_real = pad(rows, special.pad, most=most)  # (B, T + 1)
    seen = np.array([len(s) + 2 for s in sources])
    is_target = is_real & (np.arange(tokens.shape[1]) >= seen[:, None])
    return tokens[:, :-1], np.where(is_target, tokens, IGNORE)[:, 1:], seen


# By name: functions (windows, rate, rng, special) -> Batch.
OBJECTIVES = {"causal": lambda windows, *_: causal(windows), "masked": masked, "hybrid": hybrid}


def corrupt(
    tokens: np.ndarray, rate: float, rng: Generator, special: SpecialTokens
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a share `rate` of the positions; of these replace 80 % by <mask>, 10 % by a random
    token, and keep 10 % as they are, so that the model cannot trust any token it sees.

    One uniform draw u a position decides all of it:

        0 ... 0.8 rate ... 0.9 rate ... rate ........................ 1
        | <mask>  | random    | keep    | not chosen                  |

    Special tokens are neither chosen nor inserted, nor is the first position. A row in which chance
    chose nothing gets one position all the same, so short rows are masked at more than `rate`.

    tokens (B, T). Returns corrupted (B, T) and chosen (B, T) bool. Raises UserError where the
    tokenizer has no mask token."""
    if special.mask is None:
        raise UserError("this tokenizer has no mask token: choose the causal objective")
    u = rng.random(tokens.shape)
    random_tokens = rng.choice(special.ordinary, tokens.shape)
    forced = rate * rng.random(len(tokens))  # (B,)
    u[~np.isin(tokens, special.ordinary)] = 2.0  # never
    u[:, 0] = 2.0
    smallest = u.min(axis=1)
    unlucky = (smallest >= rate) & (smallest < 1)
    u[unlucky, u.argmin(axis=1)[unlucky]] = forced[unlucky]
    corrupted = np.where(u < 0.9 * rate, random_tokens, tokens)
    return np.where(u < 0.8 * rate, special.mask, corrupted), u < rate


def token_nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the targets, - Σ_n log softmax(logits_n)[target_n], in nats.

    Its gradient by the logits is p - y: the predicted distribution minus the one-hot target.

    logits (N, V), converted to float32 if less precise; targets (N,), where IGNORE counts for
    nothing. Returns the sum, never a mean, and the number of targets: whoever adds up batches
    divides once, by the total."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss_sum = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    return loss_sum, (targets != IGNORE).sum()


def language_model_nll(model, inputs: Tensor, targets: Tensor, causal: bool, **how) -> tuple:
    """The loss of a Batch, inputs and targets (B, T): (sum of nats, number of targets). The
    vocabulary matrix is applied only where there is a target."""
    hidden = model(inputs, causal=causal, **how)  # (B, T, D)
    has_target = targets != IGNORE  # (B, T), N of them True
    return token_nll(model.logits(hidden[has_target]), targets[has_target])


def prefix_nll(model, inputs: Tensor, targets: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of what `prefix` returns: (sum of nats, number of targets)."""
    return language_model_nll(model, inputs, targets, causal=True, prefix=seen)


EVALUATION_SEED, EVALUATION_RATE = 15, 0.15


def evaluation_batches(
    objective: str, parts: Iterable[np.ndarray], special: SpecialTokens, shift: int
) -> Iterator[dict[str, Batch]]:
    """Each part of a text's validation windows, (B, T + 1), as the Batches "causal" and "masked",
    whichever the objective trains. The masks are the same at every evaluation and for every run
    and objective, so that their losses can be compared."""
    for index, windows in enumerate(parts):
        rng = draws(EVALUATION_SEED, index, "evaluation masks")
        batches = {"causal": causal(windows)} if objective != "masked" else {}
        if objective != "causal":
            batches["masked"] = masked(windows, EVALUATION_RATE, rng, special, shift)
        yield batches
