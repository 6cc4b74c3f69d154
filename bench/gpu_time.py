"""Timing on a GPU: calls captured in CUDA graphs, each call on other inputs, together more than the L2 cache holds.

A graph holds one call per set of inputs, one after the other, so that neither Python nor the launch of a graph is part
of a call's time. Engines take turns, replay by replay. What is timed is a replay over its calls: `median_ms` is the
median over replays of the mean over a replay's calls, and `p99_ms` their 99th percentile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

MOST_SETS = 64
_WARM_UP_CALLS = 3
_PEAK_SIZE = 8192

Inputs = TypeVar("Inputs")


@dataclass(frozen=True)
class Timing:
    """Seconds of a call, one value per replay."""

    seconds: NDArray[np.float64]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.seconds)) * 1e3

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.seconds, 99)) * 1e3


def input_sets(bytes_per_set: int) -> int:
    """How many sets of inputs exceed the L2 cache twice over; MOST_SETS at most, and two at least."""
    cache: int = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return max(2, min(MOST_SETS, -(-2 * cache // max(1, bytes_per_set))))


def captured(call: Callable[[Inputs], object], sets: Sequence[Inputs]) -> torch.cuda.CUDAGraph:
    """A graph of one call per set of inputs. Raises what the call raises, or RuntimeError if it cannot be captured."""
    side: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP_CALLS):
            call(sets[0])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for inputs in sets:
            call(inputs)
    return graph


def alternate(graphs: Mapping[str, torch.cuda.CUDAGraph], calls: int, replays: int) -> dict[str, Timing]:
    """Times every graph, each of so many calls, in turns that begin with another one every time."""
    names = list(graphs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        graphs[name].replay()
    for turn in range(replays):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            graphs[name].replay()  # brings its weights back into the cache
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            graphs[name].replay()
            end.record()
            end.synchronize()
            seconds[name].append(begin.elapsed_time(end) * 1e-3 / calls)
    return {name: Timing(np.array(values)) for name, values in seconds.items()}


def bf16_peak() -> float:
    """FLOP/s of a large bfloat16 product."""
    pairs = [
        tuple(torch.randn(_PEAK_SIZE, _PEAK_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        for _ in range(2)
    ]

    def multiply(pair: Any) -> None:
        torch.matmul(*pair)

    timing = alternate({"matmul": captured(multiply, pairs)}, len(pairs), replays=20)["matmul"]
    return 2 * _PEAK_SIZE**3 / (timing.median_ms * 1e-3)
