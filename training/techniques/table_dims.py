"""Tables trained in another dimension than the template's: a matrix maps them to it, and is multiplied in at export.

mlet trains wider tables, whose product with the matrix learns faster and more evenly (arXiv 2006.05623). mixed_dims
trains narrower ones for features of few values (arXiv 1909.11810): fewer parameters where there is little to learn.
The snapshot holds tables of the template's dimension either way: the served function is the same.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.features import CategoricalFeature
    from smt.training.template import Template


def _whole(dim: float) -> int:
    """fbgemm's table-batched embeddings want rows of whole 16 bytes."""
    return max(4, 4 * round(dim / 4))


@technique
class Mlet(Technique):
    """Tables `factor` times as wide as the template's dimension."""

    name: Literal["mlet"] = "mlet"
    paper = "arXiv 2006.05623"
    conflicts = frozenset({"mixed_dims"})
    factor: Annotated[float, Field(gt=1, le=16)] = 4.0

    def table_dim(self, template: "Template", feature: "CategoricalFeature") -> int:
        return _whole(self.factor * template.slots.dim)


@technique
class MixedDims(Technique):
    """A feature of n values gets dim · (n / n_max)^`temperature`, n_max being `full` values, in multiples of 4."""

    name: Literal["mixed_dims"] = "mixed_dims"
    paper = "arXiv 1909.11810"
    conflicts = frozenset({"mlet"})
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.25
    full: Annotated[int, Field(ge=2)] = 10_000

    def table_dim(self, template: "Template", feature: "CategoricalFeature") -> int:
        share = min(1.0, math.pow(feature.rows / self.full, self.temperature))
        return min(_whole(share * template.slots.dim), template.slots.dim)
