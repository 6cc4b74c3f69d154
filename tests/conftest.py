"""Fixtures of all tests. Costly things (a compiled template) are made once per session."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Tests import each other's helpers as `tests.…`, however pytest was started.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# pytest-xdist tells its workers how wide the terminal is; output is checked as it is where there is none.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.pop("COLUMNS", None)

# Triton kernels are interpreted where there is no GPU; to be said before anything loads triton.
if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Before anything loads torch: it sets how threads wait.
import smt.training  # noqa: F401
