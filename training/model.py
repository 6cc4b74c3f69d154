"""The template as a module: what training differentiates and what the template binary is compiled from."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from smt.kernels import KERNEL_VERSION
from smt.kernels.embedding import pooled_embedding
from smt.training.components.config import CrossLowRankConfig, DotConfig, SharedBottomConfig
from smt.training.components.cross import CrossFull, CrossLowRank
from smt.training.components.dot import Dot
from smt.training.components.dropout import Dropout
from smt.training.components.mlp import Mlp
from smt.training.components.mmoe import Mmoe
from smt.training.components.shared_bottom import SharedBottom
from smt.training.components.tower import Towers
from smt.training.layout import Layout

if TYPE_CHECKING:
    from smt.training.template import Template


class TemplateNet(nn.Module):
    """Everything between the embeddings and the logits.

    dense arch → interaction with the pooled embeddings → deep arch → experts → task heads.
    Dropout (recipe.dropout) acts on the input and the output of the deep arch, in training only.
    """

    def __init__(self, template: "Template") -> None:
        super().__init__()
        components = template.components
        self.dense_arch = Mlp(template.slots.dense, components.dense_arch)
        self.interaction = _interaction(template)
        self.deep = Mlp(self.interaction.outputs, components.deep)
        self.experts = _experts(template, self.deep.outputs)
        self.heads = Towers(self.experts.outputs, components.heads)
        self.dropout = Dropout(template.recipe.dropout)

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        """dense [B, D] float32, pooled [B, S, dim] float32 -> logits [B, T] float32."""
        x = self.dropout(self.interaction(self.dense_arch(dense), pooled))
        x = self.dropout(self.deep(x))
        logits: Tensor = self.heads(self.experts(x))
        return logits


def _interaction(template: "Template") -> CrossLowRank | CrossFull | Dot:
    slots, config = template.slots, template.components.interaction
    if isinstance(config, DotConfig):
        return Dot(slots.categorical, slots.dim)
    width = template.components.dense_arch.units[-1] + slots.categorical * slots.dim
    return CrossLowRank(width, config) if isinstance(config, CrossLowRankConfig) else CrossFull(width, config)


def _experts(template: "Template", inputs: int) -> Mmoe | SharedBottom:
    config = template.components.experts
    if isinstance(config, SharedBottomConfig):
        return SharedBottom(inputs, template.tasks)
    return Mmoe(inputs, template.tasks, config)


class ServingFunction(nn.Module):
    """The function of (weights, features) that the template binary computes; it holds no weights itself."""

    def __init__(self, template: "Template") -> None:
        super().__init__()
        with torch.device("meta"):
            net = TemplateNet(template).eval()
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


def slab_layout(template: "Template") -> Layout:
    """Where each dense weight lies in the slab: the parameters of `TemplateNet` in their order."""
    return serving_function(template).layout


def flops_per_row(template: "Template") -> int:
    """Multiply-adds of one row, counted as two operations each: every matrix is used once per row, and the dot
    interaction multiplies pairs of embeddings."""
    vectors = ("bias", "norm_gain")
    matrices = [e for e in slab_layout(template).entries if not any(name in e.name for name in vectors)]
    slots = template.slots
    pairs = (slots.categorical + 1) * slots.categorical // 2 if template.components.interaction.type == "dot" else 0
    return 2 * (sum(entry.elements for entry in matrices) + pairs * slots.dim)


def input_signature(template: "Template") -> list[dict[str, Any]]:
    """Names, dtypes and shapes of the binary's inputs in order; a string is a dynamic dimension."""
    slots = template.slots
    return [
        {"name": "slab", "dtype": "float32", "shape": [slab_layout(template).elements]},
        {"name": "table", "dtype": "float32", "shape": ["table_rows", slots.dim]},
        {"name": "dense", "dtype": "float32", "shape": ["rows", slots.dense]},
        {"name": "ids", "dtype": "int64", "shape": ["ids"]},
        {"name": "offsets", "dtype": "int64", "shape": ["bags+1"]},
        {"name": "bag_index", "dtype": "int64", "shape": ["rows", slots.categorical]},
    ]


def abi_hash(template: "Template") -> str:
    """SHA-256 over all that a snapshot and a binary must agree on: layout, inputs, function, kernel version."""
    content = {
        "layout": slab_layout(template).to_json(),
        "inputs": input_signature(template),
        "slots": template.slots.model_dump(mode="json"),
        "components": template.components.model_dump(mode="json"),
        "kernel_version": KERNEL_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
