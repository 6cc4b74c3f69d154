"""Each reference op against its formula, written out sample by sample in float64, on odd and empty shapes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from smt.kernels.cross import cross_full, cross_low_rank
from smt.kernels.embedding import pooled_embedding
from smt.kernels.experts import experts
from smt.kernels.heads import heads
from smt.kernels.mlp import ACTIVATIONS, mlp

Array = NDArray[np.float64]
ROWS = [0, 1, 5, 33]


def act(name: str, x: Array) -> Array:
    return ACTIVATIONS[name](torch.from_numpy(np.asarray(x, dtype=np.float64))).numpy()


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def close(got: Tensor, expected: Array) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("units", [[1], [7, 3], [16, 5, 9]])
def test_mlp(rows: int, activation: str, units: list[int]) -> None:
    x = randn(rows, 6)
    widths = [6, *units]
    weights = [randn(n, k) for k, n in zip(widths, units, strict=False)]
    biases = [randn(n) for n in units]
    expected = np.zeros((rows, units[-1]))
    for i in range(rows):
        h = x[i].numpy()
        for w, b in zip(weights, biases, strict=True):
            h = act(activation, w.numpy() @ h + b.numpy())
        expected[i] = h
    close(mlp(x, weights, biases, activation), expected)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("units", [[1], [7, 3], [16, 5, 9]])
def test_mlp_with_layer_norm(rows: int, activation: str, units: list[int]) -> None:
    x = randn(rows, 6)
    widths = [6, *units]
    weights = [randn(n, k) for k, n in zip(widths, units, strict=False)]
    biases = [randn(n) for n in units]
    norms = [(randn(n, seed=20), randn(n, seed=30)) for n in units]
    expected = np.zeros((rows, units[-1]))
    for i in range(rows):
        h = x[i].numpy()
        for w, b, (gain, shift) in zip(weights, biases, norms, strict=True):
            h = w.numpy() @ h + b.numpy()
            h = (h - h.mean()) / np.sqrt(((h - h.mean()) ** 2).mean() + 1e-5) * gain.numpy() + shift.numpy()
            h = act(activation, h)
        expected[i] = h
    close(mlp(x, weights, biases, activation, norms), expected)


@pytest.mark.parametrize("norms", [0, 1, 3])
def test_mlp_needs_a_norm_for_every_layer_or_none(norms: int) -> None:
    weights, biases = [randn(4, 4), randn(4, 4)], [randn(4), randn(4)]
    with pytest.raises(ValueError, match="zip"):
        mlp(randn(2, 4), weights, biases, "relu", [(randn(4), randn(4))] * norms)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("width", "rank", "layers"), [(1, 1, 1), (5, 2, 3), (17, 4, 2)])
def test_cross(rows: int, width: int, rank: int, layers: int) -> None:
    x0 = randn(rows, width)
    down = [randn(rank, width, seed=i) for i in range(layers)]
    up = [randn(width, rank, seed=i + 10) for i in range(layers)]
    biases = [randn(width, seed=i) for i in range(layers)]
    full = [u @ v for u, v in zip(up, down, strict=True)]
    expected = np.zeros((rows, width))
    for i in range(rows):
        x = start = x0[i].numpy()
        for w, b in zip(full, biases, strict=True):
            x = start * (w.numpy() @ x + b.numpy()) + x
        expected[i] = x
    close(cross_full(x0, full, biases), expected)
    close(cross_low_rank(x0, down, up, biases), expected)


def mixture(x: Array, weights: list[Tensor], biases: list[Tensor], gate_w: Array, gate_b: Array, name: str) -> Array:
    """One sample, one task: the gated sum of the experts' outputs."""
    score = np.exp(gate_w @ x + gate_b)
    outputs = []
    for e in range(len(score)):
        h = x
        for w, b in zip(weights, biases, strict=True):
            h = act(name, w[e].numpy() @ h + b[e].numpy())
        outputs.append(h)
    return np.einsum("e,en->n", score / score.sum(), np.stack(outputs))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("count", "tasks", "units"), [(1, 1, [3]), (3, 2, [4, 5]), (8, 5, [2])])
