"""What a person sees of training: a progress bar with ETA, rows/s and loss, and a line of metrics per epoch."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from smt.training.metrics import TaskMetrics


class Display:
    """Writes to stderr, so that stdout stays free for --json. Silent when not `shown`."""

    def __init__(self, shown: bool, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not shown,
            transient=True,
        )
        self._shown = shown
        self._task: TaskID | None = None

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, description: str, total: int) -> None:
        """Starts a bar of `total` rows in place of the one before."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(description, total=total, note="")

    def advance(self, rows: int, description: str | None = None, note: str | None = None) -> None:
        if self._task is not None:
            self._progress.update(self._task, advance=rows)
            if description is not None:
                self._progress.update(self._task, description=description)
            if note is not None:
                self._progress.update(self._task, note=note)

    def say(self, text: str) -> None:
        if self._shown:
            self._progress.console.print(text, highlight=False, soft_wrap=True)

    def epoch(self, record: dict[str, Any], metrics: dict[str, TaskMetrics], best: bool) -> None:
        """One line of an epoch's validation metrics; `record` is its line of metrics.jsonl."""
        if not self._shown:
            return
        tasks = [
            f"[bold]{name}[/] NE {_figure(task.ne)} AUC {_figure(task.auc)} calibration {_figure(task.calibration)}"
            for name, task in metrics.items()
        ]
        head = f"epoch {record['epoch']}  {record['rows_per_second']:,.0f} rows/s  loss {record['loss']:.4f}"
        self.say("  ".join([head, *tasks, *(["[green]best[/]"] if best else [])]))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
