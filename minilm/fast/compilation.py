"""torch.compile, block by block: all blocks share one compiled program, so that it is made in
seconds. On a card it fuses what lies between the products, and so do the loss and Muon."""

import importlib.util
import shutil

import torch

from minilm.config import UserError


def compiles(wanted: bool | None, device: torch.device) -> bool:
    """Whether to compile. None: where that pays, which is on CUDA, and the compilers are found.
    Raises UserError where it was asked for and they are not."""
    found = any(map(shutil.which, ("cc", "gcc", "clang", "cl")))
    found &= device.type == "cpu" or importlib.util.find_spec("triton") is not None
    if wanted and not found:
        raise UserError(
            f"--compile: torch.compile needs a C compiler (and triton on CUDA), and finds none on "
            f"{device}: leave the flag out"
        )
    return found and device.type == "cuda" if wanted is None else wanted


def compile_blocks(model, **how) -> None:
    """Compile the blocks of a Transformer, or of the one inside a model with a head; it happens
    when they are first used. how: options of torch.compile."""
    for block in getattr(model, "transformer", model).blocks:
        block.compile(**how)


def eager():
    """A context in which compiled blocks run as written: evaluating and sampling, whose shapes are
    all different, compile nothing."""
    return torch.compiler.set_stance("force_eager")
