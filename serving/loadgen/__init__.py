"""Load on a gRPC server, at a set pace, and what it answered.

    from smt.serving import loadgen

    streams = loadgen.smt_streams("127.0.0.1:8500", {"feed": 3, "search": 1}, {256: 1.0})
    plan = loadgen.Plan(["127.0.0.1:8500"], [loadgen.Source(loadgen.Open(2000), streams)], seconds=10)
    result = loadgen.run(plan)
    result.total.rows_per_second, result.total.latency.quantile_ms(0.99), result.total.errors

The calls are made by smt-loadgen, a C++ program that sends prepared messages and costs a few microseconds a call, so
that what is measured is the server. In the open loop latency counts from the moment a call was scheduled for, whether
or not the generator or the connection could send it then: no coordinated omission.
"""

from smt.serving.loadgen.answers import Answer, read_answers
from smt.serving.loadgen.histogram import Histogram
from smt.serving.loadgen.oip import oip_streams
from smt.serving.loadgen.payloads import smt_streams, table_payloads
from smt.serving.loadgen.plan import (
    Arrival,
    Closed,
    LoadgenError,
    Open,
    Payload,
    Plan,
    Replay,
    Source,
    Stream,
    Timeout,
)
from smt.serving.loadgen.result import LoadResult, Progress, SourceResult, StreamResult
from smt.serving.loadgen.runner import run

__all__ = [
    "Answer",
    "Arrival",
    "Closed",
    "Histogram",
    "LoadResult",
    "LoadgenError",
    "Open",
    "Payload",
    "Plan",
    "Progress",
    "Replay",
    "Source",
    "SourceResult",
    "Stream",
    "StreamResult",
    "Timeout",
    "oip_streams",
    "read_answers",
    "run",
    "smt_streams",
    "table_payloads",
]
