"""The interactions that no tile program computes: each against a loop over the formula of its paper, row by row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smt.training.components.component import InteractionConfig, registered
from smt.training.components.fm import Fm
from tests.training.components.variants import INTERACTIONS

WIDTH, SLOTS, DIM = 5, 3, 4
Weights = dict[str, Tensor]


def build(name: str) -> Any:
    """The module in double precision; all parameters random, as fresh gains of 1 and biases of 0 hide errors."""
    config = registered("interaction")[name].model_validate({"type": name, **INTERACTIONS[name]})
    assert isinstance(config, InteractionConfig)
    generator = torch.Generator().manual_seed(3)
    module = config.build(WIDTH, SLOTS, DIM).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return module


def rows(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    dense = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return dense, torch.randn(count, SLOTS, DIM, generator=generator, dtype=torch.float64)


def layer_norm(x: Tensor, w: Weights, name: str) -> Tensor:
    x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def stack(x: Tensor, w: Weights, name: str, layers: int, last: bool = False) -> Tensor:
    for i in range(layers):
        x = w[f"{name}.weight.{i}"] @ x + w[f"{name}.bias.{i}"]
        x = torch.relu(x) if last or i + 1 < layers else x
    return x


def tokens(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    return torch.stack([w["tokens.weight"] @ dense, *vectors])


def cross_mixture(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    first = x = torch.cat([dense, *vectors])
    for layer in range(2):
        share = torch.softmax(w[f"gate.{layer}"] @ x, dim=0)
        after = x.clone()
        for e in range(3):
            core = torch.tanh(w[f"core.{layer}"][e] @ torch.tanh(w[f"down.{layer}"][e] @ x))
            after += share[e] * first * (w[f"up.{layer}"][e] @ core + w[f"bias.{layer}"])
        x = after
    return x


def final(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    x = torch.cat([dense, *vectors])
    for layer in range(2):
        y = stack(x, w, f"layers.{layer}", 1)
        half = len(y) // 2
        x = torch.relu(y[:half] + y[:half] * y[half:])
    return x


def finalmlp(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    x = torch.cat([dense, *vectors])
    gated = [2 * torch.sigmoid(stack(x, w, f"gates.{i}", 2)) * x for i in range(2)]
    one = stack(gated[0], w, "streams.0", 2, last=True)
    two = stack(gated[1], w, "streams.1", 1, last=True)
    fused = [one[4 * g : 4 * g + 4] @ w["fusion"][g] @ two[3 * g : 3 * g + 3] for g in range(2)]
    return torch.cat([one, two, torch.stack(fused)])


def concat(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    return torch.cat([dense, *vectors])


def inner_product(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    pairs = [vectors[i] @ vectors[j] for i in range(SLOTS) for j in range(i)]
    return torch.cat([dense, *vectors, torch.stack(pairs)])


def masknet(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    x = torch.cat([dense, *vectors])
    normed = torch.cat([dense, *(layer_norm(v, w, "embedding_norm") for v in vectors)])
    blocks = [w[f"weight.{b}"] @ (stack(x, w, f"masks.{b}", 2) * normed) for b in range(2)]
    return torch.relu(torch.cat([layer_norm(block, w, f"norms.{b}") for b, block in enumerate(blocks)]))


def wukong(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    x = tokens(dense, vectors, w)
    for i in range(2):
        pairs = torch.stack([torch.stack([a @ b for b in x]) for a in x])
        fm = layer_norm((pairs @ w[f"layers.{i}.project"]).flatten(), w, f"layers.{i}.fm_norm")
        out = [*stack(fm, w, f"layers.{i}.mlp", 2).split(DIM), *(w[f"layers.{i}.compress"] @ x)]
        residual = w.get(f"layers.{i}.residual.0", torch.eye(len(x), dtype=x.dtype)) @ x
        x = torch.stack([layer_norm(a + b, w, f"layers.{i}.norm") for a, b in zip(out, residual, strict=True)])
    return x.flatten()


def rankmixer(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    flat = torch.cat([dense, *vectors])
    piece = w["cut"].shape[2]
    flat = torch.cat([flat, flat.new_zeros(4 * piece - len(flat))])
    x = [w["cut"][t] @ flat[t * piece : (t + 1) * piece] for t in range(4)]
    for i in range(2):
        mixed = [torch.cat([x[t][2 * h : 2 * h + 2] for t in range(4)]) for h in range(4)]
        x = [layer_norm(a + b, w, f"mix_norm.{i}") for a, b in zip(x, mixed, strict=True)]
        for t in range(4):
            h = nn.functional.gelu(w[f"up.{i}"][t] @ x[t] + w[f"up_bias.{i}"][t])
            x[t] = layer_norm(x[t] + w[f"down.{i}"][t] @ h + w[f"down_bias.{i}"][t], w, f"norm.{i}")
    return torch.stack(x).mean(dim=0)


def dhen(dense: Tensor, vectors: Tensor, w: Weights) -> Tensor:
    x = tokens(dense, vectors, w)
    for i in range(2):
        flat = x.flatten()
        dots = torch.stack([a @ b for a in x for b in x])
        out = flat + stack(dots, w, f"layers.{i}.maps.dot", 2) + (w[f"layers.{i}.linear.0"] @ x).flatten()
        # Inside of cross and mlp there is one hidden layer.
        out = out + flat * stack(flat, w, f"layers.{i}.maps.cross", 2) + stack(flat, w, f"layers.{i}.maps.mlp", 2)
        x = torch.stack([layer_norm(v, w, f"layers.{i}.norm") for v in out.split(DIM)])
    return x.flatten()


BY_HAND: dict[str, Callable[[Tensor, Tensor, Weights], Tensor]] = {
    "concat": concat,
    "cross_mixture": cross_mixture,
    "dhen": dhen,
    "final": final,
    "finalmlp": finalmlp,
    "inner_product": inner_product,
    "masknet": masknet,
    "rankmixer": rankmixer,
    "wukong": wukong,
}


@pytest.mark.parametrize("name", sorted(INTERACTIONS))
def test_interactions_compute_their_formula(name: str) -> None:
    module = build(name)
    weights = {key: value.detach() for key, value in module.named_parameters()}
    dense, vectors = rows(5)
    found = module(dense, vectors.requires_grad_())  # some interactions have no parameters
    assert found.shape == (5, module.outputs)
    expected = torch.stack([BY_HAND[name](d, v, weights) for d, v in zip(dense, vectors, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    found.square().sum().backward()
    for key, parameter in module.named_parameters():
        assert torch.any(parameter.grad != 0), key


@pytest.mark.parametrize("name", sorted(INTERACTIONS))
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    module, (dense, vectors) = build(name), rows(2)
    assert torch.autograd.gradcheck(module, (dense.requires_grad_(), vectors.requires_grad_()))


def test_every_interaction_without_a_tile_program_is_tested() -> None:
    assert {name for name, config in registered("interaction").items() if not config.fused} == set(INTERACTIONS)


def test_token_mixing_is_its_own_inverse() -> None:
    x = torch.randn(3, 4, 8)
    mixed = build("rankmixer").mix(x)
    assert not torch.equal(mixed, x)
    assert torch.equal(build("rankmixer").mix(mixed), x)


def test_factorization_machine_is_all_pairs_in_any_order() -> None:
    branch = Fm(SLOTS, DIM, 2).double()
    dense, vectors = rows(4)
    pairs = torch.stack([sum(a * b for a, b in itertools.combinations(row, 2)) for row in vectors])
    torch.testing.assert_close(branch(dense, vectors), pairs.sum(1, keepdim=True).expand(-1, 2))
    torch.testing.assert_close(branch(dense, vectors[:, [2, 0, 1]]), branch(dense, vectors))
