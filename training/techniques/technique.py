"""What a technique is: a named change to a template, with what serving it costs, its source, and what excludes it.

A technique is one file of this folder:

    @technique
    class Ema(Technique):
        name: Literal["ema"] = "ema"
        cost = "free"
        paper = "..."
        ...

It is switched on by one line of the template: `techniques: [ema]`, or `techniques: [{name: ema, decay: 0.99}]`. `apply`
derives the new template; what has to happen in training is a hook (smt.training.hooks).
"""

import importlib
import pkgutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_type_hints

from pydantic import Field

from smt.training.config import StrictModel
from smt.training.hooks import Hook

if TYPE_CHECKING:
    from smt.training.features import CategoricalFeature
    from smt.training.template import Template

# What serving costs: nothing, as the served function and its sizes stay; the same cost for another function; more.
Cost = Literal["free", "neutral", "spends"]


class TechniqueError(ValueError):
    """A technique that cannot be applied to the template; the message names both sides and the way out."""


class Technique(StrictModel):
    """Base of all techniques; fields are its settings in the YAML, `name` among them."""

    cost: ClassVar[Cost] = "free"
    paper: ClassVar[str]
    # Names of techniques that it does not go with; the other one need not name it.
    conflicts: ClassVar[frozenset[str]] = frozenset()

    @property
    def label(self) -> str:
        return str(getattr(self, "name", ""))

    def apply(self, template: "Template") -> "Template":
        """The template with this technique, after those that it has.

        Raises:
            TechniqueError: a conflict with one of those, or an unmet requirement.
        """
        for other in template.techniques:
            if other.label == self.label:
                raise TechniqueError(f"technique {self.label!r} a second time; name it once")
            if other.label in self.conflicts or self.label in other.conflicts:
                raise TechniqueError(f"technique {self.label!r} conflicts with {other.label!r}; use one of them")
        if unmet := self.unmet(template):
            raise TechniqueError(f"technique {self.label!r} {unmet}")
        changed = self.change(template)
        return changed.model_copy(update={"techniques": [*changed.techniques, self]})

    def unmet(self, template: "Template") -> str:
        """What the template lacks for this technique, as `needs …`; empty if nothing."""
        return ""

    def change(self, template: "Template") -> "Template":
        """The template with other components or another recipe, if that is what the technique is."""
        return template

    def hook(self) -> Hook | None:
        """What it does in a run."""
        return None

    def table_dim(self, template: "Template", feature: "CategoricalFeature") -> int | None:
        """The dimension in which a feature's table is trained, before a matrix that is multiplied in at export."""
        return None


_REGISTRY: dict[str, type[Technique]] = {}
T = TypeVar("T", bound=type[Technique])


def technique(kind: T) -> T:
    """Registers a technique under the default of its `name`."""
    [name] = get_args(get_type_hints(kind)["name"])
    if name in _REGISTRY:
        raise ValueError(f"technique {name!r} is there already: {_REGISTRY[name]}")
    _REGISTRY[name] = kind
    return kind


def registered() -> dict[str, type[Technique]]:
    """All techniques by name, after importing every module of this package."""
    package = __name__.rpartition(".")[0]
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{info.name}")
    return dict(sorted(_REGISTRY.items()))


def union() -> Any:
    """The type of a pydantic field that takes any technique."""
    return Annotated[Union[tuple(registered().values())], Field(discriminator="name")]  # noqa: UP007


def by_name(value: Any) -> Any:
    """A list in which techniques may be names alone -> a list of mappings, for pydantic."""
    if not isinstance(value, list):
        return value
    return [{"name": item} if isinstance(item, str) else item for item in value]


def apply_all(template: "Template", techniques: Sequence[Technique]) -> "Template":
    """One after the other. Raises TechniqueError, see `Technique.apply`."""
    for each in techniques:
        template = each.apply(template)
    return template
