"""Checks a scenario against its data, before time is spent on training.

report = validate_scenario(load_scenario("income_workers.yaml"))
report.errors, report.warnings, report.to_json()
"""

import itertools
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from smt.kernels.transform import FeatureTransform, InputError
from smt.training.config import ConfigError, Problem
from smt.training.features import MISSING_ROW, UNKNOWN_ROW, CategoricalFeature
from smt.training.fit import Fitted, fit, raw_columns
from smt.training.leaks import LEAK_AUC, single_input_aucs
from smt.training.reading import BATCH_ROWS, DataError, iter_batches, pieces
from smt.training.scenario import SPLITS, Scenario, Split

# Shares above which a warning is worth a reader's time.
MANY_MISSING = 0.5
MANY_UNKNOWN = 0.05


@dataclass
class TaskReport:
    """Labels of one task by split."""

    name: str
    labelled: dict[str, int] = field(default_factory=dict)
    positives: dict[str, int] = field(default_factory=dict)
    label_rate: dict[str, float | None] = field(default_factory=dict)
    strongest_input: str | None = None
    strongest_input_auc: float | None = None


@dataclass
class FeatureReport:
    """One feature. `values` are the entries of its vocabulary, its buckets, or the size of its hash.

    missing: rows of the validation split without a value; unknown: its values that the vocabulary lacks.
    """

    name: str
    input: str
    kind: str
    slot: int
    values: int | None
    table_rows: int | None
    missing: int = 0
    unknown: int = 0


@dataclass
class ValidationReport:
    """What was found; a scenario without errors can be trained."""

    scenario: str
    path: str
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)  # split -> read, kept
    slots: dict[str, dict[str, int]] = field(default_factory=dict)  # dense, categorical, heads -> used, free
    tasks: list[TaskReport] = field(default_factory=list)
    features: list[FeatureReport] = field(default_factory=list)
    leak_sample_rows: int | None = None

    @property
    def ok(self) -> bool:
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def validate_scenario(scenario: Scenario) -> ValidationReport:
    """Reads train and valid, and a sample of the training split for label leaks.

    Mistakes of the data are in the report's `errors`; nothing of them is raised.
    """
    report = ValidationReport(scenario.name, str(scenario.path))
    _count_slots(scenario, report)
    report.tasks = [TaskReport(task.name) for task in scenario.tasks]
    problems: list[Problem] = []
    named = [split for split in SPLITS if getattr(scenario.data, split) is not None]
    for split in named:
        try:
            rows = sum(piece.rows for piece in pieces(scenario, split))
            if split != "test":  # which only cycles read
                report.rows[split] = {"read": rows, "kept": 0}
        except ConfigError as error:
            problems += error.problems
        except DataError as error:
            report.errors += _lines(error)
    report.errors += [str(problem) for problem in dict.fromkeys(problems)]
    if report.errors:
        return report
    for a, b in itertools.combinations(named, 2):
        if set(scenario.files(a)) & set(scenario.files(b)):
            report.warnings.append(f"{scenario.path}: the same file is in data.{a} and data.{b}")
    try:
        fitted = fit(scenario)
    except (ConfigError, DataError, InputError) as error:
        report.errors += _lines(error)
        return report
    report.warnings += fitted.warnings
    report.rows["train"]["kept"] = fitted.rows
    for task, labelled, positives in zip(report.tasks, fitted.labelled, fitted.positives, strict=True):
        _count_labels(scenario, report, task, "train", labelled, positives)
    try:
        _check_valid(scenario, fitted, report)
        _check_leaks(scenario, fitted.rows, report)
    except (ConfigError, DataError, InputError) as error:
        report.errors += _lines(error)
    _compare_rates(report)
    return report


def _lines(error: Exception) -> list[str]:
    return str(error).splitlines()


def _count_slots(scenario: Scenario, report: ValidationReport) -> None:
    slots = scenario.template.slots
    for kind, capacity in (("dense", slots.dense), ("categorical", slots.categorical)):
        used = sum(feature.kind == kind for feature in scenario.features)
        report.slots[kind] = {"used": used, "free": capacity - used}
    used = len(scenario.tasks)
    report.slots["heads"] = {"used": used, "free": scenario.template.tasks - used}


