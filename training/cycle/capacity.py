"""What serving a template costs, and whether another one is served at the same cost."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from smt.training.cycle.variant import Variant
from smt.training.model import abi_hash, flops_per_row, slab_layout
from smt.training.template import Template


@dataclass(frozen=True)
class Capacity:
    """Of one row, one scenario's dense weights, and one row of its tables; abi_hash: which binary it is."""

    flops_per_row: int
    slab_bytes: int
    table_row_bytes: int
    abi_hash: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Speed:
    """Measured: rows per second of each binary, and the ratio new / old in pairs of runs that took turns.

    low, high: of the ratio, at 95 %.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float


# Compiles both templates and measures them.
MeasureSpeed = Callable[[Template, Template], Speed]


def capacity_of(template: Template) -> Capacity:
    layout = slab_layout(template)
    return Capacity(flops_per_row(template), layout.bytes, 4 * template.slots.dim, abi_hash(template))


class CapacityGate:
    """Refuses what costs more than `tolerance` above the incumbent, relative.

    A variant of the incumbent's ABI is served by its very binary, and is not measured.
    """

    def __init__(self, incumbent: Template, tolerance: float, measure: MeasureSpeed | None) -> None:
        """measure: None where nothing can be compiled; another binary is then refused."""
        self.incumbent = incumbent
        self.before = capacity_of(incumbent)
        self.tolerance = tolerance
        self._measure = measure
        self.speeds: dict[str, Speed] = {}
        self._known: dict[str, Capacity] = {}

    def _of(self, variant: Variant) -> Capacity:
        if variant.content not in self._known:
            self._known[variant.content] = capacity_of(variant.template())
        return self._known[variant.content]

    def sizes_fault(self, variant: Variant) -> str:
        """Why a variant's sizes are too large; empty if they are not."""
        after = self._of(variant)
        found = []
        for name in ("flops_per_row", "slab_bytes", "table_row_bytes"):
            old, new = getattr(self.before, name), getattr(after, name)
            if new > old * (1 + self.tolerance):
                found.append(f"{name} {old:,} -> {new:,} ({new / old - 1:+.1%})")
        return f"capacity: {', '.join(found)}; at most {self.tolerance:+.1%}" if found else ""

    def fault(self, variant: Variant) -> str:
        """The same, and why it is too slow."""
        if sizes := self.sizes_fault(variant):
            return sizes
        after = self._of(variant)
        if after.abi_hash == self.before.abi_hash:
            return ""
        if self._measure is None:
            return "capacity: it is served by another binary, and none can be compiled and measured here"
        if after.abi_hash not in self.speeds:
            self.speeds[after.abi_hash] = self._measure(self.incumbent, variant.template())
        speed = self.speeds[after.abi_hash]
        if speed.ratio < 1 - self.tolerance:
            return (
                f"capacity: {speed.before:,.0f} -> {speed.after:,.0f} rows/s, ratio {speed.ratio:.4f} "
                f"[{speed.low:.4f}, {speed.high:.4f}]; at least {1 - self.tolerance:.4f}"
            )
        return ""

    def to_json(self, variant: Variant) -> dict[str, Any]:
        """Both sides, and the speeds where another binary serves the variant."""
        after = self._of(variant)
        speed = self.speeds.get(after.abi_hash)
        return {
            "before": self.before.to_json(),
            "after": after.to_json(),
            "same_binary": after.abi_hash == self.before.abi_hash,
            "speed": speed and asdict(speed),
            "tolerance": self.tolerance,
        }
