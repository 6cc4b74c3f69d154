"""The whole line on real data: `make demo`, or `python -m examples.census.demo`.

Trains four scenarios of one template, compiles the template once, publishes four snapshots, serves them all from one
process, scores the validation split over gRPC, and swaps a snapshot under load. Every step prints the `smt` command
that it is. Results go to build/demo/summary.json, which says of each target whether it was
met. Exit status 1 if a step failed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.result import Result
from examples.census.evaluate import (
    FOLDER,
    OBJECTIVES,
    Metrics,
    Scored,
    per_objective,
    report,
    scenarios,
    score_all,
    surface,
)
from examples.census.swap import Load, distinguishable, mixed_answers
from smt.serving.cli import app
from smt.serving.client import Client
from smt.serving.registry import Registry
from smt.serving.serve import find_server, server_environment
from smt.training.run import load_result
from smt.training.scenario import Scenario

SWAPPED = "income_workers"
PROBES, PROBE_ROWS = 8, 32
# Requests that have to be answered before the swap and after it.
STEADY = 1000
WAIT_SECONDS = 60

# Wide enough for the tables where nothing says how wide the output is (a log file).
console = Console(width=max(Console().width, 110))


def smt(*arguments: str | Path) -> None:
    """Runs one `smt` command in this process, after printing it."""
    words = [os.path.relpath(word) if isinstance(word, Path) else word for word in arguments]
    console.print(f"[bold]$ smt {' '.join(words)}[/]")
    app(words, standalone_mode=False)


def step(number: int, title: str) -> None:
    console.print()
    console.rule(f"[bold]{number}. {title}", align="left")


@contextmanager
def serve(registry: Path, out: Path) -> Iterator[str]:
    """Starts the server on free ports; yields its target; ends it by SIGTERM and expects a clean exit."""
    ports = out / "ports.json"
    ports.unlink(missing_ok=True)
    server = find_server()
    options = ["--registry", str(registry), "--port", "0", "--metrics-port", "0", "--port-file", str(ports)]
    console.print(f"[bold]$ smt serve {' '.join(options)}[/]", soft_wrap=True)
    with (out / "server.log").open("wb") as log:
        process = subprocess.Popen([server, *options], env=server_environment(server), stderr=log)
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not ports.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the server did not start; see {out / 'server.log'}")
                time.sleep(0.05)
            yield f"127.0.0.1:{json.loads(ports.read_text())['port']}"
        finally:
            process.send_signal(signal.SIGTERM)
            status = process.wait(WAIT_SECONDS)
    if status != 0:
        sys.exit(f"the server ended with status {status}; see {out / 'server.log'}")


def parity(runs: Path, served: list[Scored]) -> dict[str, float]:
    """Largest difference of a probability, and largest relative difference of an NE, between training and serving.

    The training side is what the trained model itself predicted when the exported epoch was validated.
    """
    differences, ne = [], []
    for result in served:
        predicted: NDArray[np.float32] = np.load(runs / result.scenario / "export" / "predictions.npy")
        trained = load_result(runs / result.scenario).metrics
        for t, (task, scores) in enumerate(result.scores.items()):
            differences.append(float(np.abs(predicted[:, t] - scores).max()))
            before, after = trained[task].ne, result.metrics[task].ne
            assert before is not None
            assert after is not None
            ne.append(abs(after - before) / before)
    return {"max_abs_diff": max(differences), "ne_rel_diff": max(ne)}


def swap(target: str, registry: Registry, run: Path, probes: dict[str, list[pa.Table]]) -> dict[str, Any]:
    """Publishes a new snapshot of one scenario under load on all, and counts what went wrong."""
    before = registry.current(SWAPPED)
    with Client(target, timeout=30) as client, Load(target, probes) as load:
        _wait(lambda: len(load.answers) >= STEADY, "the load to run")
        smt("publish", run, "--registry", Path(registry.root))
        published = time.monotonic()
        after = registry.current(SWAPPED)
        _wait(lambda: any(a.scenario == SWAPPED and a.version == after for a in load.answers), "the new version")
        seconds = time.monotonic() - published
        seen = len(load.answers)
        _wait(lambda: len(load.answers) >= seen + STEADY, "the load to run on")
        state = next(s for s in client.list_scenarios() if s.scenario == SWAPPED)
    if before is None or after is None or state.version != after:
        sys.exit(f"{SWAPPED}: published {after}, but the server has {state.version}: {state.refused_reason}")
    if not distinguishable(registry, SWAPPED, [before, after], probes[SWAPPED]):
        sys.exit("the two snapshots score alike, so nothing can be said about mixing")
    versions = [answer.version for answer in load.answers if answer.scenario == SWAPPED]
    for failure in load.failures[:5]:
        console.print(f"[red]{failure}")
    return {
        "scenario": SWAPPED,
        "requests": len(load.answers) + len(load.failures),
        "failed": len(load.failures),
        "mixed": len(mixed_answers(registry, probes, load.answers)),
        "versions_seen": sorted(set(versions)),
        "answers_by_version": {version: versions.count(version) for version in sorted(set(versions))},
        "seconds_to_first_answer": round(seconds, 3),
    }


def _wait(condition: Any, what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited {WAIT_SECONDS} s for {what}")
        time.sleep(0.02)


def add_targets(result: Result, figures: dict[str, Any], objectives: Metrics, seconds: float) -> None:
    """What the demo is asked to show."""
    moved = figures["swap"]
    income = objectives["income"]
    result.target("binary.count", "template binaries serving all four scenarios", figures["binary"]["count"], "==", 1)
    result.target("auc.income", "AUC, income, all validation rows", income["income"].auc, ">=", 0.950)
    result.target("auc.never_married", "AUC, never married, all rows", income["never_married"].auc, ">=", 0.994)
    # The binary multiplies in bf16: what its kernels may differ by from float64 on any row.
    result.target(
        "parity.max_abs_diff", "largest |p served - p trained|", figures["parity"]["max_abs_diff"], "<=", 4e-3
    )
    result.target("parity.ne_rel_diff", "largest relative NE difference", figures["parity"]["ne_rel_diff"], "<=", 1e-4)
    result.target("swap.requests", "requests during the hot swap", moved["requests"], ">=", 2 * STEADY)
    result.target("swap.failed", "of them failed", moved["failed"], "==", 0)
    result.target("swap.mixed", "of them mixing two versions", moved["mixed"], "==", 0)
    result.target("swap.versions", "versions seen of the swapped scenario", len(moved["versions_seen"]), "==", 2)
    result.target("seconds", "seconds for everything after set-up", round(seconds, 1), "<=", 600)


def add_rows(result: Result, runs: Path, served: list[Scored]) -> None:
    """One row per scenario and task."""
    for scored in served:
        trained = load_result(runs / scored.scenario).metrics
        for task, m in scored.metrics.items():
            result.results.append({
                "scenario": scored.scenario, "task": task, "rows": m.rows, "label_rate": m.label_rate,
                "ne_train_side": trained[task].ne, "ne_served": m.ne,
                "auc_train_side": trained[task].auc, "auc_served": m.auc,
                "calibration_train_side": trained[task].calibration, "calibration": m.calibration,
            })  # fmt: skip


def probes_of(scenario: Scenario, rows: pa.Table) -> list[pa.Table]:
    """A few requests' worth of the scenario's rows."""
    mine = rows.take(surface(scenario, rows))
    return [mine.slice(i * PROBE_ROWS, PROBE_ROWS) for i in range(PROBES)]


def side_by_side(rows: list[dict[str, Any]]) -> Table:
    table = Table("scenario", "task", "rows", title="validation split: in training / served", title_justify="left")
    pairs = {
        "NE": ("ne_train_side", "ne_served"),
        "AUC": ("auc_train_side", "auc_served"),
        "calibration": ("calibration_train_side", "calibration"),
    }
    for figure in pairs:
        table.add_column(figure, justify="right")
    for row in rows:
        figures = [" / ".join(f"{row[key]:.5f}" for key in pair) for pair in pairs.values()]
        table.add_row(row["scenario"], row["task"], f"{row['rows']:,}", *figures)
    return table


def targets_table(targets: list[dict[str, Any]]) -> Table:
    table = Table("asked", "measured", "target", "met")
    for t in targets:
        value = f"{t['value']:.5g}" if isinstance(t["value"], float) else str(t["value"])
        table.add_row(t["what"], value, f"{t['op']} {t['target']}", "[green]yes" if t["met"] else "[red]no")
    return table


def next_steps(registry: Path, out: Path) -> None:
    where = os.path.relpath(registry)
    console.print(f"""
