"""Techniques: each trains, resumes to the same weights and exports what the plain template's binary serves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from smt.training import trainer
from smt.training.config import ConfigError
from smt.training.hooks import Hook
from smt.training.model import abi_hash, flops_per_row, slab_layout
from smt.training.scenario import Scenario, load_scenario
from smt.training.techniques.technique import Technique, TechniqueError, registered
from smt.training.template import Template, load_template
from smt.training.trainer import TrainResult, train
from tests.training.support import TEMPLATE, make_scenario

NAMES = sorted(registered())


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    # Of dim 8, so that tables can be narrower.
    folder = tmp_path_factory.mktemp("shop")
    return make_scenario(folder, template={"  dim: 4": "  dim: 8"}, train=600, valid=300)


@pytest.fixture(scope="module")
def plain(scenario: Scenario) -> TrainResult:
    return train(scenario, scenario.path.parent / "plain", epochs=2, progress=False)


@pytest.fixture(scope="module")
def make(plain: TrainResult) -> Callable[[str], Technique]:
    """A technique by name; the plain run is what some of them start or learn from."""
    settings: dict[str, dict[str, Any]] = {
        "distill": {"teachers": [str(plain.run_dir)]},
        "warm_start": {"run": str(plain.run_dir)},
        "embedding_l2": {"strength": 0.1},
        "mba_reg": {"strength": 1.0},
        "ema": {"every": 2, "decay": 0.8},
        "narrow_tables": {"dim": 6},
    }
    return lambda name: registered()[name].model_validate({"name": name, **settings.get(name, {})})


def with_technique(scenario: Scenario, technique: Technique) -> Scenario:
    return dataclasses.replace(scenario, template=technique.apply(scenario.template))


def losses(result: TrainResult) -> list[float]:
    return [record["loss"] for record in trainer_history(result)]


def trainer_history(result: TrainResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_each_trains_resumes_and_is_served_by_the_same_binary_if_it_is_free(
    scenario: Scenario,
    plain: TrainResult,
    make: Callable[[str], Technique],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = with_technique(scenario, make(name))
    whole = train(changed, tmp_path / "whole", epochs=2, progress=False)
    before = trainer._Training._epoch

    def interrupted(self: Any, state: Any, stop: int, extension: bool) -> None:
        if state.epochs_completed == 1:
            raise KeyboardInterrupt
        before(self, state, stop, extension)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(changed, tmp_path / "resumed", epochs=2, progress=False)
    resumed = train(changed, tmp_path / "resumed", epochs=2, resume=True, progress=False)
    assert losses(whole) == losses(resumed)
    exported, again, usual = load_file(whole.weights), load_file(resumed.weights), load_file(plain.weights)
    assert all(torch.equal(exported[part], again[part]) for part in ("slab", "table"))
    assert all(torch.isfinite(exported[part]).all() for part in ("slab", "table"))
    assert not torch.equal(exported["slab"], usual["slab"]), "it changed nothing"
    if make(name).cost == "free":
        assert abi_hash(changed.template) == abi_hash(scenario.template)
        assert slab_layout(changed.template) == slab_layout(scenario.template)
        assert flops_per_row(changed.template) == flops_per_row(scenario.template)
        assert exported["table"].shape == usual["table"].shape


def test_without_techniques_a_run_computes_what_it_did_before_there_were_hooks(
    scenario: Scenario, plain: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss as it was written without hooks, and hooks that override nothing: the same weights, bit for bit."""

    def loss(self: Any, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        labels = batch.labels
        labelled = ~torch.isnan(labels)
        target = torch.where(labelled, labels, 0.0)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[:, : labels.shape[1]], target, reduction="none"
        )
        mean = (entropy * labelled).sum(dim=0) / labelled.sum(dim=0).clamp(min=1)
        return (mean * self.weights).sum()

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Training, "_loss", loss)
        old = train(scenario, tmp_path / "old", epochs=2, progress=False)
    idle = with_technique(scenario, registered()["head_noise"].model_validate({"name": "head_noise"}))
    monkeypatch.setattr(type(idle.template.techniques[0]), "hook", lambda self: Hook())
    same = train(idle, tmp_path / "idle", epochs=2, progress=False)
    for other in (old, same):
        assert losses(other) == losses(plain)
        for part in ("slab", "table"):
            assert torch.equal(load_file(other.weights)[part], load_file(plain.weights)[part])


