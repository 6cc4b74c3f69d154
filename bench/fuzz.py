"""Fuzzes everything that reads bytes of others: requests, registry files, programs (tests/fuzz/targets.h).

    python -m bench.fuzz [--quick] [--only TARGET ...] --json bench/results/fuzz.json

Each target runs under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer from the committed corpus,
`--executions` times, one after the other on each core. An input with which it fails is left in build/fuzz/findings, and
the run exits with 1. With `--only`, the other targets' rows are kept from the file. With `--grow`, inputs that reach
code which the corpus does not are added to it, as few as do. Needs clang with libFuzzer (requirements/apt-fuzz.txt).
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.result import ROOT, Result, commit

EXECUTIONS = 10_000_000
QUICK_EXECUTIONS = 100_000
CORPUS = ROOT / "tests/fuzz/corpus"
BUILD = ROOT / "build/fuzz"
FINDINGS = BUILD / "findings"
# A kilobyte holds every kind of field, and is read a hundred times as often as the largest requests would be.
_MOST_BYTES = {
    "connection": 16384,
    "binary_manifest": 8192,
    "snapshot_manifest": 8192,
    "feature_spec": 4096,
    "tile_program": 4096,
}
# For one input. By the clock, on which a machine that stands still is a slow input too: what takes longer than the
# first is no finding, but misses its target; what takes longer than the second ends the run.
_SLOW_SECONDS, _MOST_SECONDS = 10, 1200
# Two frames of whoever allocated are enough to find it by, and what was freed a thousand inputs ago is used no more:
# with the defaults AddressSanitizer takes a tenth to a third of the time for them.
_SANITIZER = {"ASAN_OPTIONS": "malloc_context_size=2:quarantine_size_mb=16"}
_STATISTIC = re.compile(r"^stat::(\w+):\s+(\d+)$", re.MULTILINE)
_COVERED = re.compile(r"cov: (\d+)")


class FuzzError(RuntimeError):
    """The fuzzers could not be built or did not run."""


def build() -> None:
    """Configures and compiles the fuzzers in build/fuzz. Raises FuzzError."""
    environment = {**os.environ, "CC": "clang", "CXX": "clang++"}
    configure: list[str | Path] = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        BUILD,
        "-G",
        "Ninja",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DSMT_FUZZ=ON",
    ]
    commands: tuple[list[str | Path], ...] = (
        [*configure, f"-DPython_EXECUTABLE={sys.executable}"],
        ["cmake", "--build", BUILD, "--target", "fuzzers", "-j", str(os.cpu_count())],
    )
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FuzzError(f"{' '.join(map(str, command))}: {done.stdout[-4000:]}{done.stderr[-4000:]}")


def fuzz(target: str, executions: int) -> dict[str, Any]:
    """One target's row. A finding is no error: `findings` counts the inputs that were left in FINDINGS."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as grown:
        done = subprocess.run(
            [
                BUILD / "tests/fuzz" / f"fuzz_{target}",
                f"-runs={executions}",
                f"-max_len={_MOST_BYTES.get(target, 1024)}",
                "-rss_limit_mb=2048",
                f"-timeout={_MOST_SECONDS}",
                "-print_final_stats=1",
                f"-artifact_prefix={FINDINGS}/{target}-",
                grown,
                CORPUS / target,
            ],
            env={**os.environ, **_SANITIZER},
            capture_output=True,
            text=True,
            check=False,
        )
    statistics = {name: int(value) for name, value in _STATISTIC.findall(done.stderr)}
    if "number_of_executed_units" not in statistics and done.returncode == 0:
        raise FuzzError(f"{target}: no statistics in {done.stderr[-2000:]!r}")
    covered = [int(edges) for edges in _COVERED.findall(done.stderr)]
    return {
        "target": target,
        "commit": commit(),
        "executions": statistics.get("number_of_executed_units", 0),
        "findings": int(done.returncode != 0),
        "finding": done.stderr[-2000:] if done.returncode != 0 else None,
        "seconds": round(time.monotonic() - started, 1),
        "corpus": sum(1 for _ in (CORPUS / target).iterdir()),
        "edges_covered": max(covered, default=0),
        "slowest_seconds": statistics.get("slowest_unit_time_sec"),
        "peak_rss_mb": statistics.get("peak_rss_mb"),
    }


def grow(target: str, executions: int) -> None:
    """Adds to the corpus, as few inputs as reach all that was reached. Raises FuzzError for a finding."""
    fuzzer = BUILD / "tests/fuzz" / f"fuzz_{target}"
    with tempfile.TemporaryDirectory(prefix="fuzz-") as grown:
        commands: tuple[list[str | Path], ...] = (
            [fuzzer, f"-runs={executions}", f"-max_len={_MOST_BYTES.get(target, 1024)}", grown, CORPUS / target],
            [fuzzer, "-merge=1", CORPUS / target, grown],
        )
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise FuzzError(f"{target}: {done.stderr[-4000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executions", type=int, default=EXECUTIONS, help="of each target")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EXECUTIONS:,} executions of each target")
    targets = sorted(folder.name for folder in CORPUS.iterdir())
    parser.add_argument("--only", nargs="+", choices=targets, default=targets, metavar="TARGET", help="targets")
    parser.add_argument(
        "--grow", action="store_true", help="add to the corpus what reaches new code, and do nothing else"
    )
    parser.add_argument("--json", type=Path, required=True, help="result file to write")
    arguments = parser.parse_args()
    executions = QUICK_EXECUTIONS if arguments.quick else arguments.executions
    rows: dict[str, dict[str, Any]] = {}
    if arguments.json.exists():
        before = json.loads(arguments.json.read_text())["results"]
        rows = {row["target"]: row for row in before if row["target"] not in arguments.only}
    result = Result("fuzz")
    build()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        if arguments.grow:
            list(pool.map(grow, arguments.only, [executions] * len(arguments.only)))
            return
        for row in pool.map(fuzz, arguments.only, [executions] * len(arguments.only)):
            rows[row["target"]] = row
            print(f"{row['target']:18} {row['executions']:>12,} executions in {row['seconds']:.0f} s", flush=True)
            print(row["finding"] or "", end="", flush=True)
    result.results = [rows[target] for target in targets if target in rows]
    least = min(rows[target]["executions"] if target in rows else 0 for target in targets)
    result.target("fuzz.executions", "executions of the target with the fewest", least, ">=", EXECUTIONS)
    found = sum(row["findings"] for row in result.results)
    result.target("fuzz.findings", "targets with a finding", found, "==", 0)
    slowest = max(row["slowest_seconds"] or 0 for row in result.results)
    result.target("fuzz.slowest", "seconds that the slowest input took", slowest, "<=", _SLOW_SECONDS)
    result.write(arguments.json)
    result.print_targets()
    sys.exit(0 if found == 0 and slowest <= _SLOW_SECONDS else 1)


if __name__ == "__main__":
    main()
