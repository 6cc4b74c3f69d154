"""What a run of the load generator came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smt.serving.loadgen.histogram import Histogram

OK = "OK"
# Outcomes that the plan itself asks for.
ASKED_FOR = ("client cancelled",)

# A generator that is later than this, and than a tenth of the latency, has become part of what it measures.
_LATE_MS = 1.0
_LATE_SHARE = 0.1


@dataclass(frozen=True)
class StreamResult:
    """The calls of one stream, or of several.

    Attributes:
        outcomes: latencies of measured calls: by gRPC status as the server answered it (OK, INVALID_ARGUMENT, …), and
            in lower case what the server did not answer ("client deadline", "connection lost", …; see outcome.h).
        since_sent: the same from when a call's first bytes were sent, of those that were: what the server could know
            of. Before that a call waits in the client, for a stream or for bytes before it.
        totals: all calls by outcome, those of the warm-up and of the wait at the end included: to compare with the
            server's counters.
        seconds: that were measured.
        ok_rows: rows of the calls that ended OK.
        request_bytes, response_bytes: of messages.
        late_ok, latest_ok_ms: answers OK after the deadline, and by how much the latest was late.
    """

    name: str
    outcomes: Mapping[str, Histogram]
    since_sent: Mapping[str, Histogram]
    totals: Mapping[str, int]
    seconds: float
    ok_rows: int
    request_bytes: int
    response_bytes: int
    late_ok: int
    latest_ok_ms: float

    @property
    def calls(self) -> int:
        return sum(histogram.count for histogram in self.outcomes.values())

    @property
    def ok(self) -> int:
        return self.latency.count

    @property
    def errors(self) -> int:
        """Calls that ended neither OK nor as the plan asked (cancelled)."""
        asked = sum(self.outcomes[name].count for name in ASKED_FOR if name in self.outcomes)
        return self.calls - self.ok - asked

    @property
    def latency(self) -> Histogram:
        """Of calls that ended OK."""
        return self.outcomes.get(OK) or Histogram.merged([])

    @property
    def ok_per_second(self) -> float:
        return self.ok / self.seconds if self.seconds else 0.0

    @property
    def rows_per_second(self) -> float:
        return self.ok_rows / self.seconds if self.seconds else 0.0

    @staticmethod
    def merged(name: str, parts: Sequence[StreamResult]) -> StreamResult:
        return StreamResult(
            name=name,
            outcomes=_merged([part.outcomes for part in parts]),
            since_sent=_merged([part.since_sent for part in parts]),
            totals=dict(sum((Counter(part.totals) for part in parts), Counter())),
            seconds=parts[0].seconds if parts else 0.0,
            ok_rows=sum(part.ok_rows for part in parts),
            request_bytes=sum(part.request_bytes for part in parts),
            response_bytes=sum(part.response_bytes for part in parts),
            late_ok=sum(part.late_ok for part in parts),
            latest_ok_ms=max((part.latest_ok_ms for part in parts), default=0.0),
        )

    def rows(self) -> list[dict[str, Any]]:
        """A flat row per outcome: its count and rate, latencies in milliseconds."""
        return [
            {
                "stream": self.name,
                "outcome": outcome,
                "count": histogram.count,
                "per_second": histogram.count / self.seconds if self.seconds else 0.0,
                "rows_per_second": self.rows_per_second if outcome == OK else 0.0,
                **histogram.summary(),
            }
            for outcome, histogram in self.outcomes.items()
        ]


@dataclass(frozen=True)
class SourceResult:
    """One source. lag: how long after the scheduled moment calls were sent; None for a closed loop, whose latencies
    count from sending."""

    lag: Histogram | None
    streams: Sequence[StreamResult]


@dataclass(frozen=True)
class Progress:
    """One second of a run: what ended in it. Times in milliseconds; `at` in seconds since the run began."""

    at: float
    ok: int
    failed: int
    rows: int
    outstanding: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    lag_p99_ms: float


@dataclass(frozen=True)
class LoadResult:
    """A run: its sources in the plan's order, and how it went second by second.

    Attributes:
        connections_ended: that had been up, for whatever reason, the run's end included; connections_broken: of them,
            closed abruptly as the plan asks.
        retried: calls that an ending connection refused and another one took.
        prompt: whether an open loop ran at a raised priority, which takes the right to (root, CAP_SYS_NICE). Where the
            server computes on the same cores, the generator is later without.
        wire_bytes_in, wire_bytes_out: HTTP/2 included, TLS not.
    """

    seconds: float
    generator_cpu_seconds: float
    threads: int
    connections: int
    connections_ended: int
    connections_broken: int
    retried: int
    prompt: bool
    wire_bytes_in: int
    wire_bytes_out: int
    sources: Sequence[SourceResult]
    progress: Sequence[Progress]

    @property
    def streams(self) -> dict[str, StreamResult]:
        """By name; streams of the same name together."""
        found: dict[str, list[StreamResult]] = {}
        for source in self.sources:
            for stream in source.streams:
                found.setdefault(stream.name, []).append(stream)
        return {name: StreamResult.merged(name, parts) for name, parts in found.items()}

    @property
    def total(self) -> StreamResult:
        return StreamResult.merged("total", [stream for source in self.sources for stream in source.streams])

    @property
    def lag(self) -> Histogram:
        return Histogram.merged(source.lag for source in self.sources if source.lag is not None)

    @property
    def cpu_us_per_call(self) -> float | None:
        """Of the generator."""
        calls = self.total.calls
        return self.generator_cpu_seconds / calls * 1e6 if calls else None

    def warnings(self) -> list[str]:
        """Why the figures may not be the server's alone."""
        found = []
        lag, latency = self.lag.quantile_ms(0.99), self.total.latency.quantile_ms(0.99)
        if lag is not None and lag > _LATE_MS and lag > _LATE_SHARE * (latency or 0.0):
            found.append(
                f"the generator itself was late: 1 % of the calls were sent {lag:.3g} ms or more after their moment, "
                f"which is part of their latency; give it a core of its own{self._or_priority()}, or more --threads"
            )
        unsent = self.total.totals.get("not sent", 0)
        if unsent:
            found.append(f"{unsent:,} calls were not sent: too many were under way already")
        return found

    def _or_priority(self) -> str:
        return "" if self.prompt else ", the right to raise its priority (CAP_SYS_NICE)"

    def to_json(self, *, histograms: bool = True) -> dict[str, Any]:
        """Flat rows per stream and outcome, then the total; every histogram beside them, if wanted."""
        streams = list(self.streams.values())
        several = [self.total] if len(streams) > 1 else []
        return {
            "seconds": self.seconds,
            "generator": {
                "cpu_seconds": self.generator_cpu_seconds,
                "cpu_us_per_call": self.cpu_us_per_call,
                "threads": self.threads,
                "connections": self.connections,
                "connections_ended": self.connections_ended,
                "connections_broken": self.connections_broken,
                "retried": self.retried,
                "prompt": self.prompt,
                "wire_bytes_in": self.wire_bytes_in,
                "wire_bytes_out": self.wire_bytes_out,
                "latency_from": sorted({"sent" if s.lag is None else "intended" for s in self.sources}),
                "lag": self.lag.summary() if self.lag.count else None,
                "warnings": self.warnings(),
            },
            "results": [row for stream in [*streams, *several] for row in stream.rows()],
            "streams": [_stream_json(stream, histograms) for stream in [*streams, *several]],
            "progress": [vars(second) for second in self.progress],
        }


