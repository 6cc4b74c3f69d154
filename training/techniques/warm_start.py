"""Start from the weights of a finished run, such as a trunk trained on all scenarios (transfer; arXiv 1411.1792).

Taken over are the dense weights of the same name and shape, except the heads', which belong to other tasks, and the
embeddings of features of the same name: of the same vocabulary or hash entirely, of another vocabulary value by value.
"""

from typing import Literal

import torch

from smt.training.features import FIRST_VALUE_ROW, CategoricalFeature
from smt.training.hooks import Hook, Run
from smt.training.model import slab_layout
from smt.training.techniques.runs import load_run, of_scenario
from smt.training.techniques.technique import Technique, technique


@technique
class WarmStart(Technique):
    """`run`: the run directory, seen from the working directory, {scenario} in it the scenario's name.

    `heads: true` takes the heads over too.
    """

    name: Literal["warm_start"] = "warm_start"
    paper = "arXiv 1411.1792"
    conflicts = frozenset({"meda", "mlet", "mixed_dims"})
    run: str
    heads: bool = False

    def hook(self) -> Hook:
        return _WarmStart(self)


class _WarmStart(Hook):
    def __init__(self, config: WarmStart) -> None:
        self.config = config

    def begin(self, run: Run) -> None:
        super().begin(run)
        source = load_run(of_scenario(self.config.run, run))
        weights = slab_layout(source.template).views(source.slab)
        parameters = dict(run.model.net.named_parameters())
        taken = [
            name
            for name, weight in weights.items()
            if name in parameters
            and parameters[name].shape == weight.shape
            and (self.config.heads or not name.startswith("heads."))
        ]
        if not taken or source.table.shape[1] != run.template.slots.dim:
            raise ValueError(
                f"{source.path}: found no weights that fit template {run.template.name!r}; warm_start needs a run of "
                f"the same dim, with layers of the same names and shapes"
            )
        with torch.no_grad():
            for name in taken:
                parameters[name].copy_(weights[name])
            before = {feature.name: feature for feature in source.spec.categorical}
            for feature, shards in run.model.table_shards():
                if feature.name not in before:
                    continue
                rows = _rows(before[feature.name], feature)
                for shard in shards:
                    height, width = shard.weights.shape
                    part = rows[shard.row : shard.row + height]
                    known = part >= 0
                    values = source.table[part[known], shard.column : shard.column + width]
                    shard.weights.detach()[known.to(shard.weights.device)] = values.to(shard.weights.device)


def _rows(before: CategoricalFeature, feature: CategoricalFeature) -> torch.Tensor:
    """[feature.rows] int64: the row of the source's table for each row of the feature's, -1 where there is none."""
    rows = torch.full((feature.rows,), -1)
    if before.encode == feature.encode:
        rows[:] = torch.arange(feature.rows) + before.first_row
        return rows
    if before.encode.op != "vocabulary" or feature.encode.op != "vocabulary":
        return rows
    rows[:FIRST_VALUE_ROW] = torch.arange(FIRST_VALUE_ROW) + before.first_row
    known = {value: index for index, value in enumerate(before.encode.values)}
    for index, value in enumerate(feature.encode.values):
        if value in known:
            rows[FIRST_VALUE_ROW + index] = before.first_row + FIRST_VALUE_ROW + known[value]
    return rows
