"""From a publication to the first answer by it, and the memory that takes: lines 2 and 3 of bench.hotswap.

A client asks all the time; the clock runs from before the publication is begun, so that writing it (with its checksums
and fsync) counts, and again from when it returned. Whole versions of 100 MB, and deltas of 1 % of the rows of a table
of 10 million. Beside it, in turns, what the disk takes for as many bytes by itself: a publication that survives a power
cut cannot take less.

Memory: before each publication the kernel's peak of the server's resident memory (VmHWM) is reset, and read when the
new version answers; so nothing falls between two samples. What the kernel may have miscounted is taken
off: see COUNTER_BYTES.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from bench.delta import SCENARIO, LargeTable, Measured, compiled, measure, measure_whole
from bench.result import Result
from bench.servers import ServerError, SmtServer
from smt.serving.client import Client
from smt.serving.gc import Policy, collect
from smt.serving.registry import Registry
from smt.training.model import slab_layout

WHOLE_BYTES = 100e6
DELTA_ROWS, DELTA_SHARE = 10_000_000, 0.01
_ROW_BYTES = 64  # dim 16
# Publications of each kind; of deltas as many as chains are long, so often.
FULL, QUICK = (200, 3), (12, 1)
_CHAIN = 8
_KEPT = 2  # versions of a scenario that the server has in memory: the one that it serves and the one before
_SETTLED_SECONDS = 30.0
_WRITE_BYTES = 8 << 20
_MIB = 2**20
# What the kernel's count of a process's resident memory may be off by: since Linux 6.2 each core keeps up to so many
# pages to itself (percpu_counter_batch). The most of 200 publications is bound to have much of it in.
COUNTER_BYTES = max(32, 2 * (os.cpu_count() or 1)) * (os.cpu_count() or 1) * os.sysconf("SC_PAGESIZE")


@dataclass(frozen=True)
class Publication:
    """One publication. resident, peak: bytes of the server, before it and at most until the new version answered."""

    measured: Measured
    resident: int
    peak: int

    @property
    def grown(self) -> int:
        """Bytes, of which COUNTER_BYTES are taken off."""
        return self.peak - self.resident - COUNTER_BYTES

    @property
    def seconds(self) -> float:
        return self.measured.publish_seconds + self.measured.response_seconds


def peak_bytes(pid: int) -> int:
    """The most that a process had resident since reset_peak()."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM")


def reset_peak(pid: int) -> None:
    """From now on peak_bytes() counts."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def publications(server: SmtServer, publish: Callable[[], Measured], count: int, loaded: int) -> list[Publication]:
    """So many, one after the other, each when the server has freed what the one before left; `loaded`: versions that it
    was given before, this run's first included. Raises ServerError when it does not free them."""
    found = []
    for number in range(count):
        resident = _settled(server, loaded + number)
        reset_peak(server.pid)
        measured = publish()
        found.append(Publication(measured, resident, peak_bytes(server.pid)))
    return found


def wholes(folder: Path, count: int, whole_bytes: float = WHOLE_BYTES) -> tuple[list[Publication], list[float]]:
    """Whole versions of one scenario; and seconds that the disk takes for as many bytes, measured in turns.

    Raises what bench.delta.measure raises.
    """
    disk: list[float] = []
    table = LargeTable.publish(folder, round(whole_bytes / _ROW_BYTES))
    with SmtServer(folder) as server, Client(server.target) as client:

        def publish() -> Measured:
            collect(Registry(folder), SCENARIO, Policy(2, timedelta()), apply=True)
            disk.append(synced_write_seconds(folder, table.values.numpy().data.cast("B")))
            return measure_whole(table, client)

        publications(server, publish, 2, 1)  # afterwards the version before is in memory, as it will be
        disk.clear()
        return publications(server, publish, count, 3), disk


def deltas(folder: Path, chains: int, rows: int = DELTA_ROWS) -> tuple[list[Publication], float]:
    """Deltas of one scenario, a whole chain after the other; and bytes of bookkeeping that each may take."""
    table = LargeTable.publish(folder, rows)
    slab = slab_layout(table.template).bytes
    # The map: see RowOverlay. The dense weights: as read, and packed.
    bookkeeping = 3 / 16 * rows + 8 * _CHAIN * rows * DELTA_SHARE + 2 * slab
    found = []
    with SmtServer(folder) as server, Client(server.target) as client:
        for chain in range(chains):
            loaded = 1 + chain * (_CHAIN + 1)
            found += publications(server, lambda: measure(table, client, DELTA_SHARE), _CHAIN, loaded)
            measure_whole(table, client)
            collect(Registry(folder), SCENARIO, Policy(1, timedelta()), apply=True)
    return found, bookkeeping


