"""What `smt loadgen` and `smt bench` share: which calls to make, where to, and the options that say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smt.serving.commands.output import WRONG_INPUT, CommandError

if TYPE_CHECKING:
    from smt.serving.loadgen import Stream, Timeout
    from smt.serving.tls import Tls

_CALLS, _GENERATOR = "What the calls are", "The generator"

TargetArgument = Annotated[str, typer.Argument(help="Server to call.", metavar="HOST:PORT", envvar="SMT_TARGET")]
ScenarioOption = Annotated[
    list[str],
    typer.Option(
        "--scenario",
        "-s",
        help="Scenario (or model), with its share of the calls; repeat for a mix.",
        metavar="NAME[:SHARE]",
        rich_help_panel=_CALLS,
    ),
]
RowsOption = Annotated[
    str,
    typer.Option(
        "--rows",
        help="Candidates per call; several numbers with their shares: 1:0.5,256:0.5.",
        metavar="N[:SHARE],…",
        rich_help_panel=_CALLS,
    ),
]
ProtocolOption = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="smt: our own. oip: the Open Inference Protocol v2, for any server of it; scenarios are its models.",
        metavar="smt|oip",
        rich_help_panel=_CALLS,
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Take the rows from this file (.parquet, .csv, .jsonl). [default: random values]",
        rich_help_panel=_CALLS,
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        help="Where random values of an input are drawn from (whole numbers: below HIGH); repeat.",
        metavar="NAME=LOW..HIGH|NAME=a,b,c",
        rich_help_panel=_CALLS,
    ),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline-ms",
        help="Deadline of a call; several with their shares: 5:0.2,100:0.8. [default: none]",
        metavar="MS[:SHARE],…",
        rich_help_panel=_CALLS,
    ),
]
PayloadsOption = Annotated[
    int | None,
    typer.Option(
        "--payloads",
        min=1,
        help="Distinct random requests of each kind. [default: 512 in all, 8 at least]",
        rich_help_panel=_CALLS,
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Of values, arrivals and every other choice.", rich_help_panel=_CALLS)
]
SecondsOption = Annotated[float, typer.Option("--seconds", min=0.1, help="How long to measure.")]
WarmUpOption = Annotated[float, typer.Option("--warm-up", min=0, help="Seconds of calls before, which do not count.")]
ConnectionsOption = Annotated[
    int, typer.Option("--connections", min=1, help="Connections in all.", rich_help_panel=_GENERATOR)
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Its threads.", rich_help_panel=_GENERATOR)]


PlotOption = Annotated[Path | None, typer.Option("--plot", help="Draw it: .png, .svg or .pdf.", metavar="FILE")]


@dataclass(frozen=True)
class Traffic:
    """The calls that the options describe."""

    target: str
    scenarios: Sequence[str]
    rows: str
    data: Path | None
    inputs: Sequence[str] | None
    payloads: int | None
    seed: int
    tls: Tls | None
    protocol: str

    def streams(self, **options: Any) -> list[Stream]:
        """`options`: of every Stream. Asks the server what its scenarios read."""
        from smt.serving.loadgen import oip_streams, smt_streams

        options |= {"payloads": self.payloads, "seed": self.seed, "ranges": input_ranges(self.inputs), "tls": self.tls}
        mix, rows = scenario_mix(self.scenarios), row_counts(self.rows)
        check_protocol(self.protocol, {"--data": self.data})
        if self.protocol == "oip":
            return oip_streams(self.target, mix, rows, **options)
        return smt_streams(self.target, mix, rows, data=self.data, **options)


def shares(option: str, text: str) -> dict[float, float]:
    """ "1:0.5,256:0.5" as {1: 0.5, 256: 0.5}; "256" as {256: 1}. All above 0."""
    found: dict[float, float] = {}
    for part in text.split(","):
        value, _, share = part.partition(":")
        try:
            number, weight = float(value), float(share or 1)
        except ValueError:
            number = weight = 0.0
        if not (0 < number < float("inf") and 0 < weight < float("inf")):
            raise CommandError(f"{option}: found {part!r}; expected VALUE or VALUE:SHARE, both above 0", WRONG_INPUT)
        found[number] = weight
    return found


def row_counts(text: str) -> dict[int, float]:
    found = shares("--rows", text)
    wrong = next((value for value in found if value != int(value)), None)
    if wrong is not None:
        raise CommandError(f"--rows: found {wrong:g}; expected whole numbers of candidates", WRONG_INPUT)
    return {int(value): share for value, share in found.items()}


def scenario_mix(scenarios: Sequence[str]) -> dict[str, float]:
    """ "feed:3" as {"feed": 3}; without a share 1."""
    found: dict[str, float] = {}
    for text in scenarios:
        name, _, share = text.partition(":")
        try:
            found[name] = float(share or 1)
        except ValueError:
            found[name] = 0.0
        if not (name and 0 < found[name] < float("inf")):
            raise CommandError(f"--scenario: found {text!r}; expected NAME or NAME:SHARE, above 0", WRONG_INPUT)
    return found


def input_ranges(texts: Sequence[str] | None) -> dict[str, Any]:
    """ "age=18..90" as {"age": (18.0, 90.0)}, "city=Wien,Graz" as {"city": ["Wien", "Graz"]}."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, _, values = text.partition("=")
        if not (name and values):
            raise CommandError(f"--input: found {text!r}; expected NAME=LOW..HIGH or NAME=a,b,c", WRONG_INPUT)
        low, dots, high = values.partition("..")
        try:
            found[name] = (float(low), float(high)) if dots else values.split(",")
        except ValueError as error:
            raise CommandError(f"--input: found {text!r}; expected numbers on both sides of ..", WRONG_INPUT) from error
    return found


def deadlines(text: str | None) -> list[Timeout]:
    from smt.serving.loadgen import Timeout

    if text is None:
        return []
    return [Timeout(value / 1e3, share) for value, share in shares("--deadline-ms", text).items()]


def check_protocol(protocol: str, smt_only: Mapping[str, object]) -> None:
    """Raises CommandError for another protocol than the two, and for options (by name) that belong to smt alone."""
    if protocol not in ("smt", "oip"):
        raise CommandError(f"--protocol: found {protocol!r}; expected smt or oip", WRONG_INPUT)
    given = [option for option, value in smt_only.items() if value is not None]
    if protocol == "oip" and given:
        raise CommandError(f"{given[0]}: needs --protocol smt, which says what a scenario reads", WRONG_INPUT)


def check_plot(plot: Path | None) -> None:
    if plot is not None and plot.suffix not in (".png", ".svg", ".pdf"):
        raise CommandError(f"--plot {plot}: expected a name that ends in .png, .svg or .pdf", WRONG_INPUT)
