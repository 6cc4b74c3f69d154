"""Multi-epoch learning with data augmentation (MEDA, arXiv 2305.19531): tables begin anew in every epoch.

Embeddings overfit in their second epoch (arXiv 2209.06053), the network does not. So each epoch starts with fresh
tables, which stand for other embeddings of the same values, and the network that has seen those before.
"""

from typing import Literal

from smt.training.hooks import Hook
from smt.training.techniques.technique import Technique, technique


@technique
class Meda(Technique):
    """The tables' optimizer forgets as well."""

    name: Literal["meda"] = "meda"
    paper = "arXiv 2305.19531"
    conflicts = frozenset({"ema", "swa", "adam_tables"})

    def hook(self) -> Hook:
        return _Meda()


class _Meda(Hook):
    def epoch(self, number: int) -> None:
        if number > 1:
            self.run.model.renew_tables(number)
