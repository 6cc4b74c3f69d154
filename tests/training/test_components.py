"""Components that a template may name beside the plain ones: dot interaction, layer normalisation, shared bottom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from smt.training.components.mlp import Mlp, MlpConfig
from smt.training.components.shared_bottom import SharedBottom
from smt.training.model import TemplateNet, abi_hash, flops_per_row, slab_layout
from smt.training.template import Template, load_template
from smt.training.trainer import train
from tests.training.support import TEMPLATE, make_scenario, replaced

Array = NDArray[np.float64]
DENSE_ARCH = {"{type: mlp, units: [8]}": "{type: mlp, units: [8, 4], activation: silu, layer_norm: true}"}
DEEP = {"units: [16, 8]}": "units: [16, 8], activation: silu, layer_norm: true}"}
DOT = {"{type: cross_low_rank, layers: 2, rank: 4}": "{type: dot}"}
SHARED = {"{type: mmoe, count: 2, units: [8]}": "{type: shared_bottom}"}
HEADS = {"tasks: 3, units: [4]": "tasks: 3, units: [4], activation: silu"}
DLRM = DENSE_ARCH | DEEP | DOT | SHARED | HEADS


def template(folder: Path, changes: dict[str, str]) -> Template:
    path = folder / "template.yaml"
    path.write_text(replaced(TEMPLATE, changes))
    return load_template(path)


def randomised(net: TemplateNet) -> TemplateNet:
    """In double precision, without dropout; all parameters random, as fresh gains of 1 and biases of 0 hide errors."""
    generator = torch.Generator().manual_seed(1)
    net = net.double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    return net


def silu(x: Array) -> Array:
    silued: Array = x / (1 + np.exp(-x))
    return silued


def by_hand(weights: dict[str, Array], dense: Array, pooled: Array) -> Array:
    """The logits of one row of the template DLRM."""

    def normed_mlp(name: str, x: Array) -> Array:
        for layer in range(2):
            x = weights[f"{name}.weight.{layer}"] @ x + weights[f"{name}.bias.{layer}"]
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
            x = silu(x * weights[f"{name}.norm_gain.{layer}"] + weights[f"{name}.norm_bias.{layer}"])
        return x

    first = normed_mlp("dense_arch", dense)
    vectors = [first, *pooled]
    pairs = [vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i)]
    x = normed_mlp("deep", np.concatenate([first, pairs]))
    logits = []
    for task in range(3):
        h = silu(weights["heads.weight.0"][task] @ x + weights["heads.bias.0"][task])
        logits.append(weights["heads.out_weight"][task] @ h + weights["heads.out_bias"][task])
    return np.array(logits)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_dlrm_is_its_formula(tmp_path: Path, rows: int) -> None:
    net = randomised(TemplateNet(template(tmp_path, DLRM)))
    dense, pooled = torch.randn(rows, 4, dtype=torch.float64), torch.randn(rows, 6, 4, dtype=torch.float64)
    weights = {name: parameter.detach().numpy() for name, parameter in net.named_parameters()}
    with torch.no_grad():
        logits = net(dense, pooled)
    assert logits.shape == (rows, 3)
    for i in range(rows):
        np.testing.assert_allclose(logits[i], by_hand(weights, dense[i].numpy(), pooled[i].numpy()), rtol=1e-9)


def test_gradients_reach_every_parameter_and_input(tmp_path: Path) -> None:
    net = randomised(TemplateNet(template(tmp_path, DLRM)))
    dense = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    pooled = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in net.named_parameters()]

    def logits(dense: torch.Tensor, pooled: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(net, dict(zip(names, weights, strict=True)), (dense, pooled))
        return out

    assert torch.autograd.gradcheck(logits, (dense, pooled, *net.parameters()))
    net(dense, pooled).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("change", [DEEP, SHARED, DENSE_ARCH | DOT], ids=["layer_norm", "shared_bottom", "dot"])
def test_shapes_of_one_change_at_a_time(tmp_path: Path, change: dict[str, str]) -> None:
    net = TemplateNet(template(tmp_path, change)).eval()
    assert net(torch.randn(7, 4), torch.randn(7, 6, 4)).shape == (7, 3)


def test_widths(tmp_path: Path) -> None:
    plain, dlrm = TemplateNet(template(tmp_path, {})), TemplateNet(template(tmp_path, DLRM))
    assert plain.interaction.outputs == 8 + 6 * 4
    assert dlrm.interaction.outputs == 4 + 7 * 6 // 2
    assert (plain.experts.outputs, dlrm.experts.outputs) == (8, 8)
    for part in (dlrm.interaction, dlrm.experts):
        assert not list(part.parameters())


def test_shared_bottom_copies_nothing() -> None:
    x = torch.randn(5, 8)
    out = SharedBottom(8, 3)(x)
    assert out.shape == (5, 3, 8)
    assert out.data_ptr() == x.data_ptr()
    for task in range(3):
        assert torch.equal(out[:, task], x)


def test_a_fresh_layer_norm_is_that_of_torch() -> None:
    torch.manual_seed(0)
    net = Mlp(6, MlpConfig(type="mlp", units=[32], activation="gelu", layer_norm=True))
    x = 100 * torch.randn(9, 6)
    linear = torch.nn.functional.linear(x, net.weight[0], net.bias[0])
    torch.testing.assert_close(net(x), torch.nn.functional.gelu(torch.nn.LayerNorm(32)(linear)))


def test_without_layer_norm_nothing_changes(tmp_path: Path) -> None:
    """Absent and `false` are one: names, order, initial values, scores to the bit, and ABI hash."""
    absent = template(tmp_path, {})
    changes = {"units: [8]}": "units: [8], layer_norm: false}", "units: [16, 8]}": "units: [16, 8], layer_norm: false}"}
    (tmp_path / "off").mkdir()
    off = template(tmp_path / "off", changes)
    assert "layer_norm" not in str(off.components.model_dump(mode="json"))
    assert abi_hash(off) == abi_hash(absent)
    names = [entry.name for entry in slab_layout(absent).entries]
    assert names[:2] == ["dense_arch.weight.0", "dense_arch.bias.0"]
    assert not [name for name in names if "norm" in name]
    dense, pooled = torch.randn(9, 4), torch.randn(9, 6, 4)
    scores = []
    for made in (absent, off):
        torch.manual_seed(4)
        net = TemplateNet(made).eval()
        assert [name for name, _ in net.named_parameters()] == names
        scores.append(net(dense, pooled))
    assert torch.equal(*scores)


def test_plain_template_is_what_it_was_before_these_components(tmp_path: Path) -> None:
    """To the bit the concatenation, cross layers, deep arch, experts and towers, written out with torch alone."""
    net = TemplateNet(template(tmp_path, {})).eval()
    w = dict(net.named_parameters())
    dense, pooled = torch.randn(9, 4), torch.randn(9, 6, 4)
    linear, relu = torch.nn.functional.linear, torch.relu
    x0 = x = torch.cat([relu(linear(dense, w["dense_arch.weight.0"], w["dense_arch.bias.0"])), pooled.flatten(1)], 1)
    for i in range(2):
        x = x0 * linear(linear(x, w[f"interaction.down.{i}"]), w[f"interaction.up.{i}"], w[f"interaction.bias.{i}"]) + x
    for i in range(2):
        x = relu(linear(x, w[f"deep.weight.{i}"], w[f"deep.bias.{i}"]))
    expected = net.heads(net.experts(x))
    torch.testing.assert_close(net(dense, pooled), expected)  # training's layers round otherwise: kernels/linear
    with torch.no_grad():
        assert torch.equal(net(dense, pooled), expected)


def test_abi_hash_follows_the_components(tmp_path: Path) -> None:
    hashes = {abi_hash(template(tmp_path, change)) for change in ({}, DEEP, DENSE_ARCH, SHARED, DENSE_ARCH | DOT, DLRM)}
    assert len(hashes) == 6


def test_flops_of_dlrm(tmp_path: Path) -> None:
    """Gains are no matrices; a pair of embeddings costs `dim` multiply-adds; a shared bottom costs nothing."""
    width = 4 + 21
    macs = (4 * 8 + 8 * 4) + 21 * 4 + (width * 16 + 16 * 8) + 3 * (8 * 4 + 4)
    assert flops_per_row(template(tmp_path, DLRM)) == 2 * macs


def test_dlrm_trains(tmp_path: Path) -> None:
    scenario = make_scenario(tmp_path, template=DLRM, train=6000)
    result = train(scenario, tmp_path / "run", epochs=8, progress=False)
    for task, most in (("click", 0.5), ("buy", 0.7)):
        ne = result.metrics[task].ne
        assert ne is not None
        assert ne < most, task
