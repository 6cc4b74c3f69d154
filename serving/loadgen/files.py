"""Result files: the same outer form as the benchmarks' (bench/result.py)."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_result(path: Path, name: str, content: Mapping[str, Any]) -> None:
    """Writes {"name", "device", "written", ...content}, creating the folder."""
    head = {"name": name, "device": _device(), "written": datetime.now(UTC).isoformat(timespec="seconds")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, **content}, allow_nan=False) + "\n")


def _device() -> dict[str, Any]:
    """Of the generator, which is the server's as well if they share a machine."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        cpu = next(names, cpu)
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
