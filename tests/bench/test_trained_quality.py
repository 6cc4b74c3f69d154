"""What rounding does to trained models, on a small scenario in place of the census example's."""

from pathlib import Path

import pytest

from bench import census
from bench.peer_build import ArtefactCache
from smt.serving.registry import Registry, RegistryError
from smt.training.trainer import train
from tests.serving.data import write_shop


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_shop(tmp_path)
    monkeypatch.setattr(census, "FOLDER", tmp_path)
    return tmp_path


def test_quality_of_trained_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = census.trained_registry(folder / "registry", ["shop"], epochs=1)
    assert registry.scenarios() == ["shop"]
    trained = registry.snapshot("shop")

    def never(*arguments: object, **settings: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(census, "train", never)
    assert census.trained_registry(folder / "registry", ["shop"], epochs=1).snapshot("shop") == trained
    rows = census.quality_changes(registry, "bf16", ArtefactCache(folder / "cache"))
    assert [(row["task"], row["backend"]) for row in rows] == [("bought", "fused bf16"), ("returned", "fused bf16")]
    for row in rows:
        assert 0 < row["rows"] <= 600
        assert 0 < row["max_abs_dp"] < 2e-2
        assert 0 < row["ne_change"] < 1e-2
        assert row["ne_change"] == pytest.approx(abs(row["ne"] - row["ne_fp64"]) / row["ne_fp64"])
    # Another template: the snapshot is none of its any more.
    template = folder / "template.yaml"
    template.write_text(template.read_text().replace("units: [32, 16]", "units: [16, 16]"))
    with pytest.raises(RegistryError, match=r"the snapshot of shop has ABI .*: train and publish it again"):
        census.quality_changes(registry, "bf16", ArtefactCache(folder / "cache"))
    monkeypatch.setattr(census, "train", train)
    again = census.trained_registry(folder / "registry", ["shop"], epochs=1)
    assert again.snapshot("shop").abi_hash != trained.abi_hash


def test_without_a_snapshot_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no snapshot of the census example's scenarios"):
        census.quality_changes(Registry(tmp_path), "bf16", ArtefactCache(tmp_path))
