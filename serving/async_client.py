"""The asyncio client; see client.py."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from smt.serving.client_base import DEFAULT_TIMEOUT, ClientBase
from smt.serving.encode import Data
from smt.serving.prediction import PredictError, Prediction, TableBuilder, TablePrediction, from_rpc_error
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.request import HEALTH_STATES, MultiQuery, Query, health_call
from smt.serving.tls import Tls


class AsyncClient(ClientBase):
    """asyncio client: `Client`'s methods as coroutines, for use within one event loop; it retries as `Client` does."""

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(grpc.aio, target, timeout, tls, credentials)

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def predict(
        self,
        scenario: str,
        candidates: Data | None = None,
        context: Data | None = None,
        *,
        tasks: Sequence[str] | None = None,
        version: str | None = None,
        label: str | None = None,
        request_id: str | None = None,
        request_key: str | None = None,
        timeout: float | None = None,
        rows: int | None = None,
    ) -> Prediction:
        """See `Client.predict`."""
        query = Query(
            scenario,
            candidates,
            context,
            tasks=tasks,
            version=version,
            label=label,
            request_id=request_id,
            request_key=request_key,
            rows=rows,
        )
        if query.needs_metadata:
            query = query.resolved(await self._scenario(scenario, timeout))
        return await self._predict(query, timeout)

    async def multi_predict(
        self,
        scenarios: Sequence[str],
        candidates: Data | None = None,
        context: Data | None = None,
        *,
        tasks: Mapping[str, Sequence[str]] | None = None,
        versions: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        request_key: str | None = None,
        timeout: float | None = None,
        rows: int | None = None,
    ) -> dict[str, Prediction | PredictError]:
        """See `Client.multi_predict`."""
        query = MultiQuery(
            scenarios,
            candidates,
            context,
            tasks=tasks,
            versions=versions,
            labels=labels,
            request_id=request_id,
            request_key=request_key,
            rows=rows,
        )
        if query.needs_metadata:
            query = query.resolved(await self._scenarios(query.scenarios, timeout))
        outcome = await self._multi(query, timeout)
        if self._doubtful(query, outcome):
            fresh = await self._scenarios(query.scenarios, timeout, anew=True)
            if self._multi_changed(query, fresh):
                outcome = await self._multi(query.resolved(fresh), timeout)
        if isinstance(outcome, PredictError):
            raise outcome
        return outcome

    async def predict_table(
        self,
        scenario: str,
        table: Data,
        context: Data | None = None,
        *,
        tasks: Sequence[str] | None = None,
        version: str | None = None,
        timeout: float | None = None,
        max_rows: int | None = None,
        in_flight: int = 4,
        progress: Callable[[int], None] | None = None,
    ) -> TablePrediction:
        """See `Client.predict_table`."""
        server = self._server or await self.server(timeout=timeout)
        query = Query(scenario, table, context, tasks=tasks, version=version)
        query = query.resolved(await self._scenario(scenario, timeout))
        builder = TableBuilder(query.rows, self._tasks(query), progress)
        pending: deque[asyncio.Task[Prediction]] = deque()
        try:
            for part in query.parts(server, max_rows):
                pending.append(asyncio.create_task(self._predict(part, timeout)))
                if len(pending) >= in_flight:
                    builder.add(await pending.popleft())
            while pending:
                builder.add(await pending.popleft())
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return builder.build()

    async def list_scenarios(self, *, timeout: float | None = None) -> list[pb.ScenarioStatus]:
        """See `Client.list_scenarios`."""
        return list((await self._call(self._stub.ListScenarios, pb.ListScenariosRequest(), timeout)).scenarios)

    async def scenario(self, scenario: str, *, timeout: float | None = None) -> pb.ScenarioMetadata:
        """See `Client.scenario`."""
        request = pb.GetScenarioRequest(scenario=scenario)
        metadata: pb.ScenarioMetadata = await self._call(self._stub.GetScenario, request, timeout)
        self._metadata[scenario] = metadata
        return metadata

    async def server(self, *, timeout: float | None = None) -> pb.ServerMetadata:
        """See `Client.server`."""
        self._server = await self._call(self._stub.GetServer, pb.GetServerRequest(), timeout)
        assert self._server is not None
        return self._server

    async def health(self, scenario: str = "", *, timeout: float | None = None) -> str:
        """See `Client.health`."""
        method, request = health_call(self._channel, scenario)
        try:
            return HEALTH_STATES[(await self._call(method, request, timeout)).status]
        except PredictError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise

    async def _predict(self, query: Query, timeout: float | None) -> Prediction:
        try:
            response = await self._call(self._stub.Predict, query.message(), timeout)
        except PredictError as error:
            if query.metadata is None or error.code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            fresh = await self.scenario(query.scenario, timeout=timeout)
            if not self._changed(query, fresh):
                raise
            query = query.resolved(fresh)
            response = await self._call(self._stub.Predict, query.message(), timeout)
        return self._finish(query, response)

    async def _scenario(self, scenario: str, timeout: float | None) -> pb.ScenarioMetadata:
        return self._metadata.get(scenario) or await self.scenario(scenario, timeout=timeout)

    async def _scenarios(
        self, names: Sequence[str], timeout: float | None, *, anew: bool = False
    ) -> dict[str, pb.ScenarioMetadata]:
        """Metadata of those scenarios that have any, asked for at once."""
        asked = [name for name in names if anew or name not in self._metadata]
        calls = (self.scenario(name, timeout=timeout) for name in asked)
        for name, found in zip(asked, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(found, BaseException):
                self._metadata.pop(name, None)
                if not (isinstance(found, PredictError) and self._unknown(found)):
                    raise found
        return {name: self._metadata[name] for name in names if name in self._metadata}

    async def _multi(
        self, query: MultiQuery, timeout: float | None
    ) -> dict[str, Prediction | PredictError] | PredictError:
        try:
            return self._finish_multi(query, await self._call(self._stub.MultiPredict, query.message(), timeout))
        except PredictError as error:
            return error

    async def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return await method(request, timeout=self._seconds(timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
