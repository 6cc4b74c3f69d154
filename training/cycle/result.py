"""result.json: everything that a cycle came to, for the report page and for programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smt.training.cycle.cycle import Outcome, sources_of
from smt.training.cycle.record import Record
from smt.training.cycle.statistics import paired
from smt.training.cycle.store import Runner
from smt.training.cycle.trials import Trials
from smt.training.cycle.variant import settings
from smt.training.metrics import TaskMetrics, mean_ne
from smt.training.run import write_json

RESULT = "result.json"


def describe_outcome(outcome: Outcome, runner: Runner) -> dict[str, Any]:
    """The content of result.json. What it says follows from the store alone, but for where things are."""
    cycle, entry, clusters = outcome.cycle, outcome.cycle.entry, outcome.clusters
    version = None
    if outcome.template is not None:
        made = outcome.template
        version = {"name": made.name, "version": made.version, "path": str(made.path), "sha256": made.sha256}
    incumbent = outcome.incumbent.template()
    return {
        "cycle": cycle.name,
        "template": {"name": incumbent.name, "version": incumbent.version, "sha256": cycle.template.sha256},
        "confidence": entry.confidence,
        "scenarios": {
            name: {
                "cluster": clusters.cluster[name],
                "represents": clusters.weights.get(name, 0),
                "descriptor": vars(outcome.descriptors[name]),
            }
            for name in cycle.scenarios
        },
        "candidates": {
            label: {"cost": technique.cost, "paper": technique.paper, "settings": settings(technique)}
            for label, technique in cycle.candidates.items()
        },
        "screening": [rung.to_json() for rung in outcome.screening.rungs],
        "finalists": outcome.screening.finalists,
        "combination": [step.to_json() for step in outcome.steps],
        "verification": [attempt.to_json() for attempt in outcome.verifications],
        "adopted": list(outcome.accepted.labels),
        "version": version,
        "capacity": outcome.capacity,
        "adoption": [cell.to_json() for cell in outcome.adoption],
        "quality": quality(outcome, runner),
        "runs": {
            **outcome.spent,
            "total": sum(outcome.spent.values()),
            "budget": entry.budget.runs,
            "adoptions": len(outcome.accepted.labels) * len(cycle.scenarios),
            "jobs": runner.counted,
        },
    }


def quality(outcome: Outcome, runner: Runner) -> dict[str, Any]:
    """Of each scenario before and after, by the verification's runs: NE with its interval, a curve, reliability."""
    everywhere = Trials(
        runner,
        outcome.cycle.scenarios,
        dict.fromkeys(outcome.cycle.scenarios, 1.0),
        outcome.cycle.entry.confidence,
        sources_of(outcome.cycle, runner),
    )
    before = everywhere.records(outcome.incumbent, outcome.verified)
    after = everywhere.records(outcome.accepted, outcome.verified) if outcome.accepted.added else before
    return {
        name: {
            "before": side(before[name], everywhere.confidence),
            "after": side(after[name], everywhere.confidence),
        }
        for name in outcome.cycle.scenarios
    }


def side(records: list[Record], confidence: float) -> dict[str, Any]:
    """Runs of one scenario with different seeds; curve and reliability are the first one's.

    test: figures on rows that no choice has seen; null where the scenario names none.
    """
    return {
        **_figures([record.metrics for record in records], confidence),
        "test": _figures([record.test for record in records], confidence) if records[0].test else None,
        "rows": records[0].rows,
        "seconds": round(sum(record.seconds for record in records), 1),
        "curve": records[0].curve,
        "reliability": records[0].reliability,
    }


def _figures(runs: list[dict[str, TaskMetrics]], confidence: float) -> dict[str, Any]:
    """Of the metrics of each run: mean NE with its interval, means of each task, and every run's NE by task."""
    values = [value for metrics in runs if (value := mean_ne(metrics)) is not None]
    return {
        "ne": paired(values, confidence).to_json(),
        "tasks": {task: _means([metrics[task] for metrics in runs]) for task in runs[0]},
        "runs": [{task: figures.ne for task, figures in metrics.items()} for metrics in runs],
    }


def _means(runs: list[TaskMetrics]) -> dict[str, float | None]:
    means = {}
    for name in ("ne", "logloss", "auc", "calibration"):
        values = [getattr(figures, name) for figures in runs]
        means[name] = None if None in values else sum(values) / len(values)
    return means


def write_outcome(output: Path, data: Mapping[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / RESULT, data)
