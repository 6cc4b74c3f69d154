"""Jobs in processes of this machine, one thread each."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from smt.training.cycle.store import JobError


class LocalExecutor:
    """`workers` processes, which live as long as a call of `run`: jobs share the seconds that torch takes to load."""

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        """See `Executor`."""
        waiting: Queue[Path] = Queue()
        for folder in folders:
            waiting.put(folder)
        outcomes: Queue[tuple[Path, str]] = Queue()
        with _processes(min(self.workers, len(folders))) as processes:
            for process, log in processes:
                threading.Thread(target=_feed, args=(process, log, waiting, outcomes), daemon=True).start()
            for _ in folders:
                folder, error = outcomes.get()
                if error:
                    raise JobError(f"the job in {folder} failed:\n{error}")
                done(folder)


@contextmanager
def _processes(count: int) -> Iterator[list[tuple["subprocess.Popen[str]", IO[bytes]]]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "smt.training.cycle.worker"]
    started: list[tuple[subprocess.Popen[str], IO[bytes]]] = []
    try:
        for _ in range(count):
            log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
            pipe = subprocess.PIPE
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
            started.append((process, log))
        yield started
    finally:
        for process, log in started:
            process.kill()
            process.wait()
            log.close()


def _feed(
    process: "subprocess.Popen[str]", log: IO[bytes], waiting: "Queue[Path]", outcomes: "Queue[tuple[Path, str]]"
) -> None:
    """One process's jobs, one after the other."""
    assert process.stdin is not None
    assert process.stdout is not None
    while True:
        try:
            folder = waiting.get_nowait()
        except Empty:
            return
        try:
            process.stdin.write(json.dumps(str(folder)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (BrokenPipeError, ValueError):
            answer = ""
        if not answer:
            outcomes.put((folder, f"its process ended with {process.wait()}; it last said:\n{_tail(log)}"))
            return
        outcomes.put((folder, json.loads(answer)["error"]))


def _tail(log: IO[bytes]) -> str:
    try:
        log.seek(0)
        return b"\n".join(log.read().splitlines()[-20:]).decode(errors="replace")
    except ValueError:  # closed: nobody asks any more
        return ""
