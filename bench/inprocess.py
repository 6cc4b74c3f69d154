"""Engines called in-process, one process per core, on inputs that are ready: what a server could reach at most.

    with Workers(2, FusedFactory(fleet)) as workers:
        workers.measure(rows=256, seconds=1.0).rows_per_second

Each process has an engine on one thread and calls it over and over; all of them compute at the same time.
"""

import contextlib
import gc
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bench.servers import rss_bytes
from bench.shapes import Batch, Shape, random_batch

_BATCHES = 64  # distinct inputs, taken in turn
_DRAWN = 1 << 14  # scenarios, the same
_WARM_UP_SECONDS = 0.2
_WAIT_SECONDS = 600.0


class Callee(Protocol):
    """One engine, or one for each of the scenarios that the process computes; they are numbered from 0."""

    def prepare(self, batch: Batch) -> Any:
        """The batch as `run` takes it."""

    def run(self, scenario: int, prepared: Any) -> NDArray[np.float32]:
        """Probabilities [rows, tasks] with the scenario's weights, valid until the next call."""


@dataclass(frozen=True)
class Work:
    """What a process calls: batches of `rows`, of its scenario i with weight `mix[i]`."""

    rows: int
    seconds: float
    mix: Sequence[float]


@dataclass(frozen=True)
class Measured:
    """Calls of all processes. seconds: of each call, in no order."""

    rows_per_second: float
    seconds: NDArray[np.float64]

    @property
    def median_ms(self) -> float:
        return float(np.median(self.seconds)) * 1e3


# (number of the process, of how many) -> its engine, and the shape of what it computes.
Factory = Callable[[int, int], tuple[Callee, Shape]]


def share(scenarios: Sequence[Any], number: int, count: int) -> Sequence[Any]:
    """The scenarios of one process of several: every `count`th, so that none is loaded twice; or all, if too few."""
    return scenarios[number::count] if len(scenarios) >= count else scenarios


class Workers:
    """Processes that wait for work. A context manager; they end with it.

    Attributes:
        memory_bytes: by which all of them have grown for their engines.
    """

    def __init__(self, count: int, factory: Factory) -> None:
        """`factory`: makes the engine, in each process; to be pickled."""
        self._count, self._factory = count, factory
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Self:
        """Returns when every process has its engine. Raises RuntimeError with what one of them failed of."""
        context = multiprocessing.get_context("spawn")
        try:
            for number in range(self._count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, self._factory, number, self._count), daemon=True)
                process.start()
                theirs.close()
                self._processes.append(process)
                self._pipes.append(ours)
            self.memory_bytes = sum(int(self._answer(number)) for number in range(self._count))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self._processes:
            process.join(_WAIT_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def measure(self, rows: int, seconds: float, mix: Sequence[float] = (1.0,)) -> Measured:
        """All processes at once, for so long. `mix`: weights of all scenarios."""
        for number, pipe in enumerate(self._pipes):
            pipe.send(Work(rows, seconds, share(mix, number, self._count)))
        calls: list[NDArray[np.float64]] = [self._answer(number) for number in range(self._count)]
        return Measured(sum(len(one) * rows / float(one.sum()) for one in calls), np.concatenate(calls))

    def _answer(self, number: int) -> Any:
        if not self._pipes[number].poll(_WAIT_SECONDS):
            raise RuntimeError(f"in-process engine {number}: no answer after {_WAIT_SECONDS:.0f} s")
        try:
            answer = self._pipes[number].recv()
        except EOFError:
            self._processes[number].join()
            raise RuntimeError(f"in-process engine {number} ended: {self._processes[number].exitcode}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"in-process engine {number}: {answer}")
        return answer


def _serve(pipe: Connection, factory: Factory, number: int, count: int) -> None:
    """What a process does: says how many bytes its engine took, then computes what it is told to."""
    try:
        before = rss_bytes(os.getpid())
        engine, shape = factory(number, count)
        gc.collect()
        pipe.send(rss_bytes(os.getpid()) - before)
        rng = np.random.default_rng(number)
        while (work := pipe.recv()) is not None:
            pipe.send(_calls(engine, shape, work, rng))
    except Exception as error:  # the parent raises it
        pipe.send(f"{type(error).__name__}: {error}")


def _calls(engine: Callee, shape: Shape, work: Work, rng: np.random.Generator) -> NDArray[np.float64]:
    """Seconds from one call's start to the next one's, warm-up left out."""
    prepared = [engine.prepare(random_batch(shape, work.rows, rng)) for _ in range(_BATCHES)]
    weights = np.asarray(work.mix) / np.sum(work.mix)
    scenarios = itertools.cycle(rng.choice(len(weights), _DRAWN, p=weights).tolist())
    times = []
    begin = time.perf_counter() + _WARM_UP_SECONDS
    end = begin + work.seconds
    gc.disable()
    for scenario, batch in zip(scenarios, itertools.cycle(prepared), strict=False):
        if (now := time.perf_counter()) >= begin:
            times.append(now)
            if now >= end:
                break
        engine.run(scenario, batch)
    gc.enable()
    return np.diff(times)
