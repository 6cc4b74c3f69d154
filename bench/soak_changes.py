"""What goes on around the traffic of a soak: snapshots, scheduling, and the looks at the server."""

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from bench.fleet import TASKS, Fleet, feature_spec
from bench.servers import SmtServer, metric_sum
from bench.soak_counters import Counts
from bench.soak_traffic import FLOOD, HASTY, POLITE, TOGETHER
from smt.serving.client import Client, PredictError
from smt.serving.registry import Registry
from smt.serving.snapshot import publish_weights

_MALFORMED = '{"scenarios": {"scenario_000": {"wieght": 2}}}'
_KEPT_VERSIONS = 3


class Repeated:
    """Calls a function again and again on a thread of its own, until left. What it raises is raised on leaving."""

    def __init__(self, step: Callable[[], None], pause_seconds: float) -> None:
        self._step, self._pause = step, pause_seconds
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause):
                self._step()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


class Publisher:
    """Publishes a snapshot of one scenario after the other, each with other weights, and removes old ones."""

    def __init__(self, fleet: Fleet, registry: Registry) -> None:
        self._fleet, self._registry = fleet, registry
        slots = fleet.template.slots
        self._spec = feature_spec(slots.dense, slots.categorical)
        self._weights = list(fleet.weights())
        self.published = 0

    def __call__(self) -> None:
        fleet = self._fleet
        number, turn = self.published % fleet.count, self.published // fleet.count
        weights = self._weights[(number + turn + 1) % len(self._weights)]  # other ones than last time
        name = fleet.names[number]
        publish_weights(self._registry, fleet.template, name, TASKS[: fleet.template.tasks], self._spec, weights)
        self.published += 1
        root = self._registry.local_root
        assert root is not None
        for version in sorted(self._registry.versions(name))[:-_KEPT_VERSIONS]:
            shutil.rmtree(root / "scenarios" / name / "versions" / version)


class Scheduling:
    """Rewrites the scheduling file with other weights, priorities and quotas; each fifth time it is malformed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = self.malformed = 0
        self._random = random.Random(0)
        self._write(json.dumps(self._drawn()))

    def __call__(self) -> None:
        self.written += 1
        if self.written % 5 == 0:
            self.malformed += 1
            self._write(_MALFORMED)
        else:
            self._write(json.dumps(self._drawn()))

    def end(self) -> None:
        """Equal shares for all."""
        self._write("{}")

    def _drawn(self) -> dict[str, Any]:
        draw = self._random
        return {
            "default": {"queue_ms": draw.choice([50, 250, 1000]), "queue_requests": draw.choice([8, 64, 1024])},
            "scenarios": {
                FLOOD: {"priority": draw.choice([-1, 0]), "weight": draw.choice([0.1, 1])},
                POLITE[0]: {"weight": draw.choice([1, 5])},
                POLITE[1]: {"rows_per_second": draw.choice([0, 2000, 1_000_000])},
                TOGETHER[1]: {"rows_per_second": draw.choice([0, 500])},
                HASTY: {"priority": draw.choice([0, 1])},
            },
        }

    def _write(self, content: str) -> None:
        made = self.path.with_suffix(".new")
        made.write_text(content)
        made.replace(self.path)


class Watch:
    """Samples the server: its memory at every look, every ten seconds its metrics as well."""

    def __init__(self, server: SmtServer) -> None:
        self._server = server
        self._began = time.monotonic()
        self.seconds: list[float] = []
        self.rss_mib: list[float] = []
        self.rows: list[dict[str, Any]] = []

    def __call__(self) -> None:
        now = time.monotonic() - self._began
        self.seconds.append(now)
        self.rss_mib.append(self._server.rss_bytes() / 2**20)
        if self.rows and now - self.rows[-1]["at_seconds"] < 10:
            return
        text = self._server.metrics_text()
        requests = counts(text)
        row = {
            "at_seconds": now,
            "rss_mib": self.rss_mib[-1],
            "answered": sum(requests.values()),
            "ok": sum(count for (_, code), count in requests.items() if code == "OK"),
            "loads": metric_sum(text, "smt_snapshot_loads_total", {}),
            "waiting": metric_sum(text, "smt_queue_depth", {}),
            "expired_rows": metric_sum(text, "smt_expired_rows_total", {}),
        }
        self.rows.append(row)
        print(
            f"{now:6.0f} s: {row['rss_mib']:.1f} MiB, {row['answered']:,.0f} requests answered, {row['ok']:,.0f} OK, "
            f"{row['loads']:,.0f} snapshots loaded",
            flush=True,
        )


class Scores:
    """Asks for the same rows again and again: a version must score them the same to the bit, whatever shares its
    batches, and must not be mixed with another."""

    def __init__(self, fleet: Fleet, target: str) -> None:
        slots = fleet.template.slots
        rng = np.random.default_rng(11)
        self._rows: dict[str, Any] = {f"number_{i}": rng.standard_normal(40) for i in range(slots.dense)}
        self._rows |= {f"id_{i}": rng.integers(0, 1 << 40, 40) for i in range(slots.categorical)}
        self._client = Client(target, timeout=30)
        self._of_version: dict[str, bytes] = {}
        self.counts: Counts = Counter()
        self.wrong = 0

    def __call__(self) -> None:
        code = grpc.StatusCode.OK
        try:
            prediction = self._client.predict(POLITE[0], self._rows)
            scores = b"".join(values.tobytes() for values in prediction.values())
            self.wrong += self._of_version.setdefault(prediction.version, scores) != scores
        except PredictError as error:
            code = error.code
        self.counts[POLITE[0], code.name] += 1

    def close(self) -> None:
        self._client.close()

    @property
    def versions(self) -> int:
        return len(self._of_version)


def counts(metrics: str) -> Counts:
    """Requests by scenario and status, where there are any, of the text of /metrics."""
    found: Counts = Counter()
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            if sample.name == "smt_requests_total":
                found[sample.labels["scenario"], sample.labels["code"]] += int(sample.value)
    return +found
