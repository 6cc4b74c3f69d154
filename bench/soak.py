"""The server for a long time under everything at once: does it leak, lose or miscount anything?

    python -m bench.soak [--minutes 20] [--quick] --json bench/results/soak.json

Eight scenarios of R1. Clients send requests of 1 to 4096 rows, MultiPredict, requests with deadlines that cannot all be
met, requests with mistakes, and floods; they cancel, and connections break. Meanwhile snapshots are published, the
scheduling file is rewritten (now and then malformed), the access log is on and metrics are read. At the end the server
is asked to end under load. --quick is two minutes. Exit status 1 if something could not be measured.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.fleet import Fleet
from bench.load import closed, requests
from bench.result import Result
from bench.servers import SmtServer
from bench.shapes import load_shape
from bench.soak_changes import Publisher, Repeated, Scheduling, Scores, Watch, counts
from bench.soak_counters import ClientCounts, Counts, differences, trend
from bench.soak_farewell import Farewell
from bench.soak_traffic import MISTAKES, POLITE, SCENARIOS, Traffic, flood, rude, steady
from smt.serving import loadgen
from smt.serving.registry import Registry

CACHE = Path("build/bench")
WORKERS = 2
_PART_SECONDS = 30.0  # of a run of rude clients
_FLOOD_SECONDS, _FLOOD_EVERY = 3.0, 17.0
_FLAT_MIB_PER_HOUR = 8.0
# Events that the run itself brings about.
_EXPECTED_ERRORS = {"scheduling_refused"}

Make = Callable[[Fleet, str, float, int], Traffic]
Run = tuple[Traffic, loadgen.LoadResult]


class Soak:
    """One run."""

    def __init__(self, minutes: float, folder: Path) -> None:
        self.seconds = minutes * 60
        self.result = Result("soak")
        self.fleet = Fleet(load_shape("R1").template, SCENARIOS, CACHE)
        self.folder = folder / "registry"
        self.folder.mkdir()
        self.registry = Registry(self.folder)
        self.scheduling = Scheduling(folder / "scheduling.json")

    def run(self) -> None:
        self.fleet.publish(self.registry)
        options: dict[str, Any] = {"workers": WORKERS, "scheduling": self.scheduling.path, "access-log": 0.01}
        with SmtServer(self.folder, **options) as server:
            streams = requests(self.fleet, server.target, {POLITE[0]: 1.0}, 256, 0, payloads=16)
            capacity = closed(server.target, streams, 4, 2.0).rows_per_second
            before = counts(server.metrics_text())
            watch, scores = Watch(server), Scores(self.fleet, server.target)
            publisher = Publisher(self.fleet, self.registry)
            with contextlib.ExitStack() as stack:
                stack.callback(scores.close)
                stack.enter_context(Repeated(watch, 1.0))
                stack.enter_context(Repeated(scores, 0.02))
                stack.enter_context(Repeated(self.scheduling, 3.0))
                stack.enter_context(Repeated(publisher, 1.0))
                runs = self._traffic(server.target, capacity)
            self._add_streams(runs)
            self._add_memory(watch)
            self._add_counters(server, before, runs, scores)
            self.result.extra["changes"] = {
                "capacity_rows_per_second": capacity,
                "published": publisher.published,
                "loaded": server.metric("smt_snapshot_loads_total"),
                "versions_compared": scores.versions,
                "scheduling_files": self.scheduling.written,
                "malformed_scheduling_files": self.scheduling.malformed,
            }
            self._add_end(server)

    def _traffic(self, target: str, capacity: float) -> list[Run]:
        """Until the time is over."""
        end = time.monotonic() + self.seconds

        def repeat(make: Make, seconds: float, every: float) -> list[Run]:
            runs: list[Run] = []
            while (left := end - time.monotonic()) > 1:
                next_one = time.monotonic() + every
                traffic = make(self.fleet, target, min(seconds, left), len(runs))
                runs.append((traffic, loadgen.run(traffic.plan)))
                time.sleep(max(0.0, min(next_one, end) - time.monotonic()))
            return runs

        with ThreadPoolExecutor(2) as pool:
            others = [
                pool.submit(repeat, rude, _PART_SECONDS, 0.0),
                pool.submit(repeat, flood, _FLOOD_SECONDS, _FLOOD_EVERY),
            ]
            traffic = steady(self.fleet, target, capacity, self.seconds)
            return [(traffic, loadgen.run(traffic.plan)), *(run for other in others for run in other.result())]

    def _add_streams(self, runs: Sequence[Run]) -> None:
        """A row for each stream: what became of its calls, all parts together."""
        parts: dict[str, list[loadgen.StreamResult]] = {}
        for _, result in runs:
            for name, stream in result.streams.items():
                parts.setdefault(name, []).append(stream)
        wrong = 0
        for name, streams in parts.items():
            merged = loadgen.StreamResult.merged(name, streams)
            if name in MISTAKES:
                wrong += sum(count for outcome, count in merged.totals.items() if outcome != MISTAKES[name])
            row = {"shape": name, "threads": WORKERS, "backend": "smt", "calls": dict(merged.totals)}
            row |= {"median_ms": merged.latency.quantile_ms(0.5), "p99_ms": merged.latency.quantile_ms(0.99)}
            self.result.results.append(row)
        what = "requests with mistakes that were not refused as they have to be"
        self.result.target("soak.mistakes", what, wrong, "==", 0)

    def _add_memory(self, watch: Watch) -> None:
        found = trend(watch.seconds, watch.rss_mib)
        self.result.extra["memory"] = {
            "mib_per_hour": found.per_hour,
            "standard_error": found.error,
            "least_mib": min(watch.rss_mib),
            "most_mib": max(watch.rss_mib),
            "samples": watch.rows,
        }
        what = (
            f"growth of the server's memory in the second half of {self.seconds / 60:g} minutes, MiB per hour "
            f"({found.per_hour:.1f}, less two standard errors of {found.error:.1f})"
        )
        self.result.target("soak.memory", what, found.least, "<=", _FLAT_MIB_PER_HOUR)

    def _add_counters(self, server: SmtServer, before: Counts, runs: Sequence[Run], scores: Scores) -> None:
        clients = ClientCounts()
        for traffic, result in runs:
            clients.add_result(traffic.scenarios, result)
        clients.answered.update(scores.counts)
        counted = counts(server.metrics_text()) - before
        found = differences(counted, clients)
        for metric in ("smt_inflight", "smt_queue_depth"):
            if left := server.metric(metric):
                found.append(f"{metric}: {left:g} when all calls had ended; expected 0")
        self.result.extra["counters"] = {
            "requests": {f"{scenario} {code}": count for (scenario, code), count in sorted(counted.items())},
            "differences": found,
        }
        add = self.result.target
        what = "scenarios and statuses in which the server's counters and the clients' differ"
        add("soak.counters", what, len(found), "==", 0)
        expired = server.metric("smt_expired_rows_total")
        add("soak.expired", "rows computed after their deadline", expired, "==", 0)
        add("soak.scores", "answers that differ from others of their version", scores.wrong, "==", 0)

    def _add_end(self, server: SmtServer) -> None:
        self.scheduling.end()
        farewell = Farewell(self.fleet, server).run()
        lines = [json.loads(line) for line in server.log_lines()]
        errors = Counter(line["event"] for line in lines if line["level"] == "error")
        unexpected = {event: count for event, count in errors.items() if event not in _EXPECTED_ERRORS}
        self.result.extra["end"] = {
            "seconds": farewell.seconds,
            "calls": dict(farewell.endings),
            "lost": farewell.lost,
            "unanswered": farewell.unanswered,
            "access_log_lines": sum(line["event"] in ("request", "request_failed") for line in lines),
            "errors_logged": dict(errors),
        }
        self.result.extra["machine"] = {"load_average": list(os.getloadavg())}
        add = self.result.target
        add("soak.exit", "exit status after SIGTERM under load", farewell.status, "==", 0)
        add("soak.lost", "calls under way at SIGTERM that got no answer", len(farewell.lost), "==", 0)
        add("soak.unanswered", "calls that the server says it did not answer", farewell.unanswered, "==", 0)
        add("soak.errors", "errors in the log that the run did not ask for", sum(unexpected.values()), "==", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0, help="of mixed traffic")
    parser.add_argument("--quick", action="store_true", help="two minutes")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        soak = Soak(2.0 if arguments.quick else arguments.minutes, Path(folder))
        soak.run()
    soak.result.write(arguments.json)
    soak.result.print_targets()
    sys.exit(0 if all(target["value"] is not None for target in soak.result.targets) else 1)


if __name__ == "__main__":
    main()
