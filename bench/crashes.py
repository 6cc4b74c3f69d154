"""Kills what writes a registry, at any moment, and looks at what it leaves.

    found = kill_writers(Path("/tmp/registry"), kills=200, seed=1)
    found.faults, found.lost        # both empty

A writer publishes (full versions and deltas), promotes, rolls back, labels, pins and collects garbage in random order,
until SIGKILL meets it. Then every version that is there has to verify, what is named has to be there, and every
publication that returned has to be there too, unless gc removed it. Nothing is repaired: the next writer goes on.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from smt.serving.events import read_events
from smt.serving.gc import Policy, collect
from smt.serving.integrity import check_registry
from smt.serving.labels import clear_label, pin, read_pins, unpin
from smt.serving.lifecycle import promote, rollback
from smt.serving.manifest import WEIGHTS_FILE
from smt.serving.registry import Registry, RegistryError

SCENARIO = "crash"
_KEEP = 3
_WAIT_SECONDS = 600.0
# Python's audit events of calls that change a file system, or wait for others who do; and opening to write.
_CALLS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass
class Crashes:
    """What became of a registry whose writers were killed.

    published: versions whose publication returned. faults: what did not verify. lost: published, gone, and not by gc.
    """

    kills: int = 0
    published: int = 0
    collected: int = 0
    faults: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def draft(**changes: Any) -> dict[str, Any]:
    """What a snapshot's manifest says, of a template that nobody compiled."""
    return {
        "scenario": SCENARIO,
        "template": {"name": "none", "version": "1.0.0"},
        "abi_hash": "0" * 64,
        "dim": 4,
        "tasks": [{"name": "click", "head": 0}],
        "features": {"format": 1},
        **changes,
    }


def publish(registry: Registry, content: bytes, **how: Any) -> str:
    """A full version with these weights."""
    return registry.publish_snapshot(draft(), {WEIGHTS_FILE: content}, **how).version


def publish_delta(registry: Registry, content: bytes) -> str:
    """A delta on what is current."""
    base = registry.snapshot(SCENARIO)
    fields = draft(format=2, base=base.version, chain=base.chain + 1)
    return registry.publish_snapshot(fields, {"delta.safetensors": content}).version


def go_back(registry: Registry, scenario: str) -> None:
    """Rolls back if there is a version to go back to."""
    try:
        rollback(registry, scenario)
    except RegistryError as error:
        if "no version to go back to" not in str(error):
            raise


def kill_writers(root: Path, kills: int, seed: int, *, weight_bytes: int = 100_000) -> Crashes:
    """Starts a writer, lets it end up to ten operations, kills it in the next; looks at the registry. `kills` times.

    When, is counted in operations and not in time: on a slow machine too writers get to every kind of them.
    """
    generator = random.Random(seed)
    registry, found = Registry(root), Crashes()
    started = time.monotonic()
    known = {publish(registry, generator.randbytes(weight_bytes)) for _ in range(3)}
    operation_seconds = (time.monotonic() - started) / 3
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        for _ in range(kills):
            report.write_bytes(b"")
            arguments = (str(root), str(report), generator.random(), weight_bytes)
            writer = processes().Process(target=_write, args=arguments)
            writer.start()
            wait_for(report, 1 + generator.randrange(11))  # that it has started, and the end of some operations
            time.sleep(generator.uniform(0, operation_seconds))
            writer.kill()
            writer.join()
            if writer.exitcode != -signal.SIGKILL:
                raise RuntimeError(f"the writer ended by itself, with status {writer.exitcode}")
            found.kills += 1
            gone = read_report(report, found, known)
            inspect(registry, SCENARIO, found, known, gone)
    return found


