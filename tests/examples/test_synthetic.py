"""The synthetic ecosystem: its true probabilities against labels, the best model's figures, files, and distances."""

import filecmp
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bench.cycles_table import synthetic
from bench.result import Result
from examples.synthetic import generate as generation
from examples.synthetic.bayes import Bayes
from examples.synthetic.evaluate import evaluate
from examples.synthetic.generate import FOLDER, generate
from examples.synthetic.world import DEVICES, WINDOWS, Rows, Settings, World
from smt.training.cycle.config import load_cycle
from smt.training.cycle.report.page import ReportError
from smt.training.metrics import task_metrics
from smt.training.scenario import load_scenario
from smt.training.validate import validate_scenario

SETTINGS = Settings(seed=3, users=300, items=100, surfaces=4)


@pytest.fixture(scope="module")
def world() -> World:
    return World(SETTINGS)


def draw(world: World, surface: int, window: int, count: int = 20_000) -> Rows:
    return world.surfaces[surface].draw(window, count, np.random.default_rng(7))


def test_equal_columns_in_a_window_have_an_equal_probability(world: World) -> None:
    """Nothing that a model cannot see moves a probability: else the true ones would not be the best possible."""
    surface = world.surfaces[0]
    user, item = np.array([5, 5, 6]), np.array([8, 8, 8])
    rest = np.array([3, 3, 3])
    price = np.array([2.0, 2.0, 2.0])
    for logits in surface._logits(4, user, item, rest, np.array([1, 1, 1]), rest, price):
        assert logits[0] == logits[1] != logits[2]
    rows = draw(world, 0, 4)
    columns = rows.columns
    device = np.array([DEVICES.index(name) for name in columns["device"]])
    arguments = [columns[name] for name in ("user_id", "item_id", "hour")]
    click, _ = surface._logits(4, *arguments, device, columns["position"], columns["price"])  # type: ignore[arg-type]
    assert 1 / (1 + np.exp(-click - surface._biases[0])) == pytest.approx(rows.click)
    for name, known in (("segment", world.segment), ("activity", world.activity), ("history", world.history)):
        values = known[columns["user_id"].astype(int)]
        assert np.array_equal(columns[name], np.char.add("s", values.astype(str)) if name == "segment" else values)
    assert np.array_equal(columns["age"], 4 - world.release[columns["item_id"].astype(int)])
    assert columns["age"].astype(float).min() >= 0  # not shown before its release


def test_surfaces_share_structure_and_have_their_own(world: World) -> None:
    clicks = []
    for surface in world.surfaces:
        shared = {name: np.full(2000, 3) for name in ("hour", "position")}
        rng = np.random.default_rng(1)
        user, item = rng.integers(SETTINGS.users, size=2000), rng.choice(np.flatnonzero(world.release == 0), size=2000)
        device = np.zeros(2000, dtype=np.int64)
        clicks.append(surface._logits(0, user, item, shared["hour"], device, shared["position"], np.ones(2000))[0])
    correlation = np.corrcoef(clicks)[np.triu_indices(len(clicks), 1)]
    assert correlation.min() > 0.3
    assert correlation.max() < 0.95


def test_windows_drift_and_bring_items(world: World) -> None:
    first, last = (draw(world, 0, window) for window in (0, WINDOWS + 1))
    assert set(last.columns["item_id"]) - set(first.columns["item_id"])
    surface = world.surfaces[0]
    old = np.flatnonzero(world.release == 0)
    zero = np.zeros_like(old)
    logits = [surface._logits(w, zero, old, zero, zero, zero, np.ones(len(old)))[0] for w in (0, 1, WINDOWS)]
    steps = [logits[1] - logits[0], logits[2] - logits[0]]
    assert 0.02 < steps[0].std() < steps[1].std() < logits[0].std()


def test_values_are_skewed(world: World) -> None:
    rows = draw(world, 1, 0)
    for name, size in (("user_id", SETTINGS.users), ("item_id", SETTINGS.items)):
        counts = np.sort(np.bincount(rows.columns[name].astype(int), minlength=size))[::-1]
        assert counts[: size // 10].sum() > 0.25 * counts.sum()


def test_labels_agree_with_the_probabilities(world: World) -> None:
    rows = draw(world, 0, 2, 100_000)
    part = generation.table(rows, np.random.default_rng(5))
    for name, p in (("click", rows.click), ("conversion", rows.conversion)):
        labels = part[name].to_numpy().astype(float)
        order = np.argsort(p)
        for group in np.array_split(order, 10):
            error = math.sqrt(float((p[group] * (1 - p[group])).sum()))
            assert abs(labels[group].sum() - p[group].sum()) < 4.5 * error, name
    assert not (part["conversion"].to_numpy() > part["click"].to_numpy()).any()


def test_bayes_is_what_the_metrics_say_of_the_true_probabilities() -> None:
    rng = np.random.default_rng(2)
    p = rng.uniform(0.01, 0.6, 50_000)
    labels = (rng.random(50_000) < p).astype(np.int8)
    bayes = Bayes()
    for start in range(0, 50_000, 7000):
        bayes.add(labels[start : start + 7000], p[start : start + 7000])
    figures, expected = bayes.to_json(), task_metrics(labels, p)
    assert figures["ne"] == pytest.approx(expected.ne, rel=1e-6)
    assert figures["logloss"] == pytest.approx(expected.logloss, rel=1e-6)
    assert (figures["rows"], figures["positives"]) == (expected.rows, expected.positives)
    assert figures["expected_logloss"] == pytest.approx(float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean()))
    # No other probabilities do better, those of another temperature included.
    for changed in (p**1.1, p**0.9, np.clip(p + 0.02 * rng.normal(size=p.size), 0.001, 0.999)):
        worse = task_metrics(labels, changed).ne
        assert worse is not None
        assert worse > figures["ne"]


