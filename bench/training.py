"""Rows per second of training: the product's trainer against plain PyTorch and FuxiCTR.

    python -m bench.training [--quick] --json bench/results/training.json

The same model, rows, batch size and machine; each run is a process of its own, the trainers take turns, and the first
epoch of each run, which fills caches, does not count. Ours is `smt train` as users run it; PyTorch's is a loop over a
DataLoader with an nn.Embedding per field; FuxiCTR's is its own layers, training loop and in-memory loader. Tables: ours
are trained with row-wise Adagrad, as templates are by default; theirs with Adam like the rest, as both do by default.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.peer_server import NotInstalledError, install_packages
from bench.result import ROOT, Result
from bench.training_peers import PEERS, Shape

REQUIREMENTS = ROOT / "requirements" / "peers-training.txt"
WORKERS = (0, 1)  # processes that load the peers' data; the faster setting of each run counts
ROWS = 131_072
BATCH = 4096
_VALID_ROWS = 4096  # what `smt train` wants; validation is in nobody's figures
# Few large tables and many small ones, as logs of ads have them.
_SIZES = [20_000, 10_000, 5000, 2000, 1000, 500, 200, 100, 50, 20]
SHAPES = [
    Shape("DNN", _SIZES, 16, 0, [400, 400], BATCH, ROWS),
    Shape("DCNv2", [*_SIZES, *[1000] * 16], 16, 3, [400, 400], BATCH, ROWS),
]
_TEMPLATE = """\
template: bench
version: 1.0.0
slots: {{dense: 1, categorical: {fields}, dim: {dim}, pooling: sum}}
components:
  dense_arch: {{type: mlp, units: [1]}}   # no dense input: as small as it can be
  interaction: {interaction}
  deep: {{type: mlp, units: {units}}}
  experts: {{type: shared_bottom}}
  heads: {{type: tower, tasks: 1, units: []}}
recipe:
  batch_size: {batch}
  epochs: 100
  dense_optimizer: {{type: adam, lr: 0.001}}
  embedding_optimizer: {{type: rowwise_adagrad, lr: 0.01}}
capacity: {{flops_per_row: 100000000, slab_bytes: 100000000}}
"""
_SCENARIO = """\
scenario: bench
template: template.yaml
data: {{train: train.parquet, valid: valid.parquet}}
features:
  - {{inputs: [{fields}], type: int, encode: vocabulary}}
tasks:
  - {{name: click, label: label}}
"""


def write_rows(shape: Shape, folder: Path) -> Shape:
    """Writes the rows in the formats of all trainers, and the files of our scenario.

    Returns the shape with tables of as many rows as there are values.
    """
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {}
    logits = np.full(shape.rows, -1.5)
    sizes = []
    for name, size in zip(shape.fields, shape.sizes, strict=True):
        drawn = (size * rng.random(shape.rows) ** 2).astype(np.int64)
        values, columns[name] = np.unique(drawn, return_inverse=True)
        sizes.append(len(values))
        logits += rng.normal(0, 0.3, len(values))[columns[name]]
    columns["label"] = (rng.random(shape.rows) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    found = Shape(shape.name, sizes, shape.dim, shape.cross, shape.units, shape.batch, shape.rows)
    folder.mkdir(parents=True, exist_ok=True)
    found.save(folder)
    np.savez(folder / "rows.npz", **columns)
    table = pa.table(columns)
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(table.slice(0, _VALID_ROWS), folder / "valid.parquet")
    interaction = f"{{type: cross_full, layers: {shape.cross}}}" if shape.cross else "{type: concat}"
    template = {"fields": len(sizes), "dim": shape.dim, "units": shape.units, "batch": shape.batch}
    (folder / "template.yaml").write_text(_TEMPLATE.format(interaction=interaction, **template))
    (folder / "scenario.yaml").write_text(_SCENARIO.format(fields=", ".join(shape.fields)))
    return found


def ours(folder: Path, epochs: int) -> list[float]:
    """Rows/s of every epoch of a run of `smt train`."""
    run = folder / "run"
    command = [sys.executable, "-W", "ignore", "-m", "smt.serving.cli", "train", str(folder / "scenario.yaml")]
    _run([*command, "--run-dir", str(run), "--epochs", str(epochs)])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [float(json.loads(line)["rows_per_second"]) for line in lines]


def peer(name: str, folder: Path, epochs: int, workers: int, packages: Path) -> list[float]:
    """Rows/s of every epoch of a run of a peer."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.training_peers", name, str(folder)]
    options = ["--epochs", str(epochs), "--workers", str(workers), "--packages", str(packages)]
    found: list[float] = json.loads(_run([*command, *options]).splitlines()[-1])["rows_per_second"]
    return found


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[3:6])} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def measure(shape: Shape, folder: Path, rounds: int, epochs: int, packages: Path) -> list[dict[str, Any]]:
    """A row for each trainer, with the median over all epochs but the first of each run."""
    shape = write_rows(shape, folder)
    rates: dict[tuple[str, int], list[float]] = {}
    for turn in range(rounds):
        runs = [("smt", 0), *((name, workers) for name in PEERS for workers in WORKERS)]
        for name, workers in runs[turn % len(runs) :] + runs[: turn % len(runs)]:
            found = ours(folder, epochs) if name == "smt" else peer(name, folder, epochs, workers, packages)
            rates.setdefault((name, workers), []).extend(found[1:])
            print(f"{shape.name} {name} {workers}: {found[-1]:,.0f} rows/s", flush=True)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return [
        {
            "shape": shape.name,
            "backend": name,
            "rows": shape.batch,
            "threads": len(os.sched_getaffinity(0)),
            "loader_processes": workers,
            "epochs": len(rates[name, workers]),
            "rows_per_second": median,
            "lowest": min(rates[name, workers]),
            "highest": max(rates[name, workers]),
            "ratio": medians["smt", 0] / median,
        }
        for (name, workers), median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench" / "training")
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("training")
    try:
        packages = install_packages(REQUIREMENTS, arguments.work)
        for shape in SHAPES:
            folder = arguments.work / shape.name
            result.results += measure(shape, folder, 1 if arguments.quick else 2, 3, packages)
    except (NotInstalledError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    for shape in SHAPES:
        for name, least in (("FuxiCTR", 2.0), ("PyTorch", 1.0)):
            rows = [row for row in result.results if (row["shape"], row["backend"]) == (shape.name, name)]
            ratio = min(row["ratio"] for row in rows)
            what = f"{shape.name}: rows/s of training over those of {name}, at its better number of loader processes"
            result.target(f"training-{shape.name}-{name}".lower(), what, ratio, ">=", least)
    result.print_targets()
    if arguments.json:
        result.write(arguments.json)


if __name__ == "__main__":
    main()