def test_experts(rows: int, count: int, tasks: int, units: list[int]) -> None:
    x = randn(rows, 6)
    widths = [6, *units]
    weights = [randn(count, n, k) for k, n in zip(widths, units, strict=False)]
    biases = [randn(count, n) for n in units]
    gate_weight, gate_bias = randn(tasks, count, 6), randn(tasks, count)
    expected = np.zeros((rows, tasks, units[-1]))
    for i in range(rows):
        for t in range(tasks):
            expected[i, t] = mixture(
                x[i].numpy(), weights, biases, gate_weight[t].numpy(), gate_bias[t].numpy(), "silu"
            )
    close(experts(x, weights, biases, gate_weight, gate_bias, "silu"), expected)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("units", [[], [1], [4, 3]])
def test_heads(rows: int, units: list[int]) -> None:
    tasks = 3
    x = randn(rows, tasks, 6)
    widths = [6, *units]
    weights = [randn(tasks, n, k) for k, n in zip(widths, units, strict=False)]
    biases = [randn(tasks, n) for n in units]
    out_weight, out_bias = randn(tasks, widths[-1]), randn(tasks)
    expected = np.zeros((rows, tasks))
    for i in range(rows):
        for t in range(tasks):
            h = x[i, t].numpy()
            for w, b in zip(weights, biases, strict=True):
                h = act("gelu", w[t].numpy() @ h + b[t].numpy())
            expected[i, t] = out_weight[t].numpy() @ h + out_bias[t].item()
    close(heads(x, weights, biases, out_weight, out_bias, "gelu"), expected)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("rows", ROWS)
def test_pooled_embedding(pooling: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    table = randn(11, 3)
    bags = [rng.integers(0, 11, size=n) for n in (0, 1, 4, 0, 2)]
    ids = torch.from_numpy(np.concatenate(bags).astype(np.int64))
    offsets = torch.from_numpy(np.cumsum([0, *map(len, bags)]).astype(np.int64))
    index = rng.integers(0, len(bags), size=(rows, 2))
    pooled = np.stack(
        [
            (table.numpy()[bag].mean(0) if pooling == "mean" else table.numpy()[bag].sum(0))
            if len(bag)
            else np.zeros(3)
            for bag in bags
        ]
    )
    close(pooled_embedding(table, ids, offsets, torch.from_numpy(index), pooling), pooled[index])


def test_no_ids_at_all() -> None:
    """Every categorical value of a request may be missing."""
    out = pooled_embedding(
        randn(4, 3), torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64),
        torch.zeros((2, 5), dtype=torch.int64), "mean",
    )  # fmt: skip
    close(out, np.zeros((2, 5, 3)))


def test_gradients() -> None:
    """Training differentiates the references: their gradients against finite differences."""
    x = randn(3, 4).requires_grad_()
    mlp_weights = [randn(5, 4).requires_grad_(), randn(2, 5).requires_grad_()]
    mlp_biases = [randn(5).requires_grad_(), randn(2).requires_grad_()]
    assert torch.autograd.gradcheck(lambda x, *w: mlp(x, w[:2], w[2:], "silu"), (x, *mlp_weights, *mlp_biases))
    gains, shifts = [randn(n).requires_grad_() for n in (5, 2)], [randn(n, seed=9).requires_grad_() for n in (5, 2)]
    assert torch.autograd.gradcheck(
        lambda x, *w: mlp(x, w[:2], w[2:4], "silu", [(w[4], w[6]), (w[5], w[7])]),
        (x, *mlp_weights, *mlp_biases, *gains, *shifts),
    )
    down, up, bias = randn(2, 4).requires_grad_(), randn(4, 2).requires_grad_(), randn(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v, u, b: cross_low_rank(x, [v, v], [u, u], [b, b]), (x, down, up, bias))
    weight, ebias = randn(2, 3, 4).requires_grad_(), randn(2, 3).requires_grad_()
    gate, gbias = randn(3, 2, 4).requires_grad_(), randn(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, b, g, c: experts(x, [w], [b], g, c, "silu"), (x, weight, ebias, gate, gbias)
    )
    inner = randn(2, 3, 4).requires_grad_()
    tower, tbias = randn(3, 5, 4).requires_grad_(), randn(3, 5).requires_grad_()
    out, obias = randn(3, 5).requires_grad_(), randn(3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w, b, o, c: heads(x, [w], [b], o, c, "silu"), (inner, tower, tbias, out, obias)
    )
