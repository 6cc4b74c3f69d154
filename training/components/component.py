"""What a component is: a config that stands in the YAML, and the module that it builds.

A component is one file of this folder that registers its config:

    @component("interaction")
    class DotConfig(InteractionConfig):
        type: Literal["dot"]
        fused = True                                  # serving/fused.py has a tile program for it
        def build(self, width, slots, dim): ...       # -> Component

The unions of `config.Components` are made of what is registered, so nothing else has to name it. A component without a
tile program is served through Inductor (serving/views.py).
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

Activation = Literal["relu", "gelu", "silu"]
Width = Annotated[int, Field(ge=1, le=65536)]
Units = Annotated[list[Width], Field(min_length=1, max_length=16)]


class Component(nn.Module):
    """Base of all components' modules: named parameters are what lies in the slab, in their order."""

    outputs: int

    def flops(self) -> int:
        """Of one row in serving; a multiply-add counts as two. Elementwise work and normalisation are left out."""
        raise NotImplementedError

    def exported(self) -> dict[str, Tensor]:
        """The weights of the serving form by name: the parameters, unless training has others than serving."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


class Gates(Component):
    """Base of what fills `gates`. Both scale by the pooled embeddings as they were before any gate, [B, S, dim]."""

    def embedding_gate(self, pooled: Tensor) -> Tensor:
        """-> [B, S, dim], the embeddings scaled."""
        raise NotImplementedError

    def deep_gate(self, pooled: Tensor, x: Tensor) -> Tensor:
        """x [B, deep], the deep arch's output -> [B, deep]."""
        raise NotImplementedError


class ComponentConfig(BaseModel):
    """Base of all component settings: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Whether a tile program computes it; otherwise a template with it is compiled as views of one slab.
    fused: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The value of `type` in the YAML."""
        return str(getattr(self, "type", ""))

    def serving(self) -> "ComponentConfig":
        """Without what acts in training only."""
        return self


class DenseConfig(ComponentConfig):
    """Fills `dense_arch` and `deep`: [B, inputs] -> [B, outputs]."""

    def build(self, inputs: int) -> Component:
        raise NotImplementedError


class InteractionConfig(ComponentConfig):
    """Fills `interaction`: (dense [B, width], vectors [B, S, dim]) -> [B, outputs]."""

    def build(self, width: int, slots: int, dim: int) -> Component:
        raise NotImplementedError


class ExpertsConfig(ComponentConfig):
    """Fills `experts`: [B, inputs] -> [B, tasks, outputs]."""

    def build(self, inputs: int, tasks: int) -> Component:
        raise NotImplementedError


class HeadsConfig(ComponentConfig):
    """Fills `heads`: [B, tasks, inputs] -> [B, tasks] logits."""

    if TYPE_CHECKING:
        tasks: int
        units: list[int]
        activation: Activation

    def build(self, inputs: int) -> Component:
        raise NotImplementedError


class NumericConfig(ComponentConfig):
    """Fills `numeric`: dense [B, D] -> [B, outputs, dim], vectors that join the pooled embeddings."""

    def build(self, dense: int, dim: int) -> Component:
        raise NotImplementedError


class BranchConfig(ComponentConfig):
    """An entry of `branches`: (dense [B, D], vectors [B, S, dim]) -> [B, tasks], added to the heads' logits."""

    def build(self, dense: int, slots: int, dim: int, tasks: int) -> Component:
        raise NotImplementedError


class GatesConfig(ComponentConfig):
    """Fills `gates`: scales the pooled embeddings and the deep arch's output."""

    def build(self, slots: int, dim: int, deep: int) -> "Gates":
        raise NotImplementedError


class SequenceConfig(ComponentConfig):
    """Fills `sequence`: vectors [B, S, dim] -> [B, S - length + 1, dim].

    The vectors of the slots from `first` on, `length` of them, are a behaviour sequence; that of slot `target` is the
    candidate's.
    """

    if TYPE_CHECKING:
        target: int
        first: int
        length: int

    def build(self, dim: int) -> Component:
        raise NotImplementedError


SLOTS = ("dense", "interaction", "experts", "heads", "numeric", "branch", "gates", "sequence")
_REGISTRY: dict[str, dict[str, type[ComponentConfig]]] = {slot: {} for slot in SLOTS}
C = TypeVar("C", bound=type[ComponentConfig])


def component(slot: str) -> Callable[[C], C]:
    """Registers a config under the value of its `type`; a name is taken once per slot."""

    def register(config: C) -> C:
        [name] = get_args(get_type_hints(config)["type"])
        if name in _REGISTRY[slot]:
            raise ValueError(f"component {name!r} of {slot} is there already: {_REGISTRY[slot][name]}")
        _REGISTRY[slot][name] = config
        return config

    return register


def registered(slot: str) -> dict[str, type[ComponentConfig]]:
    """The configs of a slot by their type's name, after importing every module of this package."""
    package = __name__.rpartition(".")[0]
    for module in sorted(info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__)):
        if module != "config":
            importlib.import_module(f"{package}.{module}")
    return dict(sorted(_REGISTRY[slot].items()))


def union(slot: str) -> Any:
    """The type of a pydantic field that takes any component of the slot."""
    configs = tuple(registered(slot).values())
    return configs[0] if len(configs) == 1 else Annotated[Union[configs], Field(discriminator="type")]  # noqa: UP007


def matrix_flops(*matrices: Tensor) -> int:
    """Of matrices that are used once per row."""
    return 2 * sum(matrix.numel() for matrix in matrices)
