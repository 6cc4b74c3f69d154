"""Which backend runs, and what is said when the one asked for cannot."""

import pytest
import torch

from smt.kernels import backend
from smt.kernels.backend import BackendError, resolve
from smt.kernels.cross import cross_full
from smt.kernels.mlp import mlp

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_auto_is_triton_on_cuda_alone() -> None:
    assert resolve("cross", "auto", CPU) == "reference"
    assert resolve("cross", "auto", CUDA) == "triton"
    assert resolve("cross", "reference", CUDA) == "reference"


def test_triton_on_the_cpu_is_refused_unless_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve("mlp", "triton", CPU) == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(BackendError, match="mlp: backend 'triton' runs on CUDA tensors, and these are on 'cpu'"):
        resolve("mlp", "triton", CPU)
    x, weight, bias = torch.zeros(2, 3), torch.zeros(3, 3), torch.zeros(3)
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        cross_full(x, [weight], [bias], backend="triton")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        mlp(x, [weight], [bias], "relu", backend="triton")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_has_triton", lambda: False)
    assert resolve("mlp", "auto", CUDA) == "reference"
    with pytest.raises(BackendError, match="needs the package triton"):
        resolve("mlp", "triton", CUDA)


def test_unknown_name() -> None:
    with pytest.raises(BackendError, match="unknown backend 'cuda'; expected one of auto, reference, triton"):
        resolve("cross", "cuda", CPU)
