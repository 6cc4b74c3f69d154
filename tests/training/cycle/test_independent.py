"""Scenarios tuned alone, and the report that sets them beside a cycle."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smt.training.cycle.independent import tune_independently, with_budget
from smt.training.cycle.report.compare import comparison
from smt.training.cycle.report.page import ReportError, read_results, render
from smt.training.cycle.store import Runner, Store
from smt.training.cycle.trials import CycleError
from smt.training.run import write_json
from tests.training.cycle.fakes import PlantedEffects
from tests.training.cycle.support import FILTERS, make_cycle
from tests.training.cycle.test_cycle import GOOD, NAMES, play


def test_each_takes_what_helps_it_within_its_part_of_the_budget(tmp_path: Path) -> None:
    effects = {"ema": {"old": 0.01, "young": 0.014}, "label_smoothing": {"young": 0.006}}
    cycle = make_cycle(tmp_path, NAMES, keep=4)
    runner = Runner(Store(tmp_path / "store"), PlantedEffects(effects))
    found = tune_independently(cycle, runner, None)
    adopted = {name: each["adopted"] for name, each in found["scenarios"].items()}
    assert adopted == {"all": [], "click_only": [], "old": ["ema"], "young": ["ema", "label_smoothing"]}
    assert found["runs"]["adoptions"] == 3
    assert sum(each["runs"] for each in found["scenarios"].values()) == pytest.approx(found["runs"]["total"])
    assert all(each["runs"] <= 50 for each in found["scenarios"].values())


def test_with_little_budget_each_tries_some_and_all_are_tried_somewhere(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=1)
    # 8 to verify, 8 for the incumbent and the one that is kept in the last rung, and 1 for each in the first.
    entry = cycle.entry.model_copy(update={"budget": cycle.entry.budget.model_copy(update={"runs": 4 * 19.5})})
    runner = Runner(Store(tmp_path / "store"), PlantedEffects({}))
    found = tune_independently(replace(cycle, entry=entry), runner, None)
    tried = [each["tried"] for each in found["scenarios"].values()]
    assert [len(each) for each in tried] == [2, 2, 2, 2]
    assert {label for each in tried for label in each} == set(NAMES)
    poor = cycle.entry.model_copy(update={"budget": cycle.entry.budget.model_copy(update={"runs": 40.0})})
    with pytest.raises(CycleError, match="not enough to try one candidate alone"):
        tune_independently(replace(cycle, entry=poor), runner, None)


def test_the_page_shows_both_ways_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=4)
    _, result, _ = play(cycle, tmp_path, PlantedEffects(GOOD))
    baseline = tune_independently(cycle, Runner(Store(tmp_path / "store"), PlantedEffects(GOOD)), None)
    page = render([result, result], baseline)
    for word in (*NAMES, *FILTERS, "the same binary", "no gain beyond noise", "tuned alone", "1.1.0"):
        assert word in page, word
    assert not re.findall(r"(?:src|href)=\"(?!#)[^\"]*\"", page.replace('xlink:href="data:', 'data="'))
    assert "@import" not in page
    pictures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(pictures) == 5
    for picture in pictures:
        ET.fromstring(picture)
    found = comparison([result], baseline)
    # Every scenario alone finds the same as the cycle finds for all, with more runs: the more, the more scenarios.
    assert found.split == "valid"
    assert found.gain.mean == pytest.approx(0.0, abs=0.002)
    assert found.ratio is not None
    assert found.ratio > 1.5
    assert found.ratio_bound is not None
    assert 0.5 * found.ratio < found.ratio_bound < found.ratio
    nothing = replace(found, alone_adoptions=0)
    assert nothing.ratio is None
    assert nothing.ratio_bound is not None
    assert nothing.ratio_bound > found.ratio_bound
    assert replace(nothing, alone_runs=0.0).ratio_bound is None
    assert found.steps == pytest.approx(4 / 4 / 6)
    # What two cycles asked for is one run.
    assert comparison([result, result], baseline).runs == pytest.approx(result["runs"]["total"])


def test_what_was_chosen_is_compared_on_rows_that_no_choice_saw(tmp_path: Path) -> None:
    effects = {"ema": {"old": 0.02, "young": 0.02, "all": 0.02, "click_only": 0.02}}
    cycle = make_cycle(tmp_path, NAMES, keep=4, test=True)
    runner = Runner(Store(tmp_path / "store"), PlantedEffects({}))
    alone: list[dict[str, Any]] = []
    baseline = tune_independently(with_budget(cycle, 250), runner, None, save=alone.append)
    assert [list(each["scenarios"]) for each in alone] == [sorted(FILTERS)[: i + 1] for i in range(4)]
    assert alone[-1] == baseline
    assert baseline["runs"]["budget"] == 250
    # A quarter of what is gained on the rows that choose holds on others; none on those of one scenario.
    _, result, _ = play(cycle, tmp_path / "cycle", PlantedEffects(effects, unseen=0.75))
    assert result["adopted"] == ["ema"]
    side = result["quality"]["old"]["after"]
    assert side["ne"]["mean"] < side["test"]["ne"]["mean"]
    assert [run.keys() for run in side["test"]["runs"]] == [{"click", "buy"}] * 4
    found = comparison([result], baseline)
    assert found.split == "test"
    assert found.gain.mean == pytest.approx(0.005, abs=0.0005)
    assert found.gain.low is not None
    assert 0 < found.gain.low < found.gain.mean
    assert found.worse == []
    page = render([result], baseline)
    assert "over scenarios tuned alone, test rows" in page
    for task in result["quality"]["old"]["after"]["test"]["runs"]:
        task["click"] *= 1.05
    assert comparison([result], baseline).worse == ["old"]


def test_what_cannot_be_reported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"result.json: no such file; expected the output folder of a finished"):
        read_results([tmp_path], None)
    for name, scenario in (("a", "x"), ("b", "y")):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "result.json", {"scenarios": {scenario: {}}})
    with pytest.raises(ReportError, match="a cycle of other scenarios"):
        read_results([tmp_path / "a", tmp_path / "b"], None)
