"""What a pretrained model is asked: of a held-out window and the same one with two neighbours
exchanged, which is likelier?"""

from typing import NamedTuple

import numpy as np
import torch

from minilm.config import UserError
from minilm.data import draws, evaluation_windows

LENGTH = 24  # tokens in a window of which two are exchanged
AT_ONCE = 128  # windows in a batch
TIE = 1e-6  # nats: differences that are only rounding


class Swaps(NamedTuple):
    """Held-out windows (N, 24), the same with w_i and w_{i+1} exchanged, and the places i (N,)."""

    windows: np.ndarray
    exchanged: np.ndarray
    places: np.ndarray


def make_swaps(tokens: np.ndarray, most: int, special) -> Swaps:
    """Windows of a held-out text (N,), evenly spaced, with a random place in each at which two
    different ordinary tokens stand side by side; the first token is never one of them. Raises
    UserError where the text has no such window."""
    windows = evaluation_windows(tokens, LENGTH - 1, most)[0]  # (N, 24)
    ordinary = np.isin(windows, special.ordinary)
    possible = ordinary[:, 1:-1] & ordinary[:, 2:] & (windows[:, 1:-1] != windows[:, 2:])
    u, kept = draws(0, 0, "resample").random(possible.shape), possible.any(1)  # (N, 22), (N,)
    places = np.where(possible, u, 2.0).argmin(1) + 1
    if not kept.any() or windows.shape[1] < LENGTH:
        raise UserError("the validation text has no 24 tokens in a row: give more text")
    windows, places = windows[kept], places[kept]
    i, at = np.arange(LENGTH), places[:, None]
    order = i + (i == at) - 1 * (i == at + 1)  # (N, 24)
    return Swaps(windows, np.take_along_axis(windows, order, axis=1), places)


@torch.inference_mode()
def log_probabilities(model, windows, counted, shift: int, mask: int | None = None) -> np.ndarray:
    """The sum over the `counted` (N, T) tokens of each window (N, T), never the first, in nats:

        Σ_i log P(w_i | w_1 … w_{i-1}; θ), or with a mask   Σ_i log P(w_i | all but the counted; θ)

    each predicted `shift` positions earlier. Returns (N,)."""
    model.eval()
    device, sums = model.embedding.weight.device, []
    for start in range(0, len(windows), AT_ONCE):
        tokens, which = (a[start : start + AT_ONCE] for a in (windows, counted))  # (B, T)
        row, i = np.nonzero(which)  # n of them, row by row
        inputs = tokens if mask is None else np.where(which, mask, tokens)
        states = model(torch.from_numpy(inputs).to(device), causal=mask is None)  # (B, T, D)
        log_p = model.logits(states[row, i - shift]).float().log_softmax(-1)  # (n, V)
        found = log_p.gather(1, torch.from_numpy(tokens[row, i])[:, None].to(device))[:, 0]
        sums.append(np.bincount(row, found.double().cpu().numpy(), len(tokens)))
    return np.concatenate(sums)


def swapped(model, reads: list[str], shift: int, swaps: Swaps, special) -> dict[str, list[float]]:
    """{way: 1.0 for each pair whose original is the likelier, 0.5 at a tie, [N]}, for each
    attention that an arm was trained with: causal, by the tokens from the first of the two on;
    masked, by the two, both hidden at once and predicted `shift` earlier."""
    i, at = np.arange(LENGTH), swaps.places[:, None]
    ways = {"causal": (i >= at, 1), "masked": ((i == at) | (i == at + 1), shift, special.mask)}
    found = {}
    for way in reads:
        good, bad = (log_probabilities(model, side, *ways[way]) for side in swaps[:2])
        likelier = np.where(np.abs(good - bad) <= TIE, 0.5, (good > bad).astype(float))
        found[way] = likelier.tolist()
    return found
