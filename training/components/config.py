"""The settings of a template's components as they stand in its YAML; the unions are of what is registered."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from smt.training.components.component import ComponentConfig, union
from smt.training.components.mlp import MlpConfig

if TYPE_CHECKING:
    from smt.training.components.component import BranchConfig as Branch
    from smt.training.components.component import DenseConfig as Dense
    from smt.training.components.component import ExpertsConfig as Experts
    from smt.training.components.component import GatesConfig as Gates
    from smt.training.components.component import HeadsConfig as Heads
    from smt.training.components.component import InteractionConfig as Interaction
    from smt.training.components.component import NumericConfig as Numeric
    from smt.training.components.component import SequenceConfig as Sequence
else:
    Dense, Interaction, Experts, Heads = union("dense"), union("interaction"), union("experts"), union("heads")
    Numeric, Branch, Gates, Sequence = union("numeric"), union("branch"), union("gates"), union("sequence")


def _empty(value: object) -> bool:
    return not value


class Components(ComponentConfig):
    """Which component fills each slot of the template."""

    dense_arch: MlpConfig
    interaction: Interaction
    deep: Dense
    experts: Experts
    heads: Heads
    # Left out of dumps when absent, so that templates without them keep the ABI hash that they had before they existed.
    numeric: Annotated[Numeric | None, Field(exclude_if=_empty)] = None
    gates: Annotated[Gates | None, Field(exclude_if=_empty)] = None
    sequence: Annotated[Sequence | None, Field(exclude_if=_empty)] = None
    branches: Annotated[list[Branch], Field(max_length=8, exclude_if=_empty)] = Field(default_factory=list)

    def filled(self) -> list[tuple[str, ComponentConfig]]:
        """Slots and what fills them, in the order in which a row passes them."""
        slots = ("gates", "sequence", "numeric", "dense_arch", "interaction", "deep", "experts", "heads")
        filled = [(slot, getattr(self, slot)) for slot in slots]
        filled += [(f"branches[{i}]", branch) for i, branch in enumerate(self.branches)]
        return [(slot, config) for slot, config in filled if config is not None]

    def serving(self) -> "Components":
        """Without what acts in training only."""
        changed = {slot: config.serving() for slot, config in self.filled() if "[" not in slot}
        return self.model_copy(update=changed)
