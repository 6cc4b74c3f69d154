"""What represents what."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from smt.training.cycle.descriptors import Descriptor, cluster, describe
from tests.training.support import make_scenario

PLAIN = Descriptor(9.0, -2.0, 0.1, 0.0, 2, 4, 10, 3.0, 0.1)


def test_a_scenario_is_described_by_what_is_in_it(tmp_path: Path) -> None:
    found = describe(make_scenario(tmp_path))
    assert found.log_rows == pytest.approx(math.log(3000))
    assert (found.tasks, found.dense, found.categorical) == (2, 2, 4)
    assert found.multi_valued == 1 / 4
    assert found.unlabelled == pytest.approx(0.15, abs=0.02)  # 30 % of the purchases


def test_the_share_of_a_scenario_is_its_rows(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, {"  valid: valid.parquet": "  valid: valid.parquet\n  share: 0.2"})
    assert math.exp(describe(scenario).log_rows) == pytest.approx(600, rel=0.15)


def test_alike_ones_share_a_cluster_and_its_middle_represents_them() -> None:
    large = {f"large{i}": replace(PLAIN, log_rows=12.0 + 0.1 * i) for i in range(5)}
    rare = {f"rare{i}": replace(PLAIN, label_rate_logit=-6.0 + 0.1 * i) for i in range(3)}
    found = cluster({**rare, **large}, 2)
    assert found.weights == {"large2": 5, "rare1": 3}
    assert len({found.cluster[name] for name in large}) == 1
    assert found.cluster["large0"] != found.cluster["rare0"]
    assert cluster({**large, **rare}, 2) == found  # in whatever order


def test_as_many_representatives_as_there_are_scenarios_at_most() -> None:
    scenarios = {"a": PLAIN, "b": replace(PLAIN, tasks=3)}
    assert cluster(scenarios, 9).representatives == ["a", "b"]
    assert cluster({"a": PLAIN}, 3).weights == {"a": 1}
    assert cluster({"a": PLAIN, "b": PLAIN}, 1).representatives == ["a"]
