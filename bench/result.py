"""The result file that every benchmark and `make demo` write: one JSON object with rows, targets, device and commit."""

import json
import operator
import os
import platform
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Hash of the checkout, with `-dirty` when tracked files but result files differ from it; `unknown` outside git."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    head = git("rev-parse", "HEAD")
    if head.returncode != 0:
        return "unknown"
    clean = git("diff", "--quiet", "HEAD", "--", ".", ":!bench/results").returncode == 0
    return head.stdout.strip() + ("" if clean else "-dirty")


def device() -> dict[str, Any]:
    """What the figures were measured on."""
    import torch

    cpu = platform.processor() or platform.machine()
    flags: set[str] = set()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                cpu = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    isa = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if name in flags]
    return {
        "cpu": cpu,
        "isa": isa,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class Result:
    """Collects rows and targets, then writes the file.

    Attributes:
        results: flat rows, one per measured point.
        extra: further top-level objects of the file, for results that read better as a tree.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.results: list[dict[str, Any]] = []
        self.extra: dict[str, Any] = {}
        self.targets: list[dict[str, Any]] = []
        # Now, not when the file is written: what is measured is what was checked out then.
        self._commit = commit()
        self._started = datetime.now(UTC)
        self._clock = time.monotonic()

    def target(self, id: str, what: str, value: Any, op: str, target: Any) -> bool:
        """Restates one number that the work was asked to reach, with this run's value; returns whether it is met."""
        met = value is not None and OPERATORS[op](value, target)
        self.targets.append({"id": id, "what": what, "value": value, "op": op, "target": target, "met": met})
        return met

    def print_targets(self) -> None:
        """One line for each target."""
        for target in self.targets:
            verdict = "met   " if target["met"] else "MISSED"
            print(f"{verdict} {target['id']}: {target['value']} {target['op']} {target['target']}")

    def write(self, path: Path) -> dict[str, Any]:
        """Writes the file, creating its folder, and returns the object."""
        content = {
            "name": self.name,
            "commit": self._commit,
            "device": device(),
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._clock, 1),
            **self.extra,
            "results": self.results,
            "targets": self.targets,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        return content
