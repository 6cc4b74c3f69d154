#!/usr/bin/env bash
# Makes the package smt importable without installing it: FOLDER/smt points at the sources, and holds the CPU ops, which
# are compiled against the torch of PYTHON. Nothing else of the C++ is needed there, nor its libraries.
#
#   bench/gpu_stage.sh PYTHON FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1 folder=$2

mkdir -p "$folder/smt/kernels/cpu" "$folder/project"
for name in training serving; do ln -sfn "$PWD/$name" "$folder/smt/$name"; done
for path in kernels/*; do
    [ "$path" = kernels/cpu ] || ln -sfn "$PWD/$path" "$folder/smt/$path"
done
for path in kernels/cpu/*.py; do ln -sfn "$PWD/$path" "$folder/smt/$path"; done

"$python" - "$PWD/kernels/cpu" >"$folder/project/CMakeLists.txt" <<'PROGRAM'
import sys
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

root = Path(torch.__file__).parent
libraries = [root / "lib" / f"lib{name}.so" for name in ("c10", "torch_cpu", "torch")]
print(f"""cmake_minimum_required(VERSION 3.25)
project(smt-cpu-ops LANGUAGES C CXX)
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_BUILD_TYPE Release)
find_package(Threads REQUIRED)
set(TORCH_INSTALL_PREFIX "{root}")
set(TORCH_INCLUDE_DIRS {" ".join(f'"{path}"' for path in include_paths())})
set(TORCH_LIBRARIES {" ".join(f'"{path}"' for path in libraries)})
set(TORCH_CXX_FLAGS "-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
add_subdirectory("{sys.argv[1]}" ops)""")
PROGRAM
cmake -S "$folder/project" -B "$folder/build" >"$folder/cmake.log" 2>&1 || { cat "$folder/cmake.log" >&2; exit 1; }
cmake --build "$folder/build" --target smt_kernels_ops -j "$(nproc)" >"$folder/build.log" 2>&1 ||
    { cat "$folder/build.log" >&2; exit 1; }
cp "$folder/build/ops/_ops.so" "$folder/smt/kernels/cpu/_ops.so"
