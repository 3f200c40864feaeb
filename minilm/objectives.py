"""What a position may see, and what it must predict: the objectives of pretraining.

An objective turns windows of text into a `Batch`: inputs, targets, and whether to look causally.
Everything else (model, optimizer, loop) is the same for all of them, and so is the loss,

    L = - Σ_i log P(w_i | what its position sees; θ)

summed over the positions that have a target.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minilm.config import UserError
from minilm.data import draws
from minilm.tokenizer import SpecialTokens

IGNORE = -100  # the target of a position that has none; never the id of a token


class Batch(NamedTuple):
    """What is seen, what must be predicted (IGNORE: nothing), and which attention mask holds."""

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
    windows: np.ndarray,
    rate: float,
    rng: np.random.Generator,
    special: SpecialTokens,
    shift: int = 0,
) -> Batch:
    """Masked language modelling, MLM (Devlin et al. 2019, arXiv 1810.04805, section 3.1), over a
    random share `rate` of the positions, M:

        L = - Σ_{i ∈ M} log P(w_i | w_∖M; θ)

    shift 0: w_i is predicted at its own position, as in BERT. shift 1: one position earlier, as in
    `causal` (GPT-BERT, arXiv 2410.24159), so that both halves of `hybrid` ask the same of a
    position, "what comes next?", and differ only in what they let it see.

    windows (B, T + 1), whose first token is never chosen: the targets are the same for both shifts.
    """
    corrupted, chosen = corrupt(windows, rate, rng, special)
    targets = np.where(chosen, windows, IGNORE)[:, 1:]
    return Batch(corrupted[:, :-1] if shift else corrupted[:, 1:], targets, causal=False)


def hybrid(
    windows: np.ndarray,
    rate: float,
    rng: np.random.Generator,
    special: SpecialTokens,
    masked_share: float = 0.5,
) -> Batch:
    """Each step is one or the other (GPT-BERT, arXiv 2410.24159, section 2.2), at random:

        L = masked_share · L_masked + (1 - masked_share) · L_causal   in expectation

    The masks are drawn first, so that `masked` with the same rng hides the same positions.
    """
    hidden_tokens = masked(windows, rate, rng, special, shift=1)
    return hidden_tokens if rng.random() < masked_share else causal(windows)


# By name: functions (windows, rate, rng, special) -> Batch.
OBJECTIVES: dict[str, Callable[..., Batch]] = {
    "causal": lambda windows, rate, rng, special: causal(windows),
    "masked": masked,
    "hybrid": hybrid,
}


def corrupt(
    tokens: np.ndarray, rate: float, rng: np.random.Generator, special: SpecialTokens
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a share `rate` of the positions; of these hide 80 % behind <mask>, replace 10 % by a
    random token, keep 10 % as they are, so that the model cannot trust any token it sees.

    One uniform draw u a position decides all of it: two independent draws would give 81/10/9.

        0 ... 0.8 rate ... 0.9 rate ... rate ........................ 1
        | <mask>  | random    | keep    | not chosen                  |

    Special tokens are neither chosen nor inserted, nor is the first position. A row in which chance
    chose nothing gets one position all the same, so short rows are masked at more than `rate`.

    tokens (B, T). Returns corrupted (B, T) and chosen (B, T) bool. Raises UserError where the
    tokenizer has no mask token.
    """
    if special.mask is None:
        raise UserError("this tokenizer has no mask token: choose the causal objective")
    u = rng.random(tokens.shape)
    random_tokens = rng.integers(special.ordinary.start, special.ordinary.stop, tokens.shape)
    forced = rate * rng.random(len(tokens))  # (B,)
    u[(tokens < special.ordinary.start) | (tokens >= special.ordinary.stop)] = 2.0  # never
    u[:, 0] = 2.0
    smallest = u.min(axis=1)
    unlucky = (smallest >= rate) & (smallest < 1)
    u[unlucky, u.argmin(axis=1)[unlucky]] = forced[unlucky]
    corrupted = np.where(u < 0.9 * rate, random_tokens, tokens)
    return np.where(u < 0.8 * rate, special.mask, corrupted), u < rate


def token_nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the targets, - Σ_n log softmax(logits_n)[target_n], in nats.

    Its gradient by the logits is p - y: the predicted distribution minus the one-hot target.

    logits (N, V), taken in float32 at least, however they come; targets (N,), where IGNORE counts
    for nothing. Returns the sum, never a mean, and the number of targets: whoever adds up batches
    divides once, by the total.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss_sum = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    return loss_sum, (targets != IGNORE).sum()


def language_model_nll(
    model, inputs: Tensor, targets: Tensor, causal: bool
) -> tuple[Tensor, Tensor]:
    """The pretraining loss of a Batch: (sum of nats, number of targets).

    inputs, targets (B, T). The vocabulary matrix is applied only where there is a target."""
    hidden = model(inputs, causal=causal)  # (B, T, D)
    has_target = targets != IGNORE  # (B, T), N of them True
    return token_nll(model.logits(hidden[has_target]), targets[has_target])


EVALUATION_SEED, EVALUATION_RATE = 15, 0.15


def evaluation_batches(
    objective: str, windows: np.ndarray, index: int, special: SpecialTokens, shift: int
) -> dict[str, Batch]:
    """What is measured on validation windows (B, T + 1), the `index`th of the text: "causal" and
    "masked", whichever the objective trains. The masks are the same at every evaluation and for
    every run and objective, so that their losses can be compared."""
    rng = draws(EVALUATION_SEED, index, "evaluation masks")
    batches = {}
    if objective != "masked":
        batches["causal"] = causal(windows)
    if objective != "causal":
        batches["masked"] = masked(windows, EVALUATION_RATE, rng, special, shift)
    return batches
