"""A cycle with real training in worker processes, killed in the middle and taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from smt.serving.cli import app
from smt.training.cycle.config import load_cycle
from smt.training.cycle.cycle import run_cycle
from smt.training.cycle.local import LocalExecutor
from smt.training.cycle.record import read_record
from smt.training.cycle.result import describe_outcome
from smt.training.cycle.store import JobError, Runner, Store
from smt.training.reading import iter_batches
from smt.training.scenario import load_scenario
from tests.training.cycle.support import make_cycle

COMMAND = [sys.executable, "-m", "smt.serving.cli", "cycle", "run"]


def options(folder: Path, store: str) -> list[str]:
    place = ["--store", str(folder / store), "--output", str(folder / f"{store}-out"), "--workers", "1"]
    return [str(folder / "cycle.yaml"), *place]


def records(folder: Path, store: str) -> list[Path]:
    return sorted((folder / store).glob("*/*/record.json"))


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    """All but what the clock says, and where files are."""
    data: dict[str, Any] = json.loads(json.dumps(result))
    for quality in data["quality"].values():
        for side in quality.values():
            side.pop("seconds")
    if data["version"]:
        data["version"].pop("path")
    return data


def test_a_killed_cycle_goes_on_to_the_same_result(tmp_path: Path) -> None:
    make_cycle(tmp_path, ["head_noise"], keep=1, train=400, valid=200, epochs=2, test=True)
    text = (tmp_path / "cycle.yaml").read_text()
    rungs = text[text.index("rungs:") : text.index("verify:")]
    text = text.replace(rungs, "rungs:\n  - {seeds: 2}\n").replace("verify: {seeds: 4}", "verify: {seeds: 2}")
    (tmp_path / "cycle.yaml").write_text(text.replace("representatives: 2", "representatives: 1"))

    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*COMMAND, *options(tmp_path, "killed")], stdout=log, stderr=log)
    while len(records(tmp_path, "killed")) < 3:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in records(tmp_path, "killed")}
    assert not (tmp_path / "killed-out" / "result.json").exists()

    cycle, results = load_cycle(tmp_path / "cycle.yaml"), {}
    with LocalExecutor(1) as executor:
        for store in ("whole", "killed"):
            runner = Runner(Store(tmp_path / store), executor)
            outcome = run_cycle(cycle, runner, tmp_path / f"{store}-out", None)
            results[store] = comparable(describe_outcome(outcome, runner))
    assert results["killed"] == results["whole"]
    after = {path: path.stat().st_mtime_ns for path in records(tmp_path, "killed")}
    assert before.items() <= after.items()  # nothing was run again
    assert {path.parent.name for path in after} == {path.parent.name for path in records(tmp_path, "whole")}

    replayed = CliRunner().invoke(app, ["cycle", "run", *options(tmp_path, "killed"), "--replay", "--json"])
    assert replayed.exit_code == 0, replayed.output
    assert comparable(json.loads(replayed.stdout)) == results["whole"]
    assert comparable(json.loads((tmp_path / "killed-out" / "result.json").read_bytes())) == results["whole"]
    page = (tmp_path / "killed-out" / "report.html").read_text()
    assert page.count("<svg") == 4

    record = read_record(records(tmp_path, "whole")[0])
    assert [point["epoch"] for point in record.curve] == [1, 2]
    for task, bins in record.reliability.items():
        metrics = record.metrics[task]
        assert sum(rows for _, _, rows in bins) == metrics.rows
        assert sum(rate * rows for _, rate, rows in bins) == pytest.approx(metrics.positives)
        predicted = sum(mean * rows for mean, _, rows in bins)
        assert predicted / metrics.positives == pytest.approx(metrics.calibration, rel=1e-5)
    unseen = load_scenario(tmp_path / "scenarios" / f"{record.scenario}.yaml")
    labels = np.concatenate([batch.labels for batch in iter_batches(unseen, "test")])
    for task, metrics in zip(record.metrics, record.test.values(), strict=True):
        assert metrics.positives == np.nansum(labels[:, list(record.metrics).index(task)])
        assert metrics.ne is not None
        assert metrics.ne != record.metrics[task].ne
    # Runs whose weights nobody needs leave none.
    assert not list((tmp_path / "whole").rglob("*.safetensors"))


def test_workers_end_with_the_process_that_started_them() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "smt.training.cycle.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(60) == 0


def test_a_job_that_cannot_be_done_is_named(tmp_path: Path) -> None:
    done: list[Path] = []
    with pytest.raises(JobError, match=r"(?s)the job in .*nowhere failed:.*FileNotFoundError"):
        LocalExecutor(1).run([tmp_path / "nowhere"], done.append)
    assert not done
