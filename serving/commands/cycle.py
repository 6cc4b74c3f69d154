"""smt cycle run, smt baseline independent, smt report: techniques adopted on evidence, and what that came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smt.serving.commands.output import NOTES, RESULT, WRONG_INPUT, CommandError, JsonOption, print_json, table
from smt.serving.commands.progress import runs_progress

if TYPE_CHECKING:
    from smt.training.cycle.config import Cycle
    from smt.training.cycle.store import Executor, Runner
    from smt.training.cycle.watch import Watch

DEFAULT_CYCLES = Path("build/cycles")

app = typer.Typer(no_args_is_help=True, help="Development cycles: which techniques a template takes up.")
baseline_app = typer.Typer(no_args_is_help=True, help="The other way of working, to compare cycles with.")

CycleArgument = Annotated[Path, typer.Argument(help="Cycle YAML.", metavar="CYCLE.yaml")]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Output folder. [default: build/cycles/NAME]", show_default=False),
]
StoreOption = Annotated[Path, typer.Option("--store", help="Records of runs; cycles may share it.")]
ExecutorOption = Annotated[str, typer.Option("--executor", help="local: processes here; ray: a Ray cluster.")]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Runs at once, of one thread each. [default: one per core]")
]
QuickOption = Annotated[bool, typer.Option("--quick", help="As small as the file's `quick` says: to see it work.")]
ReplayOption = Annotated[bool, typer.Option("--replay", help="Make no run: decide again by the records there are.")]


@app.command("run")
def run(
    cycle: CycleArgument,
    output: OutputOption = None,
    publish: Annotated[
        str | None, typer.Option("--publish", help="Publish every scenario's run of the new version to this registry.")
    ] = None,
    store: StoreOption = DEFAULT_CYCLES / "store",
    executor: ExecutorOption = "local",
    workers: WorkersOption = None,
    quick: QuickOption = False,
    replay: ReplayOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a development cycle: evaluate techniques on representative scenarios, cut the template's next version.

    Candidates are compared with the template as it is, seed by seed, by successive halving; those with evidence are
    combined, as far as serving costs no more and no scenario gets worse beyond its noise; the combination is verified
    on every scenario. Writes template.yaml (the next version), result.json and report.html to the output folder.

    Every run is recorded: what was interrupted goes on where it was, and --replay decides again by the records.

    Example: `smt cycle run examples/census/cycle.yaml --quick`
    """
    from smt.serving.cycle.speed import speed_measurement
    from smt.training.cycle.config import load_cycle
    from smt.training.cycle.cycle import run_cycle
    from smt.training.cycle.report.page import write_report
    from smt.training.cycle.result import describe_outcome, write_outcome

    if replay and publish is not None:
        raise CommandError("--replay: makes no run, so there is none to --publish", WRONG_INPUT)
    loaded = load_cycle(cycle, quick)
    folder = output or DEFAULT_CYCLES / loaded.name
    with _runner(loaded, store, executor, workers, replay, as_json) as (runner, watch):
        entry = loaded.entry.capacity
        measure = speed_measurement(store / "binaries", entry.rows, entry.repetitions, watch.say)
        outcome = run_cycle(loaded, runner, folder, measure, release=publish is not None, watch=watch)
        result = describe_outcome(outcome, runner)
        if publish is not None and outcome.template is not None:
            from smt.serving.cycle.release import publish_version
            from smt.serving.registry import Registry

            result["published"] = publish_version(outcome.template, outcome.released, Registry(publish), watch.say)
    write_outcome(folder, result)
    write_report(folder / "report.html", [result])
    if as_json:
        print_json(result)
        return
    _show(result)
    NOTES.print(f"{runner.made} runs made, the others were recorded; {folder / 'report.html'} shows it", markup=False)


