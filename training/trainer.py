"""Trains a scenario: fits its features, trains the template's model with TorchRec, exports the best weights.

    result = train(load_scenario("income_workers.yaml"), Path("build/runs/income_workers"))

One process by default; under torchrun, as many as it starts. Two runs with the same inputs on the same machine give
the same weights, bit for bit, and so does a run that is interrupted and resumed.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from smt.training import checkpoint
from smt.training.checkpoint import CheckpointError
from smt.training.data import Batch, Loader, Shard, fingerprint
from smt.training.display import Display
from smt.training.features import FeatureSpec
from smt.training.fit import Fitted, fit
from smt.training.hooks import Hooks, Run
from smt.training.memory import keep_freed_memory
from smt.training.metrics import TaskMetrics, evaluate, mean_ne
from smt.training.model import slab_layout
from smt.training.optimizer import dense_optimizer, lr_share
from smt.training.parallel import barrier, from_rank_zero, gather, in_lockstep, process_group
from smt.training.prefetch import Prefetch
from smt.training.publication import Every, Publication, Publisher
from smt.training.reading import DataError, iter_batches, pieces
from smt.training.run import (
    Progress,
    RunPaths,
    TrainResult,
    load_result,
    write_json,
    write_lines,
    write_predictions,
    write_weights,
)
from smt.training.scenario import Scenario
from smt.training.sharded import ShardedModel

__all__ = ["CheckpointError", "TrainResult", "TrainingError", "load_result", "train"]

EVALUATION_ROWS = 16_384


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says what to change."""


def train(
    scenario: Scenario,
    run_dir: Path | str,
    *,
    epochs: int | None = None,
    resume: bool = False,
    progress: bool = True,
    checkpoint_seconds: float = 0.0,
    publisher: Publisher | None = None,
    publish_every: Every | None = None,
) -> TrainResult:
    """Trains a scenario and writes its run directory (see run.py).

    Args:
        epochs: train until so many epochs are complete; None is the recipe's number. A new run plans its learning
            rates over them.
        resume: continue the run in `run_dir`. If all its planned epochs are done, or it stopped early, `epochs` above
            the completed ones adds epochs: they use the final learning rates, always run, and the weights of the last
            of them are exported, best or not. With nothing left to do the finished result is returned.
        progress: show a progress bar and the metrics of every epoch on stderr.
        checkpoint_seconds: epochs that end sooner after the last checkpoint, or the start, leave none. A run that is
            resumed does those again, to the same result.
        publisher, publish_every: what takes the weights, and how often, while training goes on; both or neither.

    Raises:
        ConfigError, DataError, InputError: the data does not fit the scenario.
        CheckpointError: `resume` without a checkpoint, or of a run with another template, scenario or data.
        TrainingError: the loss became infinite or NaN; a publisher for a template with techniques.
    """
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs: found {epochs}; expected at least 1")
    if (publisher is None) != (publish_every is None):
        raise ValueError("publisher and publish_every: found one of them; expected both or neither")
    if publisher is not None and scenario.template.techniques:
        # Some move rows that no batch looked up, or export other weights than they train.
        named = ", ".join(technique.label for technique in scenario.template.techniques)
        raise TrainingError(
            f"template {scenario.template.name} has the techniques {named}: weights are published while training goes "
            "on only without any; take them out, or `smt publish` the run when it has ended"
        )
    keep_freed_memory()
    with process_group() as device, Display(progress and dist.get_rank() == 0) as display:
        training = _Training(scenario, RunPaths(Path(run_dir)), device, display)
        training.checkpoint_seconds = checkpoint_seconds
        if publisher is not None and publish_every is not None:
            training.publish_to = (publisher, publish_every)
        return training.run(epochs, resume)


