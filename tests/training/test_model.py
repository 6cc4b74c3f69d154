"""The slab layout, and the serving function against the training module."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smt.training.layout import ALIGNMENT, Layout
from smt.training.model import TemplateNet, abi_hash, flops_per_row, serving_function, slab_layout
from smt.training.template import Template, load_template

YAML = """
template: small
version: 1.0.0
slots: {{dense: 3, categorical: 5, dim: 4, pooling: {pooling}}}
components:
  dense_arch: {{type: mlp, units: [7]}}
  interaction: {interaction}
  deep: {{type: mlp, units: [9, 6], activation: {activation}}}
  experts: {{type: mmoe, count: 3, units: [5]}}
  heads: {{type: tower, tasks: 2, units: [3]}}
recipe:
  batch_size: 8
  epochs: 1
  dropout: 0.5
  dense_optimizer: {{type: adam, lr: 0.001}}
  embedding_optimizer: {{type: rowwise_adagrad, lr: 0.01}}
capacity: {{flops_per_row: 100000, slab_bytes: 100000}}
"""
LOW_RANK = "{type: cross_low_rank, layers: 2, rank: 3}"
FULL = "{type: cross_full, layers: 2}"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Template]:
    def build(pooling: str = "sum", interaction: str = LOW_RANK, activation: str = "relu") -> Template:
        path = tmp_path / "template.yaml"
        path.write_text(YAML.format(pooling=pooling, interaction=interaction, activation=activation))
        return load_template(path)

    return build


def test_layout_is_aligned_and_disjoint(make: Callable[..., Template]) -> None:
    layout = slab_layout(make())
    end = 0
    for entry in layout.entries:
        assert entry.offset % ALIGNMENT == 0
        assert entry.offset >= end
        end = entry.offset + 4 * entry.elements
    assert end <= layout.bytes < end + ALIGNMENT
    assert layout.elements * 4 == layout.bytes


def test_pack_then_views_gives_the_weights_back(make: Callable[..., Template]) -> None:
    template = make()
    net = TemplateNet(template)
    layout = slab_layout(template)
    slab = layout.pack(dict(net.named_parameters()))
    assert slab.shape == (layout.elements,)
    views = layout.views(slab)
    for name, parameter in net.named_parameters():
        assert torch.equal(views[name], parameter)
        assert views[name].untyped_storage().data_ptr() == slab.untyped_storage().data_ptr()


def test_pack_refuses_what_does_not_fit() -> None:
    layout = Layout.of([("w", (2, 3)), ("b", (2,))])
    with pytest.raises(ValueError, match=r"missing \['b'\], superfluous \['c'\]"):
        layout.pack({"w": torch.zeros(2, 3), "c": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"weight 'w': found torch.float32 \(3, 2\)"):
        layout.pack({"w": torch.zeros(3, 2), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"weight 'b': found torch\.float64"):
        layout.pack({"w": torch.zeros(2, 3), "b": torch.zeros(2, dtype=torch.float64)})


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("interaction", [LOW_RANK, FULL])
def test_serving_function_is_the_trained_net(
    make: Callable[..., Template], rows: int, pooling: str, interaction: str
) -> None:
    torch.manual_seed(rows)
    template = make(pooling, interaction)
    net = TemplateNet(template).eval()
    function = serving_function(template)
    slab = function.layout.pack(dict(net.named_parameters()))
    table = torch.randn(13, 4)
    dense = torch.randn(rows, 3)
    ids = torch.tensor([1, 4, 12, 0, 3, 3], dtype=torch.int64)
    offsets = torch.tensor([0, 0, 1, 3, 6], dtype=torch.int64)
    bag_index = torch.randint(0, 4, (rows, 5))
    bags = [torch.zeros(4)]
    for first, last in ((0, 1), (1, 3), (3, 6)):
        members = table[ids[first:last]]
        bags.append(members.sum(0) if pooling == "sum" else members.mean(0))
    with torch.no_grad():
        expected = torch.sigmoid(net(dense, torch.stack(bags)[bag_index]))
        got = function(slab, table, dense, ids, offsets, bag_index)
    assert got.shape == (rows, 2)
    torch.testing.assert_close(got, expected)


def test_serving_function_holds_no_weights(make: Callable[..., Template]) -> None:
    function = serving_function(make())
    assert not list(function.parameters())
    assert not list(function.buffers())


def test_abi_hash_follows_what_a_snapshot_must_agree_on(make: Callable[..., Template]) -> None:
    plain = abi_hash(make())
    assert abi_hash(make()) == plain
    others = {abi_hash(make("mean")), abi_hash(make(interaction=FULL)), abi_hash(make(activation="gelu"))}
    assert len(others | {plain}) == 4


def test_flops_count_every_matrix_once(make: Callable[..., Template]) -> None:
    width = 7 + 5 * 4
    macs = 3 * 7 + 2 * 2 * 3 * width + (width * 9 + 9 * 6) + 3 * 6 * 5 + 2 * 3 * 6 + 2 * (5 * 3) + 2 * 3
    assert flops_per_row(make()) == 2 * macs
