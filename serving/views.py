"""A template as views of one slab: the binary of templates with a component that no tile program computes.

The function is the reference itself (`ServingFunction`), in fp32, compiled by Inductor. Weights are arguments here
as well: slab and table of one scenario, so a call carries rows of one scenario, and a slot of the server's arena is the
slab.
"""

from __future__ import annotations

import platform

# AVX2 and FMA, which the server asks for; matrix products are calls of libraries that choose for themselves.
_X86 = platform.machine() == "x86_64"
ISA = "avx2" if _X86 else "scalar"
INDUCTOR_CONFIGS: dict[str, str | int | None] = {
    "cpp.threads": 1,  # the count is baked in, and workers are the server's threads
    "cpp.simdlen": 256 if _X86 else 1,
    "cpp.march": "x86-64-v3" if _X86 else None,
}
