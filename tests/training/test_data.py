"""Batches: every row exactly once per epoch, in an order that seed and epoch decide; streamed, kept or sharded."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from smt.training.config import ConfigError
from smt.training.data import Batch, Loader, Shard
from smt.training.fit import fit
from smt.training.prefetch import Prefetch
from smt.training.reading import iter_batches
from smt.training.rows import Rows
from smt.training.scenario import Scenario
from tests.training.support import make_scenario, synthetic

# The row number is a feature, so that a batch tells which rows it holds.
ROW = {"{inputs: [user], type: int, encode: {hash: 50}}": "{inputs: [row], type: int, encode: vocabulary}"}
ROWS = 2345


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return make_scenario(tmp_path_factory.mktemp("data"), ROW, train=ROWS, valid=100)


@pytest.fixture(scope="module")
def values(scenario: Scenario) -> list[int]:
    """Row number by id of the `row` feature."""
    feature = next(feature for feature in fit(scenario).spec.categorical if feature.name == "row")
    return [-1, -1, *feature.encode.values]  # type: ignore[union-attr,list-item]


def loader(scenario: Scenario, *, kept: bool = True, shard: Shard | None = None, shuffle_rows: int = 700) -> Loader:
    spec = fit(scenario).spec
    cache_bytes = 1 << 30 if kept else 0
    result = Loader(scenario, spec, "train", 128, shard=shard, cache_bytes=cache_bytes, shuffle_rows=shuffle_rows)
    assert result.keeps is kept
    return result


def rows_of(batches: Iterator[Batch], values: list[int]) -> list[int]:
    return [values[int(i)] for batch in batches for i in batch.sparse["row"].values()]


@pytest.mark.parametrize("kept", [True, False])
def test_every_row_once_per_epoch_in_a_seeded_order(scenario: Scenario, values: list[int], kept: bool) -> None:
    data = loader(scenario, kept=kept)
    epochs = [rows_of(data.epoch(epoch), values) for epoch in (1, 2)]
    for order in epochs:
        assert sorted(order) == list(range(ROWS))
    assert epochs[0] != epochs[1]
    # Resuming starts at a later epoch: its order does not depend on those before.
    assert rows_of(loader(scenario, kept=kept).epoch(2), values) == epochs[1]
    assert rows_of(data.epoch(None), values) == list(range(ROWS))


@pytest.mark.parametrize("kept", [True, False])
def test_batches_are_full_but_the_last(scenario: Scenario, kept: bool) -> None:
    sizes = [len(batch.labels) for batch in loader(scenario, kept=kept).epoch(1)]
    assert sizes == [128] * (ROWS // 128) + [ROWS % 128]


def test_streaming_shuffles_across_row_groups(scenario: Scenario, values: list[int]) -> None:
    order = rows_of(loader(scenario, kept=False, shuffle_rows=2000).epoch(1), values)
    groups = {row // 1000 for row in order[:256]}
    assert len(groups) >= 2
    assert np.abs(np.diff(order)).mean() > 100


@pytest.mark.parametrize("kept", [True, False])
def test_processes_share_the_rows(scenario: Scenario, values: list[int], kept: bool) -> None:
    shards = [rows_of(loader(scenario, kept=kept, shard=Shard(r, 3)).epoch(1), values) for r in range(3)]
    assert sorted(row for shard in shards for row in shard) == list(range(ROWS))
    assert {len(shard) for shard in shards} <= {ROWS // 3, ROWS // 3 + 1}


@pytest.mark.parametrize("kept", [True, False])
def test_a_share_is_the_same_rows_whatever_the_order(scenario: Scenario, values: list[int], kept: bool) -> None:
    def with_share(share: float, seed: int = 0) -> Scenario:
        recipe = scenario.template.recipe.model_copy(update={"seed": seed})
        template = scenario.template.model_copy(update={"recipe": recipe})
        data = scenario.data.model_copy(update={"share": share})
        return dataclasses.replace(scenario, data=data, template=template)

    def drawn(part: Scenario, epoch: int = 1) -> list[int]:
        found = Loader(part, fit(scenario).spec, "train", 128, cache_bytes=1 << 30 if kept else 0, shuffle_rows=700)
        return rows_of(found.epoch(epoch), values)

    quarter = sorted(drawn(with_share(0.25)))
    assert len(set(quarter)) == len(quarter)
    assert abs(len(quarter) / ROWS - 0.25) < 4 * (0.25 * 0.75 / ROWS) ** 0.5
    assert sorted(drawn(with_share(0.25, seed=9), epoch=2)) == quarter
    assert set(quarter) < set(drawn(with_share(0.5)))
    small = [batch.rows for batch in iter_batches(with_share(0.25), "train", batch_size=77)]
    assert sum(small) == len(quarter) == fit(with_share(0.25)).rows
    assert sum(batch.rows for batch in iter_batches(with_share(0.25), "valid")) == sum(
        batch.rows for batch in iter_batches(scenario, "valid")
    )


def test_batches_hold_the_transformed_values(scenario: Scenario, values: list[int]) -> None:
    """Lists, ids, dense values and labels of every row, against the raw data."""
    data = loader(scenario)
    spec = fit(scenario).spec
    genres = next(feature for feature in spec.categorical if feature.name == "genres")
    raw = synthetic(ROWS, 1)
    lists, clicked, bought = (raw[name].to_pylist() for name in ("genres", "clicked", "bought"))
    for batch in data.epoch(3):
        numbers = rows_of(iter([batch]), values)
        jagged = batch.sparse["genres"]
        found = [part.tolist() for part in torch.split(jagged.values(), jagged.lengths().tolist())]
        expected = [[2 + genres.encode.values.index(name) for name in lists[row][:3]] for row in numbers]  # type: ignore[union-attr,arg-type]
        assert found == expected
        assert batch.sparse["country"].lengths().tolist() == [1] * len(numbers)
        assert batch.labels[:, 0].tolist() == [clicked[row] for row in numbers]
        known = [bought[row] for row in numbers]
        assert torch.isnan(batch.labels[:, 1]).tolist() == [value is None for value in known]
        assert batch.dense.shape == (len(numbers), 4)


def test_concatenated_and_selected_rows_are_the_same_rows(scenario: Scenario) -> None:
    data = loader(scenario)
    parts = list(data._rows(None))
    whole = Rows.concat(parts)
    assert len(whole) == ROWS
    index = torch.randperm(ROWS)[:300]
    twice = Rows.concat([whole.select(index[:100]), whole.select(index[100:])])
    a, b = whole.take(index), twice.take(torch.arange(300))
    assert torch.equal(a.sparse.values(), b.sparse.values())
    assert torch.equal(a.sparse.lengths(), b.sparse.lengths())
    assert torch.equal(a.dense, b.dense)
    assert torch.equal(a.labels.nan_to_num(-1), b.labels.nan_to_num(-1))


def test_padding_has_no_value_and_no_label(scenario: Scenario) -> None:
    batch = loader(scenario).padding()
    assert torch.isnan(batch.labels).all()
    assert (batch.sparse.values() == 0).all()
    assert batch.sparse["genres"].values().numel() == 0


def test_filter_and_labels(tmp_path: Path) -> None:
    changes = {"valid.parquet": "valid.parquet\n  filter: country == 'NL' and age is not None"}
    scenario = make_scenario(tmp_path, changes, train=500)
    raw = synthetic(500, 1)
    keep = [
        c == "NL" and a is not None for c, a in zip(raw["country"].to_pylist(), raw["age"].to_pylist(), strict=True)
    ]
    batches = list(iter_batches(scenario, "train", batch_size=64))
    assert sum(batch.rows for batch in batches) == sum(keep)
    assert all(0 < batch.rows <= 64 for batch in batches)
    labels = np.concatenate([batch.labels for batch in batches])
    expected = [x for x, kept in zip(raw["clicked"].to_pylist(), keep, strict=True) if kept]
    assert labels[:, 0].tolist() == expected
    assert batches[0].columns.schema.names == ["price", "age", "country", "user", "genres"]


def soft(rows: int, seed: int) -> dict[str, Any]:
    """Rows whose first label is a probability."""
    columns = synthetic(rows, seed)
    chances = np.random.default_rng(seed).beta(0.5, 1.5, rows).astype(np.float32)
    return {**columns, "clicked": pa.array(chances)}


def test_training_takes_probabilities_as_labels(tmp_path: Path) -> None:
    changes = {"label: clicked == 1": "label: clicked"}
    scenario = make_scenario(tmp_path, changes, train=soft(500, 1), valid=200)
    labels = np.concatenate([batch.labels for batch in iter_batches(scenario, "train")])
    assert labels[:, 0].tolist() == soft(500, 1)["clicked"].to_pylist()
    fitted = fit(scenario)
    assert fitted.positives[0] == round(float(labels[:, 0].sum(dtype=np.float64)))
    assert 50 < fitted.positives[0] < 250


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_training_takes_no_other_numbers(tmp_path: Path, value: float) -> None:
    columns = soft(100, 1)
    columns["clicked"] = pa.array([value, *columns["clicked"].to_pylist()[1:]], pa.float32())
    scenario = make_scenario(tmp_path, {"label: clicked == 1": "label: clicked"}, train=columns, valid=100)
    with pytest.raises(ConfigError, match=rf"tasks\[0\].label: found the label {value} .*allowed: 0 to 1, or"):
        list(iter_batches(scenario, "train"))


def test_validation_takes_events_alone(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, {"label: clicked == 1": "label: clicked"}, train=100, valid=soft(100, 1))
    with pytest.raises(ConfigError, match=r"the label 0\.\d+ .*allowed: 0 or 1 \(probabilities are for data.train\)"):
        list(iter_batches(scenario, "valid"))


def test_prefetch_gives_items_in_order_and_then_the_error() -> None:
    def source() -> Iterator[int]:
        yield from range(10)
        raise KeyError("broken")

    with Prefetch(source(), depth=3) as items:
        assert [next(items) for _ in range(10)] == list(range(10))
        with pytest.raises(KeyError, match="broken"):
            next(items)


def test_prefetch_is_bounded_and_stops_with_its_block() -> None:
    made: list[int] = []
    waiting = threading.Event()

    def source() -> Iterator[int]:
        for i in range(1000):
            made.append(i)
            if i == 5:
                waiting.set()
            yield i

    before = threading.active_count()
    with Prefetch(source(), depth=4) as items:
        assert next(items) == 0
        assert waiting.wait(10)
        # One is taken, four wait, and the source may hold one more.
        assert len(made) <= 6
    assert threading.active_count() == before
    assert len(made) <= 6


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own here")
def test_prefetch_leaves_the_cores_to_others() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)

    def source() -> Iterator[int]:
        yield os.getpriority(os.PRIO_PROCESS, 0)

    with Prefetch(source()) as items:
        assert list(items) == [min(own + 10, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_prefetch_of_nothing_ends() -> None:
    with Prefetch(iter(()), depth=2) as items:
        assert list(items) == []
