"""A server of ONNX Runtime sessions as one writes it in Python: gRPC, ModelInfer of the Open Inference Protocol, and a
session for each scenario. New weights are a new session, made beside the old one, whose place it then takes.

    python -m bench.hotswap_ort_server FOLDER        # FOLDER/<model>.onnx; prints its port

RepositoryModelLoad reads FOLDER/<model>.onnx again.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from smt.serving.protos import grpc_service_pb2 as pb
from smt.serving.protos import grpc_service_pb2_grpc as stubs

_TYPES = {"FP32": np.float32, "INT64": np.int64}
_THREADS = 2  # that compute: the cores
_LOADERS = 1


class Servicer(stubs.GRPCInferenceServiceServicer):
    """Models by name: (version, session)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[str, tuple[int, Any]] = {}
        for path in sorted(folder.glob("*.onnx")):
            self._load(path.stem)

    def _load(self, name: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        version = self._models.get(name, (0, None))[0] + 1
        graph = str(self._folder / f"{name}.onnx")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._models[name] = (version, session)

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        version, session = self._models[request.model_name]
        inputs = {
            tensor.name: np.frombuffer(raw, _TYPES[tensor.datatype]).reshape(tuple(tensor.shape))
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        [scores] = session.run(None, inputs)
        response = pb.ModelInferResponse(model_name=request.model_name, model_version=str(version))
        response.outputs.add(name="probabilities", datatype="FP32", shape=scores.shape)
        response.raw_output_contents.append(scores.tobytes())
        return response

    def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: grpc.ServicerContext
    ) -> pb.RepositoryModelLoadResponse:
        self._load(request.model_name)
        return pb.RepositoryModelLoadResponse()


def main() -> None:
    server = grpc.server(ThreadPoolExecutor(_THREADS + _LOADERS))
    stubs.add_GRPCInferenceServiceServicer_to_server(Servicer(Path(sys.argv[1])), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