class _Training:
    """One call of `train`."""

    def __init__(self, scenario: Scenario, paths: RunPaths, device: torch.device, display: Display) -> None:
        self.scenario = scenario
        self.template = scenario.template
        self.recipe = scenario.template.recipe
        self.paths = paths
        self.device = device
        self.display = display
        self.shard = Shard(dist.get_rank(), dist.get_world_size())
        self.weights = torch.tensor([task.weight for task in scenario.tasks], device=device)
        techniques = [(each.label, each.hook()) for each in self.template.techniques]
        self.hooks = Hooks([(name, hook) for name, hook in techniques if hook is not None])
        self.publish_to: tuple[Publisher, Every] | None = None
        self.publication: Publication | None = None
        self.checkpoint_seconds = 0.0
        # Of the last validation, on rank 0: float32 [rows, tasks].
        self.predictions = np.empty((0, len(scenario.tasks)), dtype=np.float32)

    def run(self, epochs: int | None, resume: bool) -> TrainResult:
        started = time.monotonic()
        found = self._find_checkpoint() if resume else None
        spec, state = self._resumed(found[1]) if found else self._fresh(epochs)
        stop = epochs if epochs is not None else max(state.planned_epochs, state.epochs_completed)
        if state.stopped is not None and stop <= state.epochs_completed:
            self.display.say(f"{self.scenario.name}: all {state.epochs_completed} epochs are done")
            return self._result(state)

        batch_size = -(-self.recipe.batch_size // self.shard.world)
        self.training = Loader(self.scenario, spec, "train", batch_size, shard=self.shard)
        self.validation = Loader(self.scenario, spec, "valid", EVALUATION_ROWS, shard=self.shard)
        self.model = ShardedModel(self.template, spec, self.device)
        tasks = len(self.scenario.tasks)
        self.hooks.begin(
            Run(self.scenario, self.template, spec, self.model, self.device, tasks, lambda: self._predict(tasks))
        )
        self.optimizer = dense_optimizer(self.model, self.template, tasks)
        if found:
            checkpoint.restore(found[0], self.model, self.optimizer, self.hooks)
        if self.publish_to:
            layout = slab_layout(self.template)
            self.publication = Publication(*self.publish_to, self.model, layout, self.display)
        share = -(-state.rows["train"] // self.shard.world)
        self.steps_per_epoch = -(-share // batch_size)

        self.display.stage("training", state.rows["train"] * stop)
        self.display.advance(state.rows["train"] * state.epochs_completed)
        extending, saved = state.stopped is not None, state.seconds
        while state.epochs_completed < stop and (extending or state.stopped is None):
            self._epoch(state, stop, extending or state.epochs_completed >= state.planned_epochs)
            state.seconds += time.monotonic() - started
            started = time.monotonic()
            if self._due(state.seconds - saved):
                checkpoint.save(self.paths.checkpoint, self.model, self.optimizer, self.hooks, state.to_json())
                saved = state.seconds
        return self._result(state)

    def _due(self, seconds: float) -> bool:
        """Whether a checkpoint is written so long after the last one: on all ranks or on none."""
        return from_rank_zero(lambda: seconds >= self.checkpoint_seconds)

    # --- where to start ---

    def _identity(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario.sha256,
            "template": self.template.sha256,
            "train data": fingerprint(self.scenario, "train"),
            "valid data": fingerprint(self.scenario, "valid"),
        }

    def _find_checkpoint(self) -> tuple[Path, dict[str, Any]]:
        found = checkpoint.latest(self.paths.checkpoint)
        if found is None:
            raise CheckpointError(f"{self.paths.checkpoint}: found no checkpoint to resume from; train without resume")
        return found

    def _resumed(self, saved: dict[str, Any]) -> tuple[FeatureSpec, Progress]:
        state = Progress(**saved)
        for what, now in self._identity().items():
            if state.identity.get(what) != now:
                raise CheckpointError(
                    f"{self.paths.root}: found a run of another {what}; expected the one it was started with "
                    f"(train without resume to start anew)"
                )
        spec = FeatureSpec.load(self.paths.features)
        if self.shard.rank == 0:
            write_lines(self.paths.metrics, state.history)
        return spec, state

    def _fresh(self, epochs: int | None) -> tuple[FeatureSpec, Progress]:
        fitted = from_rank_zero(self._fit)
        state = Progress(
            planned_epochs=epochs or self.recipe.epochs,
            identity=self._identity(),
            rows={"train": fitted.rows, "valid": 0},
            warnings=fitted.warnings,
        )
        return fitted.spec, state

    def _fit(self) -> Fitted:
        """On rank 0: starts the run directory and fits the features."""
        self.paths.root.mkdir(parents=True, exist_ok=True)
        self.paths.clear()
        total = sum(piece.rows for piece in pieces(self.scenario, "train"))
        self.display.stage("fitting features", total)
        fitted = fit(self.scenario, self.display.advance)
        for task, labelled, positives in zip(self.scenario.tasks, fitted.labelled, fitted.positives, strict=True):
            if positives in (0, labelled):
                found = f"{positives} positive of {labelled} labelled training rows for task {task.name!r}"
                raise DataError(f"{self.scenario.path}: found {found}; expected positive and negative ones")
        if not any((~np.isnan(batch.labels)).any() for batch in iter_batches(self.scenario, "valid")):
            raise DataError(f"{self.scenario.path}: found no labelled row in data.valid; expected rows to measure on")
        for warning in fitted.warnings:
            self.display.say(f"[yellow]warning:[/] {warning}")
        write_json(self.paths.features, fitted.spec.to_json())
        return fitted

    # --- one epoch ---

    def _epoch(self, state: Progress, stop: int, extension: bool) -> None:
        number = state.epochs_completed + 1
        started = time.monotonic()
        loss = self._train_epoch(state, number, stop)
        seconds = time.monotonic() - started
        state.epochs_completed = number
        state.trained_rows += state.rows["train"]
        state.training_seconds += seconds
        with self.hooks.served():
            metrics, state.rows["valid"] = self._validate()
            ne = mean_ne(metrics)
            better = ne is not None and (state.best_ne is None or ne < state.best_ne)
            if better:
                state.best_epoch, state.best_ne = number, ne
            # Where no NE is defined there is no best epoch: the newest weights are the ones to keep.
            if better or extension or ne is None:
                self._export()
                state.exported_epoch = number
        patience = self.recipe.early_stopping.patience if self.recipe.early_stopping else None
        if patience is not None and ne is not None and number - state.best_epoch >= patience:
            state.stopped = "early stopping"
        elif number >= state.planned_epochs:
            state.stopped = state.stopped or "finished"
        state.history.append(
            {
                "epoch": number,
                "loss": loss,
                "mean_ne": ne,
                "valid": {name: task.to_json() for name, task in metrics.items()},
                "lr_share": self._lr_share(state, state.steps - 1),
                "exported": state.exported_epoch == number,
                "seconds": round(seconds, 3),
                "rows_per_second": round(state.rows["train"] / seconds, 1),
            }
        )
        self.display.epoch(state.history[-1], metrics, better)
        if self.shard.rank == 0:
            write_lines(self.paths.metrics, state.history)
            write_json(self.paths.result, self._describe(state).to_json())

    def _lr_share(self, state: Progress, step: int) -> float:
        steps = state.planned_epochs * self.steps_per_epoch
        return self.hooks.lr_share(lr_share(self.recipe.lr_decay, step, steps), step, steps)

    def _train_epoch(self, state: Progress, number: int, stop: int) -> float:
        """Returns the mean training loss per row."""
        # Dropout draws from the global generator: seeded here, so that an epoch does not depend on those before it.
        torch.manual_seed((self.recipe.seed << 20) + (number << 8) + self.shard.rank)
        self.hooks.epoch(number)
        self.model.dmp.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        rows = 0
        started = time.monotonic()
        last_shown = started
        with Prefetch(self.training.epoch(number), depth=8) as batches:
            for batch in (item.to(self.device) for item in in_lockstep(batches, self.training.padding)):
                share = self._lr_share(state, state.steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * share
                self.model.set_embedding_lr(self.recipe.embedding_optimizer.lr * share)
                loss = self._loss(self.model(batch.dense, batch.sparse), batch)
                self.optimizer.zero_grad(set_to_none=True)
                self.model.backward(loss)
                self.optimizer.step()
                state.steps += 1
                self.hooks.after_step(state.steps)
                if self.publication:
                    self.publication.after_step(state.steps, batch.sparse)
                size = len(batch.labels)
                rows += size
                loss_sum += loss.detach().double() * size
                now = time.monotonic()
                if now - last_shown > 0.2:
                    mean = self._finite(float(loss_sum) / rows, number)
                    note = f"{rows * self.shard.world / (now - started):,.0f} rows/s  loss {mean:.4f}"
                    self.display.advance(0, f"{self.scenario.name} epoch {number}/{stop}", note)
                    last_shown = now
                self.display.advance(size * self.shard.world)
        if self.shard.world > 1:
            sums = torch.tensor([float(loss_sum), rows], dtype=torch.float64)
            dist.all_reduce(sums)
            return self._finite(float(sums[0] / sums[1]), number)
        return self._finite(float(loss_sum) / rows, number)

    def _finite(self, loss: float, number: int) -> float:
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.scenario.name}: the training loss is {loss} in epoch {number}; lower the learning rates of the "
                f"template's recipe, or clip the dense features"
            )
        return loss

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Weighted sum over tasks of the mean cross entropy of the rows that have the label, and what hooks make of it.

        logits [B, at least T], labels of the batch [B, T] with NaN where there is none -> scalar.
        """
        labels = batch.labels
        logits = logits[:, : labels.shape[1]]
        labelled = ~torch.isnan(labels)
        target = self.hooks.targets(torch.where(labelled, labels, 0.0), labelled, batch)
        entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
        mean = (entropy * labelled).sum(dim=0) / labelled.sum(dim=0).clamp(min=1)
        return self.hooks.loss(mean, self.weights, logits, labels)

    # --- validation and results ---

    def _validate(self) -> tuple[dict[str, TaskMetrics], int]:
        names = [task.name for task in self.scenario.tasks]
        local = self._predict(len(names))

        def measure() -> tuple[dict[str, TaskMetrics], int]:
            labels = np.concatenate([part[0] for part in parts])
            probabilities = np.concatenate([part[1] for part in parts])
            real = ~np.isnan(labels).all(axis=1)
            self.predictions = probabilities[real]
            return evaluate(names, labels[real], self.predictions), int(real.sum())

        parts = gather(local)
        return from_rank_zero(measure)

    @torch.no_grad()
    def _predict(self, tasks: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Labels and probabilities of this process's share of the validation split, both [rows, tasks]."""
        self.model.dmp.eval()
        labels = [np.empty((0, tasks), dtype=np.float32)]
        probabilities = [np.empty((0, tasks), dtype=np.float32)]
        with Prefetch(self.validation.epoch(None), depth=2) as batches:
            for batch in (item.to(self.device) for item in in_lockstep(batches, self.validation.padding)):
                logits = self.model(batch.dense, batch.sparse)
                probabilities.append(torch.sigmoid(logits[:, :tasks]).cpu().numpy())
                labels.append(batch.labels.cpu().numpy())
        return np.concatenate(labels), np.concatenate(probabilities)

    def _export(self) -> None:
        table = self.model.table()
        if self.shard.rank == 0:
            slab = slab_layout(self.template).pack(self.model.net.exported())
            write_weights(self.paths.weights, slab, table)
            write_predictions(self.paths.predictions, self.predictions)
        barrier()

    def _result(self, state: Progress) -> TrainResult:
        result = self._describe(state)
        if self.shard.rank == 0:
            write_json(self.paths.result, result.to_json())
        barrier()
        return result

    def _describe(self, state: Progress) -> TrainResult:
        record = next(item for item in state.history if item["epoch"] == state.exported_epoch)
        metrics = {
            name: TaskMetrics(**{key: value for key, value in task.items() if key != "label_rate"})
            for name, task in record["valid"].items()
        }
        return TrainResult(
            scenario=self.scenario.name,
            run_dir=self.paths.root,
            epoch=state.exported_epoch,
            epochs_completed=state.epochs_completed,
            stopped=state.stopped or "before the planned end",
            metrics=metrics,
            rows=state.rows,
            seconds=state.seconds,
            rows_per_second=state.trained_rows / state.training_seconds,
            warnings=state.warnings,
            details={
                "mean_ne": record["mean_ne"],
                "planned_epochs": state.planned_epochs,
                "template": {"name": self.template.name, "version": self.template.version},
                "seed": self.recipe.seed,
                "processes": self.shard.world,
                "device": self.device.type,
                "scenario_path": str(self.scenario.path.resolve()),  # for the publish gate's validation data
                "sha256": {"scenario": self.scenario.sha256, "template": self.template.sha256},
                "data": {split: state.identity[f"{split} data"] for split in ("train", "valid")},
            },
        )
