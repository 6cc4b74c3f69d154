"""The compiled dropout against its reference: values and gradients, to the bit."""

import pytest
import torch
from torch import Tensor

from smt.kernels.dropout import STEPS, dropout, reference, relu_dropout_

SHAPES = [(0, 3), (1, 1), (5, 7), (300, 401)]
DROPPED = [0, 1, STEPS // 10, STEPS - 1]


def draw(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """x with zeros of both signs among its values, the bits, and the gradient of what comes out."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).round(decimals=1)
    words = torch.randint(-STEPS // 2, STEPS // 2, (x.numel(),), generator=generator, dtype=torch.int16)
    return x, words, torch.randn(shape, generator=generator)


@pytest.mark.parametrize("dropped", DROPPED)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relu", [False, True])
def test_is_the_reference_to_the_bit(shape: tuple[int, ...], dropped: int, relu: bool) -> None:
    x, bits, gradient = draw(shape)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    # Of a copy, as a leaf that wants a gradient must not be overwritten.
    y = relu_dropout_(mine.clone(), bits, dropped) if relu else dropout(mine, bits, dropped)
    expected = reference.dropout(other, bits, dropped, relu)
    assert torch.equal(y, expected)
    y.backward(gradient)  # type: ignore[no-untyped-call]
    expected.backward(gradient)  # type: ignore[no-untyped-call]
    assert mine.grad is not None
    assert other.grad is not None
    assert torch.equal(mine.grad, other.grad)


def test_the_share_is_dropped_by_the_lowest_bits() -> None:
    bits = torch.arange(-STEPS // 2, STEPS // 2, dtype=torch.int32).to(torch.int16)
    y = dropout(torch.ones(STEPS), bits, 1000)
    assert torch.equal(y[:1000], torch.zeros(1000))
    assert torch.equal(y[1000:], torch.full((STEPS - 1000,), STEPS / (STEPS - 1000)))


def test_other_than_contiguous_floats_go_by_the_reference() -> None:
    x, bits, _ = draw((6, 8))
    assert torch.equal(dropout(x.T, bits, 9000), reference.dropout(x.T, bits, 9000))
    assert dropout(x.double(), bits, 9000).dtype == torch.float64


def test_what_is_no_number_stays_none() -> None:
    x = torch.full((64,), float("nan"))
    bits = torch.arange(-32, 32, dtype=torch.int16)
    assert relu_dropout_(x.clone(), bits, STEPS // 2).isnan().all()
    assert dropout(x, bits, STEPS // 2).isnan().all()


@pytest.mark.parametrize(
    ("bits", "dropped", "message"),
    [
        (torch.zeros(3, dtype=torch.int16), 5, "one for each of the 4 values"),
        (torch.zeros(4, dtype=torch.int32), 5, "expected contiguous int16"),
        (torch.zeros(4, dtype=torch.int16), STEPS, "expected 0 to 65535"),
    ],
)
def test_wrong_arguments_are_refused(bits: Tensor, dropped: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dropout(torch.ones(4), bits, dropped)
