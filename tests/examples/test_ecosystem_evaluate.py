"""The result file of the ecosystem's cycles and its tables, with planted effects in the place of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.cycles_table import cycles
from bench.result import Result
from examples.ecosystem.evaluate import evaluate
from smt.training.cycle.independent import tune_independently
from smt.training.cycle.report.page import ReportError
from smt.training.cycle.store import Runner, Store
from tests.training.cycle.fakes import PlantedEffects
from tests.training.cycle.support import FILTERS, make_cycle
from tests.training.cycle.test_cycle import NAMES, play


def test_both_ways_become_rows_targets_and_tables(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=4, test=True)
    _, found, _ = play(cycle, tmp_path / "cycle", PlantedEffects({"ema": 0.02}, unseen=0.5))
    assert found["adopted"] == ["ema"]
    # Alone, only one scenario finds what helps.
    runner = Runner(Store(tmp_path / "alone"), PlantedEffects({"ema": {"old": 0.02}}))
    baseline = tune_independently(cycle, runner, None)
    result = Result("cycles")
    evaluate([found], baseline, result)

    rows: dict[str, dict[str, Any]] = {row["scenario"]: row for row in result.results}
    assert set(rows) == set(FILTERS)
    assert {name: row["alone_adopted"] for name, row in rows.items() if row["alone_adopted"]} == {"old": ["ema"]}
    for name, row in rows.items():
        assert row["ne_before"] == pytest.approx(0.8, abs=0.002)
        assert row["ne_cycle_1"] == pytest.approx(0.8 * 0.99, abs=0.002)  # half of the effect is left on test rows
        assert row["gain"] == pytest.approx(-0.01 if name == "old" else 0.01, abs=0.003)
        assert row["ne_alone_low"] < row["ne_alone"] < row["ne_alone_high"]
    [only] = result.extra["cycles"]
    assert only["gain"] == pytest.approx(0.01, abs=0.001)
    assert only["flops_per_row_before"] == only["flops_per_row_after"]
    both = result.extra["comparison"]
    assert (both["adoptions"], both["alone_adoptions"], both["worse"]) == (4, 1, ["old"])
    assert 0 < both["ratio_bound"] < both["ratio"]
    assert both["ratio"] == pytest.approx(4 * both["alone_runs"] / both["runs"])
    met = {target["id"]: target["met"] for target in result.targets}
    assert not met["cycles-count"]
    assert not met["cycles-worse"]
    assert met["cycles-flops"]

    text = "\n".join(cycles({"targets": result.targets, "results": result.results, **result.extra}))
    for line in (
        "| spring | ema, label_smoothing, embedding_dropout, head_noise | ema |",
        f"| {rows['old']['ne_before']:.4f} ± ",
        f"| each scenario alone | {both['alone_runs']:.1f}",
    ):
        assert line in text


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES[:1], keep=1)
    _, found, _ = play(cycle, tmp_path / "cycle", PlantedEffects({}))
    baseline = tune_independently(cycle, Runner(Store(tmp_path / "alone"), PlantedEffects({})), None)
    with pytest.raises(ReportError, match=r"expected data\.test in all"):
        evaluate([found], baseline, Result("cycles"))
    del baseline["scenarios"]["old"]
    with pytest.raises(ReportError, match="no scenario old tuned alone"):
        evaluate([found], baseline, Result("cycles"))
