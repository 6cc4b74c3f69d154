"""smt score: quality of what is served."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smt.serving.commands.output import DEFAULT_TARGET, NOTES, RESULT, JsonOption, TargetOption, print_json, table
from smt.serving.commands.progress import rows_progress


def score(
    scenario: Annotated[Path, typer.Argument(help="Scenario YAML: its filter, features and labels are used.")],
    rows: Annotated[
        list[Path] | None,
        typer.Option("--input", "-i", help="Parquet files to score instead of the validation split; repeat for more."),
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    version: Annotated[str | None, typer.Option(help="Accept only this snapshot version.")] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Rows per request. Default: the server's limit.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a scenario's validation split over gRPC and compare with the labels: NE, AUC, calibration.

    Example: `smt score income_workers.yaml --input held_back.parquet`
    """
    from smt.serving.client import Client
    from smt.serving.score import score as run_score
    from smt.serving.score import with_files
    from smt.training.reading import pieces
    from smt.training.scenario import load_scenario

    loaded = load_scenario(scenario)
    if rows:
        loaded = with_files(loaded, rows)
    total = sum(piece.rows for piece in pieces(loaded, "valid"))
    with Client(target, timeout=60) as client, rows_progress(f"scoring {loaded.name}", total, quiet=as_json) as advance:
        result = run_score(client, loaded, version=version, max_rows=max_rows, progress=advance)
    if as_json:
        print_json(result.to_json())
        return
    figures = [
        [task, m.rows, m.label_rate, m.ne, m.auc, m.logloss, m.calibration] for task, m in result.metrics.items()
    ]
    columns = ["task", "rows", "label rate", "NE", "AUC", "logloss", "calibration"]
    RESULT.print(table(f"{result.scenario}, served", columns, figures, numbers=columns[1:]))
    versions = ", ".join(f"{name} ({count:,} rows)" for name, count in result.versions.items())
    NOTES.print(f"{result.rows:,} rows in {result.seconds:.2f} s, by version {versions}", markup=False)
