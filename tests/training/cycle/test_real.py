"""A cycle with real training in worker processes, killed in the middle and taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smt.training.cycle.local import LocalExecutor
from smt.training.cycle.record import read_record
from smt.training.cycle.store import JobError
from tests.training.cycle.support import make_cycle

COMMAND = [sys.executable, "-m", "smt.serving.cli", "cycle", "run"]


def start(folder: Path, store: str, *options: str) -> subprocess.Popen[bytes]:
    options = ("--store", str(folder / store), "--output", str(folder / f"{store}-out"), "--workers", "2", *options)
    with (folder / f"{store}.log").open("ab") as log:
        return subprocess.Popen([*COMMAND, str(folder / "cycle.yaml"), *options], stdout=log, stderr=log)


def records(folder: Path, store: str) -> list[Path]:
    return sorted((folder / store).glob("*/*/record.json"))


def result(folder: Path, store: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / f"{store}-out" / "result.json").read_bytes())
    for quality in data["quality"].values():
        for side in quality.values():
            side.pop("seconds")
    if data["version"]:
        data["version"].pop("path")
    return data


def test_a_killed_cycle_goes_on_to_the_same_result(tmp_path: Path) -> None:
    make_cycle(tmp_path, ["ema", "head_noise"], keep=1, train=400, valid=200, epochs=2)
    text = (tmp_path / "cycle.yaml").read_text()
    rungs = text[text.index("rungs:") : text.index("verify:")]
    text = text.replace(rungs, "rungs:\n  - {seeds: 2}\n").replace("verify: {seeds: 4}", "verify: {seeds: 2}")
    (tmp_path / "cycle.yaml").write_text(text.replace("representatives: 2", "representatives: 1"))

    process = start(tmp_path, "killed")
    while len(records(tmp_path, "killed")) < 3:
        assert process.poll() is None, (tmp_path / "killed.log").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in records(tmp_path, "killed")}
    assert not (tmp_path / "killed-out" / "result.json").exists()

    assert start(tmp_path, "whole").wait() == 0, (tmp_path / "whole.log").read_text()
    assert start(tmp_path, "killed").wait() == 0, (tmp_path / "killed.log").read_text()
    assert result(tmp_path, "killed") == result(tmp_path, "whole")
    after = {path: path.stat().st_mtime_ns for path in records(tmp_path, "killed")}
    assert before.items() <= after.items()  # nothing was run again
    assert {path.parent.name for path in after} == {path.parent.name for path in records(tmp_path, "whole")}

    assert start(tmp_path, "killed", "--replay").wait() == 0, (tmp_path / "killed.log").read_text()
    assert result(tmp_path, "killed") == result(tmp_path, "whole")
    page = (tmp_path / "whole-out" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert "http://" not in page.replace("http://www.w3.org/", "")

    record = read_record(records(tmp_path, "whole")[0])
    assert [point["epoch"] for point in record.curve] == [1, 2]
    for task, bins in record.reliability.items():
        metrics = record.metrics[task]
        assert sum(rows for _, _, rows in bins) == metrics.rows
        assert sum(rate * rows for _, rate, rows in bins) == pytest.approx(metrics.positives)
        predicted = sum(mean * rows for mean, _, rows in bins)
        assert predicted / metrics.positives == pytest.approx(metrics.calibration, rel=1e-5)
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
