"""smt serve, predict: everything around a running server. `smt status` is in status.py."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from smt.serving.commands.output import (
    DEFAULT_REGISTRY,
    DEFAULT_TARGET,
    NOTES,
    RESULT,
    WRONG_INPUT,
    CommandError,
    JsonOption,
    RegistryOption,
    TargetOption,
    TlsCaOption,
    TlsCertOption,
    TlsKeyOption,
    TlsNameOption,
    print_json,
    table,
    tls_of,
)
from smt.serving.commands.progress import rows_progress

# Shown in the terminal when there is no --output.
_PREVIEW_ROWS = 10


def serve(
    registry: RegistryOption = DEFAULT_REGISTRY,
    host: Annotated[
        str | None, typer.Option(help="Address of the data port; 0.0.0.0 for all. [default: 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Data port: scores, metadata, health by gRPC; 0: the system picks one. [default: 8500]"),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM certificate of the data port: turns TLS on. Read again on change.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of --tls-cert, not encrypted.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM CAs: only clients with a certificate of theirs may connect (mutual TLS).")
    ] = None,
    metrics_host: Annotated[str | None, typer.Option(help="Address of /metrics. [default: 127.0.0.1]")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(help="Prometheus' /metrics: plain HTTP, numbers only; 0: the system picks. [default: 8501]"),
    ] = None,
    control_port: Annotated[
        int | None,
        typer.Option(
            help="Control port: load, unload, rollback, drain by gRPC (`smt control`); 0: the system picks. "
            "[default: not opened; 8502 is where `smt control` looks]"
        ),
    ] = None,
    control_host: Annotated[
        str | None,
        typer.Option(help="Address of the control port; others than 127.0.0.1 need a token or mutual TLS."),
    ] = None,
    control_token_file: Annotated[
        Path | None, typer.Option(help="File with the token that callers of the control port have to send.")
    ] = None,
    control_tls_cert: Annotated[Path | None, typer.Option(help="PEM certificate of the control port.")] = None,
    control_tls_key: Annotated[Path | None, typer.Option(help="PEM key of --control-tls-cert.")] = None,
    control_tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM CAs whose clients may use the control port (mutual TLS).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that compute. [default: one per core]")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Most candidates of a request. [default: 4096]")] = None,
    max_message_bytes: Annotated[int | None, typer.Option(help="Largest request. [default: 16 MiB]")] = None,
    block_rows: Annotated[
        int | None, typer.Option(help="Most rows that a worker computes in one go. [default: 256]")
    ] = None,
    connection_calls: Annotated[
        int | None,
        typer.Option(help="Calls in flight of one connection; more wait at their client. [default: 1000]"),
    ] = None,
    queue_bytes: Annotated[
        int | None, typer.Option(help="Bytes of requests that may wait; more are refused. [default: 256 MiB]")
    ] = None,
    scheduling: Annotated[
        Path | None, typer.Option(help="JSON file with the scenarios' weights, priorities, limits and quotas.")
    ] = None,
    access_log: Annotated[
        float | None, typer.Option(help="Share of the calls that get a line in the log, 0..1. [default: 0]")
    ] = None,
    poll_ms: Annotated[
        int | None, typer.Option(help="How often the registry is looked at, in milliseconds. [default: 50]")
    ] = None,
    memory_limit: Annotated[
        int | None,
        typer.Option(min=0, help="Most bytes of weights in memory, 0 for no limit. [default: 7/8 of the machine's]"),
    ] = None,
    keep_warm: Annotated[
        bool | None,
        typer.Option(
            "--keep-warm/--no-keep-warm",
            help="Keep the version before the current one in memory, for rollbacks. [default: yes]",
            show_default=False,
        ),
    ] = None,
    canary_error_rate: Annotated[
        float | None,
        typer.Option(help="Share of failed requests above stable's that ends a canary, 0: none. [default: 0.01]"),
    ] = None,
    canary_latency_ratio: Annotated[
        float | None, typer.Option(help="p99 over stable's that ends a canary, 0: none. [default: 2]")
    ] = None,
    canary_drift: Annotated[
        float | None,
        typer.Option(help="Relative difference of mean predictions that ends a canary, 0: none. [default: 0.2]"),
    ] = None,
    canary_min_requests: Annotated[
        int | None, typer.Option(help="Requests that a canary is judged by, at least. [default: 200]")
    ] = None,
    drain_seconds: Annotated[
        int | None, typer.Option(help="Longest that requests in flight may take after SIGTERM. [default: 20]")
    ] = None,
    port_file: Annotated[
        Path | None, typer.Option(help="Write {port, metrics_port, control_port, pid} here once the server is ready.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warn or error. [default: info]")] = None,
) -> None:
    """Serve every scenario of a registry over gRPC.

    Starts smt-server: every current snapshot from one binary per template, health and reflection, Prometheus
    metrics; all of it for this machine only, unless told otherwise. --control-port opens a port for operators.
    New snapshots are taken as they are published, with no request lost. SIGTERM (Ctrl-C) drains.

    The server's log is JSON lines on stderr. A registry behind a URL is mirrored into ~/.cache/smt.
    The environment variable SMT_KERNELS picks the CPU kernels by name; by default the fastest that run here.

    Example: `smt serve --registry build/registry --port 8500`
    """
    from smt.serving.registry import Registry
    from smt.serving.serve import serve as run_server

    options = {
        "host": host,
        "port": port,
        "tls-cert": tls_cert,
        "tls-key": tls_key,
        "tls-client-ca": tls_client_ca,
        "metrics-host": metrics_host,
        "metrics-port": metrics_port,
        "control-port": control_port,
        "control-host": control_host,
        "control-token-file": control_token_file,
        "control-tls-cert": control_tls_cert,
        "control-tls-key": control_tls_key,
        "control-tls-client-ca": control_tls_client_ca,
        "workers": workers,
        "max-rows": max_rows,
        "max-message-bytes": max_message_bytes,
        "block-rows": block_rows,
        "connection-calls": connection_calls,
        "queue-bytes": queue_bytes,
        "scheduling": scheduling,
        "access-log": access_log,
        "poll-ms": poll_ms,
        "memory-limit": memory_limit,
        "keep-warm": None if keep_warm is None else str(keep_warm).lower(),
        "canary-error-rate": canary_error_rate,
        "canary-latency-ratio": canary_latency_ratio,
        "canary-drift": canary_drift,
        "canary-min-requests": canary_min_requests,
        "drain-seconds": drain_seconds,
        "port-file": port_file,
        "log-level": log_level,
    }
    arguments = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    run_server(Registry(registry), arguments)


def predict(
    scenario: Annotated[str, typer.Option("--scenario", "-s", help="Scenario to score with.")],
    rows: Annotated[Path, typer.Option("--input", "-i", help="Rows to score: .parquet, .csv or .jsonl.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the scores, one column per task: .parquet, .csv or .jsonl."),
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    context: Annotated[
        str | None,
        typer.Option(help='Features shared by all rows, as a JSON object: \'{"country": "DE"}\'.', metavar="JSON"),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Task to return; repeat for more. Default: all.")] = None,
    version: Annotated[str | None, typer.Option(help="Accept only this snapshot version.")] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, help="Rows per request. Default: the server's limit.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 30.0,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_server_name: TlsNameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score a file of rows through a running server.

    Of the file, the columns that the scenario reads are sent; the row order is kept. With --json and no --output, the
    scores are part of the JSON.

    Example: `smt predict --scenario income_workers --input rows.parquet --output scores.parquet`
    """
    from smt.serving.client import Client
    from smt.serving.rows import check_output, read_rows, write_scores

    if output is not None:
        check_output(output)
    shared = _context(context)
    with Client(target, timeout=timeout, tls=tls_of(tls_ca, tls_cert, tls_key, tls_server_name)) as client:
        data = read_rows(rows, list(client.scenario(scenario).inputs))
        if data.num_rows == 0:
            raise CommandError(f"{rows}: no rows", WRONG_INPUT)
        started = time.monotonic()
        with rows_progress(f"scoring {scenario}", data.num_rows, quiet=as_json) as advance:
            scores = client.predict_table(
                scenario, data, shared, tasks=task, version=version, max_rows=max_rows, progress=advance
            )
        seconds = time.monotonic() - started
    if output is not None:
        write_scores(output, scores)
    summary: dict[str, Any] = {
        "scenario": scenario,
        "rows": scores.rows,
        "versions": scores.versions,
        "seconds": round(seconds, 6),
        "rows_per_second": round(scores.rows / seconds, 1) if seconds else None,
        "mean": {name: float(values.mean(dtype="float64")) for name, values in scores.items()},
    }
    if as_json:
        summary["output"] = str(output) if output else None
        if output is None:
            summary["scores"] = {name: values.tolist() for name, values in scores.items()}
        print_json(summary)
        return
    if output is None:
        shown = [
            [row, *(float(values[row]) for values in scores.values())] for row in range(min(_PREVIEW_ROWS, scores.rows))
        ]
        RESULT.print(table("", ["row", *scores], shown, numbers=["row", *scores]))
        if scores.rows > _PREVIEW_ROWS:
            NOTES.print(f"the first {_PREVIEW_ROWS} of {scores.rows:,} rows; --output FILE writes all")
    versions = ", ".join(f"{name} ({count:,} rows)" for name, count in scores.versions.items())
    where = f" → {output}" if output else ""
    NOTES.print(f"{scores.rows:,} rows in {seconds:.2f} s, by version {versions}{where}", markup=False)


def _context(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        found = f"{error.msg} at character {error.pos + 1}"
        raise CommandError(f"--context: {found}; expected a JSON object", WRONG_INPUT) from error
    if not isinstance(value, dict):
        found = type(value).__name__
        raise CommandError(f"--context: found {found}; expected a JSON object of features", WRONG_INPUT)
    # A list is the values of one multi-valued feature; the client wants one entry per row.
    return {name: [item] if isinstance(item, list) else item for name, item in value.items()}
