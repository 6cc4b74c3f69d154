"""Triton's Python backend model of the benchmark: an OpenVINO graph in bfloat16. Runs in a process of Triton's.

Parameters of the model's configuration: graph (OpenVINO IR, inputs dense [rows, D] float32 and ids [rows, S] int32,
output probabilities [rows, T] float32), threads. TRITON_MODEL_PACKAGES: folders to import numpy and openvino from.
"""

import json
import os
import sys
from typing import Any

# Before anything imports numpy, which the backend needs an old one of. Its interpreter ignores PYTHONPATH.
sys.path[:0] = os.environ["TRITON_MODEL_PACKAGES"].split(os.pathsep)

import numpy as np  # noqa: E402
import openvino  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402

_OUTPUT = "probabilities"


class TritonPythonModel:
    """One instance: one compiled graph with threads of its own. What Triton hands over in one call is one batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Compiles the graph. Raises what OpenVINO raises, and Triton then refuses the model."""
        parameters = json.loads(args["model_config"])["parameters"]
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": int(parameters["threads"]["string_value"]),
            "NUM_STREAMS": 1,
            # Two instances would pin their threads to the same core.
            "ENABLE_CPU_PINNING": False,
        }
        core: Any = openvino.Core()
        self._request = core.compile_model(parameters["graph"]["string_value"], "CPU", settings).create_infer_request()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        inputs = [[triton.get_input_tensor_by_name(r, name).as_numpy() for name in ("dense", "ids")] for r in requests]
        if len(inputs) == 1:
            return [self._response(self._infer(*inputs[0]))]
        scores = self._infer(*(np.concatenate(parts) for parts in zip(*inputs, strict=True)))
        responses, first = [], 0
        for dense, _ in inputs:
            responses.append(self._response(scores[first : first + len(dense)]))
            first += len(dense)
        return responses

    def _infer(self, dense: Any, ids: Any) -> Any:
        for name, array in (("dense", dense), ("ids", ids)):
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        self._request.infer()
        return self._request.get_output_tensor().data

    @staticmethod
    def _response(scores: Any) -> Any:
        return triton.InferenceResponse([triton.Tensor(_OUTPUT, scores)])
