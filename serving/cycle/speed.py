"""How fast the binaries of two templates are: both compiled, run in turns in this process on one thread.

Each repetition runs one batch of each, in an order that alternates, so that whatever else the machine does falls on
both; what counts is the ratio within each pair. Latency at the same rate is what an SLO is about: a binary whose calls
take no longer bears no lower rate.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from smt.serving.binary import BinaryRunner, Weights
from smt.serving.compile import compile_template, example_inputs
from smt.serving.registry import Registry
from smt.training.cycle.capacity import MeasureSpeed, Speed
from smt.training.cycle.jobs import canonical
from smt.training.model import abi_hash
from smt.training.run import write_json
from smt.training.template import Template

_WARM_UP = 10
_TABLE_ROWS = 10_000


def speed_measurement(
    folder: Path, rows: int, repetitions: int, say: Callable[[str], None] | None = None
) -> MeasureSpeed:
    """A function that compiles two templates into a registry in `folder`, in the default precision, and measures them.

    What was measured is kept there, so that a cycle that goes on, or is replayed, decides the same.

    Args:
        rows: of a batch. repetitions: pairs of batches.
    """

    def measure(before: Template, after: Template) -> Speed:
        key = canonical([abi_hash(before), abi_hash(after), rows, repetitions])
        kept = folder / "speeds" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        if kept.is_file():
            return Speed(**json.loads(kept.read_bytes()))
        registry = Registry(folder)
        calls = []
        for template in (before, after):
            if say is not None:
                say(f"compiling {template.name} to measure it: {', '.join(t.label for t in template.techniques)}")
            compile_template(template, registry)
            calls.append(_call(BinaryRunner.load(registry, template.name, abi_hash(template)), template, rows))
        speed = compare_calls(calls[0], calls[1], rows, repetitions)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, asdict(speed))
        return speed

    return measure


def compare_calls(before: Callable[[], object], after: Callable[[], object], rows: int, repetitions: int) -> Speed:
    """Runs both in turns. The interval of the ratio is of the median, by the binomial of the order statistics."""
    for call in (before, after):
        for _ in range(_WARM_UP):
            call()
    seconds = np.empty((repetitions, 2))
    for i in range(repetitions):
        for side in (0, 1) if i % 2 else (1, 0):
            started = time.perf_counter()
            (before, after)[side]()
            seconds[i, side] = time.perf_counter() - started
    low, median, high = median_interval(seconds[:, 0] / seconds[:, 1])
    rates = rows / np.median(seconds, axis=0)
    return Speed(float(rates[0]), float(rates[1]), median, low, high)


def median_interval(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float, float]:
    """Low end, median, high end: order statistics n/2 ∓ 0.98 √n, which hold the true median 95 times of 100."""
    ordered = np.sort(values)
    half, n = 0.98 * math.sqrt(len(ordered)), len(ordered)
    low, high = max(math.floor(n / 2 - half) - 1, 0), min(math.ceil(n / 2 + half), n - 1)
    return float(ordered[low]), float(np.median(ordered)), float(ordered[high])


def _call(runner: BinaryRunner, template: Template, rows: int) -> Callable[[], object]:
    ids = rows * template.slots.categorical
    slab, table, *features = example_inputs(template, rows, _TABLE_ROWS, ids, ids)
    weights = Weights(slab, table)
    torch.set_num_threads(1)
    return lambda: runner.score_tensors(weights, *features)
