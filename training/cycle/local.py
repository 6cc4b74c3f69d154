"""Jobs in processes of this machine, one thread each."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import IO, Self

from smt.training.cycle.store import JobError


class LocalExecutor:
    """`workers` processes, started when there is work for them and kept until `close`: loading torch takes seconds.

    They end with this process, however that ends.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._processes: list[_Worker] = []

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        """See `Executor`."""
        waiting: Queue[Path] = Queue()
        for folder in folders:
            waiting.put(folder)
        outcomes: Queue[tuple[Path, str]] = Queue()
        try:
            while len(self._processes) < min(self.workers, len(folders)):
                self._processes.append(_Worker())
            for worker in self._processes:
                threading.Thread(target=worker.feed, args=(waiting, outcomes), daemon=True).start()
            for _ in folders:
                folder, error = outcomes.get()
                if error:
                    raise JobError(f"the job in {folder} failed:\n{error}")
                done(folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the processes, in the middle of what they do."""
        for worker in self._processes:
            worker.end()
        self._processes = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Worker:
    """One process; see worker.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "smt.training.cycle.worker"]
        pipe = subprocess.PIPE
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, env=environment)

    def feed(self, waiting: "Queue[Path]", outcomes: "Queue[tuple[Path, str]]") -> None:
        """Has it do what waits, one after the other; puts (folder, error) for each."""
        while True:
            try:
                folder = waiting.get_nowait()
            except Empty:
                return
            answer = self._ask(folder)
            if not answer:
                said = f"its process ended with {self._process.wait()}; it last said:\n{self._tail()}"
                outcomes.put((folder, said))
                return
            outcomes.put((folder, json.loads(answer)["error"]))

    def _ask(self, folder: Path) -> str:
        """The answer, or nothing where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(str(folder)) + "\n")
            self._process.stdin.flush()
            return self._process.stdout.readline()
        except (BrokenPipeError, ValueError):
            return ""

    def _tail(self) -> str:
        try:
            self._log.seek(0)
            return b"\n".join(self._log.read().splitlines()[-20:]).decode(errors="replace")
        except ValueError:  # closed: nobody asks any more
            return ""

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
