"""The one place that decides where to compute and how precisely, and says why."""

import contextlib
import ctypes
import dataclasses
import os
import time
import timeit
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from minilm.config import UserError


@dataclass(frozen=True)
class Machine:
    """Where one process computes, and its place among the processes of `torchrun`."""

    device: torch.device
    dtype: torch.dtype = torch.float32  # of activations and matrix products
    why: str = ""  # of the choice, for people
    rank: int = 0
    world: int = 1  # number of processes

    def tensors(self, values) -> list:
        """NumPy arrays as tensors on the device, without waiting for it; anything else as it is."""
        return [self._tensor(v) if isinstance(v, np.ndarray) else v for v in values]

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # which copies beside its work from pinned memory only
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes."""
        if self.world == 1:
            return list(values)
        box = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(box)
        return box.tolist()

    def agree(self, value: float) -> float:
        """The first process's value, in every process: what each measured may differ."""
        return self.total(value if self.rank == 0 else 0.0)[0]

    def add_up(self, tensors: list[torch.Tensor]) -> None:
        """Replace each tensor, of one dtype, by its sum over the processes, in one go."""
        if self.world > 1:
            flat = parameters_to_vector(tensors)
            dist.all_reduce(flat)
            vector_to_parameters(flat, tensors)

    def share_out(self, arrays: tuple, accumulate: int) -> list[tuple]:
        """This process's rows of a batch (NumPy arrays, and values that hold for all rows), in
        `accumulate` micro-batches. Raises UserError where there is no row for every process."""
        if len(arrays[0]) < self.world:
            raise UserError(f"a batch of {len(arrays[0])} cannot be shared by {self.world} "
                            f"processes: give a larger --batch-size")  # fmt: skip
        rows = np.arange(self.rank, len(arrays[0]), self.world)
        return [tuple(a[part] if isinstance(a, np.ndarray) else a for a in arrays)
                for part in np.array_split(rows, min(accumulate, len(rows)))]  # fmt: skip

    def first(self, prepare):
        """Call prepare() in the first process, then in the others, which find its work done. What
        stops the first stops all, but it alone says why."""
        result = error = None
        try:
            result = prepare() if self.rank == 0 else None
        except UserError as raised:
            error = raised
        if self.total(float(error is not None))[0]:
            raise error or SystemExit(UserError.status)
        return result if self.rank == 0 else prepare()


def choose_machine(device: str = "auto", precision: str = "auto") -> Machine:
    """Choose a device and a precision ("auto", "float32", "bfloat16"), and join the other processes
    if `torchrun` started this one. Raises UserError for a device that is not there."""
    known = dict(cuda=torch.cuda, mps=torch.backends.mps, cpu=torch.cpu)
    found = [name for name, there in known.items() if there.is_available()]
    device = found[0] if device == "auto" else device
    if device not in found:
        raise UserError(f"--device {device}: torch finds none here, only {', '.join(found)}")
    rank, world = (os.environ.get(name, least) for name, least in (("RANK", 0), ("WORLD_SIZE", 1)))
    try:
        rank, world = int(rank), int(world)
        if not 0 <= rank < world:
            raise ValueError
    except ValueError:
        raise UserError(f"RANK is {rank} of WORLD_SIZE {world} in the environment: start with "
                        f"torchrun, which sets both, or unset them") from None  # fmt: skip
    if world > 1 and device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    dtype, why = choose_precision(precision, torch.device(device))
    machine = Machine(torch.device(device), dtype, f"{why} on {device}", rank, world)
    is_bfloat16 = machine.agree(float(dtype == torch.bfloat16))
    return dataclasses.replace(machine, dtype=torch.bfloat16 if is_bfloat16 else torch.float32)


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next step: the system would clear it first."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-3, 2**30) or mallopt(-3, 2**25)  # M_MMAP_THRESHOLD; the most of an older glibc
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def choose_precision(precision: str, device: torch.device) -> tuple[torch.dtype, str]:
    """(the dtype of activations and matrix products, why)."""
    if precision != "auto":
        return getattr(torch, precision), f"{precision}, as asked,"
    if device.type == "mps":
        return torch.float32, "float32"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, two would mostly measure how they wait
    ratio = matrix_rate(torch.bfloat16, device) / matrix_rate(torch.float32, device)
    torch.set_num_threads(threads)
    if ratio > 1.2:
        return torch.bfloat16, f"bfloat16, {ratio:.1f} times as fast as float32,"
    return torch.float32, f"float32 (bfloat16 would be {ratio:.2g} times as fast)"


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of this machine's matrix products: the best of three, in about 0.1 seconds. They grow
    until one takes a hundredth of a second: bfloat16 may be a hundred times slower than float32."""
    for size in (128, 256, 512, 1024, 2048, 4096, 8192):
        a = torch.ones(size, size, dtype=dtype, device=device)
        multiply = lambda a=a: (a @ a, torch.get_device_module(device).synchronize())
        best = min(timeit.repeat(multiply, number=1, repeat=3, timer=time.perf_counter))
        if best > 0.01:
            break
    return 2 * size**3 / best
