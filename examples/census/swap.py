"""Load on several scenarios while one of them changes its snapshot, and the proof that no answer mixed two.

Every answer names the version that scored it. Afterwards the same rows are scored with that version's weights by
the template binary in this process: an answer counts as mixed when it is not exactly what its version computes.
"""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.torch import load

from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.serving.binary import BinaryRunner, Weights
from smt.serving.client import AsyncClient, PredictError
from smt.serving.manifest import WEIGHTS_FILE
from smt.serving.registry import Registry

# Server and runner execute the same compiled code on the same inputs.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Answer:
    """One response: scores are float32 [rows of the probe] per task."""

    scenario: str
    probe: int
    version: str
    scores: Mapping[str, NDArray[np.float32]]


@dataclass
class Load:
    """Keeps `concurrency` requests under way in a background thread until stopped; sends the probes in turn.

    Only the background thread writes `answers` and `failures`; read them after the `with` block.
    """

    target: str
    probes: Mapping[str, list[pa.Table]]
    concurrency: int = 8
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _run(self) -> None:
        work = [(name, index) for index in range(len(next(iter(self.probes.values())))) for name in self.probes]
        async with AsyncClient(self.target, timeout=30) as client:
            await asyncio.gather(*(self._send(client, work[i:] + work[:i]) for i in range(self.concurrency)))

    async def _send(self, client: AsyncClient, work: list[tuple[str, int]]) -> None:
        while True:
            for name, index in work:
                if self._stop.is_set():
                    return
                try:
                    prediction = await client.predict(name, self.probes[name][index])
                except PredictError as error:
                    self.failures.append(f"{name}: {error}")
                else:
                    self.answers.append(Answer(name, index, prediction.version, dict(prediction)))


def mixed_answers(registry: Registry, probes: Mapping[str, list[pa.Table]], answers: list[Answer]) -> list[Answer]:
    """The answers whose scores are not those of the version that they name."""
    expected: dict[tuple[str, str], list[dict[str, NDArray[np.float32]]]] = {}
    for scenario, version in {(answer.scenario, answer.version) for answer in answers}:
        expected[scenario, version] = _score(registry, scenario, version, probes[scenario])
    return [
        answer
        for answer in answers
        if not all(
            np.allclose(scores, expected[answer.scenario, answer.version][answer.probe][task], rtol=0, atol=TOLERANCE)
            for task, scores in answer.scores.items()
        )
    ]


def _score(
    registry: Registry, scenario: str, version: str, probes: list[pa.Table]
) -> list[dict[str, NDArray[np.float32]]]:
    manifest = registry.snapshot(scenario, version)
    tensors = load(registry.read_snapshot_file(manifest, WEIGHTS_FILE))
    runner = BinaryRunner.load(registry, manifest.template.name, manifest.abi_hash)
    transform = FeatureTransform(manifest.features)
    names = [column.name for column in transform.inputs]
    scored = []
    for probe in probes:
        batch = transform.apply(probe.num_rows, columns_from_arrow(probe, names))
        probabilities = runner.score(Weights(tensors["slab"], tensors["table"]), batch)
        scored.append({task.name: probabilities[:, task.head] for task in manifest.tasks})
    return scored


def distinguishable(registry: Registry, scenario: str, versions: list[str], probes: list[pa.Table]) -> bool:
    """Whether every probe's scores tell the versions apart by far more than the tolerance."""
    first, second = (_score(registry, scenario, version, probes) for version in versions)
    return all(
        max(float(np.abs(a[task] - b[task]).max()) for task in a) > 100 * TOLERANCE
        for a, b in zip(first, second, strict=True)
    )
