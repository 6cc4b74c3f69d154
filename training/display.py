"""What a person sees of training: a progress bar with ETA, rows/s and loss, and a line of metrics per epoch."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

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
            self._progress.console.print(text, highlight=False)

    def epoch(self, scenario: str, epoch: int, loss: float, metrics: dict[str, TaskMetrics], best: bool) -> None:
        """The table of an epoch's validation metrics."""
        if not self._shown:
            return
        title = f"{scenario}: epoch {epoch}, training loss {loss:.4f}{', best so far' if best else ''}"
        table = Table(
            "task", "rows", "label rate", "NE", "AUC", "logloss", "calibration", title=title, title_justify="left"
        )
        for column in table.columns[1:]:
            column.justify = "right"
        for name, task in metrics.items():
            rate = "-" if task.label_rate is None else f"{task.label_rate:.4f}"
            figures = [task.ne, task.auc, task.logloss, task.calibration]
            table.add_row(name, str(task.rows), rate, *("-" if x is None else f"{x:.4f}" for x in figures))
        self._progress.console.print(table)
