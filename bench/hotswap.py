"""Hot swaps: what they cost whoever is being served, how soon new weights count, and what is left of it after a kill.

    python -m bench.hotswap [--quick] [--only PART ...] --json bench/results/hotswap.json

Parts: swaps (10,000 of them under load), freshness (from publication to the first answer, and memory), crashes (kill -9
of publisher and server), peers (the same swaps elsewhere). Each is a module hotswap_PART.py that says how it measures.
With --only the parts named are measured, and the others' figures are kept from the file. --quick ends within three
minutes. Exit status 1 if something could not be measured.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import hotswap_crashes, hotswap_freshness, hotswap_peers, hotswap_swaps
from bench.result import Result, commit

CACHE = Path("build/bench")
# (where figures go, quick, cache); a part's rows have its name as `part`, its targets' ids begin with it.
PARTS: dict[str, Callable[[Result, bool, Path], None]] = {
    "swaps": hotswap_swaps.measure,
    "freshness": hotswap_freshness.measure_part,
    "crashes": hotswap_crashes.measure,
    "peers": hotswap_peers.measure,
}


def keep(result: Result, before: dict[str, Any], measured: list[str]) -> None:
    """Puts into `result` what an earlier file says of the parts that were not measured now."""
    kept = [part for part in PARTS if part not in measured and part in before["parts"]]
    result.results += [row for row in before["results"] if row["part"] in kept]
    result.targets += [target for target in before["targets"] if target["id"].partition(".")[0] in kept]
    for part in kept:
        result.extra["parts"][part] = before["parts"][part]
        if part in before:
            result.extra[part] = before[part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions; at most three minutes")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help="parts")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    result = Result("hotswap")
    parts: dict[str, Any] = {}
    result.extra["parts"] = parts
    for part in arguments.only:
        measured, started, clock = commit(), datetime.now(UTC), time.monotonic()
        PARTS[part](result, arguments.quick, CACHE)
        seconds = round(time.monotonic() - clock, 1)
        parts[part] = {"commit": measured, "started": started.isoformat(timespec="seconds"), "seconds": seconds}
        parts[part] |= {"quick": arguments.quick, "load_average": list(os.getloadavg())}
    if len(arguments.only) < len(PARTS) and arguments.json.exists():
        keep(result, json.loads(arguments.json.read_text()), arguments.only)
    order = list(PARTS)
    result.targets.sort(key=lambda target: order.index(target["id"].partition(".")[0]))
    result.results.sort(key=lambda row: order.index(row["part"]))
    result.write(arguments.json)
    result.print_targets()
    sys.exit(0 if all(target["value"] is not None for target in result.targets) else 1)


if __name__ == "__main__":
    main()
