"""Progress on stderr, where a person watches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from smt.serving.commands.output import NOTES


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
