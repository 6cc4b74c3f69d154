"""What the blocking and the asyncio client share: how to call, and the requests to be."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc

from smt.serving.encode import Data
from smt.serving.features import Features
from smt.serving.prediction import STATUS, PredictError, Prediction
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
        label: str | None = None,
        request_id: str | None = None,
        request_key: str | None = None,
        rows: int | None = None,
    ) -> None:
        self.scenario = scenario
        self.tasks = _names(tasks)
        self.metadata: pb.ScenarioMetadata | None = None
        self._version = version or ""
        self._label = label or ""
        self._request_id = request_id or ""
        self._request_key = request_key or ""
        self._features = Features(candidates, context, rows)
        self._message: pb.PredictRequest | None = None

    @property
    def rows(self) -> int:
        return self._features.rows

    @property
    def needs_metadata(self) -> bool:
        """Whether what to send depends on what the scenario reads."""
        return self._features.untold

    def resolved(self, metadata: pb.ScenarioMetadata) -> Query:
        """The same request, for a scenario that reads what `metadata` says."""
        query = copy.copy(self)
        query.metadata = metadata
        query._message = None
        query._features = self._features.fitted({feature.name: feature.type for feature in metadata.inputs})
        return query

    def message(self) -> pb.PredictRequest:
        if self._message is None:
            candidates, context = self._features.encoded()
            self._message = pb.PredictRequest(
                scenario=self.scenario,
                version=self._version,
                label=self._label,
                request_key=self._request_key,
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
        self._features.check_lengths()
        if max_rows is not None and max_rows < 1:
            raise PredictError(grpc.StatusCode.INVALID_ARGUMENT, f"max_rows: found {max_rows}; expected at least 1")
        step = min(max_rows or server.max_rows, server.max_rows)
        # Below the limit, so that what is counted differently there does not matter.
        max_fields = (server.max_fields or _DEFAULT_MAX_FIELDS) * 9 // 10
        for start in range(0, self.rows, step):
            yield from self._fitting(start, min(start + step, self.rows), server.max_message_bytes, max_fields)

    def _fitting(self, start: int, stop: int, max_bytes: int, max_fields: int) -> Iterator[Query]:
        part = copy.copy(self)
        part._features, part._message = self._features.slice(start, stop), None
        message = part.message()
        if part.rows > 1 and (message.ByteSize() > max_bytes or _fields(message) > max_fields):
            middle = (start + stop) // 2
            yield from self._fitting(start, middle, max_bytes, max_fields)
            yield from self._fitting(middle, stop, max_bytes, max_fields)
        else:
            yield part


class MultiQuery:
    """One request of several scenarios to be. Immutable, as Query.

    Raises PredictError (INVALID_ARGUMENT) for values that no feature can hold, and options for what is not asked for.
    """

    def __init__(
        self,
        scenarios: Sequence[str],
        candidates: Data | None,
        context: Data | None,
        *,
        tasks: Mapping[str, Sequence[str]] | None = None,
        versions: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        request_key: str | None = None,
        rows: int | None = None,
    ) -> None:
        self.scenarios = _names(scenarios)
        self.metadata: dict[str, pb.ScenarioMetadata] = {}
        self._request_id = request_id or ""
        self._request_key = request_key or ""
        tasks, versions, labels = tasks or {}, versions or {}, labels or {}
        for option, given in (("tasks", tasks), ("versions", versions), ("labels", labels)):
            unknown = next((name for name in given if name not in self.scenarios), None)
            if unknown is not None:
                found = f"{option}: found {unknown!r}; expected scenarios of this call: {', '.join(self.scenarios)}"
                raise PredictError(grpc.StatusCode.INVALID_ARGUMENT, found)
        self._asked = [
            pb.ScenarioRequest(
                scenario=name,
                version=versions.get(name, ""),
                label=labels.get(name, ""),
                tasks=_names(tasks.get(name)),
            )
            for name in self.scenarios
        ]
        self._features = Features(candidates, context, rows)

    @property
    def needs_metadata(self) -> bool:
        """Whether what to send depends on what the scenarios read."""
        return self._features.untold

    def resolved(self, metadata: Mapping[str, pb.ScenarioMetadata]) -> MultiQuery:
        """The same request, for scenarios that read what `metadata` says. Where they disagree on an input's type, it is
        sent as what most can read: an int is a number too."""
        query = copy.copy(self)
        query.metadata = dict(metadata)
        types: dict[str, str] = {}
        for scenario in metadata.values():
            for feature in scenario.inputs:
                if feature.type == "int" or feature.name not in types:
                    types[feature.name] = feature.type
        query._features = self._features.fitted(types)
        return query

    def message(self) -> pb.MultiPredictRequest:
        candidates, context = self._features.encoded()
        return pb.MultiPredictRequest(
            scenarios=self._asked,
            rows=self._features.rows,
            candidates=candidates,
            context=context,
            request_id=self._request_id,
            request_key=self._request_key,
        )

    def answers(self, response: pb.MultiPredictResponse) -> dict[str, Prediction | PredictError]:
        """By scenario, in the order of the request. Raises PredictError when they are not those that were asked for."""
        if [answer.scenario for answer in response.scenarios] != self.scenarios:
            found = ", ".join(answer.scenario for answer in response.scenarios) or "none"
            raise PredictError(
                grpc.StatusCode.INTERNAL,
                f"scenarios: the server answered {found}; expected {', '.join(self.scenarios)}",
            )
        return {answer.scenario: self._answer(answer, response.request_id) for answer in response.scenarios}

    def _answer(self, answer: pb.ScenarioScores, request_id: str) -> Prediction | PredictError:
        if answer.code:
            code = STATUS.get(answer.code, grpc.StatusCode.UNKNOWN)
            return PredictError(code, answer.message, answer.retry_after_ms / 1e3 or None)
        try:
            return Prediction.of(answer, request_id, self._features.rows)
        except PredictError as error:
            return error


def _names(names: Sequence[str] | None) -> list[str]:
    """Of one word: that word, not its letters."""
    return [names] if isinstance(names, str) else list(names or ())


def _fields(message: pb.PredictRequest) -> int:
    """Fields of the message on the wire: each string of a list is one, a packed list of numbers is one in all."""
    features = [*message.candidates, *message.context]
    # A feature itself, its name, its values, and their numbers or lengths; of the request a few plain fields.
    return 5 + len(message.tasks) + sum(5 + len(feature.strings.values) for feature in features)


def health_call(channel: Any, service: str) -> tuple[Any, Any]:
    """The health protocol's Check method on a channel, and its request."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    return health_pb2_grpc.HealthStub(channel).Check, health_pb2.HealthCheckRequest(service=service)
