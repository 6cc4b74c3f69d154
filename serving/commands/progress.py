"""Progress on stderr, where a person watches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from smt.serving.commands.output import NOTES

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from smt.serving.loadgen import Progress
    from smt.training.cycle.watch import Watch


@contextlib.contextmanager
def rows_progress(title: str, rows: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar with rows per second and time left; gives the function to call with the number of rows done."""
    if quiet or not NOTES.is_terminal:
        yield lambda done: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RowsPerSecond(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:,.0f} rows/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RowsPerSecond(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=NOTES, transient=True) as bar:
        task = bar.add_task(title, total=rows)
        yield lambda done: bar.advance(task, done)


@contextlib.contextmanager
def steps_progress(title: str, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner with the time spent; gives the function to call as each step begins."""
    if quiet or not NOTES.is_terminal:
        yield (lambda step: None) if quiet else (lambda step: NOTES.print(f"{title}: {step}", markup=False))
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=NOTES) as bar:
        task = bar.add_task(title)
        yield lambda step: bar.update(task, description=f"{title}: {step}")


@contextlib.contextmanager
def load_progress(title: str, seconds: float, *, quiet: bool = False) -> Iterator[Callable[[Progress], None]]:
    """A bar of a load run's seconds, with what the last one came to; gives the function to call every second."""
    if quiet or not NOTES.is_terminal:
        yield lambda second: None
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    now = TextColumn("{task.fields[last]}")
    with Bar(TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn(), now, console=NOTES) as bar:
        task = bar.add_task(title, total=seconds, last="")

        def show(second: Progress) -> None:
            last = (
                f"{second.ok:,} calls/s, {second.rows:,} rows/s, p50 {second.p50_ms:.3g} ms, "
                f"p99 {second.p99_ms:.3g} ms, {second.outstanding:,} under way, "
                f"[{'red' if second.failed else 'green'}]{second.failed:,} failed[/]"
            )
            bar.update(task, completed=second.at, last=last)

        yield show


@contextlib.contextmanager
def runs_progress(title: str, *, quiet: bool = False) -> Iterator[Watch]:
    """A bar of each phase of a cycle, in runs done, with the time left."""
    from smt.training.cycle.watch import Quiet

    if quiet:
        yield Quiet()
        return
    if not NOTES.is_terminal:
        yield _Lines(title)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    done = TextColumn("{task.completed:.1f}/{task.total:.1f} runs")
    columns = (TextColumn("{task.description}"), BarColumn(20), done, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=NOTES) as bar:
        yield _Bar(bar, title)


class _Lines:
    """A line for each phase, where nobody looks at a bar."""

    def __init__(self, title: str) -> None:
        self.title = title

    def phase(self, title: str, runs: float) -> None:
        NOTES.print(f"{self.title}: {title} (up to {runs:.1f} runs)", markup=False)

    def advance(self, runs: float) -> None: ...

    def say(self, text: str) -> None:
        NOTES.print(f"{self.title}: {text}", markup=False)


class _Bar:
    """See `Watch`."""

    def __init__(self, bar: RichProgress, title: str) -> None:
        self.bar = bar
        self.title = title
        self.task: TaskID | None = None

    def phase(self, title: str, runs: float) -> None:
        if self.task is not None:
            # A phase may cost less than it might have.
            self.bar.update(self.task, completed=self.bar.tasks[self.task].total)
        self.task = self.bar.add_task(f"{self.title}: {title}", total=runs)

    def advance(self, runs: float) -> None:
        if self.task is not None:
            self.bar.advance(self.task, runs)

    def say(self, text: str) -> None:
        self.bar.print(text, markup=False)