def _count_labels(
    scenario: Scenario, report: ValidationReport, task: TaskReport, split: Split, labelled: int, positives: int
) -> None:
    task.labelled[split], task.positives[split] = labelled, positives
    task.label_rate[split] = positives / labelled if labelled else None
    if positives in (0, labelled):
        index = report.tasks.index(task)
        found = "no labelled row" if not labelled else f"only labels of {int(positives > 0)}"
        problem = scenario.document.problem(
            ("tasks", index, "label"), f"{found} in data.{split}", "both classes in train and valid"
        )
        report.errors.append(str(problem))


def _check_valid(scenario: Scenario, fitted: Fitted, report: ValidationReport) -> None:
    """Transforms the validation split as a server would: what is missing, what is unknown?"""
    transform = FeatureTransform(fitted.spec.to_json())
    for feature in fitted.spec.features:
        report.features.append(
            FeatureReport(
                name=feature.name,
                input=feature.input,
                kind=feature.kind,
                slot=feature.slot,
                values=feature.encode.count if isinstance(feature, CategoricalFeature) else None,
                table_rows=feature.rows if isinstance(feature, CategoricalFeature) else None,
            )
        )
    labelled = np.zeros(len(scenario.tasks), dtype=np.int64)
    positives = np.zeros(len(scenario.tasks), dtype=np.int64)
    used = np.zeros(len(fitted.spec.features), dtype=np.int64)
    rows = 0
    for batch in iter_batches(scenario, "valid"):
        columns = raw_columns(scenario, batch)
        out = transform.apply(batch.rows, list(columns.values()), local_ids=True, max_rows=BATCH_ROWS, max_list=1 << 31)
        position = 0
        for index, (feature, found) in enumerate(zip(fitted.spec.features, report.features, strict=True)):
            lengths = columns[feature.input].lengths
            found.missing += 0 if lengths is None else int((lengths == 0).sum())
            if isinstance(feature, CategoricalFeature):
                ids = _ids_of(out.ids, out.offsets, position, batch.rows)
                found.unknown += int((ids == UNKNOWN_ROW).sum())
                used[index] += int((ids != MISSING_ROW).sum())
                position += 1
        labelled += (~np.isnan(batch.labels)).sum(axis=0)
        positives += (batch.labels == 1).sum(axis=0)
        rows += batch.rows
    report.rows["valid"]["kept"] = rows
    if not rows:
        source = scenario.filter.source if scenario.filter else ""
        found_rows = f"no row of data.valid where {source}"
        problem = scenario.document.problem(("data", "filter"), found_rows, "a filter that keeps rows")
        report.errors.append(str(problem))
        return
    for task, count, positive in zip(report.tasks, labelled.tolist(), positives.tolist(), strict=True):
        _count_labels(scenario, report, task, "valid", count, positive)
    for index, found in enumerate(report.features):
        if found.missing > MANY_MISSING * rows:
            report.warnings.append(f"feature {found.name!r}: missing in {found.missing / rows:.0%} of data.valid")
        if used[index] and found.unknown > MANY_UNKNOWN * used[index]:
            share = found.unknown / int(used[index])
            report.warnings.append(f"feature {found.name!r}: {share:.0%} of the values in data.valid are unknown")


def _ids_of(
    ids: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], position: int, rows: int
) -> npt.NDArray[np.int64]:
    """Ids of the categorical feature at `position`; bag 0 is reserved."""
    first = 1 + position * rows
    return ids[offsets[first] : offsets[first + rows]]


def _check_leaks(scenario: Scenario, rows: int, report: ValidationReport) -> None:
    aucs, report.leak_sample_rows = single_input_aucs(scenario, rows)
    for found in aucs:
        task = next(task for task in report.tasks if task.name == found.task)
        if task.strongest_input_auc is None or found.auc > task.strongest_input_auc:
            task.strongest_input, task.strongest_input_auc = found.input, found.auc
        if found.auc > LEAK_AUC:
            entry = next(feature.entry for feature in scenario.features if feature.input == found.input)
            problem = scenario.document.problem(
                ("features", entry, "inputs"),
                f"a label leak: {found.input!r} alone predicts {found.task!r} with AUC {found.auc:.5f} "
                f"on a sample of {report.leak_sample_rows} training rows",
                f"inputs that are known before the label is (AUC at most {LEAK_AUC})",
            )
            report.errors.append(str(problem))


def _compare_rates(report: ValidationReport) -> None:
    for task in report.tasks:
        train, valid = task.label_rate.get("train"), task.label_rate.get("valid")
        if train and valid and not 0.5 <= train / valid <= 2:
            report.warnings.append(
                f"task {task.name!r}: label rate {train:.4f} in data.train, but {valid:.4f} in data.valid"
            )
