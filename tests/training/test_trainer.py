"""Training end to end on synthetic data: quality, determinism, resumption, what is exported."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from smt.kernels.transform import FeatureTransform
from smt.training import checkpoint, trainer
from smt.training.checkpoint import CheckpointError
from smt.training.data import Loader
from smt.training.features import FeatureSpec
from smt.training.fit import raw_columns
from smt.training.hooks import Hooks
from smt.training.metrics import evaluate
from smt.training.model import TemplateNet, serving_function, slab_layout
from smt.training.reading import iter_batches
from smt.training.run import RunPaths
from smt.training.scenario import Scenario, load_scenario
from smt.training.sharded import threads
from smt.training.trainer import TrainingError, TrainResult, load_result, train
from tests.training.support import make_scenario, synthetic


def run(scenario: Scenario, run_dir: Path, **options: Any) -> TrainResult:
    return train(scenario, run_dir, progress=False, **options)


def weights(result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(result.weights)


def history(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def type_of(values: pa.Array) -> pa.DataType:
    return values.type.value_type if pa.types.is_dictionary(values.type) else values.type


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k not in ("seconds", "rows_per_second")} for record in records]


def served(scenario: Scenario, result: TrainResult) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Labels and probabilities of the validation split by the function that template binaries are compiled from."""
    tensors = weights(result)
    transform = FeatureTransform(FeatureSpec.load(result.features).to_json())
    function = serving_function(scenario.template)
    labels, probabilities = [], []
    for batch in iter_batches(scenario, "valid"):
        out = transform.apply(batch.rows, list(raw_columns(scenario, batch).values()))
        arrays = [torch.from_numpy(array) for array in (out.dense, out.ids, out.offsets, out.bag_index)]
        probabilities.append(function(tensors["slab"], tensors["table"], *arrays).detach().numpy())
        labels.append(batch.labels)
    return np.concatenate(labels), np.concatenate(probabilities)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, TrainResult]:
    folder = tmp_path_factory.mktemp("trained")
    scenario = make_scenario(folder, train=6000)
    return scenario, run(scenario, folder / "run", epochs=8)


def test_learns_the_signal(trained: tuple[Scenario, TrainResult]) -> None:
    _, result = trained
    click, buy = result.metrics["click"], result.metrics["buy"]
    assert click.auc is not None
    assert click.auc > 0.97
    assert click.ne is not None
    assert click.ne < 0.45
    # 5 % of its labels are flipped, which bounds the AUC.
    assert buy.auc is not None
    assert buy.auc > 0.9
    assert buy.rows < click.rows == 1000


def test_exported_weights_serve_what_was_measured(trained: tuple[Scenario, TrainResult]) -> None:
    scenario, result = trained
    labels, probabilities = served(scenario, result)
    kept = np.load(RunPaths(result.run_dir).predictions)
    np.testing.assert_allclose(kept, probabilities[:, :2], atol=1e-6)
    metrics = evaluate([task.name for task in scenario.tasks], labels, probabilities)
    for name, expected in result.metrics.items():
        assert metrics[name].rows == expected.rows
        assert metrics[name].ne == pytest.approx(expected.ne, rel=1e-5)
        assert metrics[name].auc == pytest.approx(expected.auc, abs=1e-6)


def test_result_is_written_and_read_back(trained: tuple[Scenario, TrainResult]) -> None:
    scenario, result = trained
    read = load_result(result.run_dir)
    assert read.metrics == result.metrics
    data = json.loads((result.run_dir / "result.json").read_text())
    assert data["metrics"]["click"].keys() >= {"ne", "auc", "logloss", "calibration"}
    assert data["sha256"] == {"scenario": scenario.sha256, "template": scenario.template.sha256}
    assert data["rows"] == {"train": 6000, "valid": 1000}
    best = min(history(result.run_dir), key=lambda record: float(record["mean_ne"]))
    assert result.epoch == best["epoch"]
    assert {name: task["ne"] for name, task in best["valid"].items()} == {
        name: task.ne for name, task in result.metrics.items()
    }


def test_unused_heads_and_unused_table_rows_keep_their_initial_values(trained: tuple[Scenario, TrainResult]) -> None:
    scenario, result = trained
    torch.manual_seed(scenario.template.recipe.seed)
    initial = dict(TemplateNet(scenario.template).named_parameters())
    layout = slab_layout(scenario.template)
    final = layout.views(weights(result)["slab"])
    for name in ("heads.weight.0", "heads.bias.0", "heads.out_weight", "heads.out_bias", "experts.gate_weight"):
        assert torch.equal(final[name][2], initial[name][2]), name
        assert not torch.equal(final[name][0], initial[name][0]), name
    spec = FeatureSpec.load(result.features)
    country = next(feature for feature in spec.categorical if feature.name == "country")
    table = weights(result)["table"][country.first_row : country.first_row + country.rows]
    assert torch.equal(table[:2], torch.zeros(2, 4))  # no country is missing or unknown in training
    assert (table[2:] != 0).any(dim=1).all()


