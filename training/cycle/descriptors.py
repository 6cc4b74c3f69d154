"""What scenarios are like, in numbers, and which of them represent the others.

Descriptors are read off the training split and its fitted features. They are standardised, clustered by Ward's method,
and each cluster is represented by its medoid: the scenario with the least sum of distances to the others of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, ward
from scipy.spatial.distance import cdist, pdist

from smt.training.features import CategoricalFeature
from smt.training.fit import fit
from smt.training.scenario import Scenario


@dataclass(frozen=True)
class Descriptor:
    """One scenario.

    log_rows: of the training split. label_rate_logit: mean over tasks. unlabelled: share of the labels that are
    missing. vocabulary: mean over categorical features of the log of their rows. multi_valued: share of the
    categorical features.
    """

    log_rows: float
    label_rate_logit: float
    label_rate_spread: float
    unlabelled: float
    tasks: int
    dense: int
    categorical: int
    vocabulary: float
    multi_valued: float


def describe(scenario: Scenario) -> Descriptor:
    """Reads the training split once. Raises ConfigError, DataError, see `fit`."""
    fitted = fit(scenario)
    categorical = [f for f in fitted.spec.features if isinstance(f, CategoricalFeature)]
    logits = [
        math.log((positives + 0.5) / (labelled - positives + 0.5))
        for positives, labelled in zip(fitted.positives, fitted.labelled, strict=True)
    ]
    return Descriptor(
        log_rows=math.log(fitted.rows),
        label_rate_logit=float(np.mean(logits)),
        label_rate_spread=float(np.std(logits)),
        unlabelled=1 - sum(fitted.labelled) / (fitted.rows * len(fitted.labelled)),
        tasks=len(scenario.tasks),
        dense=len(fitted.spec.features) - len(categorical),
        categorical=len(categorical),
        vocabulary=float(np.mean([math.log(f.rows) for f in categorical])),
        multi_valued=sum(f.multi_valued for f in categorical) / len(categorical),
    )


@dataclass(frozen=True)
class Clusters:
    """cluster: of each scenario, counted from 0. weights: of each representative, the size of its cluster."""

    cluster: dict[str, int]
    weights: dict[str, int]

    @property
    def representatives(self) -> list[str]:
        return list(self.weights)


def cluster(descriptors: Mapping[str, Descriptor], count: int) -> Clusters:
    """At most `count` clusters and their representatives, ordered by name; the same for the same descriptors."""
    names = sorted(descriptors)
    points = _standardised([list(asdict(descriptors[name]).values()) for name in names])
    distances = cdist(points, points)
    labels = np.zeros(len(names), dtype=int)
    if len(names) > 1:
        labels = fcluster(ward(pdist(points)), min(count, len(names)), criterion="maxclust")
    number = {label: i for i, label in enumerate(dict.fromkeys(labels.tolist()))}
    weights = {}
    for label in number:
        members = np.flatnonzero(labels == label)
        medoid = members[distances[np.ix_(members, members)].sum(axis=1).argmin()]
        weights[names[medoid]] = len(members)
    members_of = {name: number[label] for name, label in zip(names, labels.tolist(), strict=True)}
    return Clusters(members_of, dict(sorted(weights.items())))


def _standardised(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    points = np.asarray(rows, dtype=np.float64)
    deviation = points.std(axis=0)
    scaled: npt.NDArray[np.float64] = (points - points.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return scaled
