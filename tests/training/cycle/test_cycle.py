"""Cycles' decisions, with planted effects in the place of training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from smt.training.config import ConfigError
from smt.training.cycle.config import Cycle, Rung, load_cycle
from smt.training.cycle.cycle import Outcome, planned, run_cycle, sources_of
from smt.training.cycle.descriptors import Descriptor
from smt.training.cycle.result import describe_outcome
from smt.training.cycle.screening import screen
from smt.training.cycle.sources import Sources
from smt.training.cycle.store import JobError, Runner, Store
from smt.training.cycle.trials import Setting, Trials
from smt.training.cycle.variant import Variant
from smt.training.template import load_template
from tests.training.cycle.fakes import PlantedEffects
from tests.training.cycle.support import FILTERS, make_cycle

GOOD = {"ema": 0.01, "label_smoothing": 0.004, "embedding_dropout": 0.006, "head_noise": 0.0}
NAMES = list(GOOD)


def described(path: Path) -> Descriptor:
    """What `describe` would say, without reading the data."""
    rows = {"all": 600, "old": 280, "young": 320, "click_only": 600}[path.stem]
    return Descriptor(math.log(rows), 0.0, 0.1, 0.1, 1 if path.stem == "click_only" else 2, 2, 4, 3.0, 0.25)


def play(cycle: Cycle, folder: Path, executor: PlantedEffects | None) -> tuple[Outcome, dict[str, Any], Runner]:
    runner = Runner(Store(folder / "store"), executor)
    outcome = run_cycle(cycle, runner, folder / "out", None, describing=described)
    return outcome, describe_outcome(outcome, runner), runner


def adopted(
    folder: Path, candidates: Sequence[str], effects: Mapping[str, Any], **settings: Any
) -> tuple[list[str], dict[str, Any]]:
    fails = settings.pop("fails", ())
    cycle = make_cycle(folder, list(candidates), **settings)
    _, result, _ = play(cycle, folder, PlantedEffects(effects, fails=fails))
    return result["adopted"], result


def share_of(folder: Path) -> float:
    """Of the rows that a job is trained on."""
    return float(json.loads((folder / "scenario.yaml").read_text())["data"]["share"])


def why(result: dict[str, Any], technique: str) -> str:
    [reason] = {cell["why"] for cell in result["adoption"] if cell["technique"] == technique}
    return str(reason)


def test_what_helps_is_taken_up_and_the_useless_is_not(tmp_path: Path) -> None:
    names, result = adopted(tmp_path, NAMES, GOOD, keep=4)
    assert names == ["ema", "embedding_dropout", "label_smoothing"]
    assert "no gain beyond noise" in why(result, "head_noise")
    assert len(result["adoption"]) == len(NAMES) * len(FILTERS)
    measured = [cell for cell in result["adoption"] if cell["gain"]]
    representatives = {name for name, each in result["scenarios"].items() if each["represents"]}
    assert {cell["scenario"] for cell in measured} == representatives
    assert len(representatives) == 2
    ema = next(cell for cell in measured if cell["technique"] == "ema")
    assert ema["gain"]["low"] < 0.01 < ema["gain"]["high"]
    # On every scenario, represented ones too, the version is better by the product of the effects.
    [attempt] = result["verification"]
    assert attempt["comparison"]["total"]["mean"] == pytest.approx(0.02, abs=0.001)
    assert set(attempt["comparison"]["scenarios"]) == set(FILTERS)
    assert result["runs"]["adoptions"] == 3 * len(FILTERS)


def test_a_version_is_cut_that_names_its_parent_and_keeps_the_text(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=4)
    before = cycle.template.path.read_text()
    outcome, result, _ = play(cycle, tmp_path, PlantedEffects({"ema": 0.01}))
    made = load_template(tmp_path / "out" / "template.yaml")
    assert (made.name, made.version, made.parent) == ("small", "1.1.0", "1.0.0")
    assert [technique.label for technique in made.techniques] == ["ema"]
    assert made.model_dump(exclude={"version", "parent", "techniques"}) == cycle.template.model_dump(
        exclude={"version", "parent", "techniques"}
    )
    assert "  experts: {type: mmoe, count: 2, units: [8]}\n" in (tmp_path / "out" / "template.yaml").read_text()
    assert cycle.template.path.read_text() == before
    assert result["version"]["version"] == "1.1.0"
    assert result["capacity"]["same_binary"]
    assert outcome.template is not None


def test_the_next_cycle_starts_at_the_version(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=4)
    play(cycle, tmp_path, PlantedEffects({"ema": 0.01}))
    (tmp_path / "template.yaml").write_text((tmp_path / "out" / "template.yaml").read_text())
    again = replace(cycle, template=load_template(tmp_path / "template.yaml"))
    outcome, result, _ = play(again, tmp_path, PlantedEffects(GOOD))
    assert "a second time" in why(result, "ema")
    assert result["adopted"] == ["embedding_dropout", "label_smoothing"]
    assert outcome.template is not None
    assert [each.label for each in outcome.template.techniques] == ["ema", "embedding_dropout", "label_smoothing"]
    assert (outcome.template.version, outcome.template.parent) == ("1.2.0", "1.1.0")


def test_techniques_that_exclude_each_other_are_not_combined(tmp_path: Path) -> None:
    names, result = adopted(tmp_path, ["ema", "swa", "meda"], {"ema": 0.01, "swa": 0.008, "meda": 0.006}, keep=3)
    assert names == ["ema"]
    assert "conflicts with 'ema'" in why(result, "swa")
    assert "conflicts with 'ema'" in why(result, "meda")


def test_a_technique_that_adds_nothing_to_the_others_is_left_out(tmp_path: Path) -> None:
    effects = {"ema": 0.01, "label_smoothing": 0.008, "ema+label_smoothing": -0.008}
    names, result = adopted(tmp_path, ["ema", "label_smoothing"], effects, keep=2)
    assert names == ["ema"]
    assert "on top of ema" in why(result, "label_smoothing")


def test_a_technique_that_harms_a_representative_is_no_finalist(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, ["ema"], keep=1)
    _, result, _ = play(cycle, tmp_path, PlantedEffects({}))
    small, large = sorted(
        (name for name, each in result["scenarios"].items() if each["represents"]),
        key=lambda name: result["scenarios"][name]["represents"],
    )
    harms = tmp_path / "harms"
    names, result = adopted(harms, ["ema"], {"ema": {small: -0.01, large: 0.05}}, keep=1)
    assert names == []
    assert f"worse beyond its noise: {small}" in why(result, "ema")
    assert result["version"] is None
    assert (harms / "out" / "template.yaml").read_bytes() == (harms / "template.yaml").read_bytes()


def test_what_harms_a_scenario_that_was_represented_is_given_up_after_all(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, ["ema", "label_smoothing"], keep=2)
    _, result, _ = play(cycle, tmp_path, PlantedEffects({}))
    hidden = next(name for name, each in result["scenarios"].items() if not each["represents"])
    effects = {"ema": 0.01, "label_smoothing": {name: 0.005 if name != hidden else -0.02 for name in FILTERS}}
    names, result = adopted(tmp_path / "again", ["ema", "label_smoothing"], effects, keep=2)
    assert names == ["ema"]
    assert f"worse beyond noise: {hidden}" in why(result, "label_smoothing")
    assert [attempt["techniques"] for attempt in result["verification"]] == [["ema", "label_smoothing"], ["ema"]]


def test_a_candidate_whose_training_fails_is_rejected_with_the_reason(tmp_path: Path) -> None:
    names, result = adopted(tmp_path, ["ema", "label_smoothing"], GOOD, keep=2, fails=["ema"])
    assert names == ["label_smoothing"]
    assert "the loss of ema is nan" in why(result, "ema")


def test_halving_takes_the_better_ones_on(tmp_path: Path) -> None:
    names, result = adopted(tmp_path, NAMES, GOOD, keep=2)
    assert names == ["ema", "embedding_dropout"]
    first, last = result["screening"]
    assert list(first["candidates"]) == ["ema", "embedding_dropout", "label_smoothing", "head_noise"]
    assert set(last["candidates"]) == {"ema", "embedding_dropout"}
    assert not set(first["seeds"]) & set(last["seeds"])
    assert why(result, "label_smoothing").startswith("rung 1: rank 3 of 4, 2 went on (+0.")


def test_noise_alone_is_hardly_ever_taken_up(tmp_path: Path) -> None:
    names = ["head_noise", "ema", "label_smoothing", "embedding_dropout", "calibration"]
    cycle = make_cycle(tmp_path, names, keep=5)
    scenarios = {"all": cycle.scenarios["all"], "old": cycle.scenarios["old"]}
    runner = Runner(Store(tmp_path / "store"), PlantedEffects({}))
    incumbent = Variant.of(cycle.template.path)
    trials = Trials(runner, scenarios, {"all": 3.0, "old": 1.0}, 0.95, Sources(runner.store, incumbent))
    finalists = 0
    for first in range(0, 80, 4):  # 20 screenings of 5 candidates, each with seeds of its own
        setting = Setting(tuple(range(first, first + 4)))
        found = screen(trials, incumbent, cycle.candidates, [(Rung(seeds=4), setting)])
        finalists += bool(found.finalists)
    # Of two-sided intervals that hold together with 95 %, one lies above zero in 1 of 40.
    assert finalists <= 3


def test_the_budget_is_kept_or_the_plan_refused(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=4)
    plan = planned(cycle, 2, release=False)
    assert plan == {"screening": 5 * 2 * 2 * 0.5 + 5 * 2 * 4, "verification": 2 * 4 * 4}
    with pytest.raises(ConfigError, match=r"cycle.yaml:14: budget.runs: found 50; allowed: at least 82.0 \(screening"):
        play(make_cycle(tmp_path / "poor", NAMES, keep=4, runs=50), tmp_path, PlantedEffects({}))
    # Enough for the plan, and for one combination (8 runs), but not for a second.
    _, result, runner = play(make_cycle(tmp_path / "tight", NAMES, keep=4, runs=90), tmp_path, PlantedEffects(GOOD))
    assert result["adopted"] == ["ema", "embedding_dropout"]
    assert "no budget left" in why(result, "label_smoothing")
    assert runner.spent == pytest.approx(result["runs"]["total"])
    assert runner.spent <= 90


def test_a_cycle_goes_on_where_it_was_and_can_be_replayed(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=3)
    _, whole, runner = play(cycle, tmp_path / "whole", executor := PlantedEffects(GOOD))
    jobs = len(executor.executed)
    assert runner.made == jobs
    for stop in (7, jobs - 1):
        interrupted = PlantedEffects(GOOD, stop_after=stop)
        with pytest.raises(KeyboardInterrupt):
            play(cycle, tmp_path / "again", interrupted)
        _, found, runner = play(cycle, tmp_path / "again", rest := PlantedEffects(GOOD))
        assert comparable(found) == comparable(whole)
        assert len(rest.executed) == jobs - stop
        if stop != jobs - 1:
            remove(tmp_path / "again" / "store")
    _, replayed, runner = play(cycle, tmp_path / "again", None)
    assert comparable(replayed) == comparable(whole)
    assert runner.made == 0
    remove(tmp_path / "again" / "store")
    with pytest.raises(JobError, match="a replay makes none"):
        play(cycle, tmp_path / "again", None)


def test_a_changed_setting_is_another_job(tmp_path: Path) -> None:
    cycle = make_cycle(tmp_path, NAMES, keep=3)
    play(cycle, tmp_path, PlantedEffects(GOOD))
    text = (tmp_path / "template.yaml").read_text()
    (tmp_path / "template.yaml").write_text(text.replace("dropout: 0.1", "dropout: 0.2"))
    changed = replace(cycle, template=load_template(tmp_path / "template.yaml"))
    _, _, runner = play(changed, tmp_path, executor := PlantedEffects(GOOD))
    assert runner.made == len(executor.executed) > 0
    # Comments, names and versions are no content.
    (tmp_path / "template.yaml").write_text("# as it was\n" + text.replace("1.0.0", "3.0.0"))
    same = replace(cycle, template=load_template(tmp_path / "template.yaml"))
    _, _, runner = play(same, tmp_path, None)
    assert runner.made == 0


def comparable(result: dict[str, Any]) -> dict[str, Any]:
    version = result["version"] and {**result["version"], "path": None}
    return {**result, "version": version}


def remove(store: Path) -> None:
    for record in store.glob("*/*/record.json"):
        record.unlink()


def test_candidates_may_learn_from_runs_of_each_scenario(tmp_path: Path) -> None:
    candidates = ['{name: distill, teachers: ["{teachers}"]}', '{name: warm_start, run: "{trunk}"}']
    more = "teachers: {seeds: 2}\ntrunk: scenarios/all.yaml\n"
    cycle = make_cycle(tmp_path, candidates, keep=2, more=more)
    outcome, result, runner = play(cycle, tmp_path, executor := PlantedEffects({"distill": 0.01, "warm_start": 0.01}))
    assert result["adopted"] == ["distill", "warm_start"]
    made = outcome.template
    assert made is not None
    [distill, warm_start] = made.techniques
    assert distill.model_dump()["teachers"] == [
        str(tmp_path / "out/teachers/{scenario}/0"),
        str(tmp_path / "out/teachers/{scenario}/1"),
    ]
    assert warm_start.model_dump()["run"] == str(tmp_path / "out" / "trunk")
    jobs = {folder: json.loads((folder / "job.json").read_bytes()) for folder in executor.executed}
    kept = {job["key"]: folder for folder, job in jobs.items() if job["keep"]}
    representatives = [name for name, each in result["scenarios"].items() if each["represents"]]
    assert len(kept) == 2 * (len(FILTERS) + len(representatives)) + 1
    linked = {(tmp_path / "out" / "teachers" / name / str(i)).readlink() for name in FILTERS for i in range(2)}
    linked |= {(tmp_path / "out" / "trunk").readlink()}
    assert linked < {folder / "run" for folder in kept.values()}
    assert {share_of(place.parent) for place in linked} == {1.0}
    # Every student's teachers are of its scenario and share, were there before it, and have seeds that no student has.
    order = {folder: i for i, folder in enumerate(executor.executed)}
    seeds = {True: set(), False: set()}
    for folder, job in jobs.items():
        scenario, template = (json.loads((folder / f"{what}.yaml").read_text()) for what in ("scenario", "template"))
        seeds[job["keep"]].add(template["recipe"]["seed"])
        for technique in template.get("techniques", []):
            teachers = technique.get("teachers", [])
            assert len(teachers) in (0, 2)
            for teacher in map(Path, teachers):
                assert order[teacher.parent] < order[folder]
                of = json.loads((teacher.parent / "scenario.yaml").read_text())
                assert (of["scenario"], of["data"]["share"]) == (scenario["scenario"], scenario["data"]["share"])
    assert not seeds[True] & seeds[False]
    assert runner.spent == pytest.approx(result["runs"]["total"])
    # The plan has room for all of them: those of every scenario, and of the representatives on half of their rows.
    plan = planned(cycle, len(representatives), release=False)
    assert plan["teachers"] == pytest.approx(sum(map(share_of, kept.values())) - 1)
    # In another place the same jobs have the same keys.
    other = Runner(Store(tmp_path / "elsewhere"), PlantedEffects({}))
    variant = Variant.of(cycle.template.path).plus(*cycle.candidates.values())
    keys = {sources_of(cycle, each).job(variant, cycle.scenarios["old"], 1, 1.0, None).key for each in (runner, other)}
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rungs": [{"seeds": 2, "keep": 3}]}, r"rungs\[0\].keep: found 3; allowed: no keep in the last rung"),
        ({"rungs": [{"seeds": 2}, {"seeds": 2}]}, r"rungs\[0\]: found no keep; allowed: how many candidates"),
        ({"rungs": [{"seeds": 1}]}, r"rungs\[0\].seeds: found 1; allowed: "),
        ({"scenarios": ["none/*.yaml"]}, r"scenarios\[0\]: found no such file"),
        ({"template": "other.yaml"}, r"template: found no such file"),
        (
            {"candidates": ["ema", {"name": "ema", "decay": 0.5}]},
            r"candidates\[1\]: found the candidate 'ema' a",
        ),
        ({"candidates": [{"name": "distill", "teachers": ["{teachers}"]}]}, "found {teachers} without any"),
        ({"candidates": ["emma"]}, r"did you mean 'ema'"),
        ({"budget": {"rows": 3}}, r"budget.rows: found an unknown key"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    make_cycle(tmp_path, NAMES)
    data = yaml.safe_load((tmp_path / "cycle.yaml").read_text()) | change
    (tmp_path / "cycle.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=message):
        load_cycle(tmp_path / "cycle.yaml")