def test_two_runs_give_the_same_weights(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, train=1500)
    first = run(scenario, tmp_path / "a", epochs=2)
    second = run(scenario, tmp_path / "b", epochs=2)
    assert without_times(history(tmp_path / "a")) == without_times(history(tmp_path / "b"))
    assert all(torch.equal(weights(first)[name], weights(second)[name]) for name in ("slab", "table"))
    other = make_scenario(tmp_path / "seed", template={"seed: 7": "seed: 8"}, train=1500)
    third = run(other, tmp_path / "c", epochs=2)
    assert not torch.equal(weights(first)["slab"], weights(third)["slab"])


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = make_scenario(tmp_path, train=1500)
    whole = run(scenario, tmp_path / "whole", epochs=3)

    class Interrupted(Exception):
        pass

    calls = []
    train_epoch = trainer._Training._train_epoch

    def interrupted(self: Any, *args: Any) -> float:
        calls.append(args)
        loss = train_epoch(self, *args)
        if len(calls) == 3:
            raise Interrupted  # after the third epoch's updates, before its checkpoint
        return loss

    monkeypatch.setattr(trainer._Training, "_train_epoch", interrupted)
    with pytest.raises(Interrupted):
        run(scenario, tmp_path / "resumed", epochs=3)
    monkeypatch.undo()
    resumed = run(scenario, tmp_path / "resumed", epochs=3, resume=True)
    assert len(history(tmp_path / "resumed")) == 3
    assert without_times(history(tmp_path / "whole")) == without_times(history(tmp_path / "resumed"))
    assert all(torch.equal(weights(whole)[name], weights(resumed)[name]) for name in ("slab", "table"))
    assert resumed.epoch == whole.epoch
    assert resumed.stopped == "finished"


def test_one_more_epoch_of_a_finished_run_is_exported(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, train=1500)
    first = run(scenario, tmp_path / "run", epochs=2)
    before = weights(first)
    again = run(scenario, tmp_path / "run", resume=True)
    assert again.epochs_completed == 2
    assert torch.equal(weights(again)["slab"], before["slab"])
    more = run(scenario, tmp_path / "run", epochs=3, resume=True)
    assert (more.epoch, more.epochs_completed) == (3, 3)
    assert not torch.equal(weights(more)["slab"], before["slab"])
    assert not torch.equal(weights(more)["table"], before["table"])
    shares = [record["lr_share"] for record in history(tmp_path / "run")]
    assert shares[2] == pytest.approx(trainer.lr_share("cosine", 1, 1))
    metrics = evaluate(["click", "buy"], *served(scenario, more))
    assert metrics["click"].ne == pytest.approx(more.metrics["click"].ne, rel=1e-5)


def test_stops_early_and_exports_the_best_epoch(tmp_path: Path) -> None:
    # Labels that no feature explains: after the first epochs, training only learns the noise.
    columns, held_out = synthetic(600, 1), synthetic(600, 2)
    for split in (columns, held_out):
        split["clicked"] = pa.array(np.random.default_rng(0).integers(0, 2, 600))
    changes = {"patience: 5": "patience: 2", "lr: 0.1": "lr: 1.0", "lr_decay: cosine": "lr_decay: none"}
    scenario = make_scenario(
        tmp_path,
        {"  - {name: buy, label: bought, weight: 0.5}\n": ""},
        changes,
        train=columns,
        valid=columns | synthetic(600, 2),
    )
    result = run(scenario, tmp_path / "run", epochs=30)
    records = history(tmp_path / "run")
    assert result.stopped == "early stopping"
    assert len(records) == result.epochs_completed < 30
    assert result.epochs_completed - result.epoch == 2
    assert min(records, key=lambda record: float(record["mean_ne"]))["epoch"] == result.epoch


def test_resume_refuses_another_scenario_and_a_missing_checkpoint(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, train=300, valid=100)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        run(scenario, tmp_path / "run", resume=True)
    run(scenario, tmp_path / "run", epochs=1)
    path = scenario.path
    path.write_text(path.read_text().replace("hash: 50", "hash: 60"))
    with pytest.raises(CheckpointError, match="another scenario"):
        run(load_scenario(path), tmp_path / "run", epochs=2, resume=True)


