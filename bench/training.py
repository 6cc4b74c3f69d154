"""Rows per second of training: the product's trainer against plain PyTorch and FuxiCTR.

    python -m bench.training [--quick] --json bench/results/training.json

The models are those of the BARS benchmark's published configurations for Criteo_x1 (github.com/reczoo/BARS,
ranking/ctr): 13 numbers and 26 categories, batches of 4096, an MLP of 400-400-400 with dropout 0.1; DCNv2 has three
full cross layers in front of it (`stacked`). Embeddings are of 8, not 10, as templates have multiples of four; with
10 the trainers that pass over whole tables in every step would have a quarter more to pass over. The tables have the
published number of rows in every trainer, 2,086,303 (20,863,160 parameters of 10, less a vector for each number),
divided among the fields like Criteo's: its numbers of values, the five largest cut. The rows themselves are
synthetic, of Zipf's law.

The same for all: model, rows, a random order of them, batch size, machine and threads. All get the rows as our
transformation makes them, and no trainer's figures hold reading files, validation or checkpoints. Each run is a
process of its own; the trainers take turns; the first epoch of each run, which fills caches, does not count. What
differs is what each does by default:

- ours is `smt train` as users run it: tables by row-wise Adagrad, in the backward pass, of the rows that a batch read.
  `smt, Adam` has `embedding_optimizer: adam`, which is theirs: dense gradients and moments of whole tables.
- PyTorch is a loop over a DataLoader with an nn.Embedding per field and Adam for everything.
- FuxiCTR is its own layers, training loop (Adam, gradients clipped by their norm) and in-memory loader; `FuxiCTR
  regularised` has the `embedding_regularizer` of the published configurations, the norm of whole tables, and
  `smt, L2` the technique embedding_l2 in its place, the norm of what a batch read.
- ours turns the 13 numbers into 104 by a layer with a matrix, the others by a vector for each: ours computes more.

`limit` is the rows/s of the step's matrix products alone (bench/training_limit.py), at the same shapes and threads.
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
from bench.training_limit import flops_per_row, products_per_second
from bench.training_peers import PEERS, Shape
from smt.training.data import Loader
from smt.training.features import FIRST_VALUE_ROW
from smt.training.fit import fit
from smt.training.scenario import load_scenario

REQUIREMENTS = ROOT / "requirements" / "peers-training.txt"
# Processes that load the peers' data: where there are two settings, the faster counts.
WORKERS = {"PyTorch": (0,), "FuxiCTR": (0, 1), "FuxiCTR regularised": (0,)}
# Of each run, one more than is counted. Ours are short, and more of them take as long as one of theirs.
OUR_EPOCHS, PEER_EPOCHS = 7, 4
ROWS = 49_152
BATCH = 4096
_VALID_ROWS = 4096  # what `smt train` wants; validation is in nobody's figures
# Criteo's numbers of values; of five fields, which have millions, so many that the tables have Criteo_x1's rows.
_HUGE = 303_391
_VALUES = [1460, 583, _HUGE, _HUGE, 305, 24, 12517, 633, 3, 93145, 5683, _HUGE, 3194, 27, 14992, _HUGE, 10, 5652, 2173,
           4, _HUGE, 18, 15, 286181, 105, 142572]  # fmt: skip
_SIZES = [FIRST_VALUE_ROW + values for values in _VALUES]
SHAPES = [
    Shape("DNN", 13, _SIZES, 8, 0, [400, 400, 400], 0.1, BATCH, ROWS),
    Shape("DCNv2", 13, _SIZES, 8, 3, [400, 400, 400], 0.1, BATCH, ROWS),
]
# Ours by name: optimizer of the tables, techniques.
OURS = {
    "smt": ("{type: rowwise_adagrad, lr: 0.01}", "[]"),
    "smt, Adam": ("{type: adam, lr: 0.001}", "[]"),
    "smt, L2": ("{type: rowwise_adagrad, lr: 0.01}", "[{name: embedding_l2, strength: 1e-5}]"),
}
_REGULARISED = ("smt, L2", "FuxiCTR regularised")  # not in quick runs
_TEMPLATE = """\
template: bench
version: 1.0.0
slots: {{dense: {numeric}, categorical: {fields}, dim: {dim}, pooling: sum}}
components:
  dense_arch: {{type: mlp, units: [{vectors}]}}
  interaction: {interaction}
  deep: {{type: mlp, units: {units}, dropout: {dropout}}}
  experts: {{type: shared_bottom}}
  heads: {{type: tower, tasks: 1, units: []}}
recipe:
  batch_size: {batch}
  epochs: 100
  dense_optimizer: {{type: adam, lr: 0.001}}
  embedding_optimizer: {tables}
