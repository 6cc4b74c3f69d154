"""Where the server's CPU time goes, per request: samples of `perf` (Debian's linux-perf) during closed loops.

    python -m bench.budget [--quick] --json bench/results/budget.json

The CPU time of a request is the server's, over the requests that it answered meanwhile; perf's samples share it out
among parts of the server by the name of the function, or of the library. Only time on a core is sampled, so that other
work on the machine makes requests slower, but hardly changes their budget. Exit status 1 if something could not be
measured.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.fleet import Fleet
from bench.load import WARM_UP_SECONDS, closed, requests
from bench.result import Result
from bench.servers import SmtServer
from bench.shapes import load_shape
from smt.serving.registry import Registry

CACHE = Path("build/bench")
WORKERS = 2
POINTS = ((256, 4), (64, 4), (1, 16), (1, 1))  # rows, callers
_FREQUENCY = 1999  # samples a second of each core; no divisor of the kernel's ticks
# Which part of the server a sample is of: the first whose pattern fits "library function".
PARTS = {
    "compute": r"smt-server smt::cpu::|libtorch|libc10|.*\.wrapper\.so",
    "transform": r"smt-server smt::transform::",
    "decode, encode": r"smt-server (smt::v1|google::protobuf)::|libprotobuf"
    r"|smt-server smt::server::.*([Ss]can|[Pp]arse|Columns|[Mm]essage|[Aa]rena)",
    "gRPC": r"smt-server grpc|libgrpc|libgpr|libabsl|libupb|libcares",
    "schedule, call": r"smt-server ",
    "kernel": r"\[kernel|\[vdso",
    "memory": r"libjemalloc|libc.so\S* (__)?(mem|malloc|free)",
    "other": r"",
}


class PerfError(RuntimeError):
    """perf cannot sample here; the message says why."""


def part_of(library: str, symbol: str) -> str:
    """The part of the server that a function, as perf names it, belongs to."""
    name = symbol.removeprefix("[.] ").removeprefix("[k] ").replace("(anonymous namespace)::", "")
    name = re.split(r"[<(]", name)[0].rpartition(" ")[2]  # without arguments, and the type that templates return
    return next(part for part, pattern in PARTS.items() if re.match(pattern, f"{library} {name}"))


def share_out(report: str) -> dict[str, float]:
    """Shares of the samples by part, from lines `samples;library;symbol`. Raises PerfError without samples."""
    samples: Counter[str] = Counter()
    for line in report.splitlines():
        fields = [field.strip() for field in line.split(";")]
        if len(fields) >= 3 and fields[0].isdigit():
            samples[part_of(fields[1], " ".join(fields[2:]))] += int(fields[0])
    if not samples:
        raise PerfError("perf took no sample")
    return {part: samples[part] / samples.total() for part in PARTS}


def sample(pid: int, seconds: float, folder: Path) -> "subprocess.Popen[str]":
    """Starts perf on a process. Raises PerfError if there is none."""
    if shutil.which("perf") is None:
        raise PerfError("perf is not installed; Debian's package is linux-perf")
    command = ["perf", "record", "--quiet", "--event", "cpu-clock", "--freq", str(_FREQUENCY), "--pid", str(pid)]
    command += ["--output", str(folder / "perf.data"), "--", "sleep", str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def report(recorder: "subprocess.Popen[str]", folder: Path) -> str:
    """What was sampled, as lines for `share_out`."""
    _, said = recorder.communicate()
    if recorder.returncode != 0:
        raise PerfError(f"perf record: {said.strip()}")
    command = ["perf", "report", "--input", str(folder / "perf.data"), "--stdio", "--no-children", "--call-graph=none"]
    command += ["--fields", "sample,dso,symbol", "--field-separator", ";"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PerfError(f"perf report: {done.stderr.strip()}")
    return done.stdout


def measure(fleet: Fleet, server: SmtServer, rows: int, callers: int, seconds: float) -> dict[str, float | int | str]:
    """The budget of a request of so many rows, in microseconds of CPU time by part."""
    streams = requests(fleet, server.target, {fleet.names[0]: 1.0}, rows, seed=rows, payloads=64)
    with tempfile.TemporaryDirectory(prefix="bench-budget-") as folder:
        cpu, answered = server.cpu_seconds(), server.metric("smt_request_seconds_count")
        recorder = sample(server.pid, seconds + WARM_UP_SECONDS, Path(folder))
        closed(server.target, streams, callers, seconds)
        answered = server.metric("smt_request_seconds_count") - answered
        microseconds = (server.cpu_seconds() - cpu) / answered * 1e6
        shares = share_out(report(recorder, Path(folder)))
    row: dict[str, float | int | str] = {"shape": "R1", "rows": rows, "threads": WORKERS, "backend": "smt"}
    row |= {"callers": callers, "cpu_us": microseconds}
    return row | {f"{part} us": share * microseconds for part, share in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter samples")
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    result = Result("budget")
    fleet = Fleet(load_shape("R1").template, 1, CACHE)
    with tempfile.TemporaryDirectory(prefix="bench-budget-") as folder:
        fleet.publish(Registry(folder))
        with SmtServer(Path(folder), workers=WORKERS) as server:
            for rows, callers in POINTS:
                try:
                    row = measure(fleet, server, rows, callers, 3.0 if arguments.quick else 10.0)
                except PerfError as error:
                    sys.exit(str(error))
                result.results.append(row)
                print(", ".join(f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}"
                                for key, value in row.items()), flush=True)  # fmt: skip
    result.write(arguments.json)


if __name__ == "__main__":
    main()
