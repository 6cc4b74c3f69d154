"""smt loadgen: calls at a set pace, and what the server answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smt.serving.commands.output import (
    NOTES,
    RESULT,
    WRONG_INPUT,
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
from smt.serving.commands.progress import load_progress
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
    SecondsOption,
    SeedOption,
    TargetArgument,
    ThreadsOption,
    Traffic,
    WarmUpOption,
    check_plot,
    check_protocol,
    deadlines,
    scenario_mix,
)

if TYPE_CHECKING:
    from smt.serving.loadgen import LoadResult, Source

_PACE, _FAULTS = "Pace", "Faults on purpose"
_MOST_SHOWN = 20  # streams in the terminal


def loadgen(
    target: TargetArgument,
    scenario: ScenarioOption,
    rows: RowsOption = "256",
    protocol: ProtocolOption = "smt",
    data: DataOption = None,
    inputs: InputOption = None,
    deadline_ms: DeadlineOption = None,
    payloads: PayloadsOption = None,
    seed: SeedOption = 0,
    closed: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="So many callers, each of which calls again when it has its answer. [default: 4]",
            rich_help_panel=_PACE,
        ),
    ] = None,
    think_ms: Annotated[
        float, typer.Option(min=0, help="With --closed: pause between answer and next call.", rich_help_panel=_PACE)
    ] = 0.0,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="So many calls per second, whatever the server answers.", rich_help_panel=_PACE),
    ] = None,
    fixed: Annotated[
        bool, typer.Option("--fixed/--poisson", help="With --rate: even gaps, or random ones.", rich_help_panel=_PACE)
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="The rows of this file at the moments that it names; equal moments are one call.",
            rich_help_panel=_PACE,
            metavar="FILE.parquet",
        ),
    ] = None,
    time_column: Annotated[
        str, typer.Option(help="With --replay: its column of times, or of seconds.", rich_help_panel=_PACE)
    ] = "time",
    scenario_column: Annotated[
        str | None,
        typer.Option(help="With --replay: its column of scenarios, if they are several.", rich_help_panel=_PACE),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0.001, help="With --replay: times as fast as recorded.", rich_help_panel=_PACE)
    ] = 1.0,
    seconds: SecondsOption = 10.0,
    warm_up: WarmUpOption = 1.0,
    cancel: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the calls that are cancelled.", rich_help_panel=_FAULTS)
    ] = 0.0,
    cancel_ms: Annotated[
        float, typer.Option(min=0, help="With --cancel: within so many milliseconds.", rich_help_panel=_FAULTS)
    ] = 10.0,
    disconnects: Annotated[
        float, typer.Option(min=0, help="Connections closed abruptly, per second.", rich_help_panel=_FAULTS)
    ] = 0.0,
    connections: ConnectionsOption = 4,
    threads: ThreadsOption = 1,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_server_name: TlsNameOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result, histograms included, as JSON.")
    ] = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put load on a server and measure what it answers.

    A closed loop shows how much the server does for so many callers that wait. An open loop (--rate, --replay) shows
    what users wait who do not wait for each other: latency counts from the moment a call was due, so that a server or
    generator that falls behind shows it (no coordinated omission).

    Values are drawn at random for what the scenarios read, as the server describes it. Calls are made by smt-loadgen,
    a C++ program that needs a few microseconds of CPU for each. Ctrl-C ends a run early.

    Example: `smt loadgen 127.0.0.1:8500 -s feed:3 -s search --rows 1:0.2,256:0.8 --rate 2000 --plot latency.png`
    """
    from smt.serving.loadgen import Closed, Open, Plan, Source, run
    from smt.serving.loadgen.replay import replay_source

    _check(protocol, closed, rate, replay, data, plot)
    tls = tls_of(tls_ca, tls_cert, tls_key, tls_server_name)
    traffic = Traffic(target, scenario, rows, data, inputs, payloads, seed, tls, protocol)
    options: dict[str, Any] = {
        "timeouts": deadlines(deadline_ms),
        "cancel_fraction": cancel,
        "cancel_seconds": (0.0, cancel_ms / 1e3),
    }
    if replay is not None:
        names = list(scenario_mix(scenario))
        source, length = replay_source(
            target,
            names,
            replay,
            time_column=time_column,
            scenario_column=scenario_column,
            speed=speed,
            tls=tls,
            **options,
        )
        seconds = min(seconds, length - warm_up)
        if seconds <= 0:
            raise CommandError(f"{replay}: lasts {length:.3g} s; expected more than --warm-up {warm_up:g}", WRONG_INPUT)
    else:
        pace = Closed(closed or 4, think_ms / 1e3) if rate is None else Open(rate, "fixed" if fixed else "poisson")
        source = Source(pace, traffic.streams(**options))
    plan = Plan(
        [target],
        [source],
        seconds=seconds,
        warm_up_seconds=warm_up,
        connections=connections,
        threads=threads,
        seed=seed,
        disconnects_per_second=disconnects,
        tls=tls,
    )
    with load_progress(f"load on {target}", seconds + warm_up, quiet=as_json) as advance:
        result = run(plan, advance)
    _write(result, source, target, output, plot)
    if as_json:
        print_json({"target": target, "pace": described(source), **result.to_json(histograms=False)})
    else:
        _show(result, source)


