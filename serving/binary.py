"""The template binary from Python: loads the AOTInductor package and scores transformed batches with it.

For the publish gate, offline scoring and tests; the server does the same in C++ (server/template_binary.h).

    runner = BinaryRunner.load(registry, "ranking-base", abi_hash)
    probabilities = runner.score(weights, batch)        # float32 [rows, tasks of the template]
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smt.kernels import cpu
from smt.kernels.transform import TransformedBatch
from smt.serving.manifest import BINARY_FILE, BinaryManifest
from smt.serving.quiet import quiet
from smt.serving.registry import Registry, RegistryError


@dataclass(frozen=True)
class Weights:
    """What a snapshot holds: slab [elements] and table [table_rows, dim], float32, contiguous."""

    slab: Tensor
    table: Tensor


def batch_inputs(batch: TransformedBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dense, ids, offsets and bag_index of a transformed batch as tensors that share its memory."""
    return (
        torch.from_numpy(batch.dense),
        torch.from_numpy(batch.ids),
        torch.from_numpy(batch.offsets),
        torch.from_numpy(batch.bag_index),
    )


class BinaryRunner:
    """One loaded template binary. Weights are arguments of every call, so one runner serves all scenarios."""

    def __init__(self, manifest: BinaryManifest, package: Path) -> None:
        self.manifest = manifest
        # One runner: calls come from one thread, and each further one would cost memory.
        with quiet():
            self._model: Any = torch._inductor.aoti_load_package(str(package), run_single_threaded=True)
        # The slab that was packed last, and what it became: a run of batches is scored with the same weights.
        self._packed: tuple[Tensor, Tensor] | None = None

    @classmethod
    def load(cls, registry: Registry, template: str, abi_hash: str, target: str = "cpu") -> Self:
        """Loads a verified binary from a registry. Raises RegistryError when there is none or it is damaged."""
        manifest = registry.binary(template, abi_hash, target)
        if manifest is None:
            known = [f"{m.template.name} {m.template.version} (ABI {m.abi_hash[:12]})" for m in registry.binaries()]
            raise RegistryError(
                f"{registry.root}: no binary of template {template!r} with ABI {abi_hash[:12]} for {target}; "
                f"there are: {', '.join(known) or 'none'}. `smt compile TEMPLATE.yaml` makes it"
            )
        if manifest.torch.split("+")[0] != torch.__version__.split("+")[0]:
            raise RegistryError(
                f"{registry.root}: the binary of template {template!r} was compiled with torch {manifest.torch}; "
                f"here is {torch.__version__}. Compile it again"
            )
        with tempfile.TemporaryDirectory() as cache:  # a loaded package needs its file no more
            return cls(manifest, registry.fetch_binary_file(manifest, BINARY_FILE, Path(cache)))

    def score(self, weights: Weights, batch: TransformedBatch) -> NDArray[np.float32]:
        """Probabilities, float32 [rows, tasks], of a batch whose rows are all of one scenario."""
        return self.score_tensors(weights, *batch_inputs(batch)).numpy()

    def score_tensors(self, weights: Weights, dense: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor) -> Tensor:
        """The same with the features as tensors, see `ServingFunction`: [rows, tasks] float32."""
        if self.manifest.kind == "views":
            return self(weights.slab, weights.table, dense, ids, offsets, bag_index)
        if self._packed is None or self._packed[0] is not weights.slab:
            self._packed = (weights.slab, self.pack(weights.slab))
        arena = self._packed[1].unsqueeze(0)
        base = torch.zeros(1, dtype=torch.int64)
        return self(arena, cpu.block_slots(len(dense)), weights.table, base, dense, ids, offsets, bag_index)

    def pack(self, slab: Tensor) -> Tensor:
        """A slab [slab_elements] float32 as a slot of the server's arena: [packed_bytes] uint8."""
        if self.manifest.kind == "views":
            return slab.view(torch.uint8)
        packed: Tensor = torch.ops.smt.pack(slab, self.manifest.program)
        return packed

    def constants(self) -> list[str]:
        """Names of the tensors inside the binary: none, since weights are its inputs."""
        return list(self._model.get_constant_fqns())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The binary's inputs in the manifest's order -> probabilities [rows, tasks]."""
        # The loader itself: what torch puts around it takes longer than a row.
        output: Tensor = self._model.loader.run(list(inputs))[0]
        return output
