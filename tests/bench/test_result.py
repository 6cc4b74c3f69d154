"""Result files and the tables made of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import tables
from bench.result import Result


def test_a_result_file_says_what_where_and_whether_it_was_met(tmp_path: Path) -> None:
    result = Result("demo")
    result.results.append({"scenario": "a", "median_ms": 1.5})
    assert result.target("speed", "times the peer", 2.1, ">=", 2.0)
    assert not result.target("errors", "failed requests", 1, "==", 0)
    assert not result.target("gpu", "not measured", None, ">=", 1)
    result.extra["tree"] = {"x": 1}
    written = result.write(tmp_path / "new" / "result.json")
    read = json.loads((tmp_path / "new" / "result.json").read_text())
    assert read == written
    assert {"name", "commit", "device", "started", "seconds", "results", "targets", "tree"} <= set(read)
    assert read["device"]["cores"] >= 1
    assert [target["met"] for target in read["targets"]] == [True, False, False]


def test_a_result_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    result = Result("demo")
    result.results.append({"ne": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        result.write(tmp_path / "result.json")


def test_tables_follow_the_result_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"scenario": "s", "task": "t", "rows": 12345, "ne_train_side": 0.5, "ne_served": 0.5, "auc_served": 0.9}
    content: dict[str, Any] = {
        "commit": "c" * 40,
        "device": {"cores": 2, "cpu": "A CPU", "isa": ["avx2"], "torch": "2"},
        "results": [{**row, "calibration": None}],
        "targets": [{"id": "i", "what": "|asked|", "value": 3e-7, "op": "<=", "target": 1e-4, "met": True}],
    }
    (tmp_path / "demo.json").write_text(json.dumps(content))
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    text = "before\n<!-- table:demo -->\nold\n<!-- /table -->\nafter\n"
    once = tables.render(text)
    assert "old" not in once
    assert "| s | t | 12,345 | 0.5000 | 0.5000 | 0.9000 | - |" in once
    assert r"| \|asked\| | 3.0e-07 | <= 0.0001 | yes |" in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert tables.render(once) == once


def test_a_quality_table_shows_mean_and_deviation_beside_the_teacher() -> None:
    names = [f"{task}_{figure}" for task in ("income", "never_married") for figure in ("auc", "ne")]
    content: dict[str, Any] = {
        "statement": "bundled",
        "teacher": {"valid": {"income": {"auc": 0.96, "ne": 0.46}, "never_married": {"auc": 0.995, "ne": 0.13}}},
        "mean": {name: 0.5 + 0.1 * i for i, name in enumerate(names)},
        "deviation": dict.fromkeys(names, 0.003),
        "results": [{}, {}],
        "targets": [{"what": "AUC, income", "value": 0.5, "op": ">=", "target": 0.9584, "met": False}],
    }
    lines = tables.quality_census(content)
    assert "| AUC, income | 0.5000 | >= 0.9584 | **no** |" in lines
    assert "| never_married, NE | 0.8000 ± 0.0030 | 0.1300 |" in lines
    assert lines[-1] == "Mean ± sd of 2 seeds; bundled."


@pytest.mark.parametrize("name", ["budget", "isolation", "scenarios", "serving"])
def test_a_servers_table_shows_what_its_benchmark_writes(name: str) -> None:
    source, show = tables.TABLES[name]
    content = json.loads((tables.RESULTS / f"{source}.json").read_text())
    lines = show(content)
    for target in content["targets"]:
        assert any(line.startswith(f"| {target['what']} |") for line in lines)
    shown = [table.splitlines() for table in "\n".join(lines).split("\n\n")]
    assert sum(len(table) - 2 for table in shown) >= len(content["results"]) + len(content["targets"])
    for header, _, *rows in shown:
        for title, *cells in zip(*(line.strip("| ").split(" | ") for line in (header, *rows)), strict=True):
            assert set(cells) != {"-"}, f"{title!r} is in no row"
