"""Batch normalisation in the deep arch (arXiv 1502.03167), folded into its linear layers at export."""

from typing import TYPE_CHECKING, Literal

from smt.training.components.mlp import MlpConfig
from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.template import Template


@technique
class BatchNorm(Technique):
    """Sets `batch_norm` of `deep`, which has to be an mlp without another normalisation."""

    name: Literal["batch_norm"] = "batch_norm"
    paper = "arXiv 1502.03167"

    def unmet(self, template: "Template") -> str:
        deep = template.components.deep
        fits = isinstance(deep, MlpConfig) and not deep.layer_norm
        return "" if fits else "needs a deep arch of type mlp without layer_norm"

    def change(self, template: "Template") -> "Template":
        deep = template.components.deep.model_copy(update={"batch_norm": True})
        return template.model_copy(update={"components": template.components.model_copy(update={"deep": deep})})
