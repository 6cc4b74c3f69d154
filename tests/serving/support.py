"""What the serving tests share: a small template, scenarios of it with random weights, and a running server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from smt.kernels.transform import FeatureTransform, TransformedBatch, columns_from_arrow
from smt.serving.binary import BinaryRunner, Weights, batch_inputs
from smt.serving.compile import example_slab
from smt.serving.manifest import SnapshotManifest
from smt.serving.registry import Registry
from smt.serving.serve import find_server, server_environment
from smt.serving.snapshot import publish_weights
from smt.training.model import serving_function
from smt.training.template import Template

WAIT_SECONDS = 60.0
# Whether the server was built with a sanitizer (make asan, make tsan), which has memory of its own.
SANITIZED = "SMT_SANITIZED" in os.environ

TEMPLATE_YAML = """
template: small
version: 1.0.0
slots: {dense: 5, categorical: 7, dim: 4, pooling: mean}
components:
  dense_arch: {type: mlp, units: [16]}
  interaction: {type: cross_low_rank, layers: 2, rank: 8}
  deep: {type: mlp, units: [32, 16]}
  experts: {type: mmoe, count: 2, units: [8]}
  heads: {type: tower, tasks: 3, units: [8]}
recipe:
  batch_size: 128
  epochs: 1
  seed: 7
  dense_optimizer: {type: adamw, lr: 0.001}
  embedding_optimizer: {type: rowwise_adagrad, lr: 0.05}
capacity: {flops_per_row: 100000, slab_bytes: 100000}
"""

CITIES = ["Berlin", "Wien", "São Paulo", "東京", "Kraków"]


@dataclass(frozen=True)
class ScenarioCase:
    """A scenario of the test template: its tasks and FeatureSpec, and how to make rows for it."""

    name: str
    tasks: tuple[str, ...]
    features: dict[str, Any]

    def rows(self, count: int, seed: int = 0) -> pa.Table:
        """Rows with missing values, unknown words, and lists of 0 to 6 tags."""
        random = np.random.default_rng(seed)
        columns = {
            "age": [None if random.random() < 0.1 else float(random.normal(40, 12)) for _ in range(count)],
            "income": [float(random.normal(0, 1e4)) for _ in range(count)],
            "city": [str(random.choice([*CITIES, "Nowhere"])) for _ in range(count)],
            "user": [int(random.integers(-(2**62), 2**62)) for _ in range(count)],
            "tags": [[f"tag{t}" for t in random.integers(0, 90, random.integers(0, 7))] for _ in range(count)],
            "device": [None if random.random() < 0.3 else "phone" for _ in range(count)],
        }
        read = {feature["input"] for feature in self.features["features"]}
        types = {"user": pa.int64(), "tags": pa.list_(pa.string()), "city": pa.string(), "device": pa.string()}
        return pa.table({k: pa.array(v, types.get(k, pa.float64())) for k, v in columns.items() if k in read})

    def weights(self, template: Template, seed: int) -> Weights:
        """Random weights whose scores differ from row to row and from seed to seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            table = torch.randn(self.features["table_rows"], template.slots.dim)
        return Weights(example_slab(template, seed), table)

    def publish(self, registry: Registry, template: Template, seed: int) -> SnapshotManifest:
        return publish_weights(registry, template, self.name, self.tasks, self.features, self.weights(template, seed))

    def reference(self, template: Template, seed: int, rows: pa.Table) -> dict[str, NDArray[np.float32]]:
        """What the published weights score, by the plain PyTorch modules."""
        weights = self.weights(template, seed)
        with torch.no_grad():
            scores = serving_function(template).eval()(weights.slab, weights.table, *batch_inputs(self.batch(rows)))
        return {task: scores[:, head].numpy() for head, task in enumerate(self.tasks)}

    def scored(
        self, binary: BinaryRunner, template: Template, seed: int, rows: pa.Table
    ) -> dict[str, NDArray[np.float32]]:
        """What the published weights score, by the template binary without a server."""
        scores = binary.score(self.weights(template, seed), self.batch(rows))
        return {task: scores[:, head] for head, task in enumerate(self.tasks)}

    def batch(self, rows: pa.Table) -> TransformedBatch:
        transform = FeatureTransform(self.features)
        names = [i.name for i in transform.inputs]
        return transform.apply(rows.num_rows, columns_from_arrow(rows, names, transform.inputs))


def feature_spec(features: Sequence[dict[str, Any]], dense: int = 5, categorical: int = 7) -> dict[str, Any]:
    """A FeatureSpec; slots and table ranges are given in order."""
    next_slot = {"dense": 0, "categorical": 0}
    row = 0
    made = []
    for feature in features:
        entry = {"required": True, "default": None, **feature}
        entry["slot"] = next_slot[entry["kind"]]
        next_slot[entry["kind"]] += 1
        if entry["kind"] == "categorical":
            encode = entry["encode"]
            values = {"vocabulary": "values", "bucketise": "boundaries"}.get(encode["op"])
            count = encode["size"] if values is None else len(encode[values]) + (encode["op"] == "bucketise")
            entry = {"multi_valued": False, "max_length": 1, **entry, "first_row": row, "rows": 2 + count}
            row += 2 + count
        made.append(entry)
    return {"format": 1, "dense_slots": dense, "categorical_slots": categorical, "table_rows": row, "features": made}


