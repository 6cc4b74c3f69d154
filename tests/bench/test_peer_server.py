"""NVIDIA Triton, which the server is measured against: it computes the template's function, and is gone afterwards."""

import os
import socket
from pathlib import Path

import grpc
import numpy as np
import pytest

from bench.peer_build import Problem
from bench.peer_server import (
    NotInstalledError,
    PeerUnavailableError,
    Setup,
    TritonServer,
    infer_request,
    install,
    listening_port,
)
from bench.result import ROOT
from bench.shapes import random_arena, random_batch, random_table, reference
from smt.serving.protos import grpc_service_pb2 as pb
from tests.bench.support import tiny_shape

FOLDER = ROOT / "build" / "bench"


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    try:
        install(FOLDER)
    except NotInstalledError as error:
        pytest.skip(str(error))
    shape = tiny_shape(tmp_path_factory.mktemp("template"))
    return Problem(shape, random_arena(shape, 1)[0], random_table(shape))


def test_triton_computes_the_templates_function(problem: Problem) -> None:
    setups = (Setup(2, 1, False), Setup(1, 1, True))
    rng = np.random.default_rng(0)
    with TritonServer(problem, setups, FOLDER) as server, grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
        )
        assert list(server.models) == ["r1-2x1", "r1-1x1-batching"]
        for model in server.models:
            batches = [random_batch(problem.shape, rows, rng) for rows in (1, 33, 64, 5, 256, 2)]
            # All at once, so that Triton has something to put together.
            answers = [call.future(infer_request(model, batch), timeout=60) for batch in batches]
            for batch, answer in zip(batches, answers, strict=True):
                expected = reference(problem.shape, problem.slab[None], problem.table, batch)
                found = np.frombuffer(answer.result().raw_output_contents[0], np.float32).reshape(expected.shape)
                assert np.abs(found - expected).max() <= 3e-2
        pid = server.pid
    assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_does_not_come_up_says_why(problem: Problem) -> None:
    with (
        pytest.raises(PeerUnavailableError, match=r"Triton ended with 1: .*r1-1x-1"),
        TritonServer(problem, (Setup(1, -1, False),), FOLDER),
    ):
        pass


def test_the_port_of_a_process_is_the_one_it_listens_on() -> None:
    with pytest.raises(PeerUnavailableError, match=r"listens on the ports \[\]; expected one"):
        listening_port(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert listening_port(os.getpid()) == listener.getsockname()[1]
        with (
            socket.create_server(("127.0.0.1", 0)),
            pytest.raises(PeerUnavailableError, match="expected one"),
        ):
            listening_port(os.getpid())