@pytest.mark.parametrize("moment", ["save_state", "rename", "latest"])
def test_killed_while_saving_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    scenario = make_scenario(tmp_path, train=300, valid=100)
    run(scenario, tmp_path / "whole", epochs=3)
    run(scenario, tmp_path / "run", epochs=1)

    class Killed(BaseException):
        pass

    def killed(*_: Any, **__: Any) -> None:
        raise Killed

    write = checkpoint.write_atomically
    if moment == "save_state":
        monkeypatch.setattr(checkpoint, "save_state", killed)
    elif moment == "rename":
        rename = Path.rename
        monkeypatch.setattr(Path, "rename", lambda path, to: killed() if to.name == "epoch-0002" else rename(path, to))
    else:
        monkeypatch.setattr(
            checkpoint, "write_atomically", lambda path, data: killed() if path.name == "latest" else write(path, data)
        )
    with pytest.raises(Killed):
        run(scenario, tmp_path / "run", epochs=2, resume=True)
    monkeypatch.undo()
    found = checkpoint.latest(RunPaths(tmp_path / "run").checkpoint)
    assert found is not None
    assert found[1]["epochs_completed"] == 1
    result = run(scenario, tmp_path / "run", epochs=2, resume=True)
    assert result.epochs_completed == 2
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoint").iterdir()) == ["epoch-0002", "latest"]


def test_damaged_checkpoint_is_reported(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, train=300, valid=100)
    run(scenario, tmp_path / "run", epochs=1)
    data = next((tmp_path / "run" / "checkpoint" / "epoch-0001").glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="does not load"):
        run(scenario, tmp_path / "run", epochs=2, resume=True)


def test_killed_process_resumes(tmp_path: Path) -> None:
    """A real SIGKILL, once a checkpoint exists."""
    scenario = make_scenario(tmp_path, train=3000, valid=100)
    code = (
        "from smt.training.trainer import train; from smt.training.scenario import load_scenario; import sys; "
        "train(load_scenario(sys.argv[1]), sys.argv[2], epochs=1000, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(scenario.path), str(tmp_path / "run")])
    latest = tmp_path / "run" / "checkpoint" / "latest"
    try:
        deadline = time.monotonic() + 60
        while not latest.exists():
            assert process.poll() is None, "training ended before its first checkpoint"
            assert time.monotonic() < deadline, "no checkpoint within a minute"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = checkpoint.latest(latest.parent)
    assert found is not None
    done = found[1]["epochs_completed"]
    result = run(scenario, tmp_path / "run", epochs=done + 1, resume=True)
    assert result.epochs_completed == done + 1
    assert result.stopped == "before the planned end"


def test_tiny_data_missing_values_and_absent_optional_inputs(tmp_path: Path) -> None:
    """Fewer rows than a batch, a column without a value, an optional column that the file lacks."""
    columns = synthetic(40, 1)
    columns["price"] = pa.nulls(40, pa.float32())
    columns["genres"] = pa.nulls(40, pa.list_(pa.string()))
    del columns["user"]
    changes = {"encode: {hash: 50}": "encode: {hash: 50}, required: false"}
    scenario = make_scenario(tmp_path, changes, train=columns, valid=columns)
    result = run(scenario, tmp_path / "run", epochs=2)
    assert any("price" in warning for warning in result.warnings)
    assert all(torch.isfinite(tensor).all() for tensor in weights(result).values())
    labels, probabilities = served(scenario, result)
    assert evaluate(["click", "buy"], labels, probabilities)["click"].ne == pytest.approx(
        result.metrics["click"].ne, rel=1e-5
    )


def test_rows_without_any_label_train_nothing_and_count_nowhere(tmp_path: Path) -> None:
    columns = synthetic(600, 1)
    labelled = run(make_scenario(tmp_path / "a", train=columns, valid=columns), tmp_path / "run_a", epochs=1)
    extra = synthetic(200, 3)
    extra["clicked"] = pa.nulls(200, pa.int8())
    extra["bought"] = pa.nulls(200, pa.int8())
    valid = {
        name: pa.array([*values.to_pylist(), *extra[name].to_pylist()], type_of(values))
        for name, values in columns.items()
    }
    both = run(make_scenario(tmp_path / "b", train=columns, valid=valid), tmp_path / "run_b", epochs=1)
    assert both.metrics == labelled.metrics


def test_multi_valued_sum_pooling(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, template={"pooling: mean": "pooling: sum"}, train=1500)
    result = run(scenario, tmp_path / "run", epochs=2)
    metrics = evaluate(["click", "buy"], *served(scenario, result))
    assert metrics["click"].ne == pytest.approx(result.metrics["click"].ne, rel=1e-5)


def test_loss_counts_only_the_labels_that_are_there(tmp_path: Path) -> None:
    logits = torch.tensor([[0.5, -1.0, 9.0], [2.0, 3.0, 9.0], [-1.5, 0.0, 9.0]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0], [float("nan"), float("nan")]])
    training = SimpleNamespace(weights=torch.tensor([2.0, 0.5]), hooks=Hooks([]))
    loss = trainer._Training._loss(training, logits, SimpleNamespace(labels=labels))  # type: ignore[arg-type]
    loss.backward()  # type: ignore[no-untyped-call]
    first = (np.log1p(np.exp(-0.5)) + np.log1p(np.exp(2.0))) / 2
    assert loss.item() == pytest.approx(2 * first + 0.5 * np.log1p(np.exp(-3.0)), rel=1e-6)
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, False, False], [True, True, False], [False, False, False]]
    unlabelled = SimpleNamespace(labels=torch.full((3, 2), float("nan")))
    none = trainer._Training._loss(training, logits, unlabelled)  # type: ignore[arg-type]
    assert none.item() == 0


