"""The records of all jobs, by content, in one folder; and the runner, which has the missing ones made.

    runner = Runner(Store(Path("build/cycles/store")), LocalExecutor(2))
    records = runner.records(jobs)

A job whose record is there is not run again: what was killed goes on where it was, and a cycle can be replayed.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from smt.training.cycle.execute import JOB, RECORD, RUN, SCENARIO, TEMPLATE, is_done
from smt.training.cycle.jobs import Job, data_sha256
from smt.training.cycle.record import Record, read_record

Advance = Callable[[float], None]


class JobError(RuntimeError):
    """A job that could not be done; the message names it and says why."""


class Executor(Protocol):
    """Has jobs done, in processes of this machine or of others that see the same folder."""

    def run(self, folders: Sequence[Path], done: Callable[[Path], None]) -> None:
        """Executes each folder's job (see execute.py) and calls `done` after each, in the caller's thread.

        Raises JobError for the first that fails, after ending the others.
        """
        ...

    def close(self) -> None:
        """Gives back what was held between calls."""
        ...


class Store:
    """A folder per job, named by its key."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def folder(self, job: Job) -> Path:
        return self.root / job.key[:2] / job.key

    def run_dir(self, job: Job) -> Path:
        """Where the weights of a kept job are."""
        return self.folder(job) / RUN

    def has(self, job: Job) -> bool:
        return is_done(self.folder(job), job.keep)

    def record(self, job: Job) -> Record:
        """Raises FileNotFoundError before the job is done."""
        return read_record(self.folder(job) / RECORD)

    def prepare(self, job: Job) -> Path:
        """Writes what `execute` reads. Again each time, since a writer may have been killed; it is the same."""
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        needs = [need.key for need in job.needs]
        identity = {"key": job.key, "keep": job.keep, "needs": needs, "data": dict(data_sha256(job.scenario))}
        for name, data in ((SCENARIO, job.scenario_data), (TEMPLATE, job.template_data), (JOB, identity)):
            text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"  # which is YAML, too
            if not (folder / name).is_file() or (folder / name).read_text() != text:
                (folder / name).write_text(text)
        return folder


class Runner:
    """Gives the records of jobs, and counts what they cost.

    Attributes:
        spent: cost in runs of all distinct jobs asked for, made now or found: the same in a replay.
        made: how many were made now.
    """

    def __init__(self, store: Store, executor: Executor | None, advance: Advance | None = None) -> None:
        """executor: None refuses to make any, to replay. advance: called with the cost of each job that is done."""
        self.store = store
        self.executor = executor
        self.advance = advance or (lambda cost: None)
        self.made = 0
        self._counted: dict[str, float] = {}

    @property
    def spent(self) -> float:
        return sum(self._counted.values())

    @property
    def counted(self) -> dict[str, float]:
        """Cost of each distinct job that was asked for, by the beginning of its key."""
        return {key[:16]: cost for key, cost in self._counted.items()}

    def cost(self, jobs: Iterable[Job]) -> float:
        """What asking for these would add to `spent`."""
        wanted = {job.key: job.cost for job in _with_needs(jobs)}
        return sum(cost for key, cost in wanted.items() if key not in self._counted)

    def records(self, jobs: Sequence[Job]) -> list[Record]:
        """Records of the jobs, in their order.

        Raises:
            JobError: one could not be done, or would have to be made in a replay.
        """
        for level in _levels(jobs):
            self._make(level)
        return [self.store.record(job) for job in jobs]

    def _make(self, jobs: Sequence[Job]) -> None:
        new = {job.key: job for job in jobs}
        missing = {key: job for key, job in new.items() if not self.store.has(job)}
        for key, job in new.items():
            if key not in self._counted:
                self._counted[key] = job.cost
                if key not in missing:
                    self.advance(job.cost)
        if missing and self.executor is None:
            job = next(iter(missing.values()))
            raise JobError(
                f"{self.store.root}: {len(missing)} jobs have no record, among them {job.key[:12]} of {job.name} with "
                f"seed {job.seed}; a replay makes none, run the cycle"
            )
        if missing and self.executor is not None:
            folders = {self.store.prepare(job): job for job in missing.values()}

            def done(folder: Path) -> None:
                self.made += 1
                self.advance(folders[folder].cost)

            # The longest first, so that no worker is left alone with one at the end.
            order = sorted(folders, key=lambda folder: (-folders[folder].cost, folders[folder].name, folder))
            self.executor.run(order, done)


def _with_needs(jobs: Iterable[Job]) -> list[Job]:
    found: list[Job] = []
    for job in jobs:
        found += [*_with_needs(job.needs), job]
    return found


def _levels(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs and all that they need, those first that the others wait for."""
    if not jobs:
        return []
    return [*_levels([need for job in jobs for need in job.needs]), list(jobs)]
