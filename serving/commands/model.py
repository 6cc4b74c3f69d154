"""smt new-scenario, validate, train, compile: from YAML to trained weights and a template binary."""

from __future__ import annotations

import os
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
    print_error,
    print_json,
    table,
)
from smt.serving.commands.progress import steps_progress
from smt.serving.commands.publish import figures

DEFAULT_RUNS = Path("build/runs")

ScenarioArgument = Annotated[Path, typer.Argument(help="Scenario YAML.", metavar="SCENARIO.yaml")]


def new_scenario(
    name: Annotated[str, typer.Argument(help="Name of the scenario: a-z, 0-9, - and _.")],
    template: Annotated[Path, typer.Option("--template", "-t", help="Template YAML that the scenario fills.")],
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Parquet file of training rows, or a folder with train*.parquet.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. [default: NAME.yaml]", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a commented scenario YAML by looking at the data.

    Features are proposed by column type and number of distinct values; labels are guessed, columns that give one away
    are left out. Read it through, then `smt validate` it.

    Example: `smt new-scenario shop_feed --template template.yaml --data data/train.parquet`
    """
    from smt.training.scaffold import new_scenario as write_scenario

    path = write_scenario(name, template, data, output or Path(f"{name}.yaml"))
    if as_json:
        print_json({"scenario": name, "path": str(path)})
    else:
        RESULT.print(f"{path} written; next: smt validate {path}", markup=False)


def validate(scenario: ScenarioArgument, as_json: JsonOption = False) -> None:
    """Check a scenario and its data: YAML, columns, types, slots, label rates, label leaks.

    Every mistake is reported with file, line and field, what was found and what is allowed. Exit status 2 if there is
    one; warnings do not count.

    Example: `smt validate income_workers.yaml`
    """
    from smt.training.scenario import load_scenario
    from smt.training.validate import validate_scenario

    report = validate_scenario(load_scenario(scenario))
    if as_json:
        print_json(report.to_json())
    else:
        _show_validation(report)
        for error in report.errors:
            print_error(error)
    if not report.ok:
        raise typer.Exit(WRONG_INPUT)


def train(
    scenario: ScenarioArgument,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="Run directory. [default: build/runs/SCENARIO]", show_default=False),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs in all. Default: the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run directory's checkpoint.")] = False,
    extend: Annotated[
        int | None, typer.Option(min=1, help="Train a finished run this many epochs more and export the last one.")
    ] = None,
    publish_every: Annotated[
        str | None,
        typer.Option(
            "--publish-delta-every",
            metavar="N",
            help="Publish to --registry while training: a whole version, then what changed; every N steps (500), or "
            "so much time (30s, 10m, 1h).",
        ),
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
    as_json: JsonOption = False,
) -> None:
    """Train a scenario with TorchRec.

    Writes the run directory: checkpoints, fitted features, metrics per epoch, and the best epoch's weights for `smt
    publish`. Runs in one process; `torchrun --nproc-per-node N -m smt.serving.cli train …` uses N.

    Example: `smt train income_workers.yaml --epochs 4`
    """
    from smt.training.publication import Every
    from smt.training.scenario import load_scenario
    from smt.training.trainer import load_result
    from smt.training.trainer import train as run_training

    if extend is not None and epochs is not None:
        raise CommandError("--extend says how many epochs more, --epochs how many in all: give one", WRONG_INPUT)
    try:
        every = None if publish_every is None else Every.parse(publish_every)
    except ValueError as error:
        raise CommandError(f"--publish-delta-every: {error}", WRONG_INPUT) from error
    loaded = load_scenario(scenario)
    folder = run_dir or DEFAULT_RUNS / loaded.name
    publisher = None
    if every is not None:
        from smt.serving.publish_deltas import DeltaPublisher
        from smt.serving.registry import Registry

        publisher = DeltaPublisher(Registry(registry), loaded)
    if extend is not None:
        epochs = load_result(folder).epochs_completed + extend
    # The result is shown once, by the first of several processes.
    first = os.environ.get("RANK", "0") == "0"
    result = run_training(
        loaded,
        folder,
        epochs=epochs,
        resume=resume or extend is not None,
        progress=not as_json,
        publisher=publisher,
        publish_every=every,
    )
    if not first:
        return
    if as_json:
        print_json({"run_dir": str(folder), **result.to_json()})
        return
    RESULT.print(figures(f"{result.scenario}, epoch {result.epoch}", {"": result.metrics}))
    speed = f"{result.rows_per_second:,.0f} rows/s, {result.seconds:.1f} s"
    NOTES.print(f"{folder}: {result.stopped} ({speed}); next: smt publish {folder}", markup=False)


def compile_(
    template: Annotated[Path, typer.Argument(help="Template YAML.", metavar="TEMPLATE.yaml")],
    registry: RegistryOption = DEFAULT_REGISTRY,
    target: Annotated[str, typer.Option(help="Hardware to compile for: cpu.")] = "cpu",
    precision: Annotated[
        str | None,
        typer.Option(
            help="What the kernels multiply in: bf16, fp32 (exact, for debugging) or int8. [default: bf16; fp32 for a "
            "template that is compiled by Inductor]",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compile even if the registry has this binary.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compile a template once, for all of its scenarios: one binary without weights, and one ONNX graph.

    A template whose components all have tile programs becomes one fused op. With any other component it is compiled by
    Inductor instead, in fp32: slower, and a call carries one scenario. Which it was, and why, is said.

    Does nothing if the registry has the binary already, in this precision. `smt publish` tells whether the precision
    costs quality. What was compiled is compared with the reference before it is
    published.

    Example: `smt compile template.yaml --registry build/registry`
    """
    from smt.kernels.cpu import PRECISIONS
    from smt.serving.compile import compile_template
    from smt.serving.registry import Registry
    from smt.training.template import load_template

    if precision is not None and precision not in PRECISIONS:
        raise CommandError(f"--precision {precision!r}: expected {', '.join(PRECISIONS)}", WRONG_INPUT)
    loaded = load_template(template)
    place = Registry(registry)
    with steps_progress(f"compiling {loaded.name}", quiet=as_json) as advance:
        info = compile_template(loaded, place, target, precision=precision, force=force, progress=advance)  # type: ignore[arg-type]
    manifest = info.manifest
    if as_json:
        fields = manifest.model_dump(mode="json", exclude={"layout", "inputs", "outputs", "program"})
        print_json(
            {
                "registry": place.root,
                "compiled": info.compiled,
                "replaced": info.replaced or None,
                "unfused": list(info.unfused),
                "seconds": round(info.seconds, 3),
                "sha256": info.sha256,
                **fields,
            }
        )
        return
    name = f"{manifest.template.name} {manifest.template.version}"
    if not info.compiled:
        RESULT.print(
            f"{name}: compiled already (ABI {manifest.abi_hash[:12]}, {manifest.precision}, torch {manifest.torch}, "
            f"sha256 {info.sha256[:12]}); --force compiles it again",
            markup=False,
        )
        return
    if info.replaced:
        NOTES.print(f"the binary that was there is replaced: {info.replaced}", markup=False)
    if info.unfused:
        NOTES.print(f"compiled by Inductor, since there is no tile program for {', '.join(info.unfused)}", markup=False)
    parity = ", ".join(f"{form} {difference:.1e}" for form, difference in manifest.parity.items())
    RESULT.print(
        f"{name}: compiled for {manifest.target} ({manifest.kind}, {manifest.precision}) in {info.seconds:.1f} s, ABI "
        f"{manifest.abi_hash[:12]}, sha256 {info.sha256[:12]}; largest difference from the reference: {parity}",
        markup=False,
    )


def _show_validation(report: Any) -> None:
    RESULT.print(f"{report.scenario} ({report.path})", markup=False)
    if report.rows:
        rows = [[split, counts["read"], counts["kept"]] for split, counts in report.rows.items()]
        RESULT.print(table("Rows", ["split", "read", "kept"], rows, numbers=["read", "kept"]))
    if report.slots:
        slots = [[kind, counts["used"], counts["free"]] for kind, counts in report.slots.items()]
        RESULT.print(table("Slots", ["slots", "used", "free"], slots, numbers=["used", "free"]))
    if report.tasks:
        tasks = [
            [t.name, t.label_rate.get("train"), t.label_rate.get("valid"), t.strongest_input, t.strongest_input_auc]
            for t in report.tasks
        ]
        columns = ["task", "label rate, train", "valid", "strongest input", "its AUC"]
        RESULT.print(table("Tasks", columns, tasks, numbers=[columns[1], columns[2], columns[4]]))
    if report.features:
        features = [[f.name, f.input, f.kind, f.slot, f.values, f.missing, f.unknown] for f in report.features]
        columns = ["feature", "input", "kind", "slot", "values", "missing", "unknown"]
        RESULT.print(table("Features (missing, unknown: in data.valid)", columns, features, numbers=columns[3:]))
    for warning in report.warnings:
        RESULT.print(f"warning: {warning}", style="yellow", markup=False)
    if report.ok:
        RESULT.print(f"no mistake; next: smt train {report.path}", markup=False)
