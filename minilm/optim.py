"""How the weights are updated: which parameter by which rule, and how fast at which step."""

import torch
from torch import nn


def make_optimizers(
    model: nn.Module, name: str, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[torch.optim.Optimizer]:
    """Optimizers that share the trainable parameters of `model` among them.

    "adamw": AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) for all. "muon": for the matrices
    inside the blocks Muon (Jordan et al. 2024), which orthogonalises each update, scaled to AdamW's
    size (arXiv 2502.16982, eq. 4) so that one learning rate serves both; AdamW for the rest.
    "sgd": with Nesterov momentum 0.9.

    Matrices decay; gains and biases do not. With layer_decay < 1 each block learns by this factor
    slower than the one above it (ULMFiT, arXiv 1801.06146, section 3.2).
    """
    groups: dict[tuple, dict] = {}
    n_layers = sum(
        parameter_name.endswith("norm_1.weight") for parameter_name in model.state_dict()
    )
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
    if name == "sgd":
        return [torch.optim.SGD(rest, momentum=0.9, nesterov=True)]
    optimizers = [torch.optim.AdamW(rest, betas=(0.9, 0.98), fused=True)]
    if hidden:
        optimizers.append(torch.optim.Muon(hidden, adjust_lr_fn="match_rms_adamw"))
    return optimizers


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
