"""Clients of the prediction service.

    from smt.serving.client import Client

    with Client("127.0.0.1:8500") as client:
        prediction = client.predict("income_workers", {"age": [37, 52], "education": ["Bachelors", None]})
        prediction["income"]          # float32 [2]
        prediction.version            # the snapshot that computed all of it
        client.predict_table("income_workers", pyarrow.parquet.read_table("rows.parquet"))
        client.multi_predict(["feed", "search"], candidates)["feed"]     # a Prediction, or the PredictError that it met

`AsyncClient` has the same methods for asyncio. What counts as a missing value is told in encode.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from smt.serving.async_client import AsyncClient
from smt.serving.client_base import DEFAULT_TIMEOUT, ClientBase
from smt.serving.encode import Data
from smt.serving.prediction import PredictError, Prediction, TableBuilder, TablePrediction, from_rpc_error
from smt.serving.protos import prediction_pb2 as pb
from smt.serving.request import HEALTH_STATES, MultiQuery, Query, health_call
from smt.serving.tls import Tls, TlsError

__all__ = ["AsyncClient", "Client", "PredictError", "Prediction", "TablePrediction", "Tls", "TlsError"]


class Client(ClientBase):
    """Blocking client; safe to share between threads.

    A call that ends UNAVAILABLE (a server that is draining, or not there) is made up to four times, 0.05 s, 0.1 s and
    0.2 s apart, give or take a fifth, within the call's timeout; only then does it fail.

    Args:
        target: "host:port".
        timeout: seconds that a call may take, where the call itself does not say.
        tls: for TLS and mutual TLS; None for a plain connection.
        credentials: in place of `tls`, for what else gRPC can.

    Raises:
        TlsError: for files of `tls` that cannot be used.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: Tls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        super().__init__(grpc, target, timeout, tls, credentials)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def predict(
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
        """Scores the candidates of one request.

        Args:
            candidates: the candidates' features: a mapping from name to a list or array with one entry per row, a
                pandas DataFrame, or a pyarrow Table or RecordBatch. Of a mapping everything is sent; of tabular data
                the columns that the scenario reads. Multi-valued features hold a list in every row.
            context: features that all candidates share, in the same forms with one row, or as bare values.
            tasks: tasks to return; default: all.
            version: accept only scores of this snapshot version.
            label: score with the version that has this label, stable or canary; default: the canary, if there is one,
                for its share of the request keys, else stable.
            request_id: echoed in the response and in the server's log.
            request_key: what is to meet one version always, such as the user, while a canary has a share of the
                requests; default: the request id.
            timeout: seconds; default: the client's.
            rows: number of candidates, needed only if there are no candidate features.

        Raises:
            PredictError: with the status code and the message that names the feature at fault.
        """
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
            query = query.resolved(self._scenario(scenario, timeout))
        return self._result(query, self._stub.Predict.future(query.message(), timeout=self._seconds(timeout)), timeout)

    def multi_predict(
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
        """Scores the same candidates under several scenarios, in one call and, where their template is one, one batch.

        Args:
            scenarios: up to 64, each once.
            candidates, context: as in `predict`. Each scenario takes what it reads; of tabular data the columns are
                sent that any of them reads. What none of them reads is an error, in a mapping.
            tasks, versions, labels: as in `predict`, by scenario, where it is not the default.
            request_id, request_key, timeout, rows: as in `predict`, of the call.

        Returns:
            For each scenario, in order, its scores or why it has none: one that failed does not fail the others.

        Raises:
            PredictError: for what is wrong with the call as a whole.
        """
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
            query = query.resolved(self._scenarios(query.scenarios, timeout))
        outcome = self._multi(query, timeout)
        if self._doubtful(query, outcome):
            fresh = self._scenarios(query.scenarios, timeout, anew=True)
            if self._multi_changed(query, fresh):
                outcome = self._multi(query.resolved(fresh), timeout)
        if isinstance(outcome, PredictError):
            raise outcome
        return outcome

    def predict_table(
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
        """Scores any number of rows, in requests of as many rows, bytes and values as the server takes.

        Args:
            table: as `candidates` of `predict`.
            max_rows: rows per request; default and upper bound: the server's limit.
            in_flight: requests under way at once.
            progress: called with the number of rows of each request that came back.

        Returns:
            Scores of all rows in order, and how many rows each snapshot version computed (more than one if the
            server changed versions meanwhile; `version` pins it).

        Raises:
            PredictError: as `predict`; nothing is returned unless every row was scored.
        """
        server = self._limits(timeout)
        query = Query(scenario, table, context, tasks=tasks, version=version)
        query = query.resolved(self._scenario(scenario, timeout))
        builder = TableBuilder(query.rows, self._tasks(query), progress)
        pending: deque[tuple[Query, Any]] = deque()
        try:
            for part in query.parts(server, max_rows):
                future = self._stub.Predict.future(part.message(), timeout=self._seconds(timeout))
                pending.append((part, future))
                if len(pending) >= in_flight:
                    builder.add(self._result(*pending.popleft(), timeout))
            while pending:
                builder.add(self._result(*pending.popleft(), timeout))
        finally:
            for _, future in pending:
                future.cancel()
        return builder.build()

    def list_scenarios(self, *, timeout: float | None = None) -> list[pb.ScenarioStatus]:
        """Every scenario of the server's registry: what is served, what was refused and why."""
        return list(self._call(self._stub.ListScenarios, pb.ListScenariosRequest(), timeout).scenarios)

    def scenario(self, scenario: str, *, timeout: float | None = None) -> pb.ScenarioMetadata:
        """What the scenario's current snapshot reads and answers, asked anew."""
        metadata: pb.ScenarioMetadata = self._call(
            self._stub.GetScenario, pb.GetScenarioRequest(scenario=scenario), timeout
        )
        self._metadata[scenario] = metadata
        return metadata

    def server(self, *, timeout: float | None = None) -> pb.ServerMetadata:
        """The server's build, limits and template binaries."""
        self._server = self._call(self._stub.GetServer, pb.GetServerRequest(), timeout)
        assert self._server is not None
        return self._server

    def health(self, scenario: str = "", *, timeout: float | None = None) -> str:
        """SERVING, NOT_SERVING or SERVICE_UNKNOWN, of one scenario or (default) of the server."""
        method, request = health_call(self._channel, scenario)
        try:
            return HEALTH_STATES[self._call(method, request, timeout).status]
        except PredictError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise

    def _result(self, query: Query, future: Any, timeout: float | None) -> Prediction:
        """Waits for the answer; asks again if the scenario has come to read other inputs meanwhile."""
        try:
            return self._finish(query, future.result())
        except grpc.RpcError as error:
            failure = from_rpc_error(error, self.target)
            if query.metadata is None or failure.code is not grpc.StatusCode.INVALID_ARGUMENT:
                raise failure from error
            fresh = self.scenario(query.scenario, timeout=timeout)
            if not self._changed(query, fresh):
                raise failure from error
        query = query.resolved(fresh)
        return self._finish(query, self._call(self._stub.Predict, query.message(), timeout))

    def _scenario(self, scenario: str, timeout: float | None) -> pb.ScenarioMetadata:
        return self._metadata.get(scenario) or self.scenario(scenario, timeout=timeout)

    def _scenarios(
        self, names: Sequence[str], timeout: float | None, *, anew: bool = False
    ) -> dict[str, pb.ScenarioMetadata]:
        """Metadata of those scenarios that have any, asked for at once."""
        asked = {
            name: self._stub.GetScenario.future(pb.GetScenarioRequest(scenario=name), timeout=self._seconds(timeout))
            for name in names
            if anew or name not in self._metadata
        }
        for name, future in asked.items():
            try:
                self._metadata[name] = future.result()
            except grpc.RpcError as error:
                self._metadata.pop(name, None)
                failure = from_rpc_error(error, self.target)
                if not self._unknown(failure):
                    raise failure from error
        return {name: self._metadata[name] for name in names if name in self._metadata}

    def _multi(self, query: MultiQuery, timeout: float | None) -> dict[str, Prediction | PredictError] | PredictError:
        try:
            return self._finish_multi(query, self._call(self._stub.MultiPredict, query.message(), timeout))
        except PredictError as error:
            return error

    def _limits(self, timeout: float | None) -> pb.ServerMetadata:
        return self._server or self.server(timeout=timeout)

    def _call(self, method: Any, request: Any, timeout: float | None) -> Any:
        try:
            return method(request, timeout=self._seconds(timeout))
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
