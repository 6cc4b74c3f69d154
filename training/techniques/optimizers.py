"""Other optimizers of the dense weights and of the tables. Serving does not know how weights came about."""

from typing import TYPE_CHECKING, ClassVar, Literal

from smt.training.techniques.technique import Technique, technique

if TYPE_CHECKING:
    from smt.training.template import Template


class _Dense(Technique):
    type: ClassVar[Literal["cadam", "shampoo"]]

    def change(self, template: "Template") -> "Template":
        optimizer = template.recipe.dense_optimizer.model_copy(update={"type": self.type})
        return template.model_copy(update={"recipe": template.recipe.model_copy(update={"dense_optimizer": optimizer})})


@technique
class CAdam(_Dense):
    """Confidence-based Adam, see optimizers/cadam.py."""

    name: Literal["cadam"] = "cadam"
    paper = "arXiv 2411.19647"
    conflicts = frozenset({"shampoo"})
    type = "cadam"


@technique
class Shampoo(_Dense):
    """Preconditioning by Kronecker factors, see optimizers/shampoo.py."""

    name: Literal["shampoo"] = "shampoo"
    paper = "arXiv 1802.09568"
    conflicts = frozenset({"cadam"})
    type = "shampoo"


@technique
class AdamTables(Technique):
    """Adam on the embedding tables, rows that the batch does not read included (arXiv 1412.6980).

    Tables are then replicated in every process instead of sharded, and a step costs time for each of their rows: for
    tables of up to some millions of values.
    """

    name: Literal["adam_tables"] = "adam_tables"
    paper = "arXiv 1412.6980"
    conflicts = frozenset({"meda"})
    lr: float = 0.001
    weight_decay: float = 0.0

    def change(self, template: "Template") -> "Template":
        values = {"type": "adam", "lr": self.lr, "weight_decay": self.weight_decay}
        optimizer = template.recipe.embedding_optimizer.model_validate(values)
        changed = template.recipe.model_copy(update={"embedding_optimizer": optimizer})
        return template.model_copy(update={"recipe": changed})
