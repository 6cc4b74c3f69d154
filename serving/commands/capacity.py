"""smt bench capacity: how much load a server takes while it keeps its promise."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smt.serving.commands.output import (
    NOTES,
    RESULT,
    CommandError,
    JsonOption,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TlsNameOption,
    print_json,
    table,
    tls_of,
)
from smt.serving.commands.traffic import (
    ConnectionsOption,
    DataOption,
    DeadlineOption,
    InputOption,
    PayloadsOption,
    PlotOption,
    ProtocolOption,
    RowsOption,
    ScenarioOption,
    SeedOption,
    TargetArgument,
    ThreadsOption,
    Traffic,
    WarmUpOption,
    check_plot,
    deadlines,
)

if TYPE_CHECKING:
    from smt.serving.loadgen import Progress
    from smt.serving.loadgen.capacity import Capacity, Point
    from smt.serving.loadgen.server_use import Look

app = typer.Typer(no_args_is_help=True, help="Measure a running server.", rich_markup_mode="markdown")

_PROMISE, _SEARCH = "The promise", "The search"


@app.callback()
def _bench() -> None:
    """Keeps `capacity` a command of its own while it is the only one."""


@app.command("capacity")
def capacity(
    target: TargetArgument,
    scenario: ScenarioOption,
    rows: RowsOption = "256",
    protocol: ProtocolOption = "smt",
    data: DataOption = None,
    inputs: InputOption = None,
    deadline_ms: DeadlineOption = None,
    payloads: PayloadsOption = None,
    seed: SeedOption = 0,
    slo_p99_ms: Annotated[
        float,
        typer.Option("--slo-p99-ms", min=0.001, help="p99 of answered calls stays below.", rich_help_panel=_PROMISE),
    ] = 10.0,
    errors: Annotated[
        float,
        typer.Option("--errors", min=0, max=1, help="Share of calls that may fail.", rich_help_panel=_PROMISE),
    ] = 0.0,
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, help="Of a point.", rich_help_panel=_SEARCH)] = 5.0,
    resolution: Annotated[
        float,
        typer.Option(
            min=0.001, max=1, help="0.05: the next rate that missed is at most 5 % higher.", rich_help_panel=_SEARCH
        ),
    ] = 0.05,
    start: Annotated[
        float | None,
        typer.Option(min=0.1, help="First rate to try. [default: half of a closed loop's]", rich_help_panel=_SEARCH),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="The server's Prometheus page, for its CPU and memory. [default: /proc, if it runs here]",
            metavar="URL",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    warm_up: WarmUpOption = 1.0,
    connections: ConnectionsOption = 4,
    threads: ThreadsOption = 1,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_server_name: TlsNameOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write every point of the curve as JSON.")
    ] = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the largest rate at which p99 stays under a limit.

    Calls come at random moments (Poisson), whatever the server answers, and their latency counts from the moment they
    were due. The rate is doubled or halved until one keeps the promise and one does not, the gap between them is
    halved until it is small, and what was found is measured again, twice as long, before it counts.

    Example: `smt bench capacity 127.0.0.1:8500 -s feed:3 -s search:1 --rows 256 --slo-p99-ms 10 --plot capacity.png`
    """
    from smt.serving.loadgen import Plan
    from smt.serving.loadgen.capacity import Slo, search
    from smt.serving.loadgen.measure import Measurer

    check_plot(plot)
    tls = tls_of(tls_ca, tls_cert, tls_key, tls_server_name)
    traffic = Traffic(target, scenario, rows, data, inputs, payloads, seed, tls, protocol)
    streams = traffic.streams(timeouts=deadlines(deadline_ms))
    plan = Plan(
        [target],
        [],
        seconds=seconds,
        warm_up_seconds=warm_up,
        connections=connections,
        threads=threads,
        seed=seed,
        tls=tls,
    )
    slo = Slo(slo_p99_ms, errors)
    look = _look(target, metrics)
    with _search_progress(quiet=as_json) as (follow, done):
        measurer = Measurer(plan, streams, slo, look, follow)

        def measure(rate: float, longer: bool) -> Point:
            point = measurer(rate, longer)
            done(point, longer)
            return point

        found = search(measure, slo, start or measurer.guess(), resolution)
    content = _json(found, target, scenario, rows, slo_p99_ms, errors)
    if output is not None:
        from smt.serving.loadgen.files import write_result

        write_result(output, "capacity", content)
    if plot is not None:
        from smt.serving.loadgen.plot import plot_capacity

        plot_capacity(plot, found, slo, f"{target}: {', '.join(scenario)}, {rows} rows a call")
    if as_json:
        print_json(content)
    elif found.best is not None:
        _show(found.best)
    if found.best is None:
        last = found.points[-1]
        raise CommandError(
            f"no rate was found: {last.rate:,.4g} calls/s " + (f"missed ({last.missed})" if last.missed else "was met")
        )


