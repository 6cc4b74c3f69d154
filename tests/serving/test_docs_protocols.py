"""The examples of docs/protocols.md, run as they stand against a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as triton
from google.protobuf import json_format
from tritonclient.grpc import service_pb2 as oip
from tritonclient.grpc import service_pb2_grpc as oip_grpc

from smt.serving.protos import prediction_pb2 as pb
from smt.serving.protos import prediction_pb2_grpc as pb_grpc
from tests.serving.support import RunningServer

PAGE = (Path(__file__).parents[2] / "docs/protocols.md").read_text()
ADDRESS = "127.0.0.1:8500"


def request(method: str) -> str:
    """The JSON that an example pipes into grpcurl."""
    found = re.search(rf"{ADDRESS} {re.escape(method)} <<'EOF'\n(.*?)\nEOF\n", PAGE, re.DOTALL)
    assert found, method
    return found[1]


def test_every_form_of_the_example_gives_the_same_scores(server: RunningServer) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code.count(ADDRESS) == 1
    names: dict[str, Any] = {}
    exec(code.replace(ADDRESS, server.target), names)
    by_client = {task: names["result"].as_numpy(task) for task in ("click", "like")}
    names["client"].close()
    with grpc.insecure_channel(server.target) as channel:
        sent = json_format.Parse(request("inference.GRPCInferenceService/ModelInfer"), oip.ModelInferRequest())
        inferred = triton.InferResult(oip_grpc.GRPCInferenceServiceStub(channel).ModelInfer(sent, timeout=60))
        asked = json_format.Parse(request("smt.v1.PredictionService/Predict"), pb.PredictRequest())
        predicted = pb_grpc.PredictionServiceStub(channel).Predict(asked, timeout=60)  # type: ignore[no-untyped-call]
    assert [scores.task for scores in predicted.tasks] == ["click", "like"]
    for scores in predicted.tasks:
        np.testing.assert_array_equal(by_client[scores.task], np.array(scores.probabilities, np.float32))
        np.testing.assert_array_equal(inferred.as_numpy(scores.task), by_client[scores.task])
    assert len(set(by_client["click"])) == 3
