"""What a run of the load generator does, and how it is written down for smt-loadgen (see plan.h, payloads.h)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smt.serving.tls import SYSTEM, Tls


class LoadgenError(RuntimeError):
    """A run that cannot be made; the message says why."""


@dataclass(frozen=True)
class Payload:
    """One request message. `rows`: how many it asks to score, for rows per second."""

    message: bytes
    rows: int


@dataclass(frozen=True)
class Timeout:
    """One of a stream's deadlines, in seconds after the call was due; each call draws one by weight. The server is told
    what is left of it when the call is sent, as by gRPC's own clients."""

    seconds: float
    weight: float = 1.0


@dataclass(frozen=True)
class Stream:
    """Calls of one method with payloads of one kind; results are told apart by stream.

    Attributes:
        path: the method, "/smt.v1.PredictionService/Predict".
        payloads: sent in turn; with enough of them no call repeats what a cache still holds.
        weight: its share among its source's streams.
        headers: request metadata.
        timeouts: the deadlines that calls draw from; none: no deadline.
        linger_seconds: how long after the deadline an answer is still waited for. 0, as gRPC's own clients: the call
            is given up ("client deadline"). More shows what the server does with requests that are late. A call that
            still waits in the client by then is not sent at all ("client deadline, not sent").
        cancel_fraction: share of the calls that are cancelled, after a time drawn evenly from `cancel_seconds`.
        min_response_bytes: an answer OK with a shorter message counts as "bad answer".
    """

    name: str
    path: str
    payloads: Sequence[Payload]
    weight: float = 1.0
    headers: Mapping[str, str] = field(default_factory=dict)
    timeouts: Sequence[Timeout] = ()
    linger_seconds: float = 0.0
    cancel_fraction: float = 0.0
    cancel_seconds: tuple[float, float] = (0.0, 0.0)
    min_response_bytes: int = 1


@dataclass(frozen=True)
class Closed:
    """Closed loop: callers that wait for their answer, think, and call again. Latency counts from sending, since a
    slow answer delays the next call: it shows what the server can do, not what users of it would wait."""

    callers: int
    think_seconds: float = 0.0


@dataclass(frozen=True)
class Open:
    """Open loop: `rate` calls per second, whatever the server answers. Latency counts from the scheduled moment."""

    rate: float
    arrivals: Literal["poisson", "fixed"] = "poisson"


@dataclass(frozen=True)
class Arrival:
    """One call of a replay: seconds since the run began, stream of the source, payload of the stream."""

    seconds: float
    stream: int
    payload: int


@dataclass(frozen=True)
class Replay:
    """Open loop at recorded moments, in rising order."""

    arrivals: Sequence[Arrival]


@dataclass(frozen=True)
class Source:
    """Something that makes calls, independent of the plan's other sources."""

    pace: Closed | Open | Replay
    streams: Sequence[Stream]


@dataclass(frozen=True)
class Plan:
    """A run: all sources at once, on shared connections.

    Attributes:
        targets: "host:port" of one server or several, over which connections are spread.
        seconds: measured, after warm_up_seconds that are not.
        connections: in all; a thread has at least one.
        drain_seconds: how long the last answers are waited for.
        seed: of everything that is drawn; the same plan sends the same calls at the same moments.
        max_outstanding: calls under way at once, beyond which calls are not sent ("not sent").
        disconnects_per_second: connections closed abruptly and opened again, of all.
        answers: a folder for every answer OK, those of the warm-up included; see answers.py.
    """

    targets: Sequence[str]
    sources: Sequence[Source]
    seconds: float = 10.0
    warm_up_seconds: float = 1.0
    connections: int = 4
    threads: int = 1
    drain_seconds: float = 5.0
    seed: int = 0
    max_outstanding: int = 100_000
    disconnects_per_second: float = 0.0
    tls: Tls | None = None
    answers: Path | None = None

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes plan.json, payloads.bin and what they refer to; returns the paths of the two."""
        writer = _PayloadWriter(folder / "payloads.bin")
        with writer:
            content = {
                "targets": list(self.targets),
                "seconds": self.seconds,
                "warm_up_seconds": self.warm_up_seconds,
                "connections": max(self.connections, self.threads),
                "threads": self.threads,
                "drain_seconds": self.drain_seconds,
                "seed": self.seed,
                "max_outstanding": self.max_outstanding,
                "disconnects_per_second": self.disconnects_per_second,
                "sources": [_source(source, folder, number, writer) for number, source in enumerate(self.sources)],
            }
        if self.answers is not None:
            content["answers"] = str(self.answers.resolve())
        if self.tls is not None:
            content["tls"] = _tls(self.tls)
        plan = folder / "plan.json"
        plan.write_text(json.dumps(content))
        return plan, writer.path


def _tls(tls: Tls) -> dict[str, str]:
    """Paths where they are; empty for what is not given, and for the system's CAs."""
    tls.credentials()  # tells of files that cannot be used
    ca = "" if str(tls.ca) == SYSTEM else tls.ca
    files = {"ca": ca, "cert": tls.cert, "key": tls.key}
    return {
        **{name: str(Path(path).resolve()) if path else "" for name, path in files.items()},
        "server_name": tls.server_name or "",
    }


class _PayloadWriter:
    """Writes each list of payloads once, however many streams use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first: dict[int, int] = {}  # by the list's identity
        self._count = 0

    def __enter__(self) -> None:
        self._file = self.path.open("wb")

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def add(self, payloads: Sequence[Payload]) -> int:
        """Position of the first of them in the file."""
        if id(payloads) not in self._first:
            self._first[id(payloads)] = self._count
            self._count += len(payloads)
            for payload in payloads:
                self._file.write(struct.pack("<II", len(payload.message), payload.rows) + payload.message)
        return self._first[id(payloads)]


def _source(source: Source, folder: Path, number: int, writer: _PayloadWriter) -> dict[str, Any]:
    pace: dict[str, Any]
    match source.pace:
        case Closed(callers, think):
            pace = {"mode": "closed", "callers": callers, "think_seconds": think}
        case Open(rate, arrivals):
            pace = {"mode": arrivals, "rate": rate}
        case Replay(arrivals):
            path = folder / f"arrivals-{number}.bin"
            record = np.dtype([("at", "<i8"), ("stream", "<u4"), ("payload", "<u4")])
            rows = [(round(a.seconds * 1e9), a.stream, a.payload) for a in arrivals]
            path.write_bytes(np.array(rows, record).tobytes())
            pace = {"mode": "replay", "arrivals": str(path)}
    return {**pace, "streams": [_stream(stream, writer) for stream in source.streams]}


def _stream(stream: Stream, writer: _PayloadWriter) -> dict[str, Any]:
    if not stream.payloads:
        raise LoadgenError(f"stream {stream.name!r}: found no payload; expected at least one")
    low, high = stream.cancel_seconds
    return {
        "name": stream.name,
        "weight": stream.weight,
        "path": stream.path,
        "headers": dict(stream.headers),
        "first_payload": writer.add(stream.payloads),
        "payload_count": len(stream.payloads),
        "timeouts": [vars(timeout) for timeout in stream.timeouts],
        "linger_seconds": stream.linger_seconds,
        "cancel_fraction": stream.cancel_fraction,
        "cancel_from_seconds": low,
        "cancel_to_seconds": high,
        "min_response_bytes": stream.min_response_bytes,
    }
