"""Which implementation of an op runs: decided here, once per call, and refused with the reason when it cannot be.

backend = resolve("cross", "auto", x.device)  # "triton" on CUDA, "reference" elsewhere
"""

import importlib.util
import os
from typing import Literal, get_args

import torch

Backend = Literal["reference", "triton"]
BACKENDS: tuple[str, ...] = ("auto", *get_args(Backend))


class BackendError(ValueError):
    """A backend was asked for by name and cannot run; the message says why."""


def resolve(op: str, backend: str, device: torch.device) -> Backend:
    """The implementation of `op` for tensors on `device`.

    Args:
        op: name of the op, for messages.
        backend: one of `BACKENDS`. "auto" is Triton on CUDA and the reference elsewhere.
        device: where the op's inputs lie.

    Raises:
        BackendError: `backend` is unknown, or it is "triton" and Triton cannot run here.
    """
    if backend == "reference":
        return "reference"
    if backend == "auto":
        return "triton" if device.type == "cuda" and _has_triton() else "reference"
    if backend != "triton":
        raise BackendError(f"{op}: unknown backend {backend!r}; expected one of {', '.join(BACKENDS)}")
    if not _has_triton():
        raise BackendError(
            f"{op}: backend 'triton' needs the package triton, which is not installed; pip install triton, "
            f"or use backend 'reference'"
        )
    if device.type == "cuda" or (device.type == "cpu" and interpreting()):
        return "triton"
    raise BackendError(
        f"{op}: backend 'triton' runs on CUDA tensors, and these are on {device.type!r}; move them to a GPU, use "
        f"backend 'reference', or set TRITON_INTERPRET=1 before Python starts to interpret the kernels on the CPU"
    )


def interpreting() -> bool:
    """Whether Triton kernels are interpreted on the CPU (TRITON_INTERPRET=1), for tests and debugging."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def on_kernels(x: torch.Tensor) -> bool:
    """Whether an op launches its kernels on this tensor.

    Elsewhere it computes what they mean in plain PyTorch, so that a program with these ops can be exported and compiled
    for any device. Asked in the op's body, where AOTInductor sees it.
    """
    return x.device.type == "cuda" or interpreting()


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
