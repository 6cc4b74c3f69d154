"""Numeric embeddings: dense values become vectors as the papers' formulas say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from smt.training.components.autodis import AutoDis, AutoDisConfig
from smt.training.components.piecewise import Piecewise


def test_autodis_is_a_soft_choice_among_meta_embeddings() -> None:
    torch.manual_seed(1)
    module = AutoDis(3, 4, AutoDisConfig(type="autodis", buckets=5, temperature=0.7, skip=0.3)).double()
    dense = torch.randn(6, 3, dtype=torch.float64)
    found = module(dense)
    for row, vectors in zip(dense, found, strict=True):
        for j, value in enumerate(row):
            h = nn.functional.leaky_relu(module.score[j] * value)
            z = torch.softmax((module.mix[j] @ h + 0.3 * h) / 0.7, dim=0)
            torch.testing.assert_close(vectors[j], z @ module.meta[j])
    assert torch.autograd.gradcheck(module, dense.requires_grad_())


@pytest.mark.parametrize("bins", [2, 3, 8])
def test_piecewise_linear_codes_how_far_a_value_got(bins: int) -> None:
    """Bins begin at the quantiles of the normal distribution; ends are open, so that no value is lost."""
    module = Piecewise(2, 3, bins).double()
    with torch.no_grad():
        module.bias.normal_()
    normal = torch.distributions.Normal(0.0, 1.0)
    edges = normal.icdf(torch.linspace(0, 1, bins + 3)[1:-1]).double()
    for value in (-9.0, -0.7, 0.0, 0.4, 9.0):
        code = (value - edges[:-1]) / edges.diff()
        code[0].clamp_(max=1)
        code[1:-1].clamp_(0, 1)
        code[-1].clamp_(min=0)
        expected = code @ module.weight[1] + module.bias[1]
        found = module(torch.tensor([[0.3, value]], dtype=torch.float64))[0, 1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_piecewise_linear_is_continuous_and_its_bins_are_learned() -> None:
    torch.manual_seed(2)
    module = Piecewise(1, 2, 6).double()
    with torch.no_grad():
        module.width.normal_()  # any parameters: softplus keeps the boundaries in order
    x = torch.linspace(-4, 4, 2001, dtype=torch.float64).unsqueeze(1)
    steps = module(x).diff(dim=0).abs().max()
    slope = (module.weight.abs() / nn.functional.softplus(module.width).unsqueeze(2)).max()
    assert steps <= slope * 0.004 * 1.001
    module(x).sum().backward()
    assert all(torch.any(parameter.grad != 0) for parameter in module.parameters())
