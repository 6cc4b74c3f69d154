"""What a server uses while it is under load: CPU time and memory, from /proc or from its own metrics."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smt.serving.loadgen.plan import LoadgenError

_PROC = Path("/proc")
_LISTENING = "0A"
_METRICS_TIMEOUT = 5.0


@dataclass(frozen=True)
class Use:
    """At one moment: seconds of CPU since the server started, bytes resident."""

    at: float
    cpu_seconds: float
    resident_bytes: int


Look = Callable[[], Use]


def cores_between(first: Use, last: Use) -> float | None:
    """CPU seconds per second."""
    return (last.cpu_seconds - first.cpu_seconds) / (last.at - first.at) if last.at > first.at else None


def look_at_process(pid: int) -> Use:
    """The process and its children, as some servers compute in those. Raises LoadgenError when it is gone."""
    parents = {int(entry.name): _stat(entry) for entry in _PROC.iterdir() if entry.name.isdigit()}
    if parents.get(pid) is None:
        raise LoadgenError(f"process {pid}: no such process")
    family = {pid}
    while more := {one for one, stat in parents.items() if stat and stat[0] in family and one not in family}:
        family |= more
    tick, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    stats = [stat for one in family if (stat := parents[one])]
    return Use(time.monotonic(), sum(stat[1] for stat in stats) / tick, sum(stat[2] for stat in stats) * page)


def look_at_metrics(url: str) -> Use:
    """process_cpu_seconds_total and process_resident_memory_bytes of a Prometheus page. Raises LoadgenError."""
    try:
        with urllib.request.urlopen(url, timeout=_METRICS_TIMEOUT) as answer:
            text = answer.read().decode()
    except OSError as error:
        raise LoadgenError(f"{url}: {error}") from error

    def value(name: str) -> float:
        found = re.search(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", text, re.MULTILINE)
        if found is None:
            raise LoadgenError(f"{url}: found no {name}; expected the metrics that Prometheus' clients have")
        return float(found[1])

    cpu, resident = value("process_cpu_seconds_total"), value("process_resident_memory_bytes")
    return Use(time.monotonic(), cpu, int(resident))


def local_server(target: str) -> int | None:
    """The process that listens at "host:port", if it is one of this machine that we may look at."""
    host, _, port = target.rpartition(":")
    try:
        address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0][4][0]
        with socket.socket(socket.AF_INET6 if ":" in str(address) else socket.AF_INET) as probe:
            probe.bind((address, 0))  # only an address of this machine can be bound
    except (OSError, ValueError):
        return None
    inodes = set()
    for table in ("tcp", "tcp6"):
        path = _PROC / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == int(port):
                inodes.add(f"socket:[{fields[9]}]")
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and inodes & _open_files(entry):
            return int(entry.name)
    return None


def _stat(entry: Path) -> tuple[int, int, int] | None:
    """Parent, ticks of CPU, resident pages; None for a process that has gone meanwhile."""
    try:
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[21])


def _open_files(entry: Path) -> set[str]:
    found = set()
    try:
        for file in (entry / "fd").iterdir():
            found.add(os.readlink(file))
    except OSError:  # another user's, or gone
        pass
    return found
