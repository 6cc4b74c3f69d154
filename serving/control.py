"""Client of a server's control service: what operators do to a server that runs.

from smt.serving.control import ControlClient, read_token

with ControlClient("127.0.0.1:8502", token=read_token("control.token")) as control:
    control.load("income_workers", "20260102-030405-678-0a1b2c3d")   # swap to it, and pin it
    control.rollback("income_workers")
    control.status().scenarios
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from smt.serving.prediction import PredictError, from_rpc_error
from smt.serving.protos import control_pb2 as pb
from smt.serving.protos import control_pb2_grpc as pb_grpc
from smt.serving.request import CHANNEL_OPTIONS
from smt.serving.tls import Tls, channel

# Loading a large snapshot takes a while, and a command may wait for others.
DEFAULT_TIMEOUT = 300.0

_Stub: Any = pb_grpc.ControlServiceStub  # generated without types


class ControlError(Exception):
    """A call that was not done. `code` is the gRPC status; `message` says why, for a refused version its reason."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class TokenError(ValueError):
    """A token file that cannot be used; the message names it."""


def read_token(path: str | Path) -> str:
    """The token in a file of one line. Raises TokenError."""
    try:
        lines = Path(path).read_text("ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"{path}: cannot read the token: {error}") from error
    if len(lines) != 1:
        raise TokenError(f"{path}: found {len(lines)} words; expected one line that holds the token")
    return lines[0]


class ControlClient:
    """Blocking client; safe to share between threads. No call is repeated by itself, though all may be.

    Every method raises ControlError. `timeout` is in seconds; a call that does not end in it is given up by the server
    too, and has changed nothing.

    Args:
        target: "host:port" of the control port.
        token: what is in the server's --control-token-file, if it has one.
        tls: for TLS and mutual TLS; None for a plain connection.
    """

    def __init__(
        self, target: str, *, token: str | None = None, tls: Tls | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> None:
        self.target = target
        self.timeout = timeout
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._channel: Any = channel(grpc, target, CHANNEL_OPTIONS, tls)
        self._stub: Any = _Stub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def load(self, scenario: str, version: str = "", *, timeout: float | None = None) -> pb.ControlledScenario:
        """Follows the registry, looking at it now; with a version, swaps to that one and pins it."""
        done: pb.ControlledScenario = self._call("Load", pb.LoadRequest(scenario=scenario, version=version), timeout)
        return done

    def unload(self, scenario: str, *, timeout: float | None = None) -> pb.ControlledScenario:
        """Serves nothing of the scenario until it is loaded again."""
        done: pb.ControlledScenario = self._call("Unload", pb.UnloadRequest(scenario=scenario), timeout)
        return done

    def rollback(self, scenario: str, *, timeout: float | None = None) -> pb.ControlledScenario:
        """Swaps to the version that was served before the current one, and pins it."""
        done: pb.ControlledScenario = self._call("Rollback", pb.RollbackRequest(scenario=scenario), timeout)
        return done

    def unpin(self, scenario: str, *, timeout: float | None = None) -> pb.ControlledScenario:
        """Follows the registry again."""
        done: pb.ControlledScenario = self._call("Unpin", pb.UnpinRequest(scenario=scenario), timeout)
        return done

    def status(self, scenario: str = "", *, timeout: float | None = None) -> pb.StatusResponse:
        """What is served, pinned, unloaded and refused: of one scenario, or of all."""
        status: pb.StatusResponse = self._call("Status", pb.StatusRequest(scenario=scenario), timeout)
        return status

    def drain(self, seconds: int | None = None, *, timeout: float | None = None) -> pb.DrainResponse:
        """Ends the server as SIGTERM does; returns when the drain has begun."""
        begun: pb.DrainResponse = self._call("Drain", pb.DrainRequest(seconds=seconds), timeout)
        return begun

    def log_level(self, level: str | None = None, *, timeout: float | None = None) -> str:
        """Sets the least level that is logged, if one is given; returns the level that holds."""
        request = pb.GetLogLevelRequest() if level is None else pb.SetLogLevelRequest(level=level)
        held: pb.LogLevel = self._call("GetLogLevel" if level is None else "SetLogLevel", request, timeout)
        return held.level

    def _call(self, method: str, request: Any, timeout: float | None) -> Any:
        seconds = self.timeout if timeout is None else timeout
        try:
            return getattr(self._stub, method)(request, timeout=seconds, metadata=self._metadata)
        except grpc.RpcError as error:
            failure: PredictError = from_rpc_error(error, self.target)
            message = failure.message
            if failure.code is grpc.StatusCode.UNIMPLEMENTED:
                message = f"{self.target} has no control service: is it the server's --control-port?"
            raise ControlError(failure.code, message) from error