def test_one_class_has_no_bayes_ne() -> None:
    bayes = Bayes()
    bayes.add(np.zeros(4, dtype=np.int8), np.full(4, 0.1))
    with pytest.raises(ValueError, match="found 0 positive labels of 4"):
        bayes.to_json()


def test_the_same_arguments_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = generate(tmp_path / "a", 2, 2000, 1)
    generate(tmp_path / "b", 2, 2000, 1)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 2 * 3 + 2 + 3
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", [str(file) for file in files], shallow=False)[1:] == (
        [],
        [],
    )
    generate(tmp_path / "c", 2, 2000, 2)
    assert not filecmp.cmp(tmp_path / "a/surface_000/train.parquet", tmp_path / "c/surface_000/train.parquet", False)
    assert json.loads((tmp_path / "a" / "bayes.json").read_text()) == found
    # Written in blocks: more of them, and as many rows.
    monkeypatch.setattr(generation, "BLOCK_ROWS", 100)
    generate(tmp_path / "d", 1, 2000, 1)
    file = pq.ParquetFile(tmp_path / "d" / "surface_000" / "train.parquet")
    assert (file.num_row_groups, file.metadata.num_rows) == (24, 2000)
    assert file.read(["window"])["window"].unique().to_pylist() == list(range(WINDOWS))


def test_scenarios_read_no_label_and_no_true_probability(tmp_path: Path) -> None:
    found = generate(tmp_path, 3, 2000, 1)
    for name in [*found, "trunk"]:
        scenario = load_scenario(tmp_path / f"{name}.yaml")
        assert not [column for column in scenario.inputs if column.startswith(("true_", "click", "conv", "window"))]
        assert not validate_scenario(scenario).errors
    assert len(scenario.files("train")) == len(found)
    assert [task.name for task in scenario.tasks] == ["click", "conversion"]


def test_distances_are_of_the_verified_runs_and_their_mean_has_to_shrink() -> None:
    bayes = {"a": {"test": {"click": {"ne": 0.6}, "buy": {"ne": 0.8}}}, "b": {"test": {"click": {"ne": 0.5}}}}

    def cycle(name: str, adopted: list[str], before: list[float], after: list[float]) -> dict[str, Any]:
        """before, after: distances of two runs, on every objective."""
        quality: dict[str, Any] = {}
        for scenario, splits in bayes.items():
            best = {task: figures["ne"] for task, figures in splits["test"].items()}
            quality[scenario] = {
                side: {"test": {"tasks": best, "runs": [{task: ne + d for task, ne in best.items()} for d in values]}}
                for side, values in (("before", before), ("after", after))
            }
        tried = {"candidates": ["ema", "swa"], "finalists": adopted, "adopted": adopted, "version": None}
        runs = {"total": 12.0, "adoptions": 2 * len(adopted)}
        return {"cycle": name, **tried, "quality": quality, "confidence": 0.95, "runs": runs}

    first = cycle("one", ["ema"], [0.10, 0.12], [0.05, 0.07])
    second = cycle("two", [], [0.05, 0.07], [0.05, 0.07])
    result = Result("synthetic")
    evaluate([first, second], bayes, result)
    for row in result.results:
        assert [row[key] for key in ("before", "one", "two")] == pytest.approx([0.11, 0.06, 0.06])
    means = result.extra["mean_distance"]
    assert [mean["adopted"] for mean in means] == [[], ["ema"], []]
    assert means[1]["distance"] == pytest.approx(0.06)
    assert means[1]["low"] < 0.06 < means[1]["high"]
    assert [(target["id"], target["met"]) for target in result.targets] == [("closer-one", True), ("closer-two", False)]
    assert [each["gain"] > 0 for each in result.extra["cycles"]] == [True, False]
    text = "\n".join(synthetic({"targets": result.targets, "results": result.results, **result.extra}))
    for line in ("| one | ema, swa | ema | +", "| all | 0.1100 [", "| a | 0.1100 | 0.0600 | 0.0600 |"):
        assert line in text
    other = {**first["quality"]["a"]["after"], "test": {"tasks": {"click": 1}, "runs": []}}
    with pytest.raises(ReportError, match=r"scenario a: found \['click'\]; expected .*\['buy', 'click'\]"):
        evaluate([{**first, "quality": {"a": {"before": other, "after": other}}}], bayes, Result("synthetic"))


def test_the_cycles_are_of_generated_scenarios_and_start_where_the_one_before_ended(tmp_path: Path) -> None:
    generate(tmp_path / "build" / "synthetic", 3, 2000, 1)
    folder = tmp_path / "examples" / "synthetic"
    shutil.copytree(FOLDER, folder)
    for number in range(1, 5):
        cycle = load_cycle(folder / f"cycle-{number}.yaml")
        assert len(cycle.scenarios) == 3
        assert all(load_scenario(path).files("test") for path in cycle.scenarios.values())
        place = tmp_path / "build" / "cycles" / cycle.name
        place.mkdir(parents=True)
        shutil.copy(cycle.template.path, place / "template.yaml")