def test_there_are_enough_of_them_and_each_names_its_source() -> None:
    assert len(NAMES) >= 16
    for kind in registered().values():
        assert kind.cost in ("free", "neutral", "spends")
        assert kind.paper
        assert kind.__doc__
        assert all(other in NAMES for other in kind.conflicts)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("ema", "swa", "technique 'swa' conflicts with 'ema'"),
        ("swa", "ema", "technique 'ema' conflicts with 'swa'"),
        ("meda", "adam_tables", "technique 'adam_tables' conflicts with 'meda'"),
        ("ema", "ema", "technique 'ema' a second time"),
    ],
)
def test_conflicts_name_both(scenario: Scenario, first: str, second: str, message: str) -> None:
    one, two = (registered()[name].model_validate({"name": name}) for name in (first, second))
    with pytest.raises(TechniqueError, match=message):
        two.apply(one.apply(scenario.template))


def loaded(folder: Path, line: str) -> Template:
    (folder / "template.yaml").write_text(f"{TEMPLATE}techniques: {line}\n")
    return load_template(folder / "template.yaml")


def test_one_line_of_yaml_switches_them_on(tmp_path: Path) -> None:
    template = loaded(tmp_path, "[pcgrad, {name: ema, decay: 0.5}, cadam, batch_norm]")
    assert [each.label for each in template.techniques] == ["pcgrad", "ema", "cadam", "batch_norm"]
    assert template.recipe.dense_optimizer.type == "cadam"
    assert template.components.deep.batch_norm  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[emma]", r"techniques\[0\].name: found 'emma' \(did you mean 'ema'\?\); allowed: adam_tables, batch_norm"),
        (
            "[{name: ema, decay: 2}]",
            r"techniques\[0\].decay: found 2; allowed: a number greater than 0 and less",
        ),
        ("[{name: ema, decai: 0.5}]", r"techniques\[0\].decai: found an unknown key \(did you mean 'decay'\?\)"),
        ("[ema, swa]", r"techniques\[1\]: found technique 'swa' conflicts with 'ema'"),
        ("ema", r"techniques: found 'ema'; allowed: a list of names"),
    ],
)
def test_mistakes_in_yaml_are_explained(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        loaded(tmp_path, line)


def test_requirements(tmp_path: Path) -> None:
    text = TEMPLATE.replace("units: [16, 8]}", "units: [16, 8], layer_norm: true}")
    (tmp_path / "template.yaml").write_text(f"{text}techniques: [batch_norm]\n")
    with pytest.raises(ConfigError, match="technique 'batch_norm' needs a deep arch of type mlp without layer_norm"):
        load_template(tmp_path / "template.yaml")
    with pytest.raises(ConfigError, match=r"'narrow_tables' needs a dim below 4, the template's slots\.dim; found 4"):
        loaded(tmp_path, "[{name: narrow_tables, dim: 4}]")


@pytest.mark.parametrize("tables", ["{type: rowwise_adagrad, lr: 0.1}", "{type: adam, lr: 0.01, weight_decay: 0.01}"])
def test_narrow_tables_end_in_zeros_and_train_the_rest(tmp_path: Path, tables: str) -> None:
    changes = {"  dim: 4": "  dim: 8", "{type: rowwise_adagrad, lr: 0.1}": tables}
    scenario = make_scenario(tmp_path, template=changes, train=300, valid=100)
    technique = registered()["narrow_tables"].model_validate({"name": "narrow_tables", "dim": 6})
    runs = [train(with_technique(scenario, technique), tmp_path / f"run{n}", epochs=n, progress=False) for n in (1, 2)]
    early, late = (load_file(run.weights)["table"] for run in runs)
    assert (late[:, 6:] == 0).all()
    assert (late[:, :6].abs().sum(dim=0) > 0).all()
    assert not torch.equal(early, late)


def test_a_teacher_of_other_features_is_refused(plain: TrainResult, tmp_path: Path) -> None:
    other = make_scenario(tmp_path, {"encode: {hash: 50}": "encode: {hash: 60}"}, train=300, valid=100)
    technique = registered()["distill"].model_validate({"name": "distill", "teachers": [str(plain.run_dir)]})
    with pytest.raises(ValueError, match="the teacher reads other features than shop"):
        train(with_technique(other, technique), tmp_path / "run", epochs=1, progress=False)
    assert load_scenario(other.path).template.techniques == []
