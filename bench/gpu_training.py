"""A training step of what the kernels own: forward and backward of the interaction and of the heads, at a shape.

The step takes the two inputs as they come from the layers before: x0 [B, width] for the cross layers, and h [B, K] for
experts and heads (heads alone in shared-bottom templates), and gives the gradients of both and of all weights. Master
weights are float32. Ours casts and concatenates them in every step, as training does; the peer is torch.compile of the
references under bfloat16 autocast.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.shapes import Shape
from smt.kernels.cross import cross_low_rank
from smt.kernels.experts import experts
from smt.kernels.heads import heads
from smt.training.components.cross import CrossLowRankConfig
from smt.training.components.mlp import MlpConfig
from smt.training.components.mmoe import MmoeConfig
from smt.training.layout import Layout
from smt.training.model import slab_layout


@dataclass(frozen=True)
class StepInputs:
    """x0 [B, width] and h [B, K] float32, and the gradients that arrive at the outputs, of their shapes and [B, T]."""

    x0: Tensor
    h: Tensor
    cross_gradient: Tensor
    logit_gradient: Tensor

    def double(self) -> "StepInputs":
        """The same in float64, with gradients of their own."""
        x0, h = (value.detach().double().requires_grad_() for value in (self.x0, self.h))
        return StepInputs(x0, h, self.cross_gradient.double(), self.logit_gradient.double())


class TrainingStep:
    """Weights of a shape's interaction, experts and heads, and the step on them."""

    def __init__(self, shape: Shape, slab: Tensor) -> None:
        """Weights have the dtype and device of the slab [elements]: the references are exact on one in float64.

        Raises ValueError if the interaction is not low-rank cross layers.
        """
        components = shape.template.components
        if not isinstance(components.interaction, CrossLowRankConfig):
            raise ValueError(f"{shape.name}: interaction {components.interaction.name}; the step knows cross_low_rank")
        layout: Layout = slab_layout(shape.template)
        named = {
            name: weight.clone().requires_grad_()
            for name, weight in layout.views(slab).items()
            if name.startswith(("interaction.", "experts.", "heads."))
        }
        self.weights = list(named.values())
        self.tasks = shape.template.tasks
        self.width = named["interaction.bias.0"].shape[0]
        assert isinstance(components.deep, MlpConfig)
        self.inputs = components.deep.units[-1]
        self._cross = [_numbered(named, f"interaction.{name}") for name in ("down", "up", "bias")]
        self._mmoe = components.experts if isinstance(components.experts, MmoeConfig) else None
        if self._mmoe is not None:
            self._experts = [_numbered(named, "experts.weight"), _numbered(named, "experts.bias")]
            self._gate = [named["experts.gate_weight"], named["experts.gate_bias"]]
        self._towers = [_numbered(named, "heads.weight"), _numbered(named, "heads.bias")]
        self._out = [named["heads.out_weight"], named["heads.out_bias"]]
        self._activation = components.heads.activation

    def random_inputs(self, rows: int, generator: torch.Generator) -> StepInputs:
        """Standard normal inputs and gradients, on the weights' device."""
        device = self.weights[0].device
        widths = (self.width, self.inputs, self.width, self.tasks)
        x0, h, *gradients = (torch.randn(rows, n, generator=generator).to(device) for n in widths)
        return StepInputs(x0.requires_grad_(), h.requires_grad_(), *gradients)

    def forward(self, x0: Tensor, h: Tensor, backend: str) -> tuple[Tensor, Tensor]:
        """-> the interaction's output [B, width] and the logits [B, T]."""
        down, up, bias = self._cross
        crossed = cross_low_rank(x0, down, up, bias, backend=backend)
        if self._mmoe is not None:
            weights, biases = self._experts
            gate_weight, gate_bias = self._gate
            mixed = experts(h, weights, biases, gate_weight, gate_bias, self._mmoe.activation, backend=backend)
        else:
            mixed = h.unsqueeze(1).expand(-1, self.tasks, -1)
        weights, biases = self._towers
        out_weight, out_bias = self._out
        return crossed, heads(mixed, weights, biases, out_weight, out_bias, self._activation, backend=backend)

    def gradients(self, inputs: StepInputs, backend: str) -> tuple[Tensor, ...]:
        """The step by the public functions with this backend: gradients of x0, h and every weight."""
        return self._backward(self.forward(inputs.x0, inputs.h, backend), inputs)

    def compiled(self) -> Callable[[StepInputs], tuple[Tensor, ...]]:
        """The step by torch.compile (max-autotune) of the references in bfloat16 autocast."""
        function: Any = torch.compile(self.forward, mode="max-autotune-no-cudagraphs", dynamic=False)

        def step(inputs: StepInputs) -> tuple[Tensor, ...]:
            with torch.autocast(self.weights[0].device.type, torch.bfloat16):
                outputs = function(inputs.x0, inputs.h, "reference")
            return self._backward(outputs, inputs)

        return step

    def _backward(self, outputs: tuple[Tensor, Tensor], inputs: StepInputs) -> tuple[Tensor, ...]:
        arriving = [inputs.cross_gradient.to(outputs[0].dtype), inputs.logit_gradient.to(outputs[1].dtype)]
        return torch.autograd.grad(outputs, [inputs.x0, inputs.h, *self.weights], arriving)


def relative_error(found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """The largest ‖found - exact‖ / ‖exact‖ of a gradient; infinite where one is not finite."""
    errors = []
    for gradient, true in zip(found, exact, strict=True):
        error = (gradient.double() - true).norm() / true.norm().clamp_min(1e-30)
        errors.append(float(error) if torch.isfinite(error) else float("inf"))
    return max(errors)


def _numbered(named: dict[str, Tensor], prefix: str) -> list[Tensor]:
    """The weights prefix.0, prefix.1, …"""
    count = sum(name.startswith(f"{prefix}.") for name in named)
    return [named[f"{prefix}.{i}"] for i in range(count)]
