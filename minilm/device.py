"""The one place that decides where to compute and how precisely, and says why."""

import ctypes
import dataclasses
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from minilm.config import UserError


@dataclass(frozen=True)
class Machine:
    """Where one process computes, and its place among the processes of `torchrun`."""

    device: torch.device
    bfloat16: bool
    why: str  # of the choice, for people
    rank: int = 0
    world: int = 1  # number of processes

    def autocast(self):
        """Matrix products in bfloat16, if chosen; weights, norms and losses stay in float32."""
        if self.bfloat16:
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def agree(self, value: float) -> float:
        """The first process's value, in every process: what each measured may differ."""
        if self.world == 1:
            return value
        box = self._box(value)
        dist.broadcast(box, src=0)
        return box.item()

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        if self.world == 1:
            return list(values)
        box = self._box(*values)
        dist.all_reduce(box)
        return box.tolist()

    def _box(self, *values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def first(self, prepare):
        """Call prepare() in the first process, then in the others, which find its work done. What
        stops the first stops all; it alone says why."""
        if self.world == 1:
            return prepare()
        result = error = None
        if self.rank == 0:
            try:
                result = prepare()
            except UserError as raised:
                error = raised
        if self.total(float(error is not None))[0]:
            raise error or SystemExit(UserError.status)
        return result if self.rank == 0 else prepare()

    def tensors(self, values) -> list:
        """NumPy arrays as tensors on the device; anything else as it is."""
        return [
            torch.from_numpy(v).to(self.device, non_blocking=True)
            if isinstance(v, np.ndarray)
            else v
            for v in values
        ]


def choose_machine(device: str = "auto", precision: str = "auto") -> Machine:
    """Choose a device and a precision, and join the other processes if `torchrun` started this one.

    Raises UserError for a device that is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = next((name for name, found in there.items() if found), "cpu")
    elif not there.get(device, device == "cpu"):
        found = ", ".join(["cpu", *(name for name in there if there[name])])
        raise UserError(f"--device {device}: torch finds none here; this machine has {found}")
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if device == "cuda" and world > 1:
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    chosen = torch.device(device)
    keep_freed_memory()
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    bfloat16, why = choose_precision(precision, chosen)
    machine = Machine(chosen, bfloat16, f"{why} on {chosen}", rank, world)
    return dataclasses.replace(machine, bfloat16=bool(machine.agree(float(bfloat16))))


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next step instead of giving it back to the system,
    which would clear every page of it again: faster steps (`python -m tests.benchmarks.pieces`).
    Nothing happens where the C library is another."""
    mmap_threshold, trim_threshold = -3, -1  # of mallopt in <malloc.h>
    try:
        libc = ctypes.CDLL("libc.so.6")
        if not libc.mallopt(mmap_threshold, 2**30):
            libc.mallopt(mmap_threshold, 2**25)  # the most that an older glibc takes
        libc.mallopt(trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):
        pass


def choose_precision(precision: str, device: torch.device) -> tuple[bool, str]:
    """(whether to multiply in bfloat16, why)."""
    if precision != "auto":
        return precision == "bfloat16", f"{precision}, as asked,"
    if device.type == "mps":
        return False, "float32"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, two would mostly measure how they wait
    try:
        speed = {dtype: matrix_rate(dtype, device) for dtype in (torch.float32, torch.bfloat16)}
    finally:
        torch.set_num_threads(threads)
    ratio = speed[torch.bfloat16] / speed[torch.float32]
    if ratio > 1.2:
        return True, f"bfloat16, {ratio:.1f} times as fast as float32,"
    return False, f"float32 (bfloat16 would be {ratio:.2g} times as fast)"


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of this machine's matrix products: the best of three, in about 0.1 seconds.

    The matrices grow until one product takes a hundredth of a second, for a processor without
    bfloat16 may be a hundred times slower at it than at float32."""
    for size in (128, 256, 512, 1024, 2048, 4096, 8192):
        a = torch.ones(size, size, dtype=dtype, device=device)
        best = min(_seconds(a) for _ in range(3))
        if best > 0.01:
            break
    return 2 * size**3 / best


def _seconds(a: torch.Tensor) -> float:
    synchronize(a.device)
    start = time.perf_counter()
    a @ a
    synchronize(a.device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