def described(source: Source) -> str:
    """The pace in words."""
    from smt.serving.loadgen import Closed, Open

    match source.pace:
        case Closed(callers, think):
            return f"closed loop, {callers} callers" + (f", {think * 1e3:g} ms apart" if think else "")
        case Open(rate, arrivals):
            return f"open loop, {rate:,g} calls/s, {'even gaps' if arrivals == 'fixed' else 'Poisson'}"
        case pace:
            return f"replay of {len(pace.arrivals):,} calls"


def _check(
    protocol: str, closed: int | None, rate: float | None, replay: Path | None, data: Path | None, plot: Path | None
) -> None:
    given = {"--closed": closed, "--rate": rate, "--replay": replay}
    named = [option for option, value in given.items() if value is not None]
    if len(named) > 1:
        raise CommandError(f"{named[0]} and {named[1]}: a run has one pace; give one of them", WRONG_INPUT)
    if replay is not None and data is not None:
        raise CommandError("--data: the rows of a replay are in its own file; leave it out", WRONG_INPUT)
    check_plot(plot)
    check_protocol(protocol, {"--data": data, "--replay": replay})


def _write(result: LoadResult, source: Source, target: str, output: Path | None, plot: Path | None) -> None:
    if output is not None:
        from smt.serving.loadgen.files import write_result

        write_result(output, "loadgen", {"target": target, "pace": described(source), **result.to_json()})
    if plot is not None:
        from smt.serving.loadgen.plot import plot_latency

        plot_latency(plot, result, f"{target}: {described(source)}")


def _show(result: LoadResult, source: Source) -> None:
    found = result.to_json(histograms=False)["results"]
    streams = list(dict.fromkeys(row["stream"] for row in found))
    shown = streams[:_MOST_SHOWN] + [name for name in streams[_MOST_SHOWN:] if name == "total"]
    figures = ["p50_ms", "p90_ms", "p99_ms", "p99.9_ms", "p99.99_ms", "max_ms", "mean_ms"]
    cells = [
        [row["stream"], row["outcome"], row["count"], row["per_second"], row["rows_per_second"] or None]
        + [row[name] for name in figures]
        for row in found
        if row["stream"] in shown
    ]
    titles = [name.removesuffix("_ms") for name in figures]
    columns = ["stream", "outcome", "calls", "calls/s", "rows/s", *titles]
    since = "from sending" if result.lag.count == 0 else "from the moment a call was due"
    RESULT.print(table(f"{described(source)}; latency in ms, {since}", columns, cells, numbers=columns[2:]))
    if len(shown) < len(streams):
        NOTES.print(f"{len(shown)} of {len(streams)} streams; --output FILE writes all")
    for stream in result.streams.values():
        if stream.late_ok:
            NOTES.print(
                f"{stream.name}: {stream.late_ok:,} answers OK came after their deadline, the latest by "
                f"{stream.latest_ok_ms:.3g} ms",
                markup=False,
            )
    cpu = result.cpu_us_per_call
    NOTES.print(
        f"generator: {result.threads} threads, {result.connections} connections, "
        f"{result.generator_cpu_seconds:.2f} s of CPU" + (f", {cpu:.1f} us a call" if cpu is not None else "")
    )
    for warning in result.warnings():
        NOTES.print(f"note: {warning}", style="yellow", markup=False)
