"""Dropout against its definition."""

from __future__ import annotations

import pytest
import torch

from smt.training.components.dropout import Dropout


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_zeroes_the_share_and_keeps_the_expectation(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 501)
    y = Dropout(p)(x)
    assert float((y == 0).float().mean()) == pytest.approx(p, abs=0.003)
    assert float(y.mean()) == pytest.approx(1, abs=0.01)
    kept = y[y != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - p)), rtol=1e-4, atol=0)


def test_values_are_dropped_independently() -> None:
    torch.manual_seed(1)
    dropped = (Dropout(0.5)(torch.ones(2000, 64)) == 0).double()
    correlation = torch.corrcoef(dropped.T) - torch.eye(64, dtype=torch.float64)
    assert float(correlation.abs().max()) < 0.12


def test_gradient_flows_where_values_were_kept() -> None:
    x = torch.full((7, 3), 2.0, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.detach() / 2)


def test_draws_from_the_global_generator() -> None:
    def draw() -> torch.Tensor:
        torch.manual_seed(5)
        return Dropout(0.3)(torch.ones(3, 5))

    assert torch.equal(draw(), draw())


def test_is_the_identity_outside_of_training_and_without_a_share() -> None:
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)
