"""Who makes the swaps: a process that changes the registry at a set rate, by promotions and publications.

    with Swapper(variants, registry_folder, versions) as swapper:
        made = swapper.run(rate=25, seconds=30)

A swap is a change of one scenario's `current` to a version that the server does not have in memory, so that it has to
read, verify, pack and try it: a promotion of the version that was away for longest, or, each tenth time, the
publication of a new one, after which gc removes the oldest.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from bench.hotswap_versions import Name, Variants
from smt.serving.gc import Policy, collect
from smt.serving.lifecycle import promote
from smt.serving.registry import Registry

# A version rests while so many others of its scenario are current in turn: the server keeps two in memory, the one
# that it serves and the one before.
KEPT = 4
_PUBLISH_EVERY = 10
_WAIT_SECONDS = 120.0


@dataclass
class Swaps:
    """What was done. published: which variant each new version is. seconds: from the first change to the last one's
    due time. behind: how late the last swap was."""

    promoted: int = 0
    seconds: float = 0.0
    behind: float = 0.0
    published: dict[Name, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return self.promoted + len(self.published)


class Rotation:
    """The versions of each scenario, the one that is current last."""

    def __init__(self, variants: Variants, registry: Registry, versions: Mapping[Name, int]) -> None:
        self._variants, self._registry = variants, registry
        self._order: dict[str, deque[str]] = {name: deque() for name in variants.fleet.names}
        for name in versions:
            self._order[name.scenario].append(name.version)
        self._made = 0

    def swap(self, into: Swaps) -> None:
        """The next one: scenario after scenario."""
        scenarios = self._variants.fleet.names
        scenario = scenarios[self._made % len(scenarios)]
        turn = self._made // len(scenarios)
        self._made += 1
        order = self._order[scenario]
        # Not in step with the scenarios: each publishes every tenth time of its own.
        if (self._made + turn) % _PUBLISH_EVERY == 0:
            variant = turn % self._variants.count
            weights = self._variants.weights[scenario][variant]
            version = self._variants.fleet.publish_scenario(self._registry, scenario, weights).version
            into.published[Name(scenario, version)] = variant
            order.append(version)
            removed = collect(self._registry, scenario, Policy(KEPT, timedelta()), apply=True).removed
            self._order[scenario] = deque(version for version in order if version not in removed)
        else:
            order.append(order.popleft())
            promote(self._registry, scenario, order[-1])
            into.promoted += 1


class Swapper:
    """The process, at the lowest priority: a publisher runs elsewhere, and what it computes is not the server's cost.
    A context manager."""

    def __init__(self, variants: Variants, folder: Path, versions: Mapping[Name, int]) -> None:
        self._arguments = (variants, folder, dict(versions))

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._answer(_WAIT_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.join(_WAIT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def run(self, rate: float, seconds: float) -> Swaps:
        """Swaps at even gaps for so long; returns when the last one is made."""
        self.start(rate, seconds)
        return self.wait(seconds)

    def start(self, rate: float, seconds: float) -> None:
        self._pipe.send((rate, seconds))

    def wait(self, seconds: float) -> Swaps:
        """Of what was started for so long."""
        found: Swaps = self._answer(seconds + _WAIT_SECONDS)
        return found

    def _answer(self, seconds: float) -> Any:
        if not self._pipe.poll(seconds):
            raise RuntimeError(f"the swapper says nothing after {seconds:.0f} s")
        try:
            answer = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f"the swapper ended with {self._process.exitcode}") from None
        if isinstance(answer, str):
            raise RuntimeError(f"the swapper: {answer}")
        return answer


def _serve(pipe: Connection, variants: Variants, folder: Path, versions: dict[Name, int]) -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        assert variants.weights  # before the first swap is due
        rotation = Rotation(variants, Registry(folder), versions)
        pipe.send(None)
        while True:
            rate, seconds = pipe.recv()
            pipe.send(_swap(rotation, rate, seconds))
    except EOFError:
        return
    except Exception as error:  # the parent raises it
        pipe.send(f"{type(error).__name__}: {error}")


def _swap(rotation: Rotation, rate: float, seconds: float) -> Swaps:
    found = Swaps(seconds=seconds)
    began = time.monotonic()
    for number in range(round(rate * seconds)):
        due = began + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        rotation.swap(found)
        found.behind = time.monotonic() - due
    return found
