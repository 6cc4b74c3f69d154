"""Faults of a registry under a server that serves: python -m bench.faults [--quick] --json FILE

Bits flipped anywhere in a version (whole and delta), files cut or gone, another ABI or template, pointers to nowhere,
full disks, two publishers at once, a clock that goes back, a remote file system that is slow and fails. Each has to be
refused with a reason, or taken where it is no fault, while a client goes on scoring: none of its requests may fail, and
every answer has to be, to the bit, what the weights of the version that it names give without a server.

`measure` is what bench.hotswap and the tests call.
"""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import fault_cases as cases
from bench.delta import LargeTable
from bench.fault_stand import Stand
from bench.result import Result
from smt.training.template import Template

FLIPS = 1000
_ROWS = 20_000  # of the table: a version of 1.5 MB


def measure(
    folder: Path, flips: int, *, publications: int = 10, rows: int = _ROWS, template: Template | None = None
) -> dict[str, Any]:
    """All cases, in a registry that is made in `folder`.

    Args:
        flips: bits flipped in the whole version and as many in the delta, half of `flips` each; a tenth of it is cut.
        publications: of each publisher.
        template: default: that of bench.delta; compiled unless the registry has it.

    Returns {"rows": one flat row for each case, "requests", "failed": of the client; "complaints": what failed}.
    Raises FaultError when a fault was not noticed.
    """
    registry = folder / "registry"
    stand = Stand(registry, LargeTable.publish(registry, rows, template))
    with stand:
        found = [
            cases.bit_flips(stand, stand.whole, "bit flips, whole version", (flips + 1) // 2, 1),
            cases.bit_flips(stand, stand.delta, "bit flips, delta", flips // 2, 2),
            cases.truncations(stand, stand.whole, "truncation, whole version", max(1, flips // 20), 3),
            cases.truncations(stand, stand.delta, "truncation, delta", max(1, flips // 20), 4),
            cases.missing_files(stand, stand.whole, "missing files, whole version"),
            cases.missing_files(stand, stand.delta, "missing files, delta"),
            cases.wrong_manifests(stand, stand.whole),
            cases.bad_pointers(stand),
            cases.full_disk(stand),
            cases.two_publishers(stand, publications),
            cases.clock_back(stand),
        ]
        remote, complaints, answered = cases.remote_faults(stand, folder / "mirror", publications)
    complaints += stand.check_answers()
    return {
        "rows": [asdict(outcome) for outcome in [*found, remote]],
        "requests": answered + stand.scorer.answered,
        "failed": len(complaints),
        "complaints": complaints[:20],
    }


def add_targets(result: Result, found: dict[str, Any]) -> None:
    """The line of the work that asked for this."""
    flips = [row for row in found["rows"] if row["case"].startswith("bit flips")]
    unnoticed = sum(row["tried"] - row["refused"] for row in flips)
    result.target("fault-flips", "bits flipped anywhere in a version", sum(row["tried"] for row in flips), ">=", FLIPS)
    result.target("fault-unnoticed", "flipped bits that were not refused", unnoticed, "==", 0)
    result.target("fault-failed", "requests that failed, or were answered wrongly, meanwhile", found["failed"], "==", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()
    result = Result("faults")
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), FLIPS // 10 if options.quick else FLIPS, publications=3 if options.quick else 10)
    result.results += found["rows"]
    result.extra = {"requests": found["requests"], "complaints": found["complaints"]}
    add_targets(result, found)
    result.write(options.json)
    for row in found["rows"]:
        print(f"{row['case']}: {row['tried']} tried, {row['refused']} refused, {row['taken']} taken; {row['reason']}")
    result.print_targets()


if __name__ == "__main__":
    main()
