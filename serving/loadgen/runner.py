"""Runs a plan: starts smt-loadgen, follows its progress, reads its result."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from smt.serving.loadgen.plan import LoadgenError, Plan
from smt.serving.loadgen.result import LoadResult, Progress, read_progress, read_result
from smt.serving.serve import ServeError, find_executable


def run(plan: Plan, progress: Callable[[Progress], None] | None = None) -> LoadResult:
    """Makes the plan's calls, in a process of its own, and returns when the last answer is there.

    Args:
        progress: called every second.

    Raises:
        LoadgenError: for a plan that cannot be made, or a server that is not there. A server that goes away or fails
            during the run is no error: the calls' outcomes tell.

    Ctrl-C ends the run early; what was measured until then is returned.
    """
    try:
        executable = find_executable("smt-loadgen", "SMT_LOADGEN")
    except ServeError as error:
        raise LoadgenError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="smt-loadgen-") as folder:
        plan_file, payloads = plan.write(Path(folder))
        output = Path(folder) / "result.json"
        seconds: list[Progress] = []
        with output.open("wb") as stdout:
            command = [str(executable), "--plan", str(plan_file), "--payloads", str(payloads)]
            process = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
        last = _follow(process, seconds, progress)
        if process.returncode != 0:
            said = last.removeprefix("error: ").strip() or f"exit status {process.returncode}"
            raise LoadgenError(f"smt-loadgen: {said}")
        return read_result(json.loads(output.read_bytes()), seconds)


def _follow(
    process: subprocess.Popen[str], seconds: list[Progress], progress: Callable[[Progress], None] | None
) -> str:
    """Reads stderr to its end; returns the last line that was not progress."""
    assert process.stderr is not None
    said = ""
    try:
        while True:
            # From a terminal the interrupt has reached the generator as well: it finishes, and so do we.
            with contextlib.suppress(KeyboardInterrupt):
                for line in process.stderr:
                    if not line.startswith("{"):
                        said = line
                        continue
                    seconds.append(read_progress(json.loads(line)))
                    if progress is not None:
                        progress(seconds[-1])
                process.wait()
                return said
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
