"""What the blocking and the asyncio client know and decide alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from smt.serving.prediction import PredictError, Prediction
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.protos import prediction_pb2_grpc as pb_grpc
from smt.serving.request import RETRYING_OPTIONS, MultiQuery, Query
from smt.serving.tls import Tls, channel

DEFAULT_TIMEOUT = 10.0

_Stub: Any = pb_grpc.PredictionServiceStub  # generated without types


class ClientBase:
    """What both clients know: where the server is, and the scenarios' metadata seen so far."""

    def __init__(
        self, module: Any, target: str, timeout: float, tls: Tls | None, credentials: grpc.ChannelCredentials | None
    ) -> None:
        if tls is not None and credentials is not None:
            raise ValueError("tls and credentials: expected at most one of them")
        self.target = target
        self.timeout = timeout
        self._channel: Any = (
            channel(module, target, RETRYING_OPTIONS, tls)
            if credentials is None
            else module.secure_channel(target, credentials, RETRYING_OPTIONS)
        )
        self._stub: Any = _Stub(self._channel)
        self._metadata: dict[str, pb.ScenarioMetadata] = {}
        self._server: pb.ServerMetadata | None = None

    def _seconds(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    def _finish(self, query: Query, response: pb.PredictResponse) -> Prediction:
        self._answered(query.scenario, response.version)
        return Prediction.of(response, response.request_id, query.rows)

    def _finish_multi(
        self, query: MultiQuery, response: pb.MultiPredictResponse
    ) -> dict[str, Prediction | PredictError]:
        answers = query.answers(response)
        for scenario, answer in answers.items():
            if isinstance(answer, Prediction):
                self._answered(scenario, answer.version)
        return answers

    def _answered(self, scenario: str, version: str) -> None:
        known = self._metadata.get(scenario)
        if known is not None and known.version != version:
            self._metadata.pop(scenario, None)  # another version may read other inputs: ask again next time

    def _tasks(self, query: Query) -> list[str]:
        return query.tasks or list(query.metadata.tasks if query.metadata is not None else ())

    def _changed(self, query: Query, fresh: pb.ScenarioMetadata) -> bool:
        """Whether a refused request was built from metadata that no longer holds."""
        return query.metadata is not None and list(query.metadata.inputs) != list(fresh.inputs)

    def _doubtful(self, query: MultiQuery, outcome: dict[str, Prediction | PredictError] | PredictError) -> bool:
        """Whether something was refused that may have been built from metadata that no longer holds."""
        failures = [outcome] if isinstance(outcome, PredictError) else outcome.values()
        return bool(query.metadata) and any(
            isinstance(failure, PredictError) and failure.code is grpc.StatusCode.INVALID_ARGUMENT
            for failure in failures
        )

    def _multi_changed(self, query: MultiQuery, fresh: Mapping[str, pb.ScenarioMetadata]) -> bool:
        def inputs(metadata: Mapping[str, pb.ScenarioMetadata]) -> dict[str, list[Any]]:
            return {scenario: list(known.inputs) for scenario, known in metadata.items()}

        return inputs(query.metadata) != inputs(fresh)

    @staticmethod
    def _unknown(error: PredictError) -> bool:
        """Whether a scenario's metadata are not to be had: its own answer will say why, those of others are served."""
        return error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
