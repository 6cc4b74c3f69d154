"""Linear layers of training, and the product that they are made of, against the reference."""

import pytest
import torch
from torch import Tensor

from smt.kernels.linear import linear, product, reference, trains_here
from smt.training.sharded import threads

# (M, K, N): empty on each side, single, odd, and enough of them for several threads.
SHAPES = [(0, 3, 2), (4, 0, 3), (3, 2, 0), (1, 1, 1), (5, 7, 3), (1, 400, 300), (613, 129, 61), (4096, 104, 40)]
LAYOUTS = ["rows", "columns", "every other column", "reversed batch"]


def draw(*shape: int, layout: str = "rows") -> Tensor:
    """Normal values; `layout` is how they lie in memory."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    if layout == "columns":
        return values.T.contiguous().T
    if layout == "every other column":
        return torch.stack([values, torch.full_like(values, torch.nan)], dim=2)[:, :, 0]
    return values.flip(0) if layout == "reversed batch" else values


def assert_near(found: Tensor, expected: Tensor, sums_of: int) -> None:
    """Up to the rounding of sums of so many products."""
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6 * max(1, sums_of) ** 0.5 * 4)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_a_product_is_the_reference(m: int, k: int, n: int, layout: str, count: int) -> None:
    a, b = draw(m, k, layout=layout), draw(k, n, layout=layout)
    onto = draw(m, n)
    expected, added = (
        reference.product(a.double(), b.double()),
        reference.product(a.double(), b.double(), onto.double()),
    )
    with threads(count):
        assert_near(product(a, b), expected.float(), k)
        assert product(a, b, onto=onto) is not None
    assert_near(onto, added.float(), k)


def test_what_a_result_held_before_is_not_read() -> None:
    a, b = draw(600, 50), draw(50, 70)
    expected = product(a, b)
    for _ in range(3):
        spoilt = torch.full((600, 70), torch.nan)
        del spoilt  # the allocator gives its memory to the next of its size
        assert torch.equal(product(a, b), expected)


def test_no_number_stays_none() -> None:
    a, b = draw(64, 32), draw(32, 16)
    a[3, 5], b[7, 2] = torch.nan, torch.inf
    found = product(a, b)
    assert found[3].isnan().all()
    assert not found[:, 2].isfinite().any()
    rest = found[[row for row in range(64) if row != 3]][:, [column for column in range(16) if column != 2]]
    assert rest.isfinite().all()


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_a_layer_is_the_reference_with_its_gradients(m: int, k: int, n: int, biased: bool) -> None:
    leaves = [draw(m, k), draw(n, k), *([draw(n, 1)[:, 0]] if biased else [])]
    for leaf in leaves:
        leaf.requires_grad_()
    assert trains_here(*leaves)
    gradient = draw(m, n)
    y, expected = linear(*leaves), reference.linear(*leaves)
    assert_near(y, expected, k)
    found, wanted = torch.autograd.grad(y, leaves, gradient), torch.autograd.grad(expected, leaves, gradient)
    for mine, other, sums_of in zip(found, wanted, (n, m, m), strict=False):
        assert_near(mine, other, sums_of)


def test_only_the_gradients_that_are_wanted_are_computed() -> None:
    x, weight = draw(5, 3), draw(4, 3).requires_grad_()
    linear(x, weight).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is None
    assert weight.grad is not None


@pytest.mark.parametrize("change", ["no gradients", "double", "three dimensions"])
def test_what_does_not_train_here_goes_by_the_reference(change: str) -> None:
    x, weight = draw(6, 3), draw(4, 3).requires_grad_()
    if change == "double":
        x, weight = x.double(), weight.detach().double().requires_grad_()
    if change == "three dimensions":
        x = x.view(2, 3, 3)
    with torch.set_grad_enabled(change != "no gradients"):
        y = linear(x, weight)
        assert torch.equal(y, reference.linear(x, weight))
    assert "_Linear" not in type(y.grad_fn).__name__


def test_is_exported_as_torchs_own() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return linear(x, weight)

    program = torch.export.export(Layer(), (draw(4, 3), draw(2, 3)))
    assert "aten.linear" in str(program.graph)


@pytest.mark.parametrize(
    ("a", "b", "onto", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), None, "b: found .* expected 3 rows"),
        (torch.ones(2, 3), torch.ones(3), None, "b: found .* expected a matrix"),
        (torch.ones(2, 3).double(), torch.ones(3, 2), None, "a: found Double"),
        (torch.ones(2, 3), torch.ones(3, 2), torch.ones(3, 2), "onto: found .* 2 x 2"),
        (torch.ones(2, 3), torch.ones(3, 4), torch.ones(4, 2).T, "onto: found .* contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(a: Tensor, b: Tensor, onto: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        product(a, b, onto)
