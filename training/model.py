"""The template as a module: what training differentiates and what the template binary is compiled from."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smt.kernels import KERNEL_VERSION
from smt.kernels.embedding import pooled_embedding
from smt.training.components.component import Component
from smt.training.components.dropout import Dropout
from smt.training.layout import Layout

if TYPE_CHECKING:
    from smt.training.template import Template


class TemplateNet(nn.Module):
    """Everything between the embeddings and the logits.

    dense arch → interaction with the pooled embeddings → deep arch → experts → task heads. Where the template has them:
    gates scale the embeddings and the deep arch's output, a sequence's vectors give way to their weighted sum, numeric
    embeddings join the others, and branches add to the logits. Dropout (recipe.dropout) acts on
    the input and the output of the deep arch, in training only.

    Args:
        serving: build the form that is served, without what acts in training only. Its parameters are those that
            `exported` gives.
    """

    def __init__(self, template: "Template", serving: bool = False) -> None:
        super().__init__()
        slots, tasks = template.slots, template.tasks
        components = template.components.serving() if serving else template.components
        vectors = slots.categorical
        self.dense_arch = components.dense_arch.build(slots.dense)
        numeric, gates, sequence = components.numeric, components.gates, components.sequence
        self.sequence = None if sequence is None else sequence.build(slots.dim)
        vectors -= 0 if sequence is None else sequence.length - 1
        self.numeric = None if numeric is None else numeric.build(slots.dense, slots.dim)
        vectors += 0 if self.numeric is None else self.numeric.outputs
        self.interaction = components.interaction.build(self.dense_arch.outputs, vectors, slots.dim)
        self.deep = components.deep.build(self.interaction.outputs)
        self.gates = None if gates is None else gates.build(slots.categorical, slots.dim, self.deep.outputs)
        self.experts = components.experts.build(self.deep.outputs, tasks)
        self.heads = components.heads.build(self.experts.outputs)
        self.branches = nn.ModuleList(
            branch.build(slots.dense, vectors, slots.dim, tasks) for branch in components.branches
        )
        self.dropout = Dropout(template.recipe.dropout)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """dense [B, D] float32, pooled [B, S, dim] float32 -> logits [B, T] float32."""
        vectors = pooled if self.gates is None else self.gates.embedding_gate(pooled)
        if self.sequence is not None:
            vectors = self.sequence(vectors)
        if self.numeric is not None:
            vectors = torch.cat([vectors, self.numeric(dense)], dim=1)
        x = self.dropout(self.interaction(self.dense_arch(dense), vectors))
        x = self.dropout(self.deep(x))
        if self.gates is not None:
            x = self.gates.deep_gate(pooled, x)
        logits: Tensor = self.heads(self.experts(x))
        for branch in self.branches:
            logits = logits + branch(dense, vectors)
        return logits

    def components(self) -> dict[str, Component]:
        """The modules of the template's components by the prefix of their parameters' names."""
        named = {**dict(self.named_children()), **{f"branches.{i}": b for i, b in enumerate(self.branches)}}
        return {name: module for name, module in named.items() if isinstance(module, Component)}

    def exported(self) -> dict[str, Tensor]:
        """The weights of the serving form by name, in the order of its parameters."""
        return {
            f"{prefix}.{name}": weight
            for prefix, component in self.components().items()
            for name, weight in component.exported().items()
        }


class ServingFunction(nn.Module):
    """The function of (weights, features) that the template binary computes; it holds no weights itself."""

    def __init__(self, template: "Template") -> None:
        super().__init__()
        with torch.device("meta"):
            net = TemplateNet(template, serving=True).eval()
        self.layout = _layout_of(net)
        self.pooling = template.slots.pooling
        # In a tuple, so that the module does not register it: its meta parameters must not be exported.
        self._net = (net,)

    def forward(
        self, slab: Tensor, table: Tensor, dense: Tensor, ids: Tensor, offsets: Tensor, bag_index: Tensor
    ) -> Tensor:
        """Scores a batch.

        Args:
            slab: [layout.elements] float32, the dense weights.
            table: [R, dim] float32, the embedding tables of the scenario, one after the other.
            dense: [B, D] float32.
            ids: [N] int64; offsets: [bags + 1] int64; bag_index: [B, S] int64: see `pooled_embedding`.

        Returns:
            [B, T] float32 probabilities.
        """
        pooled = pooled_embedding(table, ids, offsets, bag_index, self.pooling)
        logits = torch.func.functional_call(self._net[0], self.layout.views(slab), (dense, pooled))
        return torch.sigmoid(logits)


# Inputs of `ServingFunction` in their order.
REFERENCE_INPUTS = ("slab", "table", "dense", "ids", "offsets", "bag_index")


def serving_function(template: "Template") -> ServingFunction:
    """The template as a function of (weights, features); see `ServingFunction`."""
    return ServingFunction(template)


def _layout_of(net: TemplateNet) -> Layout:
    return Layout.of((name, tuple(parameter.shape)) for name, parameter in net.named_parameters())


_layouts: dict[str, Layout] = {}  # by all that a layout depends on; a process knows a handful of templates


def slab_layout(template: "Template") -> Layout:
    """Where each dense weight lies in the slab: the parameters of the serving `TemplateNet` in their order.

    Building the modules takes 15 ms, and a publication asks twice: what came of it is kept.
    """
    key = template.slots.model_dump_json() + template.components.serving().model_dump_json()
    if key not in _layouts:
        _layouts[key] = serving_function(template).layout
    return _layouts[key]


def flops_per_row(template: "Template") -> int:
    """What the components of the serving form count for one row; a multiply-add is two operations."""
    with torch.device("meta"):
        net = TemplateNet(template, serving=True)
    return sum(component.flops() for component in net.components().values())


def input_signature(template: "Template") -> list[dict[str, Any]]:
    """Names, dtypes and shapes of the binary's inputs in order; a string is a dynamic dimension."""
    return _signature(template, slab_layout(template))


def _signature(template: "Template", layout: Layout) -> list[dict[str, Any]]:
    slots = template.slots
    return [
        {"name": "slab", "dtype": "float32", "shape": [layout.elements]},
        {"name": "table", "dtype": "float32", "shape": ["table_rows", slots.dim]},
        {"name": "dense", "dtype": "float32", "shape": ["rows", slots.dense]},
        {"name": "ids", "dtype": "int64", "shape": ["ids"]},
        {"name": "offsets", "dtype": "int64", "shape": ["bags+1"]},
        {"name": "bag_index", "dtype": "int64", "shape": ["rows", slots.categorical]},
    ]


def abi_hash(template: "Template") -> str:
    """SHA-256 over all that a snapshot and a binary must agree on: layout, inputs, function, kernel version."""
    layout = slab_layout(template)
    content = {
        "layout": layout.to_json(),
        "inputs": _signature(template, layout),
        "slots": template.slots.model_dump(mode="json"),
        "components": template.components.serving().model_dump(mode="json"),
        "kernel_version": KERNEL_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
