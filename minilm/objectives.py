"""The heart: what a position may see, and what it must say.

An objective turns windows of text into a `Task`: inputs, targets, and whether to look causally.
Everything else (model, optimizer, loop) is the same for all of them, and so is the loss,

    L = - Σ_i log P(w_i | what position i sees; θ)

summed over the positions i that have a target.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minilm.config import UserError
from minilm.data import draws
from minilm.special import Special
from minilm.tokenizer import OURS

IGNORE = -100  # the target of a position that has nothing to say; never the id of a word


class Task(NamedTuple):
    """One batch: what is read, what must be said (IGNORE: nothing), and how to look at it."""

    inputs: np.ndarray  # (B, T) token ids
    targets: np.ndarray  # (B, T) token ids or IGNORE
    causal: bool

    @property
    def count(self) -> int:
        """The number of targets."""
        return int((self.targets != IGNORE).sum())


def causal(windows: np.ndarray) -> Task:
    """Next-token prediction (Radford et al. 2018, "Improving Language Understanding by Generative
    Pre-Training", eq. 1): L = - Σ_i log P(w_i | w_1 … w_{i-1}; θ), at every position.

    windows (B, T + 1): position i reads w_i and must say w_{i+1}.

    >>> causal(np.array([[11, 12, 13]]))[:2]
    (array([[11, 12]]), array([[12, 13]]))
    """
    return Task(windows[:, :-1], windows[:, 1:], causal=True)


def masked(
    windows: np.ndarray,
    rate: float,
    vocab_size: int,
    rng: np.random.Generator,
    special: Special = OURS,
) -> Task:
    """Masked-token prediction (Devlin et al. 2019, arXiv 1810.04805, section 3.1):
    L = - Σ_{i ∈ M} log P(w_i | w_without_M; θ), over a random share `rate` of the positions, M.

    windows (B, T + 1), of which the last column is left to `causal`: position i reads what
    `corrupt` left of w_i, and all the others, and must say w_i.
    """
    words = windows[:, :-1]
    inputs, chosen = corrupt(words, rate, vocab_size, rng, special=special)
    return Task(inputs, np.where(chosen, words, IGNORE), causal=False)


def masked_next(
    windows: np.ndarray,
    rate: float,
    vocab_size: int,
    rng: np.random.Generator,
    special: Special = OURS,
) -> Task:
    """Masked-token prediction with `causal`'s shift (GPT-BERT, arXiv 2410.24159): position i must
    say w_{i+1} if that is in M. So both halves of the hybrid ask the same of position i, "what
    comes next?", and differ only in what they let it see.

    windows (B, T + 1). The first word cannot be asked for, so it is never hidden.
    """
    inputs, chosen = corrupt(windows, rate, vocab_size, rng, first=1, special=special)
    targets = np.where(chosen, windows, IGNORE)
    return Task(inputs[:, :-1], targets[:, 1:], causal=False)


def corrupt(
    words: np.ndarray,
    rate: float,
    vocab_size: int,
    rng: np.random.Generator,
    first: int = 0,
    special: Special = OURS,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a share `rate` of the positions; of these hide 80 % behind <mask>, replace 10 % by a
    random word, leave 10 % as they are, so that the model cannot trust any word it sees.

    One uniform draw u a position decides all of it: two independent draws would give 81/10/9.

        0 ... 0.8 rate ... 0.9 rate ... rate ........................ 1
        | <mask>  | random    | keep    | not chosen                  |

    Special tokens are neither chosen nor inserted, nor are positions before `first`. A row in
    which chance chose nothing hides its position of smallest u.

    words (B, T). Returns (corrupted words (B, T), chosen (B, T) bool).
    """
    u = rng.random(words.shape)
    lowest, end = special.words.start, min(special.words.stop, vocab_size)
    random_words = rng.integers(lowest, end, words.shape)
    u[(words < lowest) | (words >= end)] = 2.0  # more than any rate: never
    u[:, :first] = 2.0
    smallest = u.min(axis=1)
    unlucky = (smallest >= rate) & (smallest < 1)
    u[unlucky, u.argmin(axis=1)[unlucky]] = 0.0
    chosen = u < rate
    corrupted = np.where(u < 0.9 * rate, random_words, words)
    corrupted = np.where(u < 0.8 * rate, special.mask, corrupted)
    return corrupted, chosen


def token_nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Negative log-likelihood of the targets, - Σ_n log softmax(logits_n)[target_n], in nats.

    Its gradient by the logits is p - y: the predicted distribution minus the one-hot target.

    logits (N, V), taken in float32 at least, however they come; targets (N,), where IGNORE counts
    for nothing. Returns the sum, never a mean, and the number of targets: whoever adds up batches
    divides once, by the total.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss_sum = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    return loss_sum, int((targets != IGNORE).sum())


def target_hidden(model, inputs: Tensor, targets: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Read a Task's inputs (B, T) and keep the N positions that have a target.

    Returns hidden (N, D), targets (N,).
    """
    hidden = model(inputs, causal=causal)  # (B, T, D)
    has_target = targets != IGNORE
    return hidden[has_target], targets[has_target]


def target_logits(model, inputs: Tensor, targets: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Read a Task's inputs (B, T) and score every word at the N positions that have a target.

    Returns what `token_nll` takes: logits (N, V), targets (N,).
    """
    hidden, targets = target_hidden(model, inputs, targets, causal)
    return model.logits(hidden), targets


class ChunkedNLL(torch.autograd.Function):
    """`token_nll(hidden · Eᵀ + b, targets)`, CHUNK positions at a time.

    The logits (N, V) are a training step's largest tensor by far. Here a chunk of them is scored,
    turned into its gradient p - y, multiplied on, and forgotten: less memory in about the same
    time (`python -m tests.benchmarks.pieces`).

    Masking chooses another number of positions at each step, but for each size of a product in
    bfloat16 the CPU's library builds and keeps code: memory would grow at every step. So the last
    chunk is filled up, with zeros that count for nothing, to a multiple of ROUND.
    """

    CHUNK, ROUND = 1024, 64

    @staticmethod
    def forward(
        ctx, hidden: Tensor, embedding: Tensor, targets: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """hidden (N, D), embedding E (V, D), targets (N,) without IGNORE, bias b (V,) or None for
        none. Returns the sum of nats, and notes its gradients by hidden, E and b."""
        kind = hidden.device.type
        mixed = torch.is_autocast_enabled(kind)
        E = embedding.to(torch.get_autocast_dtype(kind) if mixed else embedding.dtype)
        exact = torch.promote_types(E.dtype, torch.float32)
        loss_sum = torch.zeros((), dtype=exact, device=hidden.device)
        N = len(hidden)
        fill = -N % ChunkedNLL.ROUND
        hidden, targets = F.pad(hidden, (0, 0, 0, fill)), F.pad(targets, (0, fill))
        d_hidden, d_E = torch.empty_like(hidden), torch.zeros_like(embedding)
        d_bias = None if bias is None else torch.zeros_like(bias)
        for start in range(0, len(hidden), ChunkedNLL.CHUNK):
            rows, real = slice(start, start + ChunkedNLL.CHUNK), max(0, N - start)
            h, y = hidden[rows].to(E.dtype), targets[rows, None]
            logits = h @ E.T if bias is None else h @ E.T + bias  # (n, V)
            log_p = logits.to(exact).log_softmax(-1)
            loss_sum -= log_p.gather(1, y)[:real].sum()
            d_logits = log_p.exp_().scatter_add_(1, y, -torch.ones_like(log_p[:, :1]))
            d_logits[real:] = 0
            d_logits = d_logits.to(E.dtype)  # p - y, (n, V)
            d_hidden[rows] = d_logits @ E  # (n, D)
            d_E += d_logits.T @ h  # (V, D)
            if bias is not None:
                d_bias += d_logits.sum(0)  # (V,)
        ctx.save_for_backward(d_hidden[:N], d_E, d_bias)
        return loss_sum

    @staticmethod
    def backward(ctx, grad: Tensor):
        """The chain rule's last factor, a number."""
        d_hidden, d_E, d_bias = ctx.saved_tensors
        return grad * d_hidden, grad * d_E, None, None if d_bias is None else grad * d_bias


class LanguageModelLoss(nn.Module):
    """The pretraining loss as a function of the weights: what the loop of `training.py` trains."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, targets: Tensor, causal: bool) -> tuple[Tensor, int]:
        """A Task's loss, `token_nll(*target_logits(...))`: (sum of nats, number of targets)."""
        model = self.model
        hidden, targets = target_hidden(model, inputs, targets, causal)
        words = model.embedding.weight, targets, model.logits_bias
        return ChunkedNLL.apply(model.head(hidden), *words), len(targets)


EVALUATION_SEED, EVALUATION_RATE = 15, 0.15


class Objective:
    """An objective by its name, with the random draws that it needs at a step.

    Every draw is a function of (seed, step, purpose), so a resumed run draws what an uninterrupted
    one would have drawn.
    """

    def __init__(
        self,
        name: str,
        vocab_size: int,
        seed: int,
        masked_share: float = 0.5,
        special: Special = OURS,
    ):
        if special.mask is None and name != "causal":
            raise UserError(f"--objective {name}: these words have no <mask>: give causal")
        self.name, self.vocab_size, self.seed, self.special = name, vocab_size, seed, special
        self.masked_share = masked_share  # of the hybrid's steps

    def task(self, windows: np.ndarray, step: int, rate: float) -> Task:
        """The Task of one training step. windows (B, T + 1)."""
        rng = draws(self.seed, step, "masks")
        how = rate, self.vocab_size, rng, self.special
        if self.name == "hybrid":  # each step is one or the other
            half = rng.random() < 1 - self.masked_share
            return causal(windows) if half else masked_next(windows, *how)
        return causal(windows) if self.name == "causal" else masked(windows, *how)

    def evaluation_tasks(self, windows: np.ndarray, start: int) -> dict[str, Task]:
        """What is measured on validation windows (B, T + 1), by name: the masks are the same at
        every evaluation and in every run, at one rate, so that their losses can be compared."""
        rng = draws(EVALUATION_SEED, start, "masks")
        tasks = {}
        if self.name in ("causal", "hybrid"):
            tasks["causal"] = causal(windows)
        if self.name in ("masked", "hybrid"):
            mask = masked if self.name == "masked" else masked_next
            how = EVALUATION_RATE, self.vocab_size, rng, self.special
            tasks["masked"] = mask(windows, *how)
        return tasks
