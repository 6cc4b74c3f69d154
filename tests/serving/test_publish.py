"""The publish gate: what passes, what is refused and with which figures, what the manifest records."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from smt.kernels.cpu import Precision
from smt.kernels.transform import FeatureTransform, columns_from_arrow
from smt.serving.binary import BinaryRunner
from smt.serving.compile import BinaryInfo, compile_template
from smt.serving.gate import MAX_NE_CHANGE, compare
from smt.serving.manifest import WEIGHTS_FILE
from smt.serving.publish import PublishError, publish_run
from smt.serving.registry import Registry, RegistryError
from smt.serving.snapshot import SnapshotError, publish_weights, read_weights
from smt.training.config import ConfigError
from smt.training.metrics import task_metrics
from smt.training.template import Template
from tests.serving.data import shop_rows
from tests.serving.support import FEED

Shop = tuple[Path, Path]
Compiled = tuple[Path, BinaryInfo, list[str]]


@pytest.fixture
def run(shop: Shop, tmp_path: Path) -> Path:
    """The trained run, to be spoilt."""
    return Path(shutil.copytree(shop[1], tmp_path / "run"))


def edit_result(run: Path, **changes: Any) -> None:
    path = run / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(run: Path, **changes: Any) -> None:
    path = run / "export" / "weights.safetensors"
    tensors = load_file(path)
    save_file({name: changes.get(name, lambda t: t)(tensor).contiguous() for name, tensor in tensors.items()}, path)


def test_a_good_run_is_published(registry_folder: Path, shop: Shop) -> None:
    registry = Registry(registry_folder)
    seen: list[int] = []
    published = publish_run(shop[1], registry, progress=seen.append)
    manifest = published.manifest
    assert registry.verify("shop") == manifest
    assert manifest.task_names() == ["bought", "returned"]
    assert manifest.lineage["techniques"] == []
    assert set(manifest.metrics) == {
        "train_side", "serving", "ne_change", "calibration_change", "precision", "drift", "gate"
    }  # fmt: skip
    assert manifest.metrics["gate"]["problems"] == []
    assert manifest.metrics["drift"]["why_not"] == "nothing was published before"
    assert manifest.metrics["precision"] == "bf16"
    for task, change in manifest.metrics["ne_change"].items():
        assert change <= MAX_NE_CHANGE["bf16"]
        trained, served = manifest.metrics["train_side"][task], manifest.metrics["serving"][task]
        assert trained["rows"] == served["rows"] <= sum(seen)
        assert abs(trained["ne"] - served["ne"]) == pytest.approx(change * trained["ne"])
    # The model has learnt something, so equal figures mean something.
    assert manifest.metrics["serving"]["bought"]["auc"] > 0.8
    assert {"epoch", "data", "scenario_sha256", "template_sha256", "created_by", "parent", "created"} <= set(
        manifest.lineage
    )
    again = publish_run(shop[1], registry).manifest
    assert again.version > manifest.version
    assert again.lineage["parent"] == manifest.version
    assert again.files == manifest.files


def test_a_snapshot_round_trip(registry_folder: Path, shop: Shop, runner: BinaryRunner) -> None:
    """What is read back scores new rows as the run's own files do."""
    manifest = publish_run(shop[1], Registry(registry_folder)).manifest
    read = Registry(registry_folder).verify("shop")
    assert read == manifest
    weights = read_weights(registry_folder / "scenarios/shop/versions" / manifest.version / WEIGHTS_FILE)
    original = load_file(shop[1] / "export" / "weights.safetensors")
    assert torch.equal(weights.slab, original["slab"])
    assert torch.equal(weights.table, original["table"])
    features = json.loads((shop[1] / "features.json").read_text())
    assert read.features == features
    transform = FeatureTransform(read.features)
    rows = shop_rows(50, 9)
    batch = transform.apply(50, columns_from_arrow(rows, [i.name for i in transform.inputs], transform.inputs))
    assert runner.score(weights, batch).shape == (50, 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tensor", ["slab", "table"])
def test_weights_that_are_not_finite_are_refused(registry_folder: Path, run: Path, tensor: str, bad: float) -> None:
    def spoil(weights: torch.Tensor) -> torch.Tensor:
        weights.view(-1)[3] = bad
        return weights

    edit_weights(run, **{tensor: spoil})
    with pytest.raises(SnapshotError, match=rf"{tensor}: 1 of \d+ weights are NaN or Inf"):
        publish_run(run, Registry(registry_folder))
    assert Registry(registry_folder).scenarios() == []


def test_a_change_of_quality_is_refused_with_the_figures(registry_folder: Path, run: Path) -> None:
    edit_weights(run, slab=lambda weights: weights * 1.02)
    with pytest.raises(PublishError) as failure:
        publish_run(run, Registry(registry_folder))
    trained = json.loads((run / "result.json").read_text())["metrics"]["bought"]["ne"]
    assert f"task 'bought': NE {trained:.6f} in training, " in str(failure.value)
    assert "at most 0.0001 is published" in str(failure.value)
    assert Registry(registry_folder).scenarios() == []


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 1e-4), ("int8", 5e-4)])
def test_the_gate_is_as_narrow_as_it_says(precision: Precision, bound: float) -> None:
    labels = np.array([0.0, 1.0, 0.0, 1.0, np.nan])
    trained = {"t": task_metrics(labels, np.array([0.2, 0.7, 0.3, 0.6, 0.5]))}
    assert trained["t"].ne is not None

    def changed(by: float) -> list[str]:
        assert trained["t"].ne is not None
        return compare(trained, {"t": replace(trained["t"], ne=trained["t"].ne * (1 + by))}, precision).problems()

    assert changed(0.0) == changed(0.9 * bound) == changed(-0.9 * bound) == []
    [refused] = changed(1.1 * bound)
    assert f"relative change {1.1 * bound:.2e}; at most {bound:g} is published from {precision}" in refused
    assert changed(-1.1 * bound)
    assert changed(float("nan"))
    assert (
        "training saw 4 labelled rows, 2 positive; here are 5"
        in compare(trained, {"t": replace(trained["t"], rows=5)}, precision).problems()[0]
    )
    undefined = {"t": replace(trained["t"], ne=None)}
    assert compare(undefined, undefined, precision).problems() == []
    assert compare(trained, undefined, precision).problems()


