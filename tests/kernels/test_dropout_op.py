"""The compiled dropout against its reference: values and gradients, to the bit."""

import pytest
import torch
from torch import Tensor

from smt.kernels.dropout import STEPS, dropout, random_bits, reference, relu_dropout_
from smt.training.sharded import threads

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
@pytest.mark.parametrize("kind", ["dropout", "relu", "bias"])
def test_is_the_reference_to_the_bit(shape: tuple[int, ...], dropped: int, kind: str) -> None:
    x, bits, gradient = draw(shape)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    bias = torch.linspace(-1, 1, shape[-1]).requires_grad_() if kind == "bias" else None
    again = None if bias is None else bias.detach().clone().requires_grad_()
    # Of a copy, as a leaf that wants a gradient must not be overwritten.
    y = dropout(mine, bits, dropped) if kind == "dropout" else relu_dropout_(mine.clone(), bias, bits, dropped)
    expected = reference.dropout(other if again is None else other + again, bits, dropped, kind != "dropout")
    assert torch.equal(y, expected)
    y.backward(gradient)  # type: ignore[no-untyped-call]
    expected.backward(gradient)  # type: ignore[no-untyped-call]
    assert mine.grad is not None
    assert other.grad is not None
    assert torch.equal(mine.grad, other.grad)
    if bias is not None and again is not None:
        torch.testing.assert_close(bias.grad, again.grad, rtol=1e-5, atol=1e-6 * STEPS / (STEPS - dropped) * shape[0])


def test_sums_of_a_bias_are_the_same_for_any_number_of_threads() -> None:
    x, bits, gradient = draw((1000, 401))
    found = []
    for count in (1, 3):
        bias = torch.zeros(401, requires_grad=True)
        with threads(count):
            relu_dropout_(x.clone(), bias, bits, STEPS // 10).backward(gradient)  # type: ignore[no-untyped-call]
        assert bias.grad is not None
        found.append(bias.grad)
    assert torch.equal(*found)


def test_bits_are_splitmix64_of_a_number_from_the_global_generator() -> None:
    torch.manual_seed(3)
    bits = random_bits(torch.empty(5, 20_001))
    torch.manual_seed(3)
    seed = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None))
    assert torch.equal(bits, reference.random_words(seed, 25_002).view(torch.int16)[:100_005])


def test_random_words_are_the_published_ones() -> None:
    # The first that Vigna's splitmix64.c gives from the state 0.
    words = [-2152535657050944081, 7960286522194355700, 487617019471545679]
    assert reference.random_words(0, 3).tolist() == words


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
    assert relu_dropout_(x.clone(), None, bits, STEPS // 2).isnan().all()
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


def test_a_bias_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each of the 4 columns"):
        relu_dropout_(torch.ones(2, 4), torch.ones(3), torch.zeros(8, dtype=torch.int16), 5)
