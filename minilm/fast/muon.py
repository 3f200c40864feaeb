"""Muon's iteration sooner: on a CPU on the small Gram matrix, on CUDA in bfloat16, compiled."""

import torch
from torch import Tensor

from minilm.fast.compute import compile_once
from minilm.optim import orthogonalise


def gram_orthogonalise(G: Tensor) -> Tensor:
    """`orthogonalise` on R = X Xᵀ: of X the iteration's factor P = a I + b R + c R² sees R alone,
    and with X <- P X goes R <- P R P. So only R and the product Q of all P are kept, smaller
    than X unless that is square. In float32 the result is equal.

    G (B, m, n). Returns G's shape."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / (torch.linalg.matrix_norm(G, keepdim=True) + 1e-7)
    wide = X if X.shape[1] <= X.shape[2] else X.mT
    R = wide @ wide.mT  # (B, k, k), k = min(m, n)
    Q = torch.eye(R.shape[1], dtype=G.dtype, device=G.device).expand_as(R)
    for _ in range(5):
        P = torch.baddbmm(R, R, R, beta=b, alpha=c)
        P.diagonal(dim1=1, dim2=2).add_(a)
        Q, R = P @ Q, P @ R @ P
    return Q @ X if wide is X else X @ Q  # Q is symmetric


def fast_orthogonalise(G: Tensor, compiled: bool = False) -> Tensor:
    """Either of the two, by the device. G (B, m, n) float32. Returns G's shape, float32."""
    if G.device.type != "cuda":
        return gram_orthogonalise(G)
    iterate = compile_once(orthogonalise, dynamic=False) if compiled else orthogonalise
    tall = G.shape[1] > G.shape[2]
    X = iterate((G.mT if tall else G).bfloat16()).to(G.dtype)
    return X.mT if tall else X
