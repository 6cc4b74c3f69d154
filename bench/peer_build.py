"""Files that peers are loaded from: compiled packages and exported graphs, built once and kept.

cache = ArtefactCache(Path("build/bench"))
package = aot_inductor(problem, torch.bfloat16, max_autotune=False, threads=1, cache=cache)
graph = onnx_graph(problem, cache)
"""

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import bench.peer_net
from bench.peer_net import PeerNet
from bench.shapes import Shape, random_batch
from smt.serving.quiet import quiet

INPUTS = ("table", "dense", "ids")
OUTPUT = "probabilities"
# Rows that AOTInductor is shown as typical of the dynamic dimension.
_TYPICAL_ROWS = 256


class NotBuilt(RuntimeError):
    """A file is not in the cache, and building it would take longer than this run may."""


@dataclass(frozen=True)
class Problem:
    """What every engine is given: a shape, one scenario's dense weights [elements], and its table [R, dim]."""

    shape: Shape
    slab: Tensor
    table: Tensor

    @cached_property
    def digest(self) -> str:
        """Of everything that a built file depends on."""
        packages = [f"{name}-{version(name)}" for name in ("torch", "onnx", "onnxscript", "onnxruntime")]
        sources = [Path(file).read_bytes() for file in (bench.peer_net.__file__, __file__)]
        content = [*sources, self.slab.numpy().tobytes(), self.shape.template.sha256.encode()]
        content += [str(tuple(self.table.shape)).encode(), *(package.encode() for package in packages)]
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in content)).hexdigest()[:16]


@dataclass
class ArtefactCache:
    """Built files by what they are made of, in a folder that outlives the run.

    Attributes:
        slow_builds: False: what takes long to build is taken only where an earlier run built it.
        seconds: spent building.
    """

    folder: Path
    slow_builds: bool = True
    seconds: float = field(default=0.0, init=False)

    def file(self, key: str, name: str, build: Callable[[Path], None], *, slow: bool = False) -> Path:
        """The file, built on first use. Raises NotBuilt for a slow build that this run does not make."""
        path = self.folder / key / name
        if path.exists():
            return path
        if slow and not self.slow_builds:
            raise NotBuilt(f"{name} takes too long to build for a quick run; a full run builds it, and it is kept")
        path.parent.mkdir(parents=True, exist_ok=True)
        stage = path.with_name(f"{os.getpid()}-{name}")
        started = time.monotonic()
        try:
            # The autotuner reports on stderr.
            with quiet(), contextlib.redirect_stderr(io.StringIO()):
                build(stage)
            stage.replace(path)
        finally:
            stage.unlink(missing_ok=True)
        self.seconds += time.monotonic() - started
        return path


def load_package(path: Path) -> Callable[..., Tensor]:
    """An AOTInductor package as a function of its inputs, to be called from one thread at a time."""
    with quiet():
        package: Any = torch._inductor.aoti_load_package(str(path), run_single_threaded=True)
    run = package.loader.run  # what torch puts around it takes longer than a row

    def function(*inputs: Tensor) -> Tensor:
        output: Tensor = run(list(inputs))[0]
        return output

    return function


def aot_inductor(problem: Problem, dtype: torch.dtype, max_autotune: bool, threads: int, cache: ArtefactCache) -> Path:
    """AOTInductor package with the weights frozen in. The number of threads is baked in, so each has its own."""
    configs = {"freezing": True, "max_autotune": max_autotune, "cpp.threads": threads}

    def build(path: Path) -> None:
        torch.set_num_threads(threads)
        program = _exported(problem, dtype)
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=configs)

    name = f"{str(dtype).removeprefix('torch.')}{'-autotuned' if max_autotune else ''}-{threads}.pt2"
    return cache.file(problem.digest, name, build, slow=True)


def onnx_graph(problem: Problem, cache: ArtefactCache) -> Path:
    """The graph in float32: inputs `INPUTS`, output `OUTPUT`."""

    def build(path: Path) -> None:
        names: dict[str, Any] = {"input_names": list(INPUTS), "output_names": [OUTPUT]}
        graph: Any = torch.onnx.export(_exported(problem, torch.float32), dynamo=True, verbose=False, **names)
        graph.save(str(path))

    return cache.file(problem.digest, "fp32.onnx", build)


def quantized_graph(problem: Problem, scales: Literal["per tensor", "per channel"], cache: ArtefactCache) -> Path:
    """The graph with int8 weights, activations being quantized in every call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx_graph(problem, cache)

    def build(path: Path) -> None:
        constants = {"MatMulConstBOnly": True}
        quantize_dynamic(
            graph, path, per_channel=scales == "per channel", weight_type=QuantType.QInt8, extra_options=constants
        )

    return cache.file(problem.digest, f"int8 {scales}.onnx", build)


def _exported(problem: Problem, dtype: torch.dtype) -> torch.export.ExportedProgram:
    batch = random_batch(problem.shape, _TYPICAL_ROWS, np.random.default_rng(0))
    rows = torch.export.Dim("rows", min=1, max=1 << 16)
    net = PeerNet(problem.shape.template, problem.slab, dtype).eval()
    inputs = (problem.table, batch.dense, batch.rows)
    return torch.export.export(net, inputs, dynamic_shapes={"table": None, "dense": {0: rows}, "ids": {0: rows}})
