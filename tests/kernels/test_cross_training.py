"""`cross_full` where gradients are wanted: the compiled passes against the reference."""

import pytest
import torch
from torch import Tensor

from smt.kernels.cross import cross_full, reference, training


def draw(rows: int, width: int, layers: int) -> tuple[list[Tensor], Tensor]:
    """[x0, weights, biases], leaves that want gradients, and the gradient of what comes out."""
    generator = torch.Generator().manual_seed(rows + width + layers)
    shapes = [(rows, width), *[(width, width)] * layers, *[(width,)] * layers]
    scale = width**-0.5
    leaves = [torch.randn(shape, generator=generator).mul_(scale if i else 1) for i, shape in enumerate(shapes)]
    return [leaf.requires_grad_() for leaf in leaves], torch.randn(rows, width, generator=generator)


def _largest(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize(("rows", "width"), [(0, 3), (1, 1), (5, 7), (300, 61), (129, 256)])
def test_is_the_reference(rows: int, width: int, layers: int) -> None:
    leaves, gradient = draw(rows, width, layers)
    x0, parameters = leaves[0], leaves[1:]
    lists = parameters[:layers], parameters[layers:]
    assert training.applies(x0, *lists)
    kept = gradient.clone()
    y, expected = cross_full(x0, *lists), reference.cross_full(x0, *lists)
    # Of the largest value: sums over columns nearly cancel, and over rows.
    torch.testing.assert_close(y, expected, rtol=1.3e-6, atol=1e-6 * max(1.0, _largest(expected)))
    found, wanted = torch.autograd.grad(y, leaves, gradient), torch.autograd.grad(expected, leaves, gradient)
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * _largest(other))
    assert torch.equal(gradient, kept)


def test_is_the_same_for_any_number_of_threads_and_any_strides() -> None:
    leaves, gradient = draw(700, 64, 2)
    x0, lists = leaves[0], (leaves[1:3], leaves[3:])
    wanted = torch.autograd.grad(cross_full(x0, *lists), leaves, gradient)
    strided = x0.detach().T.contiguous().T.requires_grad_()
    found = torch.autograd.grad(cross_full(strided, *lists), [strided, *leaves[1:]], gradient.T.contiguous().T)
    assert all(torch.equal(mine, other) for mine, other in zip(found, wanted, strict=True))


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    leaves, _ = draw(4, 3, 1)
    y = cross_full(leaves[0], leaves[1:2], leaves[2:])
    [gradient] = torch.autograd.grad(y.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("change", ["no gradients", "double", "no layers"])
def test_other_than_training_goes_by_the_reference(change: str) -> None:
    leaves, _ = draw(4, 3, 0 if change == "no layers" else 2)
    if change == "double":
        leaves = [leaf.double() for leaf in leaves]
    layers = len(leaves) // 2
    lists = leaves[1 : 1 + layers], leaves[1 + layers :]
    with torch.set_grad_enabled(change != "no gradients"):
        assert not training.applies(leaves[0], *lists)
        assert torch.equal(cross_full(leaves[0], *lists), reference.cross_full(leaves[0], *lists))


def test_a_layer_of_another_shape_is_refused() -> None:
    x = torch.ones(2, 4)
    with pytest.raises(ValueError, match="of x0's shape"):
        torch.ops.smt.cross_step(x, torch.ones(2, 3), torch.ones(4), x)
