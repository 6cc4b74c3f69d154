#!/usr/bin/env bash
# All GPU tests, then all GPU benchmarks, in one go; writes one result file.
#
#   bench/gpu.sh [tests|bench] [options of bench.gpu, as --quick, --shapes R1 R3, --append, --json FILE]
#
# Needs a machine with an NVIDIA GPU (Hopper is what the kernels are tuned for) and a Python with torch, triton, numpy,
# pydantic, PyYAML, pytest and hypothesis; PYTHON names it. smt-stack itself may be installed or not: if not, its Python
# is used where it lies, and the CPU ops, which templates import, are compiled into build/gpu (CMake and a C++ compiler).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}

part=all
case "${1-}" in tests | bench) part=$1 && shift ;; esac

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "bench/gpu.sh: $python has no torch that finds a GPU; run this on a machine with one (PYTHON names the Python)" >&2
    exit 1
fi
missing=$("$python" -c '
from importlib.util import find_spec
names = ("triton", "numpy", "pydantic", "yaml", "pytest", "hypothesis")
print(*(name for name in names if find_spec(name) is None))')
if [ -n "$missing" ]; then
    echo "bench/gpu.sh: $python lacks: $missing; install them with pip" >&2
    exit 1
fi

# Kernels are compiled for this GPU, not interpreted.
export TRITON_INTERPRET=0
if ! "$python" -c 'import smt.kernels.cpu, smt.serving, smt.training' 2>/dev/null; then
    bench/gpu_stage.sh "$python" build/gpu
    export PYTHONPATH="$PWD/build/gpu:$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi

if [ "$part" != bench ]; then
    parallel=()
    if "$python" -c 'import xdist' 2>/dev/null; then parallel=(-n 8); fi
    "$python" -m pytest "${parallel[@]}" --durations=5 tests/kernels/test_triton_*.py tests/kernels/test_interaction.py \
        tests/kernels/test_embedding.py tests/kernels/test_backend.py
fi
if [ "$part" != tests ]; then
    case " $* " in *" --json "*) ;; *) set -- "$@" --json bench/results/gpu.json ;; esac
    "$python" -m bench.gpu "$@"
fi
