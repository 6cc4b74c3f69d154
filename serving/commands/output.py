"""What every command shares: how it prints, how it fails, the options that all have."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from smt.serving.tls import Tls

# Results go to stdout, all else to stderr, so that --json can be piped.
# Where no terminal gives the width (a pipe, a log), lines are wide enough for our tables.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
RESULT = Console(highlight=False, soft_wrap=True, width=_WIDTH)
NOTES = Console(stderr=True, highlight=False, soft_wrap=True)

FAILED = 1
WRONG_INPUT = 2

# module, class, exit code: looked up among the imported modules, since what was raised has been imported.
_KNOWN = (
    ("smt.training.config", "ConfigError", WRONG_INPUT),
    ("smt.training.reading", "DataError", WRONG_INPUT),
    ("smt.training.checkpoint", "CheckpointError", FAILED),
    ("smt.training.trainer", "TrainingError", FAILED),
    ("smt.training.cycle.store", "JobError", FAILED),
    ("smt.training.cycle.trials", "CycleError", FAILED),
    ("smt.training.cycle.report.page", "ReportError", WRONG_INPUT),
    ("smt.kernels.transform._transform", "InputError", WRONG_INPUT),
    ("smt.kernels.transform._transform", "SpecError", FAILED),
    ("smt.serving.registry", "RegistryError", FAILED),
    ("smt.serving.compile", "CompileError", FAILED),
    ("smt.serving.publish", "PublishError", FAILED),
    ("smt.serving.score", "ScoreError", FAILED),
    ("smt.serving.serve", "ServeError", FAILED),
    ("smt.serving.rows", "RowsError", WRONG_INPUT),
    ("smt.serving.prediction", "PredictError", FAILED),
    ("smt.serving.tls", "TlsError", WRONG_INPUT),
    ("smt.serving.loadgen.plan", "LoadgenError", FAILED),
    ("smt.serving.control", "ControlError", FAILED),
    ("smt.serving.control", "TokenError", WRONG_INPUT),
)

# TorchRec and what it needs: pip cannot install them with us for every device, see pyproject.toml.
_TRAINING_MODULES = {"torchrec", "fbgemm_gpu", "tensordict", "torchmetrics", "pyre_extensions"}

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]
RegistryOption = Annotated[
    str,
    typer.Option("--registry", envvar="SMT_REGISTRY", help="Registry: a folder or any fsspec URL.", metavar="DIR|URL"),
]
TargetOption = Annotated[str, typer.Option("--target", envvar="SMT_TARGET", help="Server to ask.", metavar="HOST:PORT")]

TlsCaOption = Annotated[
    str | None,
    typer.Option(
        "--tls-ca",
        envvar="SMT_TLS_CA",
        help="Speak TLS, and trust the CAs of this PEM file; `system`: those of this machine.",
        metavar="FILE|system",
    ),
]
TlsCertOption = Annotated[
    str | None,
    typer.Option("--tls-cert", envvar="SMT_TLS_CERT", help="Certificate to show (mutual TLS), PEM.", metavar="FILE"),
]
TlsKeyOption = Annotated[
    str | None, typer.Option("--tls-key", envvar="SMT_TLS_KEY", help="Key of --tls-cert, PEM.", metavar="FILE")
]
TlsNameOption = Annotated[
    str | None,
    typer.Option(
        "--tls-server-name",
        envvar="SMT_TLS_SERVER_NAME",
        help="Name in the server's certificate, where it is not the host of --target.",
        metavar="NAME",
    ),
]

DEFAULT_REGISTRY = "build/registry"
DEFAULT_TARGET = "127.0.0.1:8500"


class CommandError(Exception):
    """A command that cannot go on, for a reason that no other error of ours says."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def tls_of(ca: str | None, cert: str | None, key: str | None, server_name: str | None) -> Tls | None:
    """What the four TLS options say; None without them. Raises CommandError where the CA is missing."""
    from smt.serving.tls import Tls

    if ca is None:
        if cert or key or server_name:
            raise CommandError("--tls-cert, --tls-key, --tls-server-name: need --tls-ca FILE or `system`", WRONG_INPUT)
        return None
    return Tls(ca, cert, key, server_name)


def exit_code_of(error: BaseException) -> int | None:
    """The exit status for an error that is the user's to mend; None for one that is a fault of ours."""
    if isinstance(error, CommandError):
        return error.code
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _TRAINING_MODULES:
        return FAILED
    for module, name, code in _KNOWN:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return code
    return FAILED if isinstance(error, OSError) else None  # a file or a socket, and its message says which


def message_of(error: BaseException) -> str:
    """What to tell the user of an error that is theirs to mend."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{error}: this command needs TorchRec. In a clone, on a CPU-only machine: pip install '.[cpu]' && "
            "pip install --no-deps torchrec==1.8.0; with CUDA: pip install '.[cuda]'"
        )
    return str(error)


def print_error(message: str) -> None:
    NOTES.print(f"[bold red]error:[/] {escape(message)}")


def print_json(value: Any) -> None:
    """One JSON object on stdout; a figure that is not a number becomes null, as JSON has none."""
    RESULT.file.write(json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n")
    RESULT.file.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[str] = ()) -> Table:
    """A table whose `numbers` columns are right-aligned; None prints as a dash."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        made.add_row(*(escape(figure(cell)) for cell in row))
    return made


def figure(value: Any) -> str:
    """A cell: five significant digits for floats, thousands separated in ints."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
