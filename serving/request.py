"""What the blocking and the asyncio client share: building requests, reading answers, explaining failures."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from smt.serving import encode
from smt.serving.encode import Columns, Data, EncodingError
from smt.serving.protos import prediction_pb2 as pb

# The server's own limit holds, and its message is better than the client library's.
CHANNEL_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))

# Every call of ours only reads, so it may be asked again: of another server behind the same name, or of the next one
# to start, when the one that had it is shutting down.
RETRIES = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
RETRYING_OPTIONS = (
    *CHANNEL_OPTIONS,
    (
        "grpc.service_config",
        json.dumps({"methodConfig": [{"name": [{"service": "smt.v1.PredictionService"}], "retryPolicy": RETRIES}]}),
    ),
    # By default only calls of at most 256 KiB are kept for another attempt.
    ("grpc.per_rpc_retry_buffer_size", 1 << 30),
)

# Of one message, where the server is too old to tell.
_DEFAULT_MAX_FIELDS = 1 << 20

HEALTH_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

# What the gRPC library says of a server that did not answer; a server's own words must not match.
_UNREACHABLE = re.compile(
    r"failed to connect|connection (refused|reset|attempt timed out)|(dns|name) resolution|no route to host"
    r"|(network|host) is unreachable|socket closed",
    re.IGNORECASE,
)
_CLOSED = re.compile("socket closed|connection reset", re.IGNORECASE)
_UNTRUSTED = re.compile("handshake failed|verification check failed", re.IGNORECASE)


class PredictError(Exception):
    """A call that got no answer. `code` is the gRPC status; `message` says what was wrong."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


def from_rpc_error(error: grpc.RpcError, target: str) -> PredictError:
    code, details = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.UNAVAILABLE and _UNREACHABLE.search(details):
        if _CLOSED.search(details):
            hint = (
                "the server has ended, speaks TLS where we do not, or asks for a certificate that it trusts (--tls-…)"
            )
        elif _UNTRUSTED.search(details):
            hint = "the server's certificate is not of a CA or a name that we trust (--tls-ca, --tls-server-name)"
        else:
            hint = "is a server running there? `smt serve --registry DIR` starts one"
        details = f"cannot reach {target} ({details}); {hint}"
    elif code is grpc.StatusCode.UNIMPLEMENTED:
        details = f"{target} does not offer this call ({details}); is it an smt server?"
    return PredictError(code, details)


class Timings(NamedTuple):
    """Microseconds that the request spent in the server."""

    queue_us: int
    transform_us: int
    compute_us: int


class _Scores(Mapping[str, NDArray[np.float32]]):
    """Task -> probabilities, float32 [rows]."""

    def __init__(self, scores: dict[str, NDArray[np.float32]], rows: int) -> None:
        self._scores = scores
        self.rows = rows

    def __getitem__(self, task: str) -> NDArray[np.float32]:
        return self._scores[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)


class Prediction(_Scores):
    """Scores of one request: task -> probabilities, float32 [rows], in the order of the candidates.

    Attributes:
        version: the snapshot version that computed all of them.
        request_id: as sent. timings: microseconds in the server.
    """

    def __init__(
        self, scores: dict[str, NDArray[np.float32]], version: str, request_id: str, timings: Timings, rows: int
    ) -> None:
        super().__init__(scores, rows)
        self.version = version
        self.request_id = request_id
        self.timings = timings

    @staticmethod
    def from_response(response: pb.PredictResponse, rows: int) -> Prediction:
        """Raises PredictError when the answer does not hold one score per candidate."""
        scores = {}
        for task in response.tasks:
            scores[task.task] = np.array(task.probabilities, dtype=np.float32)
            if len(scores[task.task]) != rows:
                raise PredictError(
                    grpc.StatusCode.INTERNAL,
                    f"task {task.task!r}: the server answered {len(scores[task.task])} scores for {rows} rows",
                )
        times = response.timings
        timings = Timings(times.queue_us, times.transform_us, times.compute_us)
        return Prediction(scores, response.version, response.request_id, timings, rows)

    def __repr__(self) -> str:
        return f"Prediction(tasks={list(self)}, rows={self.rows}, version={self.version!r})"


class TablePrediction(_Scores):
    """Scores of a table: task -> float32 [rows]. `versions`: rows that each snapshot version computed."""

    def __init__(self, scores: dict[str, NDArray[np.float32]], versions: dict[str, int], rows: int) -> None:
        super().__init__(scores, rows)
        self.versions = versions

    def __repr__(self) -> str:
        return f"TablePrediction(tasks={list(self)}, rows={self.rows}, versions={self.versions})"


class TableBuilder:
    """Puts the answers to a table's parts together, in order."""

    def __init__(self, rows: int, tasks: Sequence[str], progress: Callable[[int], None] | None) -> None:
        self._rows = rows
        self._tasks = list(tasks)
        self._parts: list[Prediction] = []
        self._progress = progress

    def add(self, part: Prediction) -> None:
        """Raises PredictError when a version with other tasks has taken over halfway."""
        if self._parts and list(part) != list(self._parts[0]):
            first = self._parts[0]
            raise PredictError(
                grpc.StatusCode.ABORTED,
                f"version {first.version} answers the tasks {list(first)}, and {part.version}, which took over before "
                f"all rows were scored, {list(part)}; score the table again, or pin a version",
            )
        self._parts.append(part)
        if self._progress is not None:
            self._progress(part.rows)

    def build(self) -> TablePrediction:
        """Raises PredictError unless every row has its scores."""
        versions: Counter[str] = Counter()
        for part in self._parts:
            versions[part.version] += part.rows
        if versions.total() != self._rows:
            raise PredictError(grpc.StatusCode.INTERNAL, f"{versions.total()} of {self._rows} rows were scored")
        tasks = list(self._parts[0]) if self._parts else self._tasks
        empty = [np.empty(0, np.float32)]
        scores = {task: np.concatenate([part[task] for part in self._parts] or empty) for task in tasks}
        return TablePrediction(scores, dict(versions), self._rows)


