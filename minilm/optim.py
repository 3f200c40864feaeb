"""How the weights are updated: which parameter by which rule, and how fast at which step."""

import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn


def orthogonalise(G: Tensor) -> Tensor:
    """About U Vᵀ, where G = U S Vᵀ: every direction of an update moves equally far.

    Newton and Schulz's iteration needs only products (Jordan et al. 2024, "Muon"; Bernstein and
    Newhouse 2024, arXiv 2409.20325): from X = G / |G|, five times

        X <- a X + (b A + c A²) X,    A = X Xᵀ

    takes every singular value but the smallest to about 1 (0.7 to 1.2).

    G (B, m, n): B matrices at once. Returns G's shape."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (torch.linalg.matrix_norm(G, keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT  # (B, m, m)
        X = a * X + (b * A + c * A @ A) @ X
    return X


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024, "Muon"): for each matrix W (m, n)

        M <- μ M + (1 - μ) G        W <- W - η (λ W + 0.2 √max(m, n) · orthogonalise(M'))

    with Nesterov's look ahead, M' = μ M + (1 - μ) G. The factor gives the update the size that
    AdamW's has (Liu et al. 2025, arXiv 2502.16982, eq. 4), so that one η and λ serve both.

    Matrices of one shape are orthogonalised together. η is a group's "lr", λ its "weight_decay"."""

    def __init__(self, groups: list[dict], momentum=0.95, orthogonalise: Callable = orthogonalise):
        super().__init__(groups, dict(lr=1e-3, weight_decay=0.0, momentum=momentum))
        self.orthogonalise = orthogonalise

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix that has a gradient."""
        by_shape = defaultdict(list)
        for group in self.param_groups:
            for W in group["params"]:
                if W.grad is not None:
                    by_shape[W.shape].append((W, group))
        for (m, n), members in by_shape.items():
            updates = []
            for W, group in members:
                state, mu = self.state[W], group["momentum"]
                if not state:
                    state["momentum"] = torch.zeros_like(W)
                M = state["momentum"].lerp_(W.grad, 1 - mu)
                updates.append(W.grad.lerp(M, mu))
            directions = self.orthogonalise(torch.stack(updates))  # (B, m, n)
            for (W, group), direction in zip(members, directions, strict=True):
                W.mul_(1 - group["lr"] * group["weight_decay"])
                W.add_(direction, alpha=-group["lr"] * 0.2 * math.sqrt(max(m, n)))


def make_optimizers(
    model: nn.Module, name: str, learning_rate: float, weight_decay: float,
    layer_decay: float = 1.0, orthogonalise: Callable[[Tensor], Tensor] = orthogonalise,
) -> list[torch.optim.Optimizer]:  # fmt: skip
    """Optimizers that share the trainable parameters of `model` among them.

    "adamw": AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) for all. "muon": `Muon` for the
    matrices inside the blocks, AdamW for the rest.

    Matrices decay; gains and biases do not. With layer_decay < 1 each block learns by this factor
    slower than the one above it (Clark et al. 2020, arXiv 2003.10555): the blocks next to the
    embedding serve every task and should change least."""
    groups: dict[tuple, dict] = {}
    n_layers = len(getattr(model, "transformer", model).blocks)  # of what may stand below a head
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = _depth(parameter_name, n_layers)
        by_muon = name == "muon" and 0 < depth <= n_layers and parameter.dim() == 2
        decay = weight_decay if parameter.dim() == 2 else 0.0
        peak = learning_rate * layer_decay ** (n_layers + 1 - depth)
        group = dict(params=[], peak=peak, lr=peak, weight_decay=decay)
        groups.setdefault((by_muon, peak, decay), group)["params"].append(parameter)
    rest = [group for (by_muon, *_), group in groups.items() if not by_muon]
    hidden = [group for (by_muon, *_), group in groups.items() if by_muon]
    optimizers = [torch.optim.AdamW(rest, betas=(0.9, 0.98), fused=True)] if rest else []
    return optimizers + ([Muon(hidden, orthogonalise=orthogonalise)] if hidden else [])


def _depth(parameter_name: str, n_layers: int) -> int:
    """0 for the embedding, 1 .. n_layers for the blocks, n_layers + 1 for what lies above them."""
    if "blocks." in parameter_name:
        return 1 + int(parameter_name.split("blocks.")[1].split(".")[0])
    return 0 if "embedding" in parameter_name or "positions" in parameter_name else n_layers + 1


def schedule(step: int, steps: int, warmup: float, cooldown: float) -> float:
    """The share of the peak learning rate at a step: up in a line over the first `warmup` of the
    steps, flat, then down in a line to zero over the last `cooldown` (Hägele et al. 2024,
    arXiv 2405.18392).

    >>> [schedule(step, 10, warmup=0.2, cooldown=0.5) for step in (0, 1, 4, 5, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.2]
    """
    rising = (step + 1) / max(1, round(warmup * steps))
    falling = (steps - step) / max(1, round(cooldown * steps))
    return min(1.0, rising, falling)


def set_learning_rates(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Set every parameter group to this share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]