def test_streamed_training_is_repeatable_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for data that does not fit the memory budget."""
    monkeypatch.setattr(trainer, "Loader", partial(Loader, cache_bytes=0, shuffle_rows=500))
    scenario = make_scenario(tmp_path, train=1500)
    whole = run(scenario, tmp_path / "a", epochs=3)
    save = checkpoint.save

    def once(directory: Path, *args: Any) -> None:
        save(directory, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", once)
    with pytest.raises(KeyboardInterrupt):
        run(scenario, tmp_path / "b", epochs=3)
    monkeypatch.setattr(checkpoint, "save", save)
    resumed = run(scenario, tmp_path / "b", resume=True)
    assert without_times(history(tmp_path / "a")) == without_times(history(tmp_path / "b"))
    assert torch.equal(weights(whole)["table"], weights(resumed)["table"])


def test_threads_are_as_before_after_training_and_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = make_scenario(tmp_path, train=300, valid=100)
    during: list[int] = []
    backward = torch.Tensor.backward

    def watched(self: torch.Tensor) -> None:
        during.append(torch.get_num_threads())
        backward(self)  # type: ignore[no-untyped-call]
        during.append(torch.get_num_threads())

    before = torch.get_num_threads()
    monkeypatch.setattr(torch.Tensor, "backward", watched)
    with threads(3):
        run(scenario, tmp_path / "run", epochs=1)
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    # All for the network, one for the tables, whose gradients come last.
    assert during == [3, 1] * (len(during) // 2)
    assert during
    with pytest.raises(RuntimeError), threads(2):
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_without_early_stopping_and_decay_all_epochs_run(tmp_path: Path) -> None:
    changes = {"  early_stopping: {patience: 5}\n": "", "  lr_decay: cosine\n": ""}
    result = run(make_scenario(tmp_path, template=changes, train=300), tmp_path / "run")
    assert result.epochs_completed == 3
    assert [record["lr_share"] for record in history(tmp_path / "run")] == [1.0] * 3


def test_validation_without_a_labelled_row_is_an_error(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, {"valid.parquet": "valid.parquet\n  filter: row >= 1000"}, train=2000, valid=500)
    with pytest.raises(ValueError, match=r"no labelled row in data\.valid"):
        run(scenario, tmp_path / "run")


def test_one_class_in_training_is_an_error(tmp_path: Path) -> None:
    columns = synthetic(100, 1)
    columns["clicked"] = pa.array(np.ones(100, dtype=np.int8))
    with pytest.raises(ValueError, match="100 positive of 100 labelled training rows for task 'click'"):
        run(make_scenario(tmp_path, train=columns), tmp_path / "run")


def test_diverging_loss_is_an_error(tmp_path: Path) -> None:
    # Raw numbers of a million, to the ninth power.
    columns = synthetic(300, 1)
    columns["price"] = pa.array(np.full(300, 1e6))
    scenario = make_scenario(tmp_path, {"[log, normalise]": "[]"}, {"layers: 2": "layers: 8"}, train=columns)
    with pytest.raises(TrainingError, match="lower the learning rates"):
        run(scenario, tmp_path / "run")