class Query:
    """One request to be. Immutable; what it sends of tabular data is known once it is `resolved`.

    Raises PredictError (INVALID_ARGUMENT) for values that no feature can hold.
    """

    def __init__(
        self,
        scenario: str,
        candidates: Data | None,
        context: Data | None,
        *,
        tasks: Sequence[str] | None = None,
        version: str | None = None,
        request_id: str | None = None,
        rows: int | None = None,
    ) -> None:
        self.scenario = scenario
        self.tasks = [tasks] if isinstance(tasks, str) else list(tasks or ())
        self.metadata: pb.ScenarioMetadata | None = None
        self._version = version or ""
        self._request_id = request_id or ""
        self._data = ({} if candidates is None else candidates, {} if context is None else context)
        self._message: pb.PredictRequest | None = None
        self._types: dict[str, str] = {}
        self._span: tuple[int, int] | None = None
        with _reported():
            self._tabular = [encode.frame_columns(data) is not None for data in self._data]
            self._columns = [
                {} if tabular else encode.to_columns(data, scalars=number == 1)
                for number, (data, tabular) in enumerate(zip(self._data, self._tabular, strict=True))
            ]
        self.rows = self._count(rows)

    @property
    def needs_metadata(self) -> bool:
        """Whether what to send depends on what the scenario reads."""
        return any(self._tabular) or any(encode.untyped(columns) for columns in self._columns)

    def resolved(self, metadata: pb.ScenarioMetadata) -> Query:
        """The same request, for a scenario that reads what `metadata` says."""
        query = copy.copy(self)
        query.metadata = metadata
        query._message = None
        query._types = {feature.name: feature.type for feature in metadata.inputs}
        with _reported():
            query._columns = [
                encode.fit_types(encode.to_columns(data, list(query._types)), query._types) if tabular else columns
                for data, tabular, columns in zip(self._data, self._tabular, self._columns, strict=True)
            ]
        if self._span is not None and self._tabular[0]:
            query._columns[0] = _sliced(query._columns[0], *self._span)
        return query

    def message(self) -> pb.PredictRequest:
        if self._message is None:
            with _reported():
                candidates, context = (encode.encode_all(columns, self._types) for columns in self._columns)
            self._message = pb.PredictRequest(
                scenario=self.scenario,
                version=self._version,
                rows=self.rows,
                candidates=candidates,
                context=context,
                tasks=self.tasks,
                request_id=self._request_id,
            )
        return self._message

    def parts(self, server: pb.ServerMetadata, max_rows: int | None) -> Iterator[Query]:
        """The request in several that the server takes, and none with more rows than `max_rows`.

        A single row that is too large is sent as it is: the server says what is wrong with it.
        """
        for name, column in self._columns[0].items():
            if len(column) != self.rows:
                raise PredictError(
                    grpc.StatusCode.INVALID_ARGUMENT, f"feature {name!r}: {len(column)} rows; expected {self.rows}"
                )
        if max_rows is not None and max_rows < 1:
            raise PredictError(grpc.StatusCode.INVALID_ARGUMENT, f"max_rows: found {max_rows}; expected at least 1")
        step = min(max_rows or server.max_rows, server.max_rows)
        # Below the limit, so that what is counted differently there does not matter.
        max_fields = (server.max_fields or _DEFAULT_MAX_FIELDS) * 9 // 10
        for start in range(0, self.rows, step):
            yield from self._fitting(start, min(start + step, self.rows), server.max_message_bytes, max_fields)

    def _fitting(self, start: int, stop: int, max_bytes: int, max_fields: int) -> Iterator[Query]:
        part = copy.copy(self)
        part._columns = [_sliced(self._columns[0], start, stop), self._columns[1]]
        part._message, part._span, part.rows = None, (start, stop), stop - start
        message = part.message()
        if part.rows > 1 and (message.ByteSize() > max_bytes or _fields(message) > max_fields):
            middle = (start + stop) // 2
            yield from self._fitting(start, middle, max_bytes, max_fields)
            yield from self._fitting(middle, stop, max_bytes, max_fields)
        else:
            yield part

    def _count(self, rows: int | None) -> int:
        if rows is not None:
            return rows
        if self._tabular[0]:
            data = self._data[0]
            return int(data.num_rows) if hasattr(data, "num_rows") else len(data)
        first: Any = next(iter(self._columns[0].values()), None)
        if first is None:
            raise PredictError(
                grpc.StatusCode.INVALID_ARGUMENT, "rows: nothing to count them by; give candidate features or `rows`"
            )
        return len(first)


class _reported:
    """Turns an EncodingError into the error that the server would have answered with."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: Any) -> None:
        if isinstance(error, EncodingError):
            raise PredictError(grpc.StatusCode.INVALID_ARGUMENT, str(error)) from error


def _fields(message: pb.PredictRequest) -> int:
    """Fields of the message on the wire: each string of a list is one, a packed list of numbers is one in all."""
    features = [*message.candidates, *message.context]
    # A feature itself, its name, its values, and their numbers or lengths; of the request four plain fields.
    return 4 + len(message.tasks) + sum(5 + len(feature.strings.values) for feature in features)


def _sliced(columns: Columns, start: int, stop: int) -> Columns:
    return {name: column.slice(start, stop - start) for name, column in columns.items()}


def health_call(channel: Any, service: str) -> tuple[Any, Any]:
    """The health protocol's Check method on a channel, and its request."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    return health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest(service=service)
