"""The slab: all dense weights of one scenario in one contiguous block, in the layout that its template fixes.

Template binaries take the slab as an input and read each weight at a constant offset, so a snapshot fits every
binary of the same layout. Offsets are 64-byte aligned (one cache line, one AVX-512 register).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 64
ELEMENT_BYTES = 4  # float32


@dataclass(frozen=True)
class Entry:
    """One weight: `offset` is in bytes from the start of the slab."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def first(self) -> int:
        """Index of the weight's first element in the slab."""
        return self.offset // ELEMENT_BYTES


@dataclass(frozen=True)
class Layout:
    """Names, shapes and offsets of all weights of a template; `bytes` is the size of the slab."""

    entries: tuple[Entry, ...]
    bytes: int

    @staticmethod
    def of(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> "Layout":
        """Places float32 weights one after the other, each at the next aligned offset."""
        entries = []
        offset = 0
        for name, shape in shapes:
            entry = Entry(name, "float32", tuple(shape), offset)
            entries.append(entry)
            end = offset + entry.elements * ELEMENT_BYTES
            offset = -(-end // ALIGNMENT) * ALIGNMENT
        return Layout(tuple(entries), offset)

    @property
    def elements(self) -> int:
        return self.bytes // ELEMENT_BYTES

    def pack(self, state: Mapping[str, Tensor]) -> Tensor:
        """Copies the weights into a new slab, zeros between them.

        Returns:
            [elements] float32 on the CPU.

        Raises:
            ValueError: a weight is missing, superfluous, or has another shape or dtype than the layout says.
        """
        names = {entry.name for entry in self.entries}
        if names != set(state):
            missing, extra = sorted(names - set(state)), sorted(set(state) - names)
            raise ValueError(f"weights do not fit the layout: missing {missing}, superfluous {extra}")
        slab = torch.zeros(self.elements, dtype=torch.float32)
        for entry in self.entries:
            weight = state[entry.name]
            if tuple(weight.shape) != entry.shape or weight.dtype != torch.float32:
                raise ValueError(
                    f"weight {entry.name!r}: found {weight.dtype} {tuple(weight.shape)}; "
                    f"the layout has {entry.dtype} {entry.shape}"
                )
            slab[entry.first : entry.first + entry.elements] = weight.detach().reshape(-1).cpu()
        return slab

    def views(self, slab: Tensor) -> dict[str, Tensor]:
        """The weights as views of a slab ([elements] float32), by name."""
        return {
            entry.name: slab[entry.first : entry.first + entry.elements].view(entry.shape) for entry in self.entries
        }

    def to_json(self) -> list[dict[str, Any]]:
        return [{**asdict(entry), "shape": list(entry.shape)} for entry in self.entries]
