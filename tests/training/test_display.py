"""What a person sees of training."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from smt.training.display import Display
from smt.training.metrics import task_metrics
from smt.training.trainer import train
from tests.training.support import make_scenario


def test_the_bar_shows_rows_speed_loss_and_eta() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, color_system=None)
    with Display(True, console) as display:
        display.stage("training", 1000)
        display.advance(250, "shop epoch 1/2", "5,000 rows/s  loss 0.1234")
        display.advance(250)
        display._progress.refresh()
    text = output.getvalue()
    for part in ("shop epoch 1/2", "500/1000", "5,000 rows/s", "loss 0.1234", "ETA"):
        assert part in text


def test_an_epoch_is_one_line_and_undefined_metrics_are_dashes() -> None:
    output = io.StringIO()
    record = {"epoch": 3, "rows_per_second": 12345.6, "loss": 0.5}
    with Display(True, Console(file=output, width=40)) as display:
        display.epoch(
            record, {"click": task_metrics([0, 0], [0.1, 0.2]), "buy": task_metrics([0, 1], [0.5, 0.5])}, True
        )
    lines = [line for line in output.getvalue().splitlines() if line]
    assert lines == [
        "epoch 3  12,346 rows/s  loss 0.5000  click NE - AUC - calibration -  "
        "buy NE 1.0000 AUC 0.5000 calibration 1.0000  best"
    ]


def test_training_reports_on_stderr_and_leaves_stdout_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scenario = make_scenario(tmp_path, train=300, valid=100)
    train(scenario, tmp_path / "run", epochs=1)
    shown = capfd.readouterr()
    assert shown.out == ""
    (line,) = [line for line in shown.err.splitlines() if "rows/s" in line]
    assert "epoch 1" in line
    assert "click NE" in line
    assert "buy NE" in line
    train(scenario, tmp_path / "run", epochs=1, progress=False)
    silent = capfd.readouterr()
    assert silent.out == ""
    assert "epoch" not in silent.err