def synced_write_seconds(folder: Path, content: memoryview) -> float:
    """What a new file of this content takes until it is on the disk."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        while content:
            content = content[os.write(file.fileno(), content[:_WRITE_BYTES]) :]
        os.fsync(file.fileno())
        return time.monotonic() - started


def _settled(server: SmtServer, loaded: int) -> int:
    """Resident bytes, when the server has loaded so many versions and freed all but _KEPT."""
    deadline = time.monotonic() + _SETTLED_SECONDS
    while (
        server.metric("smt_snapshot_loads_total") < loaded
        or server.metric("smt_version_states_total", state="unloaded") < loaded - _KEPT
    ):
        if time.monotonic() > deadline:
            raise ServerError(
                f"{loaded} versions were loaded, and not all but {_KEPT} freed {_SETTLED_SECONDS:.0f} s later"
            )
        time.sleep(0.01)
    return server.rss_bytes()


def _at(values: list[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "p99": float(np.quantile(values, 0.99)), "max": max(values)}


def _row(shape: str, found: list[Publication]) -> dict[str, Any]:
    measured = [one.measured for one in found]
    times = {
        "publish": _at([one.publish_seconds * 1e3 for one in measured]),
        "response": _at([one.response_seconds * 1e3 for one in measured]),
        "both": _at([one.seconds * 1e3 for one in found]),
    }
    return {
        "part": "freshness",
        "shape": shape,
        "rows": measured[0].rows,
        "threads": 2,
        "backend": "smt",
        "publications": len(found),
        "written_mib": max(one.written for one in measured) / _MIB,
        **{f"{name}_{quantile}_ms": value for name, one in times.items() for quantile, value in one.items()},
        "median_ms": times["both"]["median"],
        "p99_ms": times["both"]["p99"],
        "resident_mib": max(one.resident for one in found) / _MIB,
        "grown_mib": max(one.grown for one in found) / _MIB,
    }


def measure_part(result: Result, quick: bool, cache: Path) -> None:
    """Adds rows and targets. Raises DeltaBenchError, ServerError."""
    count, chains = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="bench-hotswap-") as folder:
        compiled(cache, Path(folder))
        whole, disk = wholes(Path(folder), count)
    with tempfile.TemporaryDirectory(prefix="bench-hotswap-") as folder:
        compiled(cache, Path(folder))
        changed, bookkeeping = deltas(Path(folder), chains)
    rows = [_row("100 MB, whole", whole), _row("1 % of 10 million rows", changed)]
    rows[0] |= {f"disk_{quantile}_ms": value for quantile, value in _at([each * 1e3 for each in disk]).items()}
    result.results += rows
    for row in rows:
        print(", ".join(f"{key} {value:.6g}" for key, value in row.items() if isinstance(value, float)), flush=True)
    add = result.target
    what = f"100 MB on local disk, p99 of {count}, ms: publication begun to the first answer by it"
    add("freshness.whole", what, rows[0]["both_p99_ms"], "<=", 300.0)
    what = f"100 MB on local disk, p99 of {count}, ms: publication returned to the first answer by it"
    add("freshness.whole_visible", what, rows[0]["response_p99_ms"], "<=", 300.0)
    what = f"1 % of 10 million rows, most of {len(changed)}, ms: publication begun to the first answer by it"
    add("freshness.delta", what, rows[1]["both_max_ms"], "<=", 1000.0)
    share = max(one.measured.share for one in changed)
    add("freshness.bytes", "bytes that such a delta writes over those of the whole version", share, "<=", 0.012)
    grown = max(one.grown / one.measured.written for one in whole)
    off = f", less the {COUNTER_BYTES / _MIB:.2f} MiB that the kernel's count may be off by"
    what = "growth of memory at most while swapping over the new version's size"
    add("freshness.memory", what + off, grown, "<=", 1.0)
    grown = max(one.grown / (one.measured.written + bookkeeping) for one in changed)
    what = "growth of memory at most while a delta is taken over its size and bookkeeping"
    add("freshness.memory_delta", what + off, grown, "<=", 1.0)
