"""A template as its peers like it best: a plain PyTorch module with constant weights and one id per slot.

The same function and the same weights as the template's serving function, without what serving adds to it (bags, and
weights as inputs). Whatever may be merged or split ahead of time is, since a peer may do with constants what it likes.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from smt.kernels.mlp import ACTIVATIONS
from smt.training.components.cross import CrossLowRankConfig
from smt.training.components.mlp import MlpConfig
from smt.training.components.mmoe import MmoeConfig
from smt.training.components.shared_bottom import SharedBottomConfig
from smt.training.model import slab_layout
from smt.training.template import Template


class PeerNet(nn.Module):
    """(table [R, dim] float32, dense [B, D] float32, ids [B, S] int32 or int64 rows of the table) -> [B, T] float32.

    Layers that read the same input are one matrix: all experts with all gates, and the towers' first layers where they
    share their input. Towers of different inputs are one matrix each, which the engines prepack; a batched product they
    do not. The towers' outputs are one block-diagonal matrix.
    """

    def __init__(self, template: Template, slab: Tensor, dtype: torch.dtype = torch.float32) -> None:
        """Raises ValueError for a component that no shape of the benchmark has."""
        super().__init__()
        components = template.components
        experts = components.experts
        if not isinstance(components.interaction, CrossLowRankConfig) or not isinstance(
            experts, MmoeConfig | SharedBottomConfig
        ):
            raise ValueError(
                f"template {template.name!r}: interaction {components.interaction.name} with experts {experts.name}; "
                "the peers know cross_low_rank, and mmoe or shared_bottom"
            )
        assert isinstance(components.deep, MlpConfig)
        self.dtype = dtype
        self.tasks = template.tasks
        self.activations = {
            "dense_arch": components.dense_arch.activation,
            "deep": components.deep.activation,
            "heads": components.heads.activation,
        }
        self.mmoe = experts if isinstance(experts, MmoeConfig) else None
        weights = {name: weight.clone() for name, weight in slab_layout(template).views(slab).items()}
        self.dense_arch = _stack(weights, "dense_arch")
        self.deep = _stack(weights, "deep")
        layers = range(components.interaction.layers)
        self.down = nn.ParameterList(weights[f"interaction.down.{i}"] for i in layers)
        self.up = nn.ParameterList(weights[f"interaction.up.{i}"] for i in layers)
        self.cross_bias = nn.ParameterList(weights[f"interaction.bias.{i}"] for i in layers)
        self.experts = nn.ParameterList(self._merged_experts(weights))
        self.towers, self.tower_bias = nn.ParameterList(), nn.ParameterList()
        self.towers_of_layer: list[int] = []
        for i in range(len(components.heads.units)):
            weight, bias = weights[f"heads.weight.{i}"], weights[f"heads.bias.{i}"]
            merged = i == 0 and self.mmoe is None
            self.towers.extend([weight.flatten(0, 1)] if merged else weight.unbind(0))
            self.tower_bias.extend([bias.flatten()] if merged else bias.unbind(0))
            self.towers_of_layer.append(1 if merged else self.tasks)
        out = weights["heads.out_weight"]
        if self.mmoe is not None or components.heads.units:  # each tower has its own output: block diagonal
            out = (torch.eye(self.tasks).unsqueeze(2) * out).flatten(1)
        self.out_weight = nn.Parameter(out)
        self.out_bias = nn.Parameter(weights["heads.out_bias"])
        self.to(dtype)
        self.requires_grad_(False)

    def _merged_experts(self, weights: dict[str, Tensor]) -> list[Tensor]:
        """[weight, bias] of one product that holds every expert's layer and every gate; empty without experts."""
        if self.mmoe is None:
            return []
        if len(self.mmoe.units) != 1:
            raise ValueError(f"experts of {len(self.mmoe.units)} layers; the peers know one")
        names = (("experts.weight.0", "experts.gate_weight"), ("experts.bias.0", "experts.gate_bias"))
        return [torch.cat([weights[name].flatten(0, 1) for name in pair]) for pair in names]

    def forward(self, table: Tensor, dense: Tensor, ids: Tensor) -> Tensor:
        pooled = torch.nn.functional.embedding(ids, table).flatten(1)
        dense = _mlp(dense.to(self.dtype), self.dense_arch, self.activations["dense_arch"])
        x0 = x = torch.cat([dense, pooled.to(self.dtype)], dim=1)
        for down, up, bias in zip(self.down, self.up, self.cross_bias, strict=True):
            x = x0 * linear(linear(x, down), up, bias) + x
        x = _mlp(x, self.deep, self.activations["deep"])
        return torch.sigmoid(linear(self._towers(self._mix(x)), self.out_weight, self.out_bias).float())

    def _mix(self, x: Tensor) -> list[Tensor]:
        """What the towers read: one tensor for all of them, or one each."""
        if self.mmoe is None:
            return [x]
        count, width, tasks = self.mmoe.count, self.mmoe.units[-1], self.tasks
        merged = linear(x, *self.experts)
        hidden = ACTIVATIONS[self.mmoe.activation](merged[:, : count * width]).view(-1, count, width)
        gates = merged[:, count * width :].reshape(-1, tasks, count)
        mixed = torch.softmax(gates, dim=-1) @ hidden
        return list(mixed.unbind(1))

    def _towers(self, inputs: list[Tensor]) -> Tensor:
        act = ACTIVATIONS[self.activations["heads"]]
        towers = zip(self.towers, self.tower_bias, strict=True)
        for count in self.towers_of_layer:
            if len(inputs) < count:
                inputs = list(inputs[0].chunk(count, dim=1))
            inputs = [act(linear(x, *tower)) for x, tower in zip(inputs, itertools.islice(towers, count), strict=True)]
        return torch.cat(inputs, dim=1)


def _stack(weights: dict[str, Tensor], name: str) -> nn.ParameterList:
    """Weight, bias, weight, bias, ... of a stack of layers."""
    count = sum(key.startswith(f"{name}.weight.") for key in weights)
    return nn.ParameterList(weights[f"{name}.{kind}.{i}"] for i in range(count) for kind in ("weight", "bias"))


def _mlp(x: Tensor, layers: nn.ParameterList, activation: str) -> Tensor:
    parameters = list(layers)
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        x = ACTIVATIONS[activation](linear(x, weight, bias))
    return x
