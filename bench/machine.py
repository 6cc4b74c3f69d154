"""What this machine can do at most: arithmetic and reading memory, measured in the run whose figures they judge."""

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from bench.shapes import Batch
from smt.kernels import cpu
from smt.kernels.cpu import Precision

_MATRIX_SIZES = (256, 512, 1024)
_ARRAY_BYTES = 256 << 20  # beyond every cache
_REPETITIONS = 7
_LONGEST = 3.0  # a bfloat16 product on a CPU that has no instruction for it takes a hundred times as long


def kernel_peak(precision: Precision) -> float:
    """FLOP/s of one core: what the kernels in use reach on operands in its first-level cache."""
    return max(cpu.peak_flops(precision) for _ in range(_REPETITIONS))


def core_peak(precision: Precision) -> float:
    """FLOP/s of one core: `kernel_peak` or, in bfloat16, what PyTorch's product reaches, if that is more."""
    peak = kernel_peak(precision)
    return max(peak, bf16_product(1)) if precision == "bf16" else peak


class Pace:
    """How fast a core is while others are measured: takes its turn as an engine does (`bench.peers.Engine`).

    A core that is shared with another virtual machine loses a third of its speed whenever that one computes.
    """

    def __init__(self, precision: Precision) -> None:
        self._precision = precision
        self.found: list[float] = []

    def bind(self, batch: Batch) -> None:
        """Needs no inputs."""

    def run(self) -> None:
        """Notes what the kernels reach now."""
        self.found.append(cpu.peak_flops(self._precision))

    def output(self) -> NDArray[np.float32]:
        """FLOP/s so far."""
        return np.array(self.found, np.float32)


def bf16_product(threads: int) -> float:
    """FLOP/s of the fastest square bfloat16 product, on so many threads."""
    torch.set_num_threads(threads)
    peak = 0.0
    for size in _MATRIX_SIZES:
        a, b = (torch.randn(size, size).bfloat16() for _ in range(2))
        out = torch.empty(size, size, dtype=torch.bfloat16)

        def multiply(a: torch.Tensor = a, b: torch.Tensor = b, out: torch.Tensor = out) -> None:
            torch.matmul(a, b, out=out)

        peak = max(peak, 2 * size**3 / fastest(multiply, 40))
    return peak


def read_bandwidth(threads: int) -> float:
    """Bytes/s of reading an array from memory, on so many threads."""
    torch.set_num_threads(threads)
    array = torch.ones(_ARRAY_BYTES // 8, dtype=torch.int64)
    return _ARRAY_BYTES / fastest(array.sum, _REPETITIONS)


def fastest(function: Callable[[], object], repetitions: int) -> float:
    """Seconds of the fastest of so many calls, or of those that began within _LONGEST seconds."""
    seconds: list[float] = []
    end = time.perf_counter() + _LONGEST
    while len(seconds) < repetitions and (not seconds or time.perf_counter() < end):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
