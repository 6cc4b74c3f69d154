"""Timing of engines that take turns on the same fresh inputs, and what is made of it."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.peers import Engine
from bench.shapes import Batch

MakeBatch = Callable[[np.random.Generator], Batch]
K = TypeVar("K")
_MOST_CALLS = 100  # of one block
# To a call that takes longer it makes no difference whether the engine's weights are in a cache and its threads awake.
_LONG_SECONDS = 0.02


@dataclass(frozen=True)
class Effort:
    """How long a point is measured: in each of `rounds`, every engine computes for about `block_seconds`, but makes
    at least `least_calls`."""

    rounds: int
    block_seconds: float
    least_calls: int


@dataclass(frozen=True)
class Contender:
    """An engine and what makes its inputs; contenders with the same function get the same inputs."""

    engine: Engine
    make_batch: MakeBatch


@dataclass(frozen=True)
class Timing:
    """Seconds of every call that counts."""

    seconds: NDArray[np.float64]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.seconds)) * 1e3

    @property
    def min_ms(self) -> float:
        return float(self.seconds.min()) * 1e3

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.seconds, 99)) * 1e3


def alternate(contenders: Mapping[K, Contender], effort: Effort, seed: int = 0) -> dict[K, Timing]:
    """Times the contenders block by block, round after round, starting with another one in each round."""
    blocks = {name: _plan(contender, effort) for name, contender in contenders.items()}
    seconds: dict[K, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(effort.rounds):
            inputs = _inputs(contenders, blocks, seed + turn)
            first = turn * len(names) // effort.rounds
            for name in names[first:] + names[:first]:
                contender, block = contenders[name], blocks[name]
                batches = inputs[contender.make_batch][: block.calls]
                seconds[name] += _timed(contender.engine, batches)[block.uncounted :]
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(np.array(values)) for name, values in seconds.items()}


@dataclass(frozen=True)
class _Block:
    """Calls of one engine in a row, and how many at the start do not count."""

    calls: int
    uncounted: int


def _plan(contender: Contender, effort: Effort) -> _Block:
    """A block of about `effort.block_seconds`, judged by a few calls."""
    rng = np.random.default_rng(0)
    batches = [contender.make_batch(rng)]
    if (once := _timed(contender.engine, batches)[0]) > _LONG_SECONDS:
        return _Block(max(round(effort.block_seconds / once), effort.least_calls), 0)
    fastest = min(_timed(contender.engine, batches * 3))
    return _Block(1 + int(min(max(effort.block_seconds / fastest, effort.least_calls), _MOST_CALLS)), 1)


def _inputs(contenders: Mapping[K, Contender], blocks: Mapping[K, _Block], seed: int) -> dict[MakeBatch, list[Batch]]:
    """Fresh batches of one round, as many as any engine with the same inputs needs."""
    needed: dict[MakeBatch, int] = {}
    for name, contender in contenders.items():
        needed[contender.make_batch] = max(needed.get(contender.make_batch, 0), blocks[name].calls)
    rng = np.random.default_rng(seed)
    return {make: [make(rng) for _ in range(count)] for make, count in needed.items()}


def _timed(engine: Engine, batches: list[Batch]) -> list[float]:
    """Seconds of one call per batch."""
    seconds = []
    for batch in batches:
        engine.bind(batch)
        started = time.perf_counter()
        engine.run()
        seconds.append(time.perf_counter() - started)
    return seconds


def difference(engine: Engine, batch: Batch, expected: NDArray[np.float64]) -> float:
    """Largest difference of a probability from the expected ones; infinite for another shape or NaN."""
    engine.bind(batch)
    engine.run()
    found = engine.output()
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max())
