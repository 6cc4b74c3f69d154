"""The publish gate's comparison with the version being served: figures, limits, overriding, what cannot be compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from smt.serving.drift import drift
from smt.serving.events import read_events
from smt.serving.gate import MAX_CALIBRATION_CHANGE, Comparison, Limits, compare
from smt.serving.incumbent import DriftSample
from smt.serving.labels import read_label
from smt.serving.publish import PublishError, publish_run
from smt.serving.registry import Registry
from smt.training.metrics import task_metrics
from tests.serving.test_cli import invoke, reported

Shop = tuple[Path, Path]


@pytest.fixture
def registry(registry_folder: Path) -> Registry:
    return Registry(registry_folder)


@pytest.fixture
def moved(shop: Shop, tmp_path: Path) -> Path:
    """The trained run with other weights, which score otherwise than training says and than what is served."""
    run = Path(shutil.copytree(shop[1], tmp_path / "run"))
    path = run / "export" / "weights.safetensors"
    tensors = load_file(path)
    tensors["slab"] = tensors["slab"] * 3
    save_file(tensors, path)
    return run


probabilities = st.lists(st.floats(2**-10, 1 - 2**-10, width=32), min_size=1, max_size=60).map(
    lambda values: np.array(values, dtype=np.float32)
)


@given(probabilities)
def test_no_change_is_no_drift(old: Any) -> None:
    found = drift(old, old)
    assert (found.mean_abs_diff, found.mean_change, found.psi, found.ks) == (0, 0, 0, 0)


@given(probabilities, st.randoms(use_true_random=False))
def test_drift_figures(old: Any, random: Any) -> None:
    new = np.array([random.random() for _ in old], dtype=np.float32)
    found = drift(old, new)
    assert found.mean_abs_diff == pytest.approx(np.abs(new.astype(float) - old).mean())
    assert found.mean_change == pytest.approx(abs(new.astype(float).mean() / old.astype(float).mean() - 1), abs=1e-9)
    assert found.relative == pytest.approx(found.mean_abs_diff / old.astype(float).mean())
    assert found.psi >= 0
    # The largest difference of the distribution functions, by counting at every value.
    values = np.concatenate([old, new])
    assert found.ks == pytest.approx(max(abs((old <= v).mean() - (new <= v).mean()) for v in values))


def test_the_stability_index_is_that_of_the_books() -> None:
    """Half of the rows move from the lower half of the scores to the upper one."""
    old = np.repeat(np.linspace(0.05, 0.95, 10), 10).astype(np.float32)
    new = old.copy()
    new[:25] += np.float32(0.5)
    shares = np.array([0.0, 0.0, 0.05, 0.1, 0.1, 0.2, 0.2, 0.15, 0.1, 0.1]).clip(1e-4)
    assert drift(old, new).psi == pytest.approx(((shares - 0.1) * np.log(shares / 0.1)).sum(), rel=1e-6)


def test_calibration_is_compared_with_training() -> None:
    labels = np.array([0.0, 1.0, 0.0, 1.0])
    trained = {"t": task_metrics(labels, np.array([0.2, 0.7, 0.3, 0.6]))}
    limit = MAX_CALIBRATION_CHANGE["bf16"]
    for change, refused in ((0.9 * limit, False), (1.1 * limit, True), (-1.1 * limit, True), (float("nan"), True)):
        before = trained["t"].calibration
        assert before is not None
        served = {"t": task_metrics(labels, np.array([0.2, 0.7, 0.3, 0.6]))}
        object.__setattr__(served["t"], "calibration", before * (1 + change))
        problems = compare(trained, served, "bf16").problems()
        assert bool(problems) == refused
        if refused and change == change:
            assert f"calibration {before:.6f} in training" in problems[0]
            assert f"relative change {abs(change):.2e}; at most {limit:g} is published from bf16" in problems[0]
        assert compare(trained, served, "bf16", Limits(calibration_change=1.0)).problems() == [] or change != change


@pytest.mark.parametrize(
    ("limits", "option"),
    [
        (Limits(drift=0.1, mean_change=9.0), "--max-drift"),
        (Limits(drift=9.0, mean_change=0.1), "--max-mean-change"),
        (Limits(drift=9.0, mean_change=9.0, psi=0.2), "--max-psi"),
    ],
)
def test_each_limit_of_drift_refuses_by_itself(limits: Limits, option: str) -> None:
    old = np.linspace(0.1, 0.3, 50).astype(np.float32)
    comparison = Comparison("20260101-000000-000-00000000", {"t": drift(old, old * np.float32(1.5))})
    [problem] = compare({}, {}, "bf16", limits, comparison).problems()
    assert "against 20260101-000000-000-00000000 on 50 rows (mean 0.2 served, 0.3 now); at most 0." in problem
    assert problem.endswith(f"{option} moves the limit, if it is meant")
    assert compare({}, {}, "bf16", Limits(drift=0.6, mean_change=0.6), comparison).problems() == []


def retrain(run: Path, figures: dict[str, Any]) -> None:
    """Makes the run's own figures those that the gate measured, so that drift alone is in question."""
    path = run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "metrics": figures}))


