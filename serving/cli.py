"""The command `smt`.

Commands live in smt.serving.commands and import what they need when they run: `smt --help` needs none of torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from smt.serving.commands import (
    capacity,
    compact,
    control,
    cycle,
    loadgen,
    model,
    publish,
    quality,
    registry,
    run,
    status,
    techniques,
)
from smt.serving.commands.output import exit_code_of, message_of, print_error

_HELP = """
Design a ranking model once, deploy it everywhere.

A **template** is an architecture and a training recipe. A **scenario** (one surface and its objectives) is one YAML
file that fills the template's slots. All scenarios of a template are served from one compiled binary; publishing a
scenario's new weights neither compiles nor restarts anything.

From data to scores:

```
smt new-scenario shop --template template.yaml --data rows.parquet
smt validate shop.yaml       # every mistake, with file and line
smt train shop.yaml          # writes build/runs/shop
smt compile template.yaml    # once per template, not per scenario
smt publish build/runs/shop  # through the quality gate, to build/registry
smt serve                    # gRPC on 127.0.0.1:8500, metrics on 8501
smt predict -s shop -i rows.parquet
smt status                   # what is served, what was refused and why
```

Which techniques all scenarios should have: `smt cycle run cycle.yaml`.

Every command has --help with an example; every command that reports has --json. Results go to stdout, all else to
stderr. Exit status: 0 done, 1 failed, 2 wrong input or usage.
"""


class _Group(TyperGroup):
    """Ends a command that failed for a reason the user can mend with one message instead of a stack trace."""

    def main(self, args: Sequence[str] | None = None, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        if not standalone_mode:  # called from a program, which handles exceptions itself
            return super().main(args, standalone_mode=False, **extra)
        try:
            return super().main(args, standalone_mode=True, **extra)
        except BrokenPipeError:  # the reader of our output (head, less) has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            code = exit_code_of(error)
            if code is None:
                raise
            print_error(message_of(error))
            sys.exit(code)


app = typer.Typer(
    cls=_Group,
    help=_HELP,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MODEL, _SERVING, _MEASURING = "From YAML to snapshot", "Serving", "Measuring"
_CYCLES = "Development cycles"
app.command("new-scenario", rich_help_panel=_MODEL)(model.new_scenario)
app.command("validate", rich_help_panel=_MODEL)(model.validate)
app.command("train", rich_help_panel=_MODEL)(model.train)
app.command("techniques", rich_help_panel=_MODEL)(techniques.techniques)
app.add_typer(cycle.app, name="cycle", rich_help_panel=_CYCLES)
app.add_typer(cycle.baseline_app, name="baseline", rich_help_panel=_CYCLES)
app.command("report", rich_help_panel=_CYCLES)(cycle.report)
app.command("compile", rich_help_panel=_MODEL)(model.compile_)
app.command("publish", rich_help_panel=_MODEL)(publish.publish)
registry.app.command("compact")(compact.compact)
app.add_typer(registry.app, name="registry", rich_help_panel=_MODEL)
app.command("serve", rich_help_panel=_SERVING)(run.serve)
app.command("predict", rich_help_panel=_SERVING)(run.predict)
app.command("status", rich_help_panel=_SERVING)(status.status)
app.add_typer(control.app, name="control", rich_help_panel=_SERVING)
app.command("score", rich_help_panel=_SERVING)(quality.score)
app.command("loadgen", rich_help_panel=_MEASURING)(loadgen.loadgen)
app.add_typer(capacity.app, name="bench", rich_help_panel=_MEASURING)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("smt-stack"))
        raise typer.Exit


def main() -> None:
    """Entry point of the command."""
    app(prog_name="smt")


if __name__ == "__main__":
    main()
