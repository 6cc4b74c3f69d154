"""Compiles stage programs (smt.kernels.triton_stages) for the H100, launch by launch as `run` would make them."""

from collections.abc import Mapping, Sequence

from smt.kernels.triton_stage_kernel import LINEAR
from smt.kernels.triton_stages import Stage, launches, row_tile
from tests.kernels.triton_compile import Compiled, Request, compile_all

KERNEL = "smt.kernels.triton_stage_kernel:stages_kernel"
SIGNATURE = dict.fromkeys(("arena_ptr", "x_ptr", "s_ptr", "y_ptr", "g_ptr"), "*bf16")
SIGNATURE |= {"slot_ptr": "*i32", "rows": "i32"}
ROW_BLOCK = 128


def compile_programs(
    programs: Mapping[str, tuple[Sequence[Stage], int]],
    kernel: str = KERNEL,
    signature: Mapping[str, str] = SIGNATURE,
    only: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, list[tuple[Compiled, int]]]:
    """Of each program (stages, elements of the arena): what each launch compiled to, and its number of matrices.

    only: of these programs not every launch, but those of these indices.
    """
    requests: list[Request] = []
    matrices: list[tuple[str, int]] = []
    for name, (stages, elements) in programs.items():
        every = launches(stages)
        for first, end, splits in [every[i] for i in (only or {}).get(name, range(len(every)))]:
            part = tuple(stages[first:end])
            block_m, warps = row_tile(ROW_BLOCK, splits)
            constants = {"STAGES": part, "ELEMENTS": elements, "ROW_BLOCK": ROW_BLOCK}
            constants |= {"SPLITS": splits, "BLOCK_M": block_m}
            requests.append(Request(kernel, signature, constants, warps))
            matrices.append((name, sum(stage[0] == LINEAR.value for stage in part)))
    result: dict[str, list[tuple[Compiled, int]]] = {name: [] for name in programs}
    for (name, count), compiled in zip(matrices, compile_all(requests), strict=True):
        result[name].append((compiled, count))
    return result
