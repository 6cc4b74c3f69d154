"""Compiles Triton kernels for the H100 (sm_90) on a machine that has none, and reads back what came out.

    compiled = compile_sm90("smt.kernels.mlp.triton:kernel", {"x_ptr": "*bf16", "rows": "i32"}, {"K": 432, "N": 64})
    assert compiled.spill_bytes == 0 and compiled.shared_bytes <= SHARED_LIMIT and compiled.wgmma > 0

The compiler runs in a process of its own: under TRITON_INTERPRET=1, as the tests here run, kernels cannot be compiled.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SHARED_LIMIT = 227 * 1024
"""Shared memory that one program can have on an H100."""


@dataclass(frozen=True)
class Compiled:
    """What ptxas and Triton made of a kernel."""

    registers: int
    spill_bytes: int
    """Stack and local memory per thread: what did not fit the registers."""
    shared_bytes: int
    wgmma: int
    """Tensor core instructions (wgmma.mma_async) in the PTX."""
    mma: int
    """Tensor core instructions of the older form (mma.sync) in the PTX."""
    async_copies: int
    """16-byte cp.async in the PTX: loads that are pipelined."""


@dataclass(frozen=True)
class Request:
    """A kernel to compile: see `compile_sm90`."""

    kernel: str
    signature: Mapping[str, str]
    constexprs: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 3


def compile_sm90(
    kernel: str,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    num_warps: int = 4,
    num_stages: int = 3,
) -> Compiled:
    """Compiles `kernel` ("module:function") and returns its resources.

    signature: Triton type of each run-time argument; pointers ("*bf16") are taken as 16-byte aligned.
    constexprs: value of each constexpr (numbers and nested tuples of numbers).
    Raises RuntimeError with the compiler's output when it cannot be compiled.
    """
    return compile_all([Request(kernel, signature, constexprs, num_warps, num_stages)])[0]


def compile_all(requests: Sequence[Request]) -> list[Compiled]:
    """Compiles several kernels in one process; see `compile_sm90`."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    text = json.dumps([asdict(request) for request in requests])
    done = subprocess.run(
        [sys.executable, __file__], input=text, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        names = ", ".join(sorted({request.kernel for request in requests}))
        raise RuntimeError(f"{names} does not compile for sm_90:\n{done.stderr[-4000:]}")
    return [Compiled(**result) for result in json.loads(done.stdout.splitlines()[-1])]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _compile(request: Request) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    module, name = request.kernel.split(":")
    function = getattr(importlib.import_module(module), name)
    constants = {key: _tuples(value) for key, value in request.constexprs.items()}
    types = {arg: "constexpr" if arg in constants else request.signature[arg] for arg in function.arg_names}
    attributes = {(i,): [["tt.divisibility", 16]] for i, type_ in enumerate(types.values()) if type_.startswith("*")}
    built = triton.compile(
        ASTSource(function, types, constants, attrs=attributes),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": request.num_warps, "num_stages": request.num_stages},
    )
    usage = _resource_usage(built.asm["cubin"], Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump")
    ptx = built.asm["ptx"]
    return Compiled(
        registers=usage["REG"],
        spill_bytes=usage["STACK"] + usage["LOCAL"],
        shared_bytes=built.metadata.shared,
        wgmma=ptx.count("wgmma.mma_async"),
        mma=ptx.count("mma.sync"),
        async_copies=len(re.findall(r"cp\.async\.cg\S*", ptx)),
    )


def _resource_usage(cubin: bytes, cuobjdump: Path) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(cuobjdump), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


if __name__ == "__main__":
    print(json.dumps([asdict(_compile(Request(**request))) for request in json.loads(sys.stdin.read())]))
