"""smt control: what operators do to a server that runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from rich.markup import escape

from smt.serving.commands.output import (
    RESULT,
    JsonOption,
    print_json,
    table,
    tls_of,
)

if TYPE_CHECKING:
    from smt.serving.control import ControlClient

app = typer.Typer(
    help="Load, unload and roll back scenarios of a running server, drain it, set its log level: through its control "
    "port, which `smt serve --control-port 8502` opens.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

ScenarioArgument = Annotated[str, typer.Argument(help="The scenario.", metavar="SCENARIO", show_default=False)]


def _option(name: str, help: str, metavar: str = "FILE") -> Any:
    """With a variable of its own: the data port may speak TLS, or have another CA, where this one does not."""
    variable = f"SMT_CONTROL_{name.replace('-', '_').upper()}"
    return typer.Option(f"--{name}", envvar=variable, help=help, metavar=metavar)


def _connection(
    target: Annotated[str, _option("target", "The server's control port.", "HOST:PORT")] = "127.0.0.1:8502",
    token_file: Annotated[str | None, _option("token-file", "File with the server's token.")] = None,
    tls_ca: Annotated[
        str | None,
        _option(
            "tls-ca", "Speak TLS, and trust the CAs of this PEM file; `system`: those of this machine.", "FILE|system"
        ),
    ] = None,
    tls_cert: Annotated[str | None, _option("tls-cert", "Certificate to show (mutual TLS), PEM.")] = None,
    tls_key: Annotated[str | None, _option("tls-key", "Key of --tls-cert, PEM.")] = None,
    tls_server_name: Annotated[
        str | None,
        _option("tls-server-name", "Name in the server's certificate, where it is not the host of --target.", "NAME"),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the call may take.")] = 300.0,
) -> ControlClient:
    from smt.serving.control import ControlClient, read_token

    return ControlClient(
        target,
        token=None if token_file is None else read_token(token_file),
        tls=tls_of(tls_ca, tls_cert, tls_key, tls_server_name),
        timeout=timeout,
    )


def _command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Registers a command that takes a client, in whose place it gets the options of `_connection`."""

    def register(run: Callable[..., None]) -> Callable[..., None]:
        options = inspect.signature(_connection).parameters
        own = [parameter for key, parameter in inspect.signature(run).parameters.items() if key != "client"]

        @functools.wraps(run)
        def command(**values: Any) -> None:
            with _connection(**{key: values.pop(key) for key in options}) as client:
                run(client, **values)

        # What typer reads. Of the hints those of the parameters alone: the rest is not imported when there is no call.
        hints = {**_hints(run), **_hints(_connection)}
        parameters = [
            parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in [*own, *options.values()]
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name)(command)
        return run

    return register


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(function, localns={"ControlClient": Any}, include_extras=True)


@_command("load")
def load(
    client: ControlClient,
    scenario: ScenarioArgument,
    version: Annotated[
        str, typer.Option(help="Swap to this version of the registry, and pin it. Default: follow the registry.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Load what the registry names now, or swap to a version and pin it; waits until it is served.

    A version that is refused is reported with the reason, and what was served goes on being served.

    Example: `smt control load income_workers --version 20260102-030405-678-0a1b2c3d`
    """
    _show(client.load(scenario, version), as_json)


@_command("unload")
def unload(client: ControlClient, scenario: ScenarioArgument, as_json: JsonOption = False) -> None:
    """Take a scenario out of service and free its weights; it stays out until `smt control load`.

    Requests for it are answered UNAVAILABLE; those under way are still scored.

    Example: `smt control unload income_workers`
    """
    _show(client.unload(scenario), as_json)


@_command("rollback")
def rollback(client: ControlClient, scenario: ScenarioArgument, as_json: JsonOption = False) -> None:
    """Swap back to the version that was served before the current one, and pin it.

    A second rollback changes nothing; to go further back, load a version by its name.

    Example: `smt control rollback income_workers`
    """
    _show(client.rollback(scenario), as_json)


@_command("unpin")
def unpin(client: ControlClient, scenario: ScenarioArgument, as_json: JsonOption = False) -> None:
    """End a pin: load what the registry names now, and follow it from then on.

    Example: `smt control unpin income_workers`
    """
    _show(client.unpin(scenario), as_json)


@_command("status")
def status(
    client: ControlClient,
    scenario: Annotated[str, typer.Argument(help="Only this scenario.", metavar="[SCENARIO]", show_default=False)] = "",
    as_json: JsonOption = False,
) -> None:
    """Show what is served, pinned, unloaded and refused.

    Example: `smt control status`
    """
    found = client.status(scenario)
    if as_json:
        print_json(
            {
                "target": client.target,
                "state": found.state,
                "inflight": found.inflight,
                "log_level": found.log_level,
                "scenarios": [_fields(item) for item in found.scenarios],
            }
        )
        return
    RESULT.print(
        f"[bold]{escape(client.target)}[/] {found.state}: {found.inflight:,} requests under way, "
        f"log level {found.log_level}"
    )
    _table(found.scenarios)


@_command("drain")
def drain(
    client: ControlClient,
    seconds: Annotated[
        int | None,
        typer.Option(help="Most seconds that requests under way may take. Default: the server's --drain-seconds."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """End the server as SIGTERM does: new requests are refused, those under way answered. Returns when it has begun.

    Example: `smt control drain --seconds 30`
    """
    begun = client.drain(seconds)
    if as_json:
        print_json({"target": client.target, "seconds": begun.seconds, "inflight": begun.inflight})
    else:
        RESULT.print(f"draining: {begun.inflight:,} requests under way, at most {begun.seconds} s")


@_command("log-level")
def log_level(
    client: ControlClient,
    level: Annotated[
        str | None,
        typer.Argument(help="debug, info, warn or error; none: only show.", metavar="[LEVEL]", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the least level that the server logs, or set it.

    Example: `smt control log-level debug`
    """
    held = client.log_level(level)
    if as_json:
        print_json({"target": client.target, "level": held})
    else:
        RESULT.print(held)


def _fields(scenario: Any) -> dict[str, Any]:
    fields = [field for field in scenario.status.DESCRIPTOR.fields if field.message_type is None]
    status = {field.name: getattr(scenario.status, field.name) for field in fields}
    return {**status, "pinned": scenario.pinned, "rollback_version": scenario.rollback_version}


def _show(scenario: Any, as_json: bool) -> None:
    if as_json:
        print_json(_fields(scenario))
    else:
        _table([scenario])


def _table(scenarios: Any) -> None:
    columns = ["scenario", "state", "version", "pinned", "rollback to", "weight bytes", "loads"]
    rows = [
        [
            s.status.scenario,
            s.status.state,
            s.status.version or None,
            s.pinned,
            s.rollback_version or None,
            s.status.weight_bytes,
            s.status.loads,
        ]
        for s in scenarios
    ]
    RESULT.print(table("Scenarios", columns, rows, numbers=columns[5:]))
    for s in scenarios:
        if s.status.refused_version or s.status.refused_reason:
            RESULT.print(
                f"{s.status.scenario}: refused {s.status.refused_version or 'a version'}: {s.status.refused_reason}",
                style="yellow",
                markup=False,
            )
