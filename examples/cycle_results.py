"""What the result files of development cycles have in common: the command line, and what each cycle came to."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.result import Result
from smt.training.cycle.report.page import ReportError
from smt.training.cycle.statistics import Interval, combined

Json = Mapping[str, Any]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Asks for the cycles and the result file."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("cycles", type=Path, nargs="+", help="output folders of the cycles, in their order")
    made.add_argument("--json", type=Path, help="result file to write")
    return made


def conclude(result: Result, evaluate: Callable[[], None], file: Path | None) -> None:
    """Runs `evaluate`, which fills the result; prints the targets and writes the file. Ends the process with a message
    when a cycle or what belongs to it is not there."""
    try:
        evaluate()
    except (ReportError, OSError) as error:
        sys.exit(f"error: {error}")
    result.print_targets()
    if file:
        result.write(file)


def gain(result: Json) -> Interval:
    """What a cycle's version gained over the one before on test rows: of the same seeds, mean over the scenarios."""
    groups = [
        [
            sum((a - b[task]) / a for task, a in before.items()) / len(before)
            for before, b in zip(side["before"]["test"]["runs"], side["after"]["test"]["runs"], strict=True)
        ]
        for side in result["quality"].values()
    ]
    return combined(groups, [1.0] * len(groups), result["confidence"])


def cycle_row(result: Json) -> dict[str, Any]:
    """One cycle: what it tried and took up, what that gained on test rows, and what it spent."""
    found = gain(result)
    return {
        "cycle": result["cycle"],
        "candidates": list(result["candidates"]),
        "finalists": result["finalists"],
        "adopted": result["adopted"],
        "version": result["version"]["version"] if result["version"] else None,
        "gain": found.mean,
        "gain_low": found.low,
        "gain_high": found.high,
        "runs": result["runs"]["total"],
        "adoptions": result["runs"]["adoptions"],
    }
