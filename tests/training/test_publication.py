"""Publishing while training: what is published is what training has, exactly, and training is as without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from smt.training.features import FeatureSpec
from smt.training.publication import Every
from smt.training.trainer import TrainResult, train
from tests.training.publishing import Recorder
from tests.training.support import make_scenario

# 400 rows in batches of 16: 25 steps, each of which looks up a part of the tables' rows.
SMALL = {"batch_size: 128": "batch_size: 16"}
STEPS = 25


def published_is_exported(recorder: Recorder, result: TrainResult) -> bool:
    exported = load_file(result.weights)
    return torch.equal(recorder.slab, exported["slab"]) and torch.equal(recorder.table, exported["table"])


def test_deltas_add_up_to_the_weights(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, template=SMALL, train=400, valid=100)
    without = train(scenario, tmp_path / "without", epochs=1, progress=False)
    recorder = Recorder()
    result = train(
        scenario, tmp_path / "with", epochs=1, progress=False, publisher=recorder, publish_every=Every(steps=5)
    )
    assert recorder.steps == [5, 10, 15, 20, 25]
    assert recorder.spec == FeatureSpec.load(result.features)
    assert len(recorder.counts) == 4
    assert all(0 < count < len(recorder.table) for count in recorder.counts)  # what was looked up, not everything
    assert published_is_exported(recorder, result)
    for name, tensor in load_file(without.weights).items():
        assert torch.equal(tensor, load_file(result.weights)[name])


@pytest.mark.parametrize("refused", [{1, 2, 3}, {2, 3, 4, 9, 10}, {24}])
def test_what_was_refused_comes_with_the_next(tmp_path: Path, refused: set[int]) -> None:
    scenario = make_scenario(tmp_path, template=SMALL, train=400, valid=100)
    recorder = Recorder(refused)
    result = train(
        scenario, tmp_path / "run", epochs=1, progress=False, publisher=recorder, publish_every=Every(steps=1)
    )
    assert recorder.steps == list(range(1, STEPS + 1))
    assert len(recorder.counts) == STEPS - len(refused) - 1
    assert published_is_exported(recorder, result)


def test_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes a second a look."""
    scenario = make_scenario(tmp_path, template=SMALL, train=400, valid=100)
    now = iter(range(10_000))
    monkeypatch.setattr("smt.training.publication.time", type("Clock", (), {"monotonic": lambda: float(next(now))}))
    recorder = Recorder()
    train(scenario, tmp_path / "run", epochs=1, progress=False, publisher=recorder, publish_every=Every(seconds=6))
    # Looked at at the beginning, once a step, and once more after each publication.
    assert recorder.steps == [6, 12, 18, 24]


def test_publisher_and_interval_belong_together(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, train=100, valid=50)
    with pytest.raises(ValueError, match="expected both or neither"):
        train(scenario, tmp_path / "run", publisher=Recorder())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500", Every(steps=500)),
        ("30s", Every(seconds=30.0)),
        ("10m", Every(seconds=600.0)),
        ("1h", Every(seconds=3600.0)),
    ],
)
def test_every_is_read(text: str, expected: Every) -> None:
    assert Every.parse(text) == expected


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5m", "m", "5d", "0s", "5 m", "ten"])
def test_every_refuses_what_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="expected steps as in 500, or a time as in 30s, 10m or 1h"):
        Every.parse(text)