@baseline_app.command("independent")
def independent(
    cycle: CycleArgument,
    output: OutputOption = None,
    store: StoreOption = DEFAULT_CYCLES / "store",
    budget_of: Annotated[
        list[Path] | None,
        typer.Option("--budget-of", help="Output folder of a cycle, may be repeated: spend what they spent together."),
    ] = None,
    executor: ExecutorOption = "local",
    workers: WorkersOption = None,
    quick: QuickOption = False,
    replay: ReplayOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tune each scenario of a cycle alone, with the same candidates and the same total budget.

    Writes baseline.json to the output folder, after each scenario anew with those tuned so far; `smt report --baseline`
    sets it beside cycles.

    Example: `smt baseline independent examples/census/cycle.yaml --quick`
    """
    from smt.serving.cycle.speed import speed_measurement
    from smt.training.cycle.config import load_cycle
    from smt.training.cycle.independent import tune_independently, with_budget
    from smt.training.cycle.report.compare import distinct_runs
    from smt.training.cycle.report.page import read_results
    from smt.training.run import write_json

    loaded = load_cycle(cycle, quick)
    if budget_of:
        results, _ = read_results(budget_of, None)
        loaded = with_budget(loaded, distinct_runs(results))
    folder = output or DEFAULT_CYCLES / loaded.name
    folder.mkdir(parents=True, exist_ok=True)
    with _runner(loaded, store, executor, workers, replay, as_json) as (runner, watch):
        entry = loaded.entry.capacity
        measure = speed_measurement(store / "binaries", entry.rows, entry.repetitions, watch.say)
        result = tune_independently(
            loaded, runner, measure, watch, lambda so_far: write_json(folder / "baseline.json", so_far)
        )
    if as_json:
        print_json(result)
        return
    rows = [
        [
            name,
            ", ".join(each["tried"]),
            ", ".join(each["adopted"]),
            each["runs"],
            each["quality"]["after"]["ne"]["mean"],
        ]
        for name, each in result["scenarios"].items()
    ]
    columns = ["scenario", "tried", "adopted", "runs", "NE"]
    RESULT.print(table(f"Each scenario of {loaded.name} alone", columns, rows, numbers=columns[3:]))
    NOTES.print(f"{folder / 'baseline.json'} written", markup=False)


def report(
    cycles: Annotated[
        list[Path], typer.Argument(help="Output folders of cycles, in their order.", metavar="FOLDER...")
    ],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="baseline.json of `smt baseline independent`.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about cycles: quality per scenario, adoption, capacity, calibration.

    Example: `smt report build/cycles/spring build/cycles/summer -o report.html`
    """
    from smt.training.cycle.report.page import read_results, write_report

    results, compared = read_results(cycles, baseline)
    write_report(output, results, compared)
    if as_json:
        print_json({"output": str(output), "cycles": [result["cycle"] for result in results]})
    else:
        RESULT.print(f"{output} written", markup=False)


@contextmanager
def _runner(
    cycle: Cycle, store: Path, executor: str, workers: int | None, replay: bool, quiet: bool
) -> Iterator[tuple[Runner, Watch]]:
    from smt.training.cycle.store import Runner, Store

    made = None if replay else _executor(executor, workers)
    try:
        with runs_progress(cycle.name, quiet=quiet) as watch:
            yield Runner(Store(store), made, watch.advance), watch
    finally:
        if made is not None:
            made.close()


def _executor(name: str, workers: int | None) -> Executor:
    from smt.training.cycle.local import LocalExecutor
    from smt.training.cycle.ray_executor import RayExecutor

    kinds: dict[str, Callable[[int | None], Executor]] = {"local": LocalExecutor, "ray": RayExecutor}
    if name not in kinds:
        raise CommandError(f"--executor {name!r}: expected {' or '.join(kinds)}", WRONG_INPUT)
    return kinds[name](workers)


def _show(result: dict[str, Any]) -> None:
    cells = {(cell["technique"], cell["scenario"]): cell for cell in result["adoption"]}
    # A gain is measured on the representatives alone.
    scenarios = [name for name, each in result["scenarios"].items() if each["represents"]]
    rows = []
    for technique in result["candidates"]:
        gains = [cells[technique, scenario]["gain"] for scenario in scenarios]
        first = cells[technique, scenarios[0]]
        rows.append([technique, *map(percent, gains), first["adopted"], first["why"]])
    RESULT.print(
        table(
            "Adoption: gain in NE where it was measured", ["technique", *scenarios, "adopted", "why not"], rows,
            numbers=scenarios,
        )
    )  # fmt: skip
    quality = result["quality"]
    rows = [[name, side["before"]["ne"]["mean"], side["after"]["ne"]["mean"]] for name, side in quality.items()]
    if result["version"] is None:
        RESULT.print("nothing was adopted; the template stays as it is")
        return
    version = f"{result['version']['name']} {result['version']['version']}"
    RESULT.print(
        table(f"NE before and with {version}", ["scenario", "before", "after"], rows, numbers=["before", "after"])
    )
    total = result["verification"][-1]["comparison"]["total"]
    RESULT.print(f"{version}: {', '.join(result['adopted'])}; gain {percent(total)} over all scenarios", markup=False)
    for scenario, published in result.get("published", {}).items():
        RESULT.print(f"{scenario}: {published['version'] or published['refused']}", markup=False)


def percent(interval: dict[str, Any] | None) -> str:
    """A gain as a cell: its mean, and its interval where it has one."""
    if interval is None:
        return "-"
    if interval["low"] is None:
        return f"{100 * interval['mean']:+.2f} %"
    return f"{100 * interval['mean']:+.2f} % [{100 * interval['low']:+.2f}, {100 * interval['high']:+.2f}]"