def test_the_gate_of_an_int8_binary_is_five_times_as_wide(template: Template, run: Path, tmp_path: Path) -> None:
    """The bound follows the binary that scores: the same run, with training's NE moved by more and more."""
    registry = Registry(tmp_path / "registry")
    compile_template(template, registry, precision="int8")
    published = publish_run(run, registry)
    assert published.manifest.metrics["precision"] == "int8"
    assert max(change or 0 for change in published.gate.ne_change.values()) > 0  # int8 does round
    served = {task: metrics.to_json() for task, metrics in published.gate.served.items()}

    def publish_with(change: float) -> None:
        edit_result(
            run, metrics={task: {**figures, "ne": figures["ne"] / (1 + change)} for task, figures in served.items()}
        )
        publish_run(run, registry)

    publish_with(4.9e-4)
    with pytest.raises(PublishError, match=r"relative change 5\.10e-04; at most 0\.0005 is published from int8"):
        publish_with(5.1e-4)


def test_validation_rows_that_changed_are_noticed(registry_folder: Path, shop: Shop, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(shop[0].parent, tmp_path / "moved"))
    pq.write_table(shop_rows(500, 2), moved / "valid.parquet")
    with pytest.raises(PublishError, match=r"task 'bought': training saw \d+ labelled rows"):
        publish_run(moved / "run", Registry(registry_folder), scenario_path=moved / "shop.yaml")


def test_a_moved_scenario_has_to_be_named(registry_folder: Path, shop: Shop, run: Path) -> None:
    edit_result(run, scenario_path="/nowhere/shop.yaml")
    with pytest.raises(PublishError, match=r"its scenario is not at /nowhere/shop\.yaml any more; name it with --scen"):
        publish_run(run, Registry(registry_folder))
    assert publish_run(run, Registry(registry_folder), scenario_path=shop[0]).manifest.scenario == "shop"


@pytest.mark.parametrize("file", ["shop.yaml", "template.yaml"])
def test_a_changed_yaml_is_refused(registry_folder: Path, shop: Shop, tmp_path: Path, file: str) -> None:
    moved = Path(shutil.copytree(shop[0].parent, tmp_path / "moved"))
    with (moved / file).open("a") as yaml:
        yaml.write("# edited\n")
    with pytest.raises(PublishError, match=rf"{file}: the (scenario|template) has changed since .* train again"):
        publish_run(moved / "run", Registry(registry_folder), scenario_path=moved / "shop.yaml")


def test_what_is_missing_is_named(registry_folder: Path, run: Path, shop: Shop, tmp_path: Path) -> None:
    registry = Registry(registry_folder)
    with pytest.raises(PublishError, match=r"nowhere/result\.json: no such file"):
        publish_run(tmp_path / "nowhere", registry)
    with pytest.raises(RegistryError, match=r"no binary of template 'small'.*`smt compile"):
        publish_run(run, Registry(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"no such file"):
        publish_run(run, registry, scenario_path=tmp_path / "nowhere.yaml")
    (run / "features.json").write_text('{"format": 1}')
    with pytest.raises(PublishError, match=r"features\.json: "):
        publish_run(run, registry)
    (run / "features.json").unlink()
    with pytest.raises(PublishError, match=r"features\.json: "):
        publish_run(run, registry)
    (run / "export" / "weights.safetensors").write_bytes(b"damaged")
    shutil.copy(shop[1] / "features.json", run)
    with pytest.raises(SnapshotError, match=r"weights\.safetensors: "):
        publish_run(run, registry)
    (run / "result.json").write_text("{}")
    with pytest.raises(PublishError, match=r"result\.json: "):
        publish_run(run, registry)
    assert registry.scenarios() == []


def test_what_does_not_fit_the_template_is_refused(registry_folder: Path, template: Template) -> None:
    registry, weights = Registry(registry_folder), FEED.weights(template, 1)

    def publish(**changes: Any) -> None:
        fields = {"tasks": FEED.tasks, "features": FEED.features, "weights": weights, "scenario": "feed", **changes}
        publish_weights(registry, template, **fields)

    short = replace(weights, slab=weights.slab[:-16])
    doubles = replace(weights, table=weights.table.double())
    for changes, message in (
        ({"weights": short}, r"slab: found torch.float32 \[\d+\]; template small .* need torch.float32 \[\d+\]"),
        ({"weights": doubles}, r"table: found torch.float64"),
        ({"tasks": ["a", "b", "c", "d"]}, r"tasks: found \['a', 'b', 'c', 'd'\]; .* 1 to 3 different tasks"),
        ({"tasks": []}, r"tasks: found \[\]"),
        ({"tasks": ["a", "a"]}, r"tasks: found \['a', 'a'\]"),
        ({"features": {**FEED.features, "dense_slots": 9}}, r"features\.dense_slots: found 9; template small has 5"),
        ({"features": {"format": 1}}, r"features: "),
        ({"scenario": "Feed!"}, r"scenario 'Feed!'"),
    ):
        with pytest.raises(RegistryError, match=message):
            publish(**changes)
    assert registry.scenarios() == []
    publish()
    assert registry.scenarios() == ["feed"]
