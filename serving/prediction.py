"""What comes back: scores, and failures in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from smt.serving.protos import prediction_pb2 as pb

# What the gRPC library says of a server that did not answer; a server's own words must not match.
_UNREACHABLE = re.compile(
    r"failed to connect|connection (refused|reset|attempt timed out)|(dns|name) resolution|no route to host"
    r"|(network|host) is unreachable|socket closed",
    re.IGNORECASE,
)
# With TLS 1.3 a client whose certificate is not accepted hears of it when its own handshake is over: "unwrap failed".
_CLOSED = re.compile("socket closed|connection reset|unwrap failed", re.IGNORECASE)
_UNTRUSTED = re.compile("handshake failed|verification check failed", re.IGNORECASE)


# Of the trailing metadata: when to try again, as gRPC's retry design has it.
_PUSHBACK = "grpc-retry-pushback-ms"

STATUS = {code.value[0]: code for code in grpc.StatusCode}


class PredictError(Exception):
    """A call that got no scores.

    Attributes:
        code: the gRPC status. message: what was wrong.
        retry_after: seconds after which the server advises to try again, with RESOURCE_EXHAUSTED; None: no advice.
    """

    def __init__(self, code: grpc.StatusCode, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.retry_after = retry_after


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
    return PredictError(code, details, _retry_after(error))


def _retry_after(error: Any) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == _PUSHBACK and value.isdecimal():
            return int(value) / 1e3
    return None


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
    def of(answer: pb.PredictResponse | pb.ScenarioScores, request_id: str, rows: int) -> Prediction:
        """Raises PredictError when the answer does not hold one score per candidate."""
        scores = {}
        for task in answer.tasks:
            scores[task.task] = np.array(task.probabilities, dtype=np.float32)
            if len(scores[task.task]) != rows:
                raise PredictError(
                    grpc.StatusCode.INTERNAL,
                    f"task {task.task!r}: the server answered {len(scores[task.task])} scores for {rows} rows",
                )
        times = answer.timings
        timings = Timings(times.queue_us, times.transform_us, times.compute_us)
        return Prediction(scores, answer.version, request_id, timings, rows)

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
