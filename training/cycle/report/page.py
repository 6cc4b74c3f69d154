"""One page of HTML about cycles, complete in itself: no script, no font and no picture from elsewhere.

write_report(Path("report.html"), *read_results([Path("build/cycles/spring")], None))
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from smt.training.checkpoint import write_atomically
from smt.training.cycle.report import plots
from smt.training.cycle.report.compare import against_baseline
from smt.training.cycle.report.html import Cell, percent, section, table
from smt.training.cycle.result import RESULT

Result = dict[str, Any]


class ReportError(ValueError):
    """What is to be reported is not there; the message names the file."""


def read_results(folders: Sequence[Path], baseline: Path | None) -> tuple[list[Result], Result | None]:
    """The result.json of each folder, and baseline.json. Raises ReportError."""
    results = [_read(folder / RESULT, "the output folder of a finished `smt cycle run`") for folder in folders]
    names = [list(result["scenarios"]) for result in results]
    for folder, found in zip(folders, names, strict=True):
        if found != names[0]:
            raise ReportError(f"{folder}: found a cycle of other scenarios than {folders[0]}; report them apart")
    if baseline is None:
        return results, None
    return results, _read(baseline, "the baseline.json of `smt baseline independent`")


def _read(path: Path, expected: str) -> Result:
    try:
        found: Result = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ReportError(f"{path}: no such file; expected {expected}") from None
    except ValueError as error:
        raise ReportError(f"{path}: {error}; expected {expected}") from None
    return found


def write_report(path: Path, results: Sequence[Result], baseline: Result | None = None) -> None:
    """Writes the page about one cycle or several in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(results, baseline).encode())


def render(results: Sequence[Result], baseline: Result | None = None) -> str:
    """The page."""
    first, last = results[0], results[-1]
    title = f"{first['template']['name']}: " + " → ".join(
        dict.fromkeys(name.split("\n")[0] for name in plots.versions(results))
    )
    ne = (
        "Mean over tasks and seeds, lower is better; bars: interval over seeds. On test rows, which no choice has "
        "seen, where a scenario names some, else on validation rows."
    )
    parts = [
        section("What was adopted", _summary(results)),
        section("NE per scenario over cycles", f"<p>{ne}</p>" + plots.ne_over_cycles(results, baseline)),
    ]
    if baseline is not None:
        parts.append(section("Against scenarios tuned alone", against_baseline(results, baseline)))
    for result in results:
        parts.append(section(f"Adoption matrix, {result['cycle']}", _adoption(result)))
    parts += [
        section("Capacity before and after", _capacity(results)),
        section(f"Calibration, {last['cycle']}", plots.reliability(last)),
        section(f"Training, {last['cycle']}", plots.curves(last)),
        section("Scenarios", _scenarios(last)),
    ]
    page = Path(__file__).with_name("page.html").read_text()
    return page.replace("{{title}}", escape(title)).replace("{{body}}", "\n".join(parts))


def _summary(results: Sequence[Result]) -> str:
    rows: list[list[Cell]] = []
    for result in results:
        accepted = next((each for each in result["verification"] if not each["why"]), None)
        runs = result["runs"]
        rows.append(
            [
                result["cycle"],
                result["version"]["version"] if result["version"] else "none",
                ", ".join(result["adopted"]) or "nothing",
                percent(accepted["comparison"]["total"]) if accepted else "-",
                f"{len(result['finalists'])} of {len(result['candidates'])}",
                f"{runs['total']:.1f} of {runs['budget']:g}",
                runs["adoptions"],
            ]
        )
    titles = ["cycle", "version", "adopted", "gain in NE, all scenarios", "finalists", "runs", "adoptions"]
    return table(titles, rows)


def _adoption(result: Result) -> str:
    note = (
        "<p>Gains where they were measured, on the representatives, in the last rung that a technique was in; "
        "● marks what was adopted, for the represented scenarios as well.</p>"
    )
    cells = {cell["technique"]: cell for cell in result["adoption"]}
    totals: dict[str, Any] = {}
    for rung in result["screening"]:
        totals |= {label: comparison["total"] for label, comparison in rung["candidates"].items()}
    rows: list[list[Cell]] = [
        [label, result["candidates"][label]["cost"], percent(totals.get(label)), "yes" if cell["adopted"] else "no",
         cell["why"]]
        for label, cell in cells.items()
    ]  # fmt: skip
    return note + plots.adoption(result) + table(["technique", "cost", "gain", "adopted", "why not"], rows)


def _capacity(results: Sequence[Result]) -> str:
    rows: list[list[Cell]] = []
    for result in results:
        capacity = result["capacity"]
        speed = capacity["speed"]
        for key, what in (
            ("flops_per_row", "FLOPs a row"),
            ("slab_bytes", "bytes of dense weights"),
            ("table_row_bytes", "bytes of a table row"),
        ):
            before, after = capacity["before"][key], capacity["after"][key]
            rows.append([result["cycle"], what, f"{before:,}", f"{after:,}", f"{after / before - 1:+.2%}"])
        if capacity["same_binary"]:
            rows.append([result["cycle"], "rows/s of the binary", "the same binary", "the same binary", "+0.00%"])
        elif speed is not None:
            rows.append(
                [result["cycle"], "rows/s of the binary", f"{speed['before']:,.0f}", f"{speed['after']:,.0f}",
                 f"{speed['ratio'] - 1:+.2%} [{speed['low'] - 1:+.2%}, {speed['high'] - 1:+.2%}]"]
            )  # fmt: skip
    return table(["cycle", "what", "before", "after", "change"], rows)


def _scenarios(result: Result) -> str:
    rows: list[list[Cell]] = []
    for name, scenario in result["scenarios"].items():
        side = result["quality"][name]["after"]
        rows_of = "test" if side["test"] else "valid"
        role = f"represents {scenario['represents']}" if scenario["represents"] else ""
        for task, figures in plots.shown(side)["tasks"].items():
            numbers = [f"{figures[key]:.4f}" if figures[key] is not None else "-" for key in figures]
            rows.append(
                [
                    name,
                    f"cluster {scenario['cluster'] + 1}",
                    role,
                    f"{side['rows']['train']:,}",
                    task,
                    rows_of,
                    *numbers,
                ]
            )
    titles = ["scenario", "cluster", "", "training rows", "task", "figures on", "NE", "logloss", "AUC", "calibration"]
    return table(titles, rows)