[bold]Try next[/] (source .venv/bin/activate first)
  smt serve --registry {where}
  smt status
  smt predict --scenario {SWAPPED} --input {os.path.relpath(FOLDER / "data" / "valid.parquet")} --output scores.parquet
  python -m examples.census.evaluate        # all validation rows through that server; --data, --output: other rows
  grpcurl -plaintext -d '{{"scenario": "{SWAPPED}"}}' 127.0.0.1:8500 smt.v1.PredictionService/GetScenario
  smt new-scenario my_surface --template {os.path.relpath(FOLDER / "template.yaml")} --data {
        os.path.relpath(FOLDER / "data" / "train.parquet")
    }

Figures: {os.path.relpath(out / "summary.json")}; the server's log: {os.path.relpath(out / "server.log")}""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="folder of everything it writes")
    parser.add_argument("--json", type=Path, help="write the result file here as well")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    registry_folder, runs = out / "registry", out / "runs"
    registry_folder.mkdir(parents=True)
    registry = Registry(registry_folder)
    result = Result("demo")
    started = time.monotonic()
    data = scenarios()
    rows = pq.read_table(FOLDER / "data" / "valid.parquet")

    step(1, "Train four scenarios of one template")
    for scenario in data:
        smt("train", scenario.path, "--run-dir", runs / scenario.name)

    step(2, "Compile the template, once")
    smt("compile", FOLDER / "template.yaml", "--registry", registry_folder)

    step(3, "Publish a snapshot of each scenario")
    for scenario in data:
        smt("publish", runs / scenario.name, "--registry", registry_folder)

    step(4, "Serve all scenarios from one process")
    with serve(registry_folder, out) as target:
        smt("status", "--target", target)

        step(5, "Score the validation split over gRPC")
        with Client(target, timeout=60) as client:
            served = score_all(client, data, rows)
            binaries = list(client.server().binaries)
        objectives = per_objective(served)
        console.print(report("all validation rows", objectives))

        step(6, f"Swap a snapshot of {SWAPPED} under load")
        again = runs / f"{SWAPPED}-continued"
        shutil.copytree(runs / SWAPPED, again)
        epochs = load_result(again).epochs_completed + 1
        smt("train", FOLDER / f"{SWAPPED}.yaml", "--run-dir", again, "--resume", "--epochs", str(epochs))
        probes = {s.name: probes_of(s, rows) for s in data}
        moved = swap(target, registry, again, probes)

    step(7, "What it showed")
    add_rows(result, runs, served)
    result.extra = {
        "binary": {
            "count": len(binaries),
            "sha256": binaries[0].sha256 if binaries else None,
            "abi_hash": binaries[0].abi_hash if binaries else None,
        },
        "parity": parity(runs, served),
        "swap": moved,
        "scenarios": _tree(result.results),
        "all_rows": {name: {task: m.to_json() for task, m in tasks.items()} for name, tasks in objectives.items()},
        "surfaces": {name: list(names) for name, names in OBJECTIVES.items()},
    }
    add_targets(result, result.extra, objectives, time.monotonic() - started)
    for path in filter(None, (out / "summary.json", arguments.json)):
        result.write(path)
    console.print(side_by_side(result.results))
    console.print(targets_table(result.targets))
    next_steps(registry_folder, out)
    missed = [t["id"] for t in result.targets if not t["met"]]
    if missed:
        console.print(f"[red]missed: {', '.join(missed)}")


def _tree(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for row in rows:
        figures = {key: value for key, value in row.items() if key not in ("scenario", "task")}
        tree.setdefault(row["scenario"], {})[row["task"]] = figures
    return tree


if __name__ == "__main__":
    main()
