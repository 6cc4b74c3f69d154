"""What a delta holds and what it makes of the weights that it builds on; delta.py publishes them.

delta.safetensors: `slab` [elements] float32, the dense weights whole; `rows` [n], strictly increasing, uint32 (int64 of
a table of more than 2^32 rows); `values` [n, dim] float32, those rows of the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from smt.serving.binary import Weights
from smt.serving.manifest import DELTA_FILE, WEIGHTS_FILE, SnapshotManifest
from smt.serving.registry import Registry, RegistryError

_SAFETENSORS_TYPES = {"<f4": "F32", "<u4": "U32", "<i8": "I64"}


class DeltaError(RegistryError):
    """A delta that does not fit its base; the message says what does not."""


@dataclass(frozen=True)
class Delta:
    """What changed: slab [elements] float32, rows [n] int64 strictly increasing, values [n, dim] float32."""

    slab: Tensor
    rows: Tensor
    values: Tensor


def changed_rows(before: Tensor, after: Tensor) -> Tensor:
    """The rows of `after` that differ from `before` in any bit, and those that it has more: int64 [n].

    before [R, dim] float32, after [R' >= R, dim] float32.
    """
    kept = len(before)
    # As integers: a NaN is unlike itself, and the two zeros are two.
    differ = (before.view(torch.int32) != after[:kept].view(torch.int32)).any(dim=1)
    return torch.cat([differ.nonzero().squeeze(1), torch.arange(kept, len(after))])


def not_finite(weights: Tensor) -> int:
    """How many of them are NaN or Inf. float32, any shape."""
    # One of them makes the sum NaN or Inf, and summing is forty times faster than looking at each. A sum may also
    # overflow. By numpy, on the calling thread alone: torch's threads would spin on cores that others need.
    with np.errstate(all="ignore"):
        total = float(weights.detach().numpy().sum())
    if math.isfinite(total):
        return 0
    return int((~torch.isfinite(weights)).sum())


def table_rows(features: Mapping[str, Any]) -> int:
    """Rows of the table of a FeatureSpec: the binary's smallest table has two."""
    return max(int(features["table_rows"]), 2)


def apply_delta(weights: Weights, delta: Delta, rows: int) -> Weights:
    """The weights that a delta makes of others, whose memory it may take over. `rows`: of the result's table."""
    table = weights.table
    if len(table) < rows:
        table = torch.cat([table, torch.empty(rows - len(table), table.shape[1])])
    table[delta.rows] = delta.values
    return Weights(delta.slab, table)


def check_rows(delta: Delta, rows_below: int, rows_after: int) -> None:
    """Raises DeltaError unless the rows fit on a table of `rows_below` rows that becomes one of `rows_after`."""
    rows = delta.rows
    if rows.dtype != torch.int64 or rows.dim() != 1:
        raise DeltaError(f"rows: found {rows.dtype} {list(rows.shape)}; expected torch.int64 [n]")
    if len(rows) and not (int(rows[0]) >= 0 and bool((rows.diff() > 0).all()) and int(rows[-1]) < rows_after):
        raise DeltaError(f"rows: expected strictly increasing rows in 0..{rows_after - 1}")
    new = int((rows >= rows_below).sum())
    if new != rows_after - rows_below:
        raise DeltaError(
            f"rows: {new} of them from {rows_below} on, where the table of the base ends; expected "
            f"{rows_after - rows_below}, each new row"
        )


def delta_content(delta: Delta, rows: int) -> list[memoryview]:
    """Content of the delta.safetensors of a table of so many rows."""
    numbers = delta.rows.numpy().astype(np.uint32 if rows <= 1 << 32 else np.int64)
    return safetensors_parts({"rows": numbers, "slab": delta.slab.numpy(), "values": delta.values.numpy()})


def weights_content(weights: Weights) -> list[memoryview]:
    """Content of a weights.safetensors."""
    return safetensors_parts({"slab": weights.slab.detach().numpy(), "table": weights.table.detach().numpy()})


def safetensors_parts(tensors: Mapping[str, NDArray[Any]]) -> list[memoryview]:
    """A safetensors file in parts: its header, and the memory of each array, with no copy of it.

    Give those of wider numbers first: the format wants each tensor aligned.
    """
    header: dict[str, Any] = {}
    arrays = [np.ascontiguousarray(array) for array in tensors.values()]
    begin = 0
    for name, array in zip(tensors, arrays, strict=True):
        kind = _SAFETENSORS_TYPES[array.dtype.str]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [begin, begin + array.nbytes]}
        begin += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts = [memoryview(len(text).to_bytes(8, "little") + text)]
    return parts + [array.reshape(-1).view(np.uint8).data for array in arrays if array.nbytes]


def read_chain(registry: Registry, chain: Sequence[SnapshotManifest]) -> Weights:
    """The weights of `chain[0]`, the last of which is whole; each file's checksum is verified.

    Raises RegistryError, naming the file, for what is damaged or does not fit.
    """
    *deltas, whole = chain
    found = _tensors(registry, whole, WEIGHTS_FILE, {"slab", "table"})
    weights = Weights(found["slab"], found["table"])
    for manifest in reversed(deltas):
        found = _tensors(registry, manifest, DELTA_FILE, {"slab", "rows", "values"})
        delta = Delta(found["slab"], found["rows"].to(torch.int64), found["values"])
        rows = table_rows(manifest.features)
        try:
            check_rows(delta, len(weights.table), rows)
        except DeltaError as error:
            raise DeltaError(f"{registry.root}: {manifest.scenario} {manifest.version}: {error}") from error
        weights = apply_delta(weights, delta, rows)
    return weights


def _tensors(registry: Registry, manifest: SnapshotManifest, name: str, names: set[str]) -> dict[str, Tensor]:
    where = f"{registry.root}: {manifest.scenario} {manifest.version}: {name}"
    try:
        found = load(registry.read_snapshot_file(manifest, name))
    except SafetensorError as error:
        raise DeltaError(f"{where}: {error}") from error
    if set(found) != names:
        raise DeltaError(f"{where}: found the tensors {sorted(found)}; expected {sorted(names)}")
    return {key: torch.from_numpy(value) for key, value in found.items()}
