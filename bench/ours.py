"""The fused kernels as an engine of the benchmark: the binary that a server runs, with weights packed into slots."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.peer_build import ArtefactCache, load_package
from bench.shapes import Batch, on_huge_pages
from smt.kernels import cpu
from smt.kernels.cpu import Precision
from smt.serving.compile import compile_package, export_fused_function
from smt.serving.fused import tile_program
from smt.training.model import abi_hash
from smt.training.template import Template


class FusedEngine:
    """One template binary with the weights of one or more scenarios, see `bench.peers.Engine`."""

    def __init__(
        self, template: Template, precision: Precision, arena: Tensor, table: Tensor, threads: int, cache: ArtefactCache
    ) -> None:
        """
        Args:
            arena: [scenarios, elements] float32, the slabs; packed here, as a server does when it loads a snapshot.
            table: [R, dim] float32, one pool that all scenarios read.

        Raises:
            CompileError: AOTInductor cannot compile the template.
        """
        program = tile_program(template, precision)
        self.packed_bytes = cpu.packed_bytes(program)
        self._arena = on_huge_pages((len(arena), self.packed_bytes), torch.uint8)
        for slot, slab in zip(self._arena, arena, strict=True):
            slot.copy_(cpu.pack(slab, program))
        self._table, self._threads = table, threads
        self._base = torch.zeros(len(arena), dtype=torch.int64)
        self._binary = load_package(compile_fused(template, precision, cache))
        self._arguments: tuple[Tensor, ...] = ()
        self._output = torch.empty(0)

    def bind(self, batch: Batch) -> None:
        torch.set_num_threads(self._threads)
        features = (batch.dense, batch.ids, batch.offsets, batch.bag_index)
        self._arguments = (self._arena, batch.block_slot, self._table, self._base, *features)

    def run(self) -> None:
        self._output = self._binary(*self._arguments)

    def output(self) -> NDArray[np.float32]:
        return self._output.numpy()


def compile_fused(template: Template, precision: Precision, cache: ArtefactCache) -> Path:
    """The template binary's package; the same for all scenarios. Raises CompileError."""
    program = tile_program(template, precision)
    made_of = [torch.__version__, abi_hash(template), program.values()]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    return cache.file(
        key, f"{precision}.pt2", lambda path: compile_package(export_fused_function(template, program), path)
    )