def kill_at_every_change(
    prepared: Path, root: Path, operation: Callable[[Registry], object]
) -> Iterator[tuple[int, Registry]]:
    """Kills `operation` before its first change of the file system, then before its second, …, until it gets through.

    Args:
        prepared: the registry where the operation begins; each time works on a copy of its own, in `root`.
        operation: a function of a module, to be run in a process of its own.

    Yields the number of the change, and the registry that the kill left.
    """
    for number in itertools.count():
        registry = Registry(shutil.copytree(prepared, root / f"{number:04d}"))
        process = processes().Process(target=_run_until, args=(registry.root, operation, number))
        process.start()
        process.join(_WAIT_SECONDS)
        if process.exitcode not in (0, -signal.SIGKILL):
            process.kill()
            raise RuntimeError(f"change {number}: the operation ended with status {process.exitcode}")
        yield number, registry
        if process.exitcode == 0:
            return


def processes(preloaded: str = __name__) -> Any:
    """For what is to be killed: processes are forked from one that has everything imported and no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preloaded])
    return context


def wait_for(report: Path, lines: int) -> None:
    """Until a writer has reported so many lines."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while report.read_bytes().count(b"\n") < lines:
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {_WAIT_SECONDS:.0f} s for a writer's operations")
        time.sleep(0.001)


def _run_until(root: str, operation: Callable[[Registry], object], number: int) -> None:
    registry = Registry(root)
    calls = itertools.count()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changes = event in _CALLS or (event == "open" and bool(arguments[2] & _WRITING))
        if changes and next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    operation(registry)
    os._exit(0)  # without what multiprocessing does at its end, which looks at files too


def _write(root: str, report: str, seed: float, weight_bytes: int) -> None:
    """Changes the registry until it is killed; reports each operation that ended, what it published and removed."""
    generator, registry = random.Random(seed), Registry(root)
    lines = os.open(report, os.O_WRONLY | os.O_APPEND)
    os.write(lines, b"started\n")
    while True:
        content = generator.randbytes(generator.randrange(1, weight_bytes))
        any_version = generator.choice(registry.versions(SCENARIO))
        kind = generator.choices(
            ("publish", "delta", "canary", "promote", "rollback", "label", "clear", "pin", "unpin", "gc"),
            (4, 4, 1, 2, 2, 1, 1, 1, 2, 3),
        )[0]
        ended = kind
        if kind in ("publish", "canary"):
            version = publish(registry, content, label="canary" if kind == "canary" else "stable")
            ended = f"published {version}"
        elif kind == "delta":
            ended = f"published {publish_delta(registry, content)}"
        elif kind == "promote":
            promote(registry, SCENARIO, any_version)
        elif kind == "rollback":
            go_back(registry, SCENARIO)
        elif kind == "label":
            registry.set_label(SCENARIO, "shadow", any_version)
        elif kind == "clear":
            clear_label(registry, SCENARIO, "canary")
        elif kind == "pin":
            pin(registry, SCENARIO, any_version)
        elif kind == "unpin":
            for version in read_pins(registry, SCENARIO):
                unpin(registry, SCENARIO, version)
        else:
            removed = collect(registry, SCENARIO, Policy(_KEEP, timedelta()), apply=True).removed
            ended = f"collected {' '.join(removed)}"
        os.write(lines, f"{ended}\n".encode())


def read_report(report: Path, found: Crashes, known: set[str]) -> set[str]:
    """Adds what was published to `known`; returns what gc reported to have removed."""
    gone: set[str] = set()
    for line in report.read_text().splitlines():
        word, *versions = line.split()
        if word == "published":
            known.update(versions)
            found.published += len(versions)
        elif word == "collected":
            gone.update(versions)
            found.collected += len(versions)
    return gone


def inspect(registry: Registry, scenario: str, found: Crashes, known: set[str], gone: set[str]) -> None:
    """Looks at what a kill left. `gone`: what gc reported to have removed; `known` becomes what is there of it."""
    found.faults += check_registry(registry).faults
    registry.verify(scenario)
    there = set(registry.versions(scenario))
    # A gc that was killed has said in the events what it was about to remove.
    announced = {event.version for event in read_events(registry, scenario) if event.what == "gc"}
    found.lost += sorted(known - there - gone - announced)
    known &= there