capacity: {{flops_per_row: 100000000, slab_bytes: 100000000}}
techniques: {techniques}
"""
_NUMBERS = "  - {{inputs: [{}], type: int, dense: [log, normalise]}}\n"
_FIELD = "  - {{inputs: [{}], type: int, encode: {{hash: {}}}}}\n"


def write_rows(shape: Shape, folder: Path) -> None:
    """Writes raw rows and the scenarios for ours, and for the peers the same rows as our transformation makes them."""
    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {name: rng.exponential(50, shape.rows).astype(np.int64) for name in shape.numbers}
    logits = np.full(shape.rows, -1.5)
    for name, size in zip(shape.fields, shape.sizes, strict=True):
        values = size - FIRST_VALUE_ROW
        columns[name] = (values ** rng.random(shape.rows)).astype(np.int64)  # of value k a share of ~1/k
        logits += rng.normal(0, 0.3, values + 1)[columns[name]]
    columns["label"] = (rng.random(shape.rows) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    folder.mkdir(parents=True, exist_ok=True)
    shape.save(folder)
    table = pa.table(columns)
    pq.write_table(table, folder / "train.parquet")
    pq.write_table(table.slice(0, _VALID_ROWS), folder / "valid.parquet")
    for variant, name in enumerate(OURS):
        _write_scenario(shape, folder, variant, name)
    scenario = load_scenario(_scenario(folder, "smt"))
    [batch] = Loader(scenario, fit(scenario).spec, "train", shape.rows).epoch(None)
    rows = dict(zip(shape.numbers, batch.dense.numpy().T, strict=True))
    rows |= dict(zip(shape.fields, batch.sparse.values().view(len(shape.fields), -1).numpy(), strict=True))
    np.savez(folder / "rows.npz", **rows, label=columns["label"])


def _scenario(folder: Path, name: str) -> Path:
    return folder / f"scenario_{list(OURS).index(name)}.yaml"


def _write_scenario(shape: Shape, folder: Path, variant: int, name: str) -> None:
    tables, techniques = OURS[name]
    interaction = f"{{type: cross_full, layers: {shape.cross}}}" if shape.cross else "{type: concat}"
    template = {"numeric": shape.numeric, "fields": len(shape.fields), "dim": shape.dim, "units": shape.units}
    template |= {"vectors": shape.numeric * shape.dim, "dropout": shape.dropout, "batch": shape.batch}
    (folder / f"template_{variant}.yaml").write_text(
        _TEMPLATE.format(interaction=interaction, tables=tables, techniques=techniques, **template)
    )
    fields = [_FIELD.format(name, size - FIRST_VALUE_ROW) for name, size in zip(shape.fields, shape.sizes, strict=True)]
    lines = [
        f"scenario: bench\ntemplate: template_{variant}.yaml\n",
        "data: {train: train.parquet, valid: valid.parquet}\nfeatures:\n",
        _NUMBERS.format(", ".join(shape.numbers)),
        *fields,
        "tasks:\n  - {name: click, label: label}\n",
    ]
    _scenario(folder, name).write_text("".join(lines))


def ours(name: str, folder: Path, epochs: int) -> list[float]:
    """Rows/s of every epoch of a run of `smt train`."""
    run = folder / "run"
    command = [sys.executable, "-W", "ignore", "-m", "smt.serving.cli", "train", str(_scenario(folder, name))]
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


def measure(shape: Shape, folder: Path, quick: bool, packages: Path) -> list[dict[str, Any]]:
    """A row for each trainer, with the median over all epochs but the first of each run."""
    write_rows(shape, folder)
    threads = len(os.sched_getaffinity(0))
    limits = [products_per_second(shape, threads)]
    rates: dict[tuple[str, int], list[float]] = {}
    runs = [*((name, 0) for name in OURS), *((name, workers) for name in PEERS for workers in WORKERS[name])]
    runs = [run for run in runs if not (quick and run[0] in _REGULARISED)]
    for turn in range(1 if quick else 2):
        for name, workers in runs[turn % len(runs) :] + runs[: turn % len(runs)]:
            if name in OURS:
                found = ours(name, folder, OUR_EPOCHS)
            else:
                found = peer(name, folder, PEER_EPOCHS, workers, packages)
            rates.setdefault((name, workers), []).extend(found[1:])
            print(f"{shape.name} {name} {workers}: {found[-1]:,.0f} rows/s", flush=True)
        limits.append(products_per_second(shape, threads))
    medians = {key: statistics.median(values) for key, values in rates.items()}
    limit = max(limits)
    return [
        {
            "shape": shape.name,
            "backend": name,
            "rows": shape.batch,
            "threads": threads,
            "loader_processes": workers,
            "epochs": len(rates[name, workers]),
            "rows_per_second": median,
            "lowest": min(rates[name, workers]),
            "highest": max(rates[name, workers]),
            "ratio": medians["smt", 0] / median,
            "gflop_per_row": 1e-9 * flops_per_row(shape),
            "limit_gflops": 1e-9 * limit * flops_per_row(shape),
            "limit_rows_per_second": limit,
            "share_of_limit": median / limit,
        }
        for (name, workers), median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, and none with regularised embeddings")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench" / "training")
    parser.add_argument("--json", type=Path, help="result file to write")
    arguments = parser.parse_args()
    result = Result("training")
    try:
        packages = install_packages(REQUIREMENTS, arguments.work)
        for shape in SHAPES:
            folder = arguments.work / shape.name
            result.results += measure(shape, folder, arguments.quick, packages)
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
