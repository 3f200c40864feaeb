"""What each faster variant buys beside the formula it is held equal to, on this machine.

    python -m tests.benchmarks.pieces

Both of a pair run by turns; printed is the formula's median time over the variant's: above 1, the
variant is faster. Keeping freed memory cannot be undone in a process, so each side has its own.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from minilm.config import ModelConfig
from minilm.device import choose_machine, keep_freed_memory
from minilm.model import Transformer, attention, fused_attention, visibility
from minilm.objectives import ChunkedNLL, LanguageModelLoss, token_nll
from minilm.optim import orthogonalise
from tests.benchmarks.alternate import alternate, medians, serve
from tests.benchmarks.step_speed import task_of

ROUNDS = 7


def ratio(formula: Callable[[], object], variant: Callable[[], object]) -> float:
    """The median seconds of one over those of the other, by turns, after a first time each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for work, times in zip((formula, variant), seconds, strict=True):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    before, after = (statistics.median(times[1:]) for times in seconds)
    return before / after


def chunked_loss(n: int, width: int, words: int, bfloat16: bool) -> float:
    """`ChunkedNLL` beside `token_nll`, with gradients: n positions."""
    hidden = torch.randn(n, width, requires_grad=True)
    E = torch.randn(words, width, requires_grad=True)
    targets = torch.randint(words, (n,))

    def gradients(loss: Callable[[], torch.Tensor]) -> Callable[[], object]:
        def work():
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss_sum = loss()
            return torch.autograd.grad(loss_sum, (hidden, E))

        return work

    return ratio(
        gradients(lambda: token_nll(torch.nn.functional.linear(hidden, E), targets)[0]),
        gradients(lambda: ChunkedNLL.apply(hidden, E, targets)),
    )


def newton_schulz(G: torch.Tensor) -> torch.Tensor:
    """The formula in `orthogonalise`, step by step: G (B, m, n), m <= n."""
    a, b, c = 3.4445, -4.7750, 2.0315
    X = G / torch.linalg.matrix_norm(G, keepdim=True)
    for _ in range(5):
        R = X @ X.mT
        X = a * X + (b * R + c * R @ R) @ X
    return X


def plain_attention(batch: int, heads: int, window: int, width: int, dtype: torch.dtype) -> float:
    """`attention` beside `fused_attention`, causal, with gradients."""
    q, k, v = (
        torch.randn(batch, heads, window, width, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    mask = visibility(window, 0, True, None, q.device).to(dtype)

    def gradients(attend: Callable) -> Callable[[], object]:
        return lambda: torch.autograd.grad(attend(q, k, v, mask).sum(), (q, k, v))

    return ratio(gradients(fused_attention), gradients(attention))


def step(kept: bool) -> Callable[[], None]:
    """A forward and backward pass of size tiny, with freed memory kept or not."""
    if kept:
        keep_freed_memory()
    loss = LanguageModelLoss(Transformer(ModelConfig(4096, 128, 128, 4, 4, 512)))
    task = task_of("causal", 128, 32, 4096)
    inputs, targets = torch.from_numpy(task.inputs), torch.from_numpy(task.targets)
    return lambda: loss(inputs, targets, task.causal)[0].backward()


def main() -> None:
    """Print every ratio, or serve as one side of the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=["given back", "kept"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(step(kept=args.serve == "kept"))
        return
    module = ["-m", "tests.benchmarks.pieces", "--serve"]
    found = medians(alternate({name: [*module, name] for name in ("given back", "kept")}, ROUNDS))
    print(f"freed memory kept, a step of size tiny: {found['given back'] / found['kept']:.2f}")
    machine = choose_machine("cpu")
    print(machine.why)
    for shape in ((4096, 128, 4096), (8192, 256, 8192)):
        print(f"loss in chunks, N x D x V = {shape}: {chunked_loss(*shape, machine.bfloat16):.2f}")
    for shape in ((4, 128, 128), (4, 128, 512), (6, 256, 1024)):
        G = torch.randn(shape)
        gain = ratio(lambda G=G: newton_schulz(G), lambda G=G: orthogonalise(G))
        print(f"orthogonalising by the Gram matrix, B x m x n = {shape}: {gain:.2f}")
    dtype = torch.bfloat16 if machine.bfloat16 else torch.float32
    for shape in ((12, 4, 64, 32), (32, 4, 128, 32), (32, 4, 256, 64)):
        gain = plain_attention(*shape, dtype)
        print(f"plain attention beside fused, B x H x T x d = {shape}: {gain:.2f}")


if __name__ == "__main__":
    main()
