"""Faults of a registry under a running server, few of each; bench.faults tells them a thousand times."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.delta import LargeTable
from bench.fault_stand import FaultError, Stand
from bench.faults import add_targets, measure
from bench.result import Result
from smt.serving.compile import BinaryInfo
from smt.training.template import Template
from tests.serving.support import copy_binaries

Compiled = tuple[Path, BinaryInfo, list[str]]


def test_each_fault_is_refused_or_taken_and_nobody_notices(
    compiled: Compiled, template: Template, tmp_path: Path
) -> None:
    copy_binaries(compiled[0], tmp_path / "registry")
    found = measure(tmp_path, 20, publications=2, rows=2000, template=template)
    assert found["complaints"] == []
    assert found["requests"] > 100
    rows = {row["case"]: row for row in found["rows"]}
    assert len(rows) == 12
    taken = {
        "two publishers at once": 4,
        "clock going back": 1,
        "full disk": 1,
        "slow and failing remote file system": 2,
    }
    for case, row in rows.items():
        assert row["taken"] == taken.get(case, 0), row
        assert (row["refused"] == 0) == (row["reason"] == ""), row
        if case not in taken:
            assert row["refused"] == row["tried"] > 0, row
    assert "No space left on device" in rows["full disk"]["reason"]
    result = Result("faults")
    add_targets(result, found)
    assert {target["id"]: target["met"] for target in result.targets} == {
        "fault-flips": False,
        "fault-unnoticed": True,
        "fault-failed": True,
    }


def test_what_is_not_noticed_fails_the_harness(compiled: Compiled, template: Template, tmp_path: Path) -> None:
    registry = copy_binaries(compiled[0], tmp_path / "registry")
    with Stand(registry, LargeTable.publish(registry, 2000, template)) as stand:
        with pytest.raises(FaultError, match=f"version {stand.whole} is served"):
            stand.spoil(stand.whole, lambda files: files)
        stand.scorer.seen[stand.delta] = {b"other scores"}
        assert stand.check_answers() == [f"version {stand.delta} gave 1 different answers, 1 wrong"]
