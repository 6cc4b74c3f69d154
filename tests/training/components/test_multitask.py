"""Experts in levels, dependent tasks, and gates from a prior."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from smt.training.components.esmm import Esmm, EsmmConfig
from smt.training.components.pepnet import PepNet, PepNetConfig
from smt.training.components.ple import Ple, PleConfig


def ple_by_hand(module: Ple, x: Tensor) -> Tensor:
    """One row, [K] -> [T, N]."""
    tasks, shared = [x] * module.tasks, x
    for level in module.levels:
        own = [
            [torch.relu(w @ x_t + b) for w, b in zip(level.own_weight[t], level.own_bias[t], strict=True)]
            for t, x_t in enumerate(tasks)
        ]
        common = [torch.relu(w @ shared + b) for w, b in zip(level.shared_weight, level.shared_bias, strict=True)]
        mixed = []
        for t, x_t in enumerate(tasks):
            share = torch.softmax(level.gate_weight[t] @ x_t + level.gate_bias[t], dim=0)
            mixed.append(sum(s * e for s, e in zip(share, [*own[t], *common], strict=True)))
        if len(level.shared_gate):
            share = torch.softmax(level.shared_gate[0] @ shared, dim=0)
            everyone = [expert for experts in own for expert in experts] + common
            shared = sum(s * e for s, e in zip(share, everyone, strict=True))
        tasks = mixed
    return torch.stack(tasks)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_ple_computes_its_formula(levels: int) -> None:
    torch.manual_seed(1)
    module = Ple(5, 3, PleConfig(type="ple", shared=2, own=1, units=4, levels=levels)).double()
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    found = module(x)
    torch.testing.assert_close(found, torch.stack([ple_by_hand(module, row) for row in x]))
    found.square().sum().backward()
    assert all(torch.any(parameter.grad != 0) for parameter in module.parameters())


def test_own_experts_learn_from_their_task_alone() -> None:
    module = Ple(5, 3, PleConfig(type="ple", shared=1, own=2, units=4))
    module(torch.randn(8, 5))[:, 1].sum().backward()
    used = module.levels[0].own_weight.grad.abs().sum(dim=(1, 2, 3))
    assert used[1] > 0
    assert used[0] == used[2] == 0


def test_esmm_multiplies_probabilities_along_the_chain() -> None:
    torch.manual_seed(2)
    module = Esmm(4, EsmmConfig(type="esmm", tasks=4, parents=[-1, 0, 1, -1], units=[3])).double()
    x = torch.randn(50, 4, 4, dtype=torch.float64)
    own = torch.sigmoid(super(Esmm, module).forward(x))
    found = torch.sigmoid(module(x))
    expected = torch.stack([own[:, 0], own[:, 0] * own[:, 1], own[:, 0] * own[:, 1] * own[:, 2], own[:, 3]], dim=1)
    torch.testing.assert_close(found, expected)
    assert torch.autograd.gradcheck(module, torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("z", [-200.0, -30.0, 0.0, 30.0, 200.0])
def test_esmm_is_finite_with_its_gradients_at_extreme_logits(z: float) -> None:
    module = Esmm(1, EsmmConfig(type="esmm", tasks=2, parents=[-1, 0]))
    with torch.no_grad():
        module.out_weight.fill_(1.0)
        module.out_bias.zero_()
    x = torch.full((1, 2, 1), z, requires_grad=True)
    logits = module(x)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    ("parents", "message"),
    [([-1, 1], "head 1 as the parent of head 1"), ([-1], "1 parents of 2 heads"), ([-2, 0], "head -2 as the parent")],
)
def test_esmm_refuses_parents_that_are_not_earlier_heads(parents: list[int], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EsmmConfig(type="esmm", tasks=2, parents=parents)


def test_gates_follow_the_prior_and_pass_no_gradient_to_what_they_gate() -> None:
    torch.manual_seed(3)
    module = PepNet(3, 4, 5, PepNetConfig(type="pepnet", slots=[1], hidden=6)).double()
    pooled = torch.randn(2, 3, 4, dtype=torch.float64)
    hidden = torch.randn(2, 5, dtype=torch.float64)
    for row in range(2):
        inputs = torch.cat([pooled[row, 1], *pooled[row]])
        for stack, x, found in (
            (module.embedding, pooled[row].flatten(), module.embedding_gate(pooled)[row].flatten()),
            (module.deep, hidden[row], module.deep_gate(pooled, hidden)[row]),
        ):
            inner = torch.relu(stack.weight[0] @ inputs + stack.bias[0])
            gate = 2 * torch.sigmoid(stack.weight[1] @ inner + stack.bias[1])
            torch.testing.assert_close(found, gate * x)
    free = pooled.clone().requires_grad_()
    module.deep_gate(free, hidden).sum().backward()
    assert torch.any(free.grad[:, 1] != 0)
    assert not torch.any(free.grad[:, [0, 2]])