def dense(name: str, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "input": name, "type": "number", "kind": "dense", "steps": list(steps), **more}


def category(name: str, kind: str, encode: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "input": name, "type": kind, "kind": "categorical", "encode": encode, **more}


FEED = ScenarioCase(
    "feed",
    ("click", "like"),
    feature_spec(
        [
            dense("age", {"op": "clip", "low": 0.0, "high": 100.0}, {"op": "normalise", "mean": 40.0, "std": 12.0}),
            dense("income", {"op": "log"}, {"op": "normalise", "mean": 0.0, "std": 9.0}),
            category("age", "number", {"op": "bucketise", "boundaries": [20.0, 30.0, 45.0]}) | {"name": "age_bucket"},
            category("city", "string", {"op": "vocabulary", "values": CITIES}),
            category("user", "int", {"op": "hash", "size": 50, "seed": 3}),
            category(
                "tags",
                "string",
                {"op": "hash", "size": 30, "seed": 0},
                multi_valued=True,
                max_length=4,
                required=False,
            ),
            category("device", "string", {"op": "vocabulary", "values": ["phone"]}, required=False, default="phone"),
        ]
    ),
)
SEARCH = ScenarioCase(
    "search",
    ("open",),
    feature_spec(
        [
            dense("income", {"op": "clip", "low": -1e4, "high": 1e4}, {"op": "normalise", "mean": 0.0, "std": 5e3}),
            category("city", "string", {"op": "hash", "size": 200, "seed": 1}),
        ]
    ),
)
VIDEO = ScenarioCase(
    "video",
    ("play", "finish", "share"),
    feature_spec(
        [
            dense("age", {"op": "normalise", "mean": 40.0, "std": 12.0}),
            category("user", "int", {"op": "hash", "size": 500, "seed": 5}),
            category("city", "string", {"op": "vocabulary", "values": CITIES[:2]}),
        ]
    ),
)


class RunningServer:
    """smt-server on a registry, on ports that the system picks. A context manager; every wait is bounded."""

    def __init__(self, registry: Path, folder: Path, **options: Any) -> None:
        self.registry = Registry(registry)
        self._folder = folder
        self._options = options
        self._log = folder / "server.log"

    def __enter__(self) -> Self:
        ports = self._folder / "ports.json"
        ports.unlink(missing_ok=True)
        server = find_server()
        options = {"port": 0, "metrics-port": 0, "workers": 2, "poll-ms": 20, "port-file": ports}
        options |= {name.replace("_", "-"): value for name, value in self._options.items()}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        with self._log.open("wb") as log:
            command = [str(server), "--registry", self.registry.root, *arguments]
            self.process = subprocess.Popen(command, stderr=log, env=server_environment(server))
        try:
            wait_for(lambda: ports.exists() or self.process.poll() is not None, "the server to be ready")
            assert self.process.poll() is None, f"the server ended:\n{self._log.read_text()}"
        except BaseException:
            self.kill()
            raise
        found = json.loads(ports.read_text())
        assert found["pid"] == self.process.pid
        self.target = f"127.0.0.1:{found['port']}"
        if "control_port" in found:
            self.control_target = f"127.0.0.1:{found['control_port']}"
        self.metrics_url = f"http://127.0.0.1:{found['metrics_port']}/metrics"
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.terminate()

    def terminate(self) -> int:
        """Ends the server by SIGTERM, as an orchestrator does, and returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.join()

    def join(self) -> int:
        try:
            return self.process.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait(WAIT_SECONDS)

    def log_text(self) -> str:
        return self._log.read_text()

    def log_lines(self) -> list[dict[str, Any]]:
        """The log, as far as its lines are complete."""
        return [json.loads(line) for line in self.log_text().split("\n")[:-1] if line.startswith("{")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        return [line for line in self.log_lines() if line["event"] == name]

    def metrics(self) -> str:
        with urllib.request.urlopen(self.metrics_url, timeout=WAIT_SECONDS) as answer:
            content: bytes = answer.read()
        return content.decode()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name whose labels are these, whatever others they have."""
        families = text_string_to_metric_families(self.metrics())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        found = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
        assert found, f"no sample of {name} {labels}"
        return float(sum(found))


def failed_start(registry: Path, *arguments: object) -> tuple[int, str]:
    """Exit status and stderr of a server that refuses to start, on ports that the system picks."""
    server = find_server()
    command = [str(server), "--registry", str(registry), "--port", "0", "--metrics-port", "0", *map(str, arguments)]
    done = subprocess.run(
        command, env=server_environment(server), capture_output=True, text=True, timeout=WAIT_SECONDS, check=False
    )
    return done.returncode, done.stderr + done.stdout


def wait_for(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> None:
    """Asks again and again until it holds; fails after a bounded time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def copy_binaries(source: Path, destination: Path) -> Path:
    """A new registry with the compiled binaries of another."""
    shutil.copytree(source / "templates", destination / "templates")
    return destination