def _look(target: str, metrics: str | None) -> Look | None:
    from smt.serving.loadgen.server_use import local_server, look_at_metrics, look_at_process

    if metrics is not None:
        look_at_metrics(metrics)  # tells now that the page is not there
        return lambda: look_at_metrics(metrics)
    pid = local_server(target)
    return None if pid is None else lambda: look_at_process(pid)


def _row(point: Point) -> list[Any]:
    resident = None if point.server_resident_bytes is None else point.server_resident_bytes / 2**20
    figures: list[Any] = [point.calls_per_second, point.rows_per_second, point.p50_ms, point.p99_ms, point.p999_ms]
    return [point.rate, *figures, point.errors, point.server_cores, resident]


def _show(best: Point) -> None:
    columns = ["offered/s", "answered/s", "rows/s", "p50", "p99", "p99.9", "failed", "server's cores", "its MiB"]
    RESULT.print(table("Capacity; latency in ms, from the moment a call was due", columns, [_row(best)], columns))
    if best.lag_p99_ms is not None and best.p99_ms and best.lag_p99_ms > best.p99_ms / 10:
        NOTES.print(
            f"note: the generator itself was late, by {best.lag_p99_ms:.3g} ms for 1 % of the calls, which is part of "
            "their latency",
            style="yellow",
        )


def _json(found: Capacity, target: str, scenario: list[str], rows: str, p99_ms: float, errors: float) -> dict[str, Any]:
    points = [{**vars(point), "met": point.met} for point in found.points]
    return {
        "target": target,
        "scenarios": scenario,
        "rows": rows,
        "slo": {"p99_ms": p99_ms, "errors": errors},
        "capacity": {**vars(found.best), "met": True} if found.best is not None else None,
        "results": points,
    }


@contextlib.contextmanager
def _search_progress(
    *, quiet: bool
) -> Iterator[tuple[Callable[[float, Progress], None], Callable[[Point, bool], None]]]:
    """Shows the point that is being measured in one line, and every measured one in a line that stays."""

    def done(point: Point, longer: bool) -> None:
        if quiet:
            return
        p99 = "-" if point.p99_ms is None else f"{point.p99_ms:.3g} ms"
        verdict = "[green]kept[/]" if point.met else f"[red]missed[/]: {point.missed}"
        again = ", again and longer" if longer else ""
        NOTES.print(f"{point.rate:>12,.1f} calls/s{again}: {point.rows_per_second:,.0f} rows/s, p99 {p99}, {verdict}")

    if quiet or not NOTES.is_terminal:
        yield (lambda rate, second: None), done
        return
    with NOTES.status("preparing") as status:

        def follow(rate: float, second: Progress) -> None:
            what = f"{rate:,.1f} calls/s" if rate else "a first guess"
            status.update(f"{what}: {second.ok:,} answered, p99 {second.p99_ms:.3g} ms, {second.failed:,} failed")

        yield follow, done