def _merged(parts: Sequence[Mapping[str, Histogram]]) -> dict[str, Histogram]:
    names = dict.fromkeys(outcome for part in parts for outcome in part)
    return {name: Histogram.merged(part[name] for part in parts if name in part) for name in names}


def _stream_json(stream: StreamResult, histograms: bool) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": stream.name,
        "totals": dict(stream.totals),
        "ok_rows": stream.ok_rows,
        "request_bytes": stream.request_bytes,
        "response_bytes": stream.response_bytes,
        "late_ok": stream.late_ok,
        "latest_ok_ms": stream.latest_ok_ms,
    }
    if histograms:
        for key, histograms_by_outcome in (("histograms", stream.outcomes), ("since_sent", stream.since_sent)):
            content[key] = {outcome: histogram.to_json() for outcome, histogram in histograms_by_outcome.items()}
    return content


def read_progress(line: Mapping[str, Any]) -> Progress:
    """A line that smt-loadgen wrote on stderr."""
    times = {name: line[f"{name}_us"] / 1e3 for name in ("p50", "p99", "max", "lag_p99")}
    counts = {name: line[name] for name in ("at", "ok", "failed", "rows", "outstanding")}
    return Progress(**counts, **{f"{name}_ms": value for name, value in times.items()})


def read_result(content: Mapping[str, Any], progress: Iterable[Progress]) -> LoadResult:
    """What smt-loadgen printed (see report.cc)."""

    def stream(found: Mapping[str, Any]) -> StreamResult:
        return StreamResult(
            name=found["name"],
            outcomes={name: Histogram.from_json(one) for name, one in found["outcomes"].items()},
            since_sent={name: Histogram.from_json(one) for name, one in found["since_sent"].items()},
            totals=found["totals"],
            seconds=content["seconds"],
            ok_rows=found["ok_rows"],
            request_bytes=found["request_bytes"],
            response_bytes=found["response_bytes"],
            late_ok=found["late_ok"],
            latest_ok_ms=found["latest_ok_ns"] / 1e6,
        )

    sources = [
        SourceResult(
            Histogram.from_json(source["lag"]) if "lag" in source else None, [stream(one) for one in source["streams"]]
        )
        for source in content["sources"]
    ]
    return LoadResult(sources=sources, progress=list(progress), **{k: v for k, v in content.items() if k != "sources"})
