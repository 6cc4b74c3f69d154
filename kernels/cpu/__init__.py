"""The CPU kernels: C++ for AMX, AVX-512, AVX2 and portable code, chosen at run time, behind torch ops.

    from smt.kernels import cpu
    cpu.use("avx512")                       # by name; the environment variable SMT_KERNELS does the same
    arena = cpu.pack(slab, program)[None]   # once per snapshot
    out = torch.ops.smt.tile_program(arena, block_slot, x, program.values())

One call computes on the calling thread alone (torch.set_num_threads(n) splits its rows over n threads).
"""

import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor

from smt.kernels.cpu.program import FORMAT, PRECISIONS, ROW_BLOCK, TABLE_TYPES, Linear, Precision, TileProgram

__all__ = [
    "FORMAT",
    "PRECISIONS",
    "ROW_BLOCK",
    "TABLE_TYPES",
    "Linear",
    "Precision",
    "TileProgram",
    "available",
    "block_slots",
    "current",
    "pack",
    "packed_bytes",
    "peak_flops",
    "use",
]


def _load() -> None:
    found = importlib.util.find_spec("smt.kernels.cpu._ops")
    if found is None or found.origin is None:
        raise ImportError("smt.kernels.cpu: the compiled ops (_ops.so) are missing; install smt-stack with pip")
    torch.ops.load_library(found.origin)  # type: ignore[no-untyped-call]


_load()


@torch.library.register_fake("smt::tile_program")  # type: ignore[untyped-decorator]
def _tile_program(arena: Tensor, block_slot: Tensor, x: Tensor, program: Sequence[int]) -> Tensor:
    return x.new_empty((x.shape[0], torch.ops.smt.outputs(program)))


@torch.library.register_fake("smt::rank")  # type: ignore[untyped-decorator]
def _rank(
    arena: Tensor,
    block_slot: Tensor,
    pool: Tensor,
    pool_base: Tensor,
    dense: Tensor,
    ids: Tensor,
    offsets: Tensor,
    bag_index: Tensor,
    program: Sequence[int],
) -> Tensor:
    return dense.new_empty((dense.shape[0], torch.ops.smt.outputs(program)))


def available() -> tuple[str, ...]:
    """Names of the kernels that this machine can run, fastest first; "portable" is always the last."""
    return tuple(torch.ops.smt.available_kernels())


def current() -> str:
    """Name of the kernels in use."""
    name: str = torch.ops.smt.current_kernels()
    return name


def use(name: str = "") -> None:
    """Selects kernels by name for the whole process; empty: the fastest available.

    Raises:
        ValueError: unknown, or this machine cannot run them; the message says why.
    """
    torch.ops.smt.use_kernels(name)


def pack(slab: Tensor, program: TileProgram) -> Tensor:
    """The slab's weights as the kernels in use read them, one slot of an arena; ops refuse what others packed.

    slab [elements] float32 -> [packed bytes] uint8. Runs when a snapshot is loaded, never per call.

    Raises:
        ValueError: the slab is shorter than what the program reads.
    """
    packed: Tensor = torch.ops.smt.pack(slab, program.values())
    return packed


def packed_bytes(program: TileProgram) -> int:
    """Bytes of one slot of the program's arena."""
    size: int = torch.ops.smt.packed_bytes(program.values())
    return size


def block_slots(rows: int, slot: int = 0) -> Tensor:
    """`block_slot` of a batch whose rows are all of one slot: [ceil(rows / ROW_BLOCK)] int32."""
    return torch.full((-(-rows // ROW_BLOCK),), slot, dtype=torch.int32)


def peak_flops(precision: Precision) -> float:
    """Operations a second that one core reaches on operands in its first-level cache, with the kernels in use."""
    peak: float = torch.ops.smt.peak_flops(PRECISIONS.index(precision))
    return peak
