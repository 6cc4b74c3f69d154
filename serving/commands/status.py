"""smt status: what a server serves, and the life of every version in it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from smt.serving.commands.output import (
    DEFAULT_TARGET,
    NOTES,
    RESULT,
    JsonOption,
    TargetOption,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TlsNameOption,
    print_json,
    table,
    tls_of,
)

if TYPE_CHECKING:
    from smt.serving.client import Client

_OF_SHADOWS = [
    "scenario", "shadow", "compared", "dropped", "failed", "task",
    "mean difference", "max difference", "mean stable", "mean shadow",
]  # fmt: skip
_SERVER = ("version", "max_rows", "max_message_bytes", "workers", "resident_bytes", "memory_limit")


def status(
    target: TargetOption = DEFAULT_TARGET,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until interrupted; with --json one object per refresh.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks of --watch.")] = 0.5,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_server_name: TlsNameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a server serves: scenarios, the state of each version, what it refused and why, its binaries.

    A version is discovered, verifying, loading, warm (in memory, for a rollback), serving, draining (requests that
    began with it are still answered), unloaded or refused.

    Example: `smt status --target 127.0.0.1:8500 --watch`
    """
    from smt.serving.client import Client

    with Client(target, tls=tls_of(tls_ca, tls_cert, tls_key, tls_server_name)) as client:
        if watch:
            _watch(client, target, interval, as_json)
            return
        seen = _look(client, target)
    if as_json:
        print_json(seen)
        return
    RESULT.print(_page(seen))
    if seen["scenarios"] and not any(scenario["state"] == "SERVING" for scenario in seen["scenarios"]):
        NOTES.print(f"note: none of the {len(seen['scenarios'])} scenarios is served", style="yellow", markup=False)


def _watch(client: Client, target: str, interval: float, as_json: bool) -> None:
    try:
        if as_json:
            while True:
                print_json(_look(client, target))
                time.sleep(interval)
        with Live(_page(_look(client, target)), console=RESULT, auto_refresh=False, screen=RESULT.is_terminal) as live:
            while True:
                time.sleep(interval)
                live.update(_page(_look(client, target)), refresh=True)
    except KeyboardInterrupt:
        pass


def _look(client: Client, target: str) -> dict[str, Any]:
    server, health, scenarios = client.server(), client.health(), client.list_scenarios()
    return {
        "target": target,
        "health": health,
        "server": {name: getattr(server, name) for name in _SERVER},
        "binaries": [_fields(binary) for binary in server.binaries],
        "scenarios": [
            {
                **_fields(scenario),
                "versions": [_version(version) for version in scenario.versions],
                "shadow": _shadow(scenario.shadow) if scenario.HasField("shadow") else None,
            }
            for scenario in scenarios
        ],
    }


def _version(version: Any) -> dict[str, Any]:
    fields = _fields(version)
    since = datetime.fromtimestamp(fields.pop("since_unix_ms") / 1e3, UTC)
    return {**fields, "since": since.isoformat(timespec="milliseconds")}


def _shadow(shadow: Any) -> dict[str, Any]:
    return {
        **_fields(shadow),
        "tasks": [_fields(task) for task in shadow.tasks],
        "differences": [
            {"at_most": at_most, "scores": scores}
            for at_most, scores in zip([*shadow.bounds, None], shadow.counts, strict=True)
        ],
    }


def _page(seen: dict[str, Any]) -> Group:
    server = seen["server"]
    limit = f" of at most {server['memory_limit']:,}" if server["memory_limit"] else ""
    head = Text.from_markup(
        f"[bold]{escape(seen['target'])}[/] {seen['health']}: smt-server {server['version']}, "
        f"{server['workers']} workers, at most {server['max_rows']:,} rows and {server['max_message_bytes']:,} bytes a "
        f"request, {server['resident_bytes']:,} bytes of weights{limit}"
    )
    binaries = [
        [b["template_name"], b["template_version"], b["abi_hash"][:12], b["sha256"][:12]] for b in seen["binaries"]
    ]
    served = [
        [s["scenario"], s["state"], s["version"] or None, s["abi_hash"][:12] or None, s["weight_bytes"], s["loads"]]
        for s in seen["scenarios"]
    ]
    versions = [
        [s["scenario"], v["version"], v["state"], v["label"] or None, v["since"][:19], v["weight_bytes"], v["reason"]]
        for s in seen["scenarios"]
        for v in s["versions"]
    ]
    shadows = [
        [s["scenario"], d["version"], d["compared"], d["dropped"], d["failed"], t["task"]]
        + [f"{t[name]:.4g}" for name in ("mean_difference", "max_difference", "mean_stable", "mean_shadow")]
        for s in seen["scenarios"]
        if (d := s["shadow"])
        for t in d["tasks"]
    ]
    columns = ["scenario", "state", "version", "ABI", "weight bytes", "loads"]
    of_versions = ["scenario", "version", "state", "label", "since (UTC)", "bytes", "reason"]
    return Group(
        head,
        table("Template binaries", ["template", "version", "ABI", "sha256"], binaries),
        table("Scenarios", columns, served, numbers=columns[4:]),
        table("Versions", of_versions, versions, numbers=["bytes"]),
        *([table("Shadows", _OF_SHADOWS, shadows, numbers=_OF_SHADOWS[2:5] + _OF_SHADOWS[6:])] if shadows else []),
        *(
            Text(f"{s['scenario']}: refused {s['refused_version'] or 'a version'}: {s['refused_reason']}", "yellow")
            for s in seen["scenarios"]
            if s["refused_version"] or s["refused_reason"]
        ),
        *(
            Text(f"{s['scenario']}: shadow {d['version']} cannot score: {d['failure']}", "yellow")
            for s in seen["scenarios"]
            if (d := s["shadow"]) and d["failed"]
        ),
    )


def _fields(message: Any) -> dict[str, Any]:
    """The plain fields of a message as a dict, numbers as numbers."""
    return {
        field.name: getattr(message, field.name)
        for field in message.DESCRIPTOR.fields
        if field.label != field.LABEL_REPEATED and field.message_type is None
    }
