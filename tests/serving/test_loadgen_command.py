"""`smt loadgen`: what it prints, writes and draws, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from typer.testing import CliRunner

from smt.serving.cli import app
from smt.serving.loadgen import Histogram
from tests.serving.load import predicted
from tests.serving.support import FEED, RunningServer, wait_for


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command(server: RunningServer, tmp_path: Path) -> None:
    """A mix of scenarios and row counts: a table, a file with every histogram, a plot."""
    output, plot = tmp_path / "out" / "load.json", tmp_path / "load.svg"
    mix = ["-s", "feed:3", "-s", "search", "--rows", "1:0.5,16:0.5", "--payloads", "2", "--deadline-ms", "9000"]
    pace = ["--rate", "400", "--fixed", "--seconds", "0.5", "--warm-up", "0.1", "--input", "age=18..90"]
    result = invoke("loadgen", server.target, *mix, *pace, "--output", output, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert "open loop, 400 calls/s, even gaps; latency in ms, from the moment a call was due" in result.stdout
    content = json.loads(output.read_text())
    assert content["name"] == "loadgen"
    rows = {row["stream"]: row for row in content["results"]}
    assert set(rows) == {"feed x 1", "feed x 16", "search x 1", "search x 16", "total"}
    assert sum(row["count"] for row in rows.values()) == 2 * rows["total"]["count"] == 400
    assert all(row["outcome"] == "OK" for row in rows.values())
    total = Histogram.from_json(content["streams"][-1]["histograms"]["OK"])
    assert (total.count, total.quantile_ms(0.99)) == (200, rows["total"]["p99_ms"])
    assert "<svg" in plot.read_text()


def test_command_replays_a_file(server: RunningServer, tmp_path: Path) -> None:
    """Rows of equal times are one call; scenarios by a column; twice as fast as recorded."""
    path = tmp_path / "rows.parquet"
    rows = FEED.rows(40)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(milliseconds=100 * (i // 4)) for i in range(40)]
    names = ["search" if i // 4 % 5 == 4 else "elsewhere" if i // 4 == 3 else "feed" for i in range(40)]
    pq.write_table(rows.append_column("time", [times]).append_column("surface", [names]), path)
    options = ["--replay", path, "--speed", "2", "--warm-up", "0", "--json"]
    result = invoke("loadgen", server.target, "-s", "feed", "-s", "search", "--scenario-column", "surface", *options)
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert {s["name"]: (s["totals"], s["ok_rows"]) for s in content["streams"][:2]} == {
        "feed": ({"OK": 7}, 28),
        "search": ({"OK": 2}, 8),
    }
    assert 0.45 < content["seconds"] < 0.6
    for extra, message in (
        (["-s", "search"], "name the column that says which of 2 scenarios"),
        (["--time-column", "when"], "found no column 'when'; it has age, "),
        (["--time-column", "city"], "column 'city': found string; expected timestamps or seconds"),
        (["--time-column", "income"], "before the row above it; expected rising times"),
        (["--scenario-column", "city"], "column 'city' names no row for scenario 'feed'"),
        (["--warm-up", "9"], "lasts 0.4"),
    ):
        failed = invoke("loadgen", server.target, "-s", "feed", *options, *extra)
        assert failed.exit_code in (1, 2), extra
        assert message in failed.stderr, failed.stderr


def test_command_takes_rows_from_a_file(server: RunningServer, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(FEED.rows(40), path)
    options = ["--data", path, "--rows", "16", "--closed", "1", "--seconds", "0.3", "--warm-up", "0", "--json"]
    result = invoke("loadgen", server.target, "-s", "feed", *options)
    assert result.exit_code == 0, result.output
    (feed,) = json.loads(result.stdout)["streams"]
    assert set(feed["totals"]) == {"OK"}
    # 16, 16 and the 8 that are left, in turn.
    assert feed["ok_rows"] % 8 == 0
    assert 8 * feed["totals"]["OK"] < feed["ok_rows"] < 16 * feed["totals"]["OK"]


def test_an_interrupt_ends_the_run_early(server: RunningServer) -> None:
    program = "from smt.serving.cli import main\nmain()"
    options = ["-s", "feed", "--rows", "1", "--payloads", "1", "--seconds", "60", "--warm-up", "0", "--json"]
    before = predicted(server)
    command = [sys.executable, "-c", program, "loadgen", server.target, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        wait_for(lambda: predicted(server) != before, "calls")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    content = json.loads(stdout)
    assert 0 < content["seconds"] < 50
    assert content["streams"][0]["totals"]["OK"] > 0
