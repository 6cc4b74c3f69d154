"""A behaviour sequence from the YAML to the served function: what is attended to, and where each value is looked up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from smt.kernels.transform import FeatureTransform, RawColumn, StringValues
from smt.training.components.din import Din, DinConfig
from smt.training.config import ConfigError
from smt.training.features import CategoricalFeature, FeatureSpec
from smt.training.fit import raw_columns
from smt.training.model import serving_function
from smt.training.reading import iter_batches
from smt.training.scenario import Scenario
from smt.training.trainer import TrainResult, train
from tests.training.support import COUNTRIES, make_scenario, synthetic

COUNTRY = "  - {inputs: [country], type: string, encode: vocabulary}\n"
SEQUENCE = COUNTRY.replace("vocabulary}", "vocabulary, slot: 1, sequence: {input: seen, slot: 6, length: 4}}")
HEADS = "  heads: {type: tower, tasks: 3, units: [4]}\n"
DIN = HEADS + "  sequence: {type: din, target: 1, first: 6, length: 4, units: [16]}\n"


def rows(count: int, seed: int) -> dict[str, Any]:
    """A click is a country that was seen before, among the last four."""
    columns = synthetic(count, seed)
    rng = np.random.default_rng(seed)
    seen = [[COUNTRIES[i] for i in rng.integers(0, len(COUNTRIES), rng.integers(0, 6))] for _ in range(count)]
    clicked = [country in row[:4] for country, row in zip(columns["country"].to_pylist(), seen, strict=True)]
    return columns | {
        "seen": pa.array(seen, pa.list_(pa.string())),
        "clicked": pa.array(np.array(clicked, dtype=np.int8)),
    }


def with_sequence(folder: Path, template: dict[str, str], scenario: dict[str, str] | None = None) -> Scenario:
    sequence = {COUNTRY: SEQUENCE} if scenario is None else scenario
    slots = {"categorical: 6": "categorical: 10"}
    return make_scenario(folder, sequence, slots | template, train=rows(3000, 1), valid=rows(801, 2))


def test_attention_is_the_papers() -> None:
    torch.manual_seed(1)
    config = DinConfig(type="din", target=0, first=2, length=3, units=[5])
    module = Din(4, config).double()
    vectors = torch.randn(2, 6, 4, dtype=torch.float64)
    vectors[1, 3:5] = 0  # a sequence of one
    found = module(vectors)
    assert found.shape == (2, 4, 4)
    torch.testing.assert_close(found[:, :3], vectors[:, [0, 1, 5]])
    for row, t in enumerate(vectors[:, 0]):
        total = torch.zeros(4, dtype=torch.float64)
        for e in vectors[row, 2:5] if row == 0 else vectors[row, 2:3]:
            hidden = torch.relu(module.weigh.weight[0] @ torch.cat([e, t, e - t, e * t]) + module.weigh.bias[0])
            total += (module.weigh.weight[1] @ hidden + module.weigh.bias[1]) * e
        torch.testing.assert_close(found[row, 3], total)
    assert module.flops() == 3 * (2 * (16 * 5 + 5) + 2 * 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, TrainResult]:
    scenario = with_sequence(tmp_path_factory.mktemp("sequence"), {HEADS: DIN, "epochs: 3": "epochs: 6"})
    return scenario, train(scenario, scenario.path.parent / "run", progress=False)


def test_it_learns_what_pooling_cannot(trained: tuple[Scenario, TrainResult], tmp_path: Path) -> None:
    without = with_sequence(tmp_path, {"epochs: 3": "epochs: 6"}, {})
    plain = train(without, tmp_path / "run", progress=False)
    ne, plain_ne = trained[1].metrics["click"].ne, plain.metrics["click"].ne
    assert ne is not None
    assert plain_ne is not None
    assert ne < 0.6 < 0.9 < plain_ne


def test_served_rows_are_those_of_training(trained: tuple[Scenario, TrainResult]) -> None:
    """What the transformation makes of raw rows, in the function that is served, gives the predictions of training."""
    scenario, result = trained
    spec = FeatureSpec.load(result.features)
    weights = load_file(result.weights)
    function, transform = serving_function(scenario.template), FeatureTransform(spec.to_json())
    found = []
    for raw in iter_batches(scenario, "valid"):
        batch = transform.apply(raw.rows, list(raw_columns(scenario, raw).values()))
        features = (batch.dense, batch.ids, batch.offsets, batch.bag_index)
        found.append(function(weights["slab"], weights["table"], *map(torch.from_numpy, features)))
    expected = np.load(result.run_dir / "export" / "predictions.npy")
    np.testing.assert_allclose(torch.cat(found)[:, : expected.shape[1]].detach().numpy(), expected, atol=2e-6)


def test_one_table_and_vocabulary_for_both_inputs(trained: tuple[Scenario, TrainResult], tmp_path: Path) -> None:
    spec = FeatureSpec.load(trained[1].features)
    [feature] = [each for each in spec.categorical if each.sequence is not None]
    assert isinstance(feature, CategoricalFeature)
    assert (feature.name, feature.slot, feature.rows) == ("country", 1, 2 + len(COUNTRIES))
    assert spec.table_rows == sum(each.rows for each in spec.categorical)
    assert [(key, slot) for key, of, slot in spec.lookups if of is feature] == [
        ("country", 1),
        *((f"country[{i}]", 6 + i) for i in range(4)),
    ]
    # A value of the sequence alone has a row as well.
    columns = rows(500, 3)
    columns["seen"] = pa.array([["only here"], *columns["seen"].to_pylist()[1:]], pa.list_(pa.string()))
    scenario = make_scenario(
        tmp_path, {COUNTRY: SEQUENCE}, {"categorical: 6": "categorical: 10"}, train=columns, valid=rows(200, 2)
    )
    result = train(scenario, tmp_path / "run", epochs=1, progress=False)
    [feature] = [each for each in FeatureSpec.load(result.features).categorical if each.sequence is not None]
    assert "only here" in feature.encode.values


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("slot: 6, length: 4", "slot: 7, length: 4", "at most 6: 4 of the template's 10 categorical slots"),
        ("slot: 6, length: 4", "slot: 0, length: 4", "slot 1 is taken, which feature 'country' has"),
        ("input: seen", "input: genres", ""),
        ("input: seen", "input: clicked", "a label leak: 'clicked'"),
        ("length: 4", "length: 0", "features[3].sequence.length"),
    ],
)
def test_mistakes_are_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    make = {COUNTRY: SEQUENCE.replace(old, new)}
    if not message:  # an input that another feature reads as well
        assert "genres" in with_sequence(tmp_path, {}, make).inputs
        return
    with pytest.raises(ConfigError) as caught:
        with_sequence(tmp_path, {}, make)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("first: 6", "first: 7", "at most 6: 4 of the template's 10 slots"),
        ("target: 1", "target: 7", "not of the sequence"),
    ],
)
def test_a_template_names_its_own_slots(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        with_sequence(tmp_path, {HEADS: DIN.replace(old, new)})


def test_a_sequence_that_is_not_sent_is_an_empty_one(trained: tuple[Scenario, TrainResult]) -> None:
    scenario, result = trained
    spec = FeatureSpec.load(result.features).to_json()
    [feature] = [each for each in spec["features"] if "sequence" in each]
    feature["sequence"]["required"] = False
    transform = FeatureTransform(spec)
    [seen] = [each for each in transform.inputs if each.name == "seen"]
    assert (seen.type, seen.required, seen.multi_valued) == ("string", False, True)
    raw = next(iter(iter_batches(scenario, "valid")))
    columns = raw_columns(scenario, raw)
    others = [column for name, column in columns.items() if name != "seen"]
    empty = RawColumn("seen", StringValues.from_strings([]), np.zeros(raw.rows, np.int32))
    weights = load_file(result.weights)

    def scores(*sent: RawColumn) -> torch.Tensor:
        batch = transform.apply(raw.rows, [*others, *sent])
        features = map(torch.from_numpy, (batch.dense, batch.ids, batch.offsets, batch.bag_index))
        return serving_function(scenario.template)(weights["slab"], weights["table"], *features)

    torch.testing.assert_close(scores(), scores(empty), rtol=0, atol=0)
    assert not torch.allclose(scores(), scores(columns["seen"]))
