"""Settings of each component as they stand in a template's YAML."""

import operator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Activation = Literal["relu", "gelu", "silu"]
Width = Annotated[int, Field(ge=1, le=65536)]
Units = Annotated[list[Width], Field(min_length=1, max_length=16)]


class ComponentConfig(BaseModel):
    """Base of all component settings: unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MlpConfig(ComponentConfig):
    """Linear layers of `units` outputs, each followed by layer normalisation, if asked for, and the activation."""

    type: Literal["mlp"]
    units: Units
    activation: Activation = "relu"
    # Left out of dumps when off, so that templates without it keep the ABI hash that they had before it existed.
    layer_norm: Annotated[bool, Field(exclude_if=operator.not_)] = False


class CrossLowRankConfig(ComponentConfig):
    """DCNv2 with W = U Vᵀ of the given rank."""

    type: Literal["cross_low_rank"]
    layers: Annotated[int, Field(ge=1, le=16)]
    rank: Width


class CrossFullConfig(ComponentConfig):
    """DCNv2 with full matrices."""

    type: Literal["cross_full"]
    layers: Annotated[int, Field(ge=1, le=16)]


class DotConfig(ComponentConfig):
    """DLRM: the dot product of every pair of feature vectors, the dense arch's output being one of them."""

    type: Literal["dot"]


class SharedBottomConfig(ComponentConfig):
    """Every head reads the deep arch's output as it is."""

    type: Literal["shared_bottom"]


class MmoeConfig(ComponentConfig):
    """`count` experts shared by all tasks, with one softmax gate per task."""

    type: Literal["mmoe"]
    count: Annotated[int, Field(ge=1, le=256)]
    units: Units
    activation: Activation = "relu"


class TowerConfig(ComponentConfig):
    """One tower per task; `tasks` is the number of heads of the template, the most a scenario can have."""

    type: Literal["tower"]
    tasks: Annotated[int, Field(ge=1, le=256)]
    units: Annotated[list[Width], Field(max_length=16)] = []
    activation: Activation = "relu"


InteractionConfig = CrossLowRankConfig | CrossFullConfig | DotConfig
ExpertsConfig = MmoeConfig | SharedBottomConfig


class Components(ComponentConfig):
    """Which component fills each slot of the template."""

    dense_arch: MlpConfig
    interaction: Annotated[InteractionConfig, Field(discriminator="type")]
    deep: MlpConfig
    experts: Annotated[ExpertsConfig, Field(discriminator="type")]
    heads: TowerConfig
