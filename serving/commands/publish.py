"""smt publish: from a run directory to a snapshot in the registry, through the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smt.serving.commands.output import (
    DEFAULT_REGISTRY,
    NOTES,
    RESULT,
    WRONG_INPUT,
    CommandError,
    JsonOption,
    RegistryOption,
    print_json,
    table,
)
from smt.serving.commands.progress import rows_progress


def publish(
    run_dir: Annotated[Path, typer.Argument(help="Run directory that `smt train` wrote.", metavar="RUN_DIR")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    scenario: Annotated[
        Path | None, typer.Option("--scenario", help="Scenario YAML, if it is no longer where it was trained from.")
    ] = None,
    label: Annotated[str, typer.Option("--label", help="Publish as: stable (current), canary or shadow.")] = "stable",
    percent: Annotated[
        float | None, typer.Option("--percent", help="Traffic of a canary (default 5) or shadow (100).")
    ] = None,
    max_ne_change: Annotated[
        float | None, typer.Option(min=0, help="Relative change of NE, training to serving. Default: 1e-4; int8 5e-4.")
    ] = None,
    max_calibration_change: Annotated[
        float | None, typer.Option(min=0, help="The same of calibration. Default: 1e-3; int8 5e-3.")
    ] = None,
    max_drift: Annotated[
        float, typer.Option(min=0, help="Mean |new - old| prediction over the mean of old, against the version served.")
    ] = 0.5,
    max_mean_change: Annotated[float, typer.Option(min=0, help="Relative change of the mean prediction.")] = 0.5,
    max_psi: Annotated[
        float | None, typer.Option(min=0, help="Population stability index of the predictions. Default: no limit.")
    ] = None,
    force: Annotated[
        str | None, typer.Option("--force", help="Publish whatever the gate finds; REASON is kept.", metavar="REASON")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a run's weights, if their quality in the serving numerics is training's.

    The validation split is scored through the compiled template, and a sample of it by the version being served. What
    changed by more than the limits refuses the run, with the figures; so does a weight that is not finite, which
    --force does not override. Every publication is a new version; servers look for one every 100 ms.

    Example: `smt publish build/runs/income_workers --registry build/registry`
    """
    from smt.serving.gate import Limits
    from smt.serving.publish import publish_run
    from smt.serving.registry import Registry
    from smt.training.run import load_result

    if label not in ("stable", "canary", "shadow"):
        raise CommandError(f"--label {label!r}: expected stable, canary or shadow", WRONG_INPUT)
    if percent is not None and label == "stable":
        raise CommandError("--percent: the share of a canary or shadow; needs --label canary or shadow", WRONG_INPUT)
    if force is not None and not force.strip():
        raise CommandError("--force: needs the reason, which is kept with the version", WRONG_INPUT)
    rows = int(load_result(run_dir).rows.get("valid", 0)) if (run_dir / "result.json").is_file() else 0
    with rows_progress(f"scoring {run_dir.name}", rows, quiet=as_json) as advance:
        published = publish_run(
            run_dir,
            Registry(registry),
            scenario_path=scenario,
            limits=Limits(max_ne_change, max_calibration_change, max_drift, max_mean_change, max_psi),
            force=force,
            label=label,  # type: ignore[arg-type]
            percent=percent,
            progress=advance,
        )
    manifest, gate = published.manifest, published.gate
    if as_json:
        print_json(
            {
                "scenario": manifest.scenario,
                "version": manifest.version,
                "label": label,
                "parent": manifest.lineage.get("parent"),
                "abi_hash": manifest.abi_hash,
                **manifest.metrics,
            }
        )
        return
    RESULT.print(figures(f"{manifest.scenario} {manifest.version}", {"training": gate.trained, "serving": gate.served}))
    if gate.comparison.tasks:
        columns = ["task", "rows", "mean served", "mean now", "moved by", "mean |new - old|", "PSI", "KS"]
        drifts = [
            [task, d.rows, d.mean_old, d.mean_new, d.relative, d.mean_abs_diff, d.psi, d.ks]
            for task, d in gate.comparison.tasks.items()
        ]
        RESULT.print(table(f"Against {gate.comparison.version}", columns, drifts, numbers=columns[1:]))
    else:
        NOTES.print(f"not compared with a version being served: {gate.comparison.why_not}", markup=False)
    if manifest.metrics["gate"]["forced"]:
        for problem in gate.problems():
            NOTES.print(f"against the gate: {problem}", style="yellow", markup=False)
    changes = ", ".join(f"{task} {'-' if x is None else f'{x:.1e}'}" for task, x in gate.ne_change.items())
    now = "current" if label == "stable" else label
    NOTES.print(f"published and {now}; relative change of NE: {changes}", markup=False)


def figures(title: str, sides: dict[str, Any]) -> Any:
    """Metrics per task, of one or of several sides."""
    rows = [
        [task, side, m.rows, m.label_rate, m.ne, m.auc, m.logloss, m.calibration]
        for task in next(iter(sides.values()))
        for side, metrics in sides.items()
        for m in [metrics[task]]
    ]
    columns = ["task", "side", "rows", "label rate", "NE", "AUC", "logloss", "calibration"]
    if len(sides) == 1:
        columns.remove("side")
        rows = [[row[0], *row[2:]] for row in rows]
    return table(title, columns, rows, numbers=columns[1:] if len(sides) == 1 else columns[2:])