def test_predictions_far_from_those_served_are_refused_unless_forced(
    registry: Registry, shop: Shop, moved: Path
) -> None:
    first = publish_run(shop[1], registry).manifest
    wide = Limits(ne_change=9.0, calibration_change=9.0, drift=99.0, mean_change=99.0)
    measured = publish_run(moved, registry, limits=wide, label="shadow").manifest
    retrain(moved, measured.metrics["serving"])
    against = measured.metrics["drift"]
    assert against["version"] == first.version
    assert against["tasks"]["bought"]["rows"] == json.loads((moved / "result.json").read_text())["rows"]["valid"]
    relative = max(task["relative"] for task in against["tasks"].values())
    assert relative > 0.02
    limits = Limits(drift=relative / 2, mean_change=99.0)
    versions = registry.versions("shop")
    with pytest.raises(PublishError) as refused:
        publish_run(moved, registry, limits=limits)
    assert f"predictions moved by a share of {relative:.3g} against {first.version}" in str(refused.value)
    assert "`--force REASON` publishes it all the same" in str(refused.value)
    assert registry.versions("shop") == versions
    forced = publish_run(moved, registry, limits=limits, force="a new label").manifest
    assert registry.current("shop") == forced.version
    assert forced.metrics["gate"]["forced"] == "a new label"
    assert forced.metrics["gate"]["limits"]["drift"] == limits.drift
    assert len(forced.metrics["gate"]["problems"]) >= 1
    assert read_events(registry, "shop")[-1].forced == "a new label"
    again = publish_run(moved, registry, force="not needed").manifest  # its predictions are those being served
    assert again.metrics["gate"]["forced"] is None
    assert read_events(registry, "shop")[-1].forced is None


def test_publishing_as_canary_leaves_current_alone(registry: Registry, shop: Shop) -> None:
    at = ("--registry", registry.root)
    first = reported("publish", shop[1], *at)["version"]
    second = reported("publish", shop[1], "--label", "canary", "--percent", "7.5", *at)
    assert second["label"] == "canary"
    assert registry.current("shop") == first == second["parent"]
    label = read_label(registry, "shop", "canary")
    assert label
    assert (label.version, label.percent) == (second["version"], 7.5)
    shown = invoke("publish", shop[1], "--label", "shadow", *at)
    assert "published and shadow" in shown.stderr
    assert f"Against {first}" in shown.stdout
    assert registry.current("shop") == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "best"], "expected stable, canary or shadow"),
        (["--percent", "5"], "needs --label canary or shadow"),
        (["--force", " "], "needs the reason"),
        (["--label", "canary", "--percent", "0"], "0 percent; expected more than 0"),
    ],
)
def test_wrong_options(registry: Registry, shop: Shop, arguments: list[str], message: str) -> None:
    refused = invoke("publish", shop[1], "--registry", registry.root, *arguments)
    assert refused.exit_code in (1, 2)
    assert message in " ".join(refused.stderr.split())
    assert registry.versions("shop") == []


def test_what_cannot_be_compared_is_said_and_published(registry: Registry, shop: Shop) -> None:
    """Else a damaged version could not be replaced."""
    first = publish_run(shop[1], registry).manifest
    weights = Path(registry.root) / "scenarios/shop/versions" / first.version / "weights.safetensors"
    weights.write_bytes(b"bad")
    second = publish_run(shop[1], registry).manifest
    assert "weights.safetensors: 3 bytes" in second.metrics["drift"]["why_not"]
    (Path(registry.root) / "scenarios/shop/current").write_text("zz")
    third = publish_run(shop[1], registry).manifest
    assert "found 'zz'; expected a version" in third.metrics["drift"]["why_not"]
    assert registry.current("shop") == third.version


def test_a_sample_is_spread_evenly(registry: Registry, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third row, over batches of any size."""
    rows = np.arange(1000)
    seen: list[int] = []

    class Counting:
        manifest = None

        def score(self, columns: pa.RecordBatch) -> Any:
            seen.extend(columns.column(0).to_pylist())
            return np.zeros((columns.num_rows, 1), np.float32)

    monkeypatch.setattr("smt.serving.incumbent.SAMPLE_ROWS", 333)
    monkeypatch.setattr("smt.serving.incumbent.Incumbent.load", lambda *arguments: Counting())
    sample = DriftSample(registry, "shop", "cpu", None, 1000)  # type: ignore[arg-type]
    for part in np.split(rows, [1, 2, 3, 50, 51, 400, 404, 997]):
        sample.add(pa.RecordBatch.from_pydict({"row": part}), np.zeros((len(part), 1), np.float32))
    assert seen == list(range(0, 1000, 3))
