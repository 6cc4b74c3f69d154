"""What positive rows say of a user, an app and a context: counts, co-occurrence of apps, neighbours, low-rank scores.

statistics = Statistics(positives)
features = statistics.features(rows)          # [n, len(NAMES)], for a teacher of trees

Of a row that is among the positives, its own use is in every figure; so rows to learn from are looked up in statistics
of other rows (`out_of_fold`), as a validation row is.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from examples.frappe.rows import FIELDS, ITEM, SIZES, USER, Rows

Floats = NDArray[np.float32]

RANKS = (8, 32)
# Fields whose relation to the app is counted; and those that a row's features show as they are.
_RELATED = ("country", "city", "daytime", "weekday", "homework", "cost", "weather", "isweekend")
_SHOWN = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country")
_COUNTED = {
    "country": ("country",),
    "city": ("city",),
    "user_city": ("user", "city"),
    "user_cost": ("user", "cost"),
    "user_context": ("user", "daytime", "weekday", "homework", "cost", "weather", "country", "city"),
    "use_time": ("user", "item", "daytime", "weekday"),
}
_PAIR = ("uses", "cosine", "lift", "nearest", "neighbours", *(f"rank_{rank}" for rank in RANKS))
_SINGLE = ("user_uses", "user_apps", "item_uses", "item_users", "use_share", "new_rate")
NAMES: tuple[str, ...] = (
    *_PAIR,
    *_SINGLE,
    *(f"{kind}_{field}" for field in _RELATED for kind in ("count", "share", "lift")),
    *(f"total_{name}" for name in _COUNTED),
    *_SHOWN,
)


class Statistics:
    """Of the given positive rows, and of nothing else.

    Attributes:
        uses: [users, items] float32, how often each user used each app.
        pairs: name -> [users, items] float32, scores of an app for a user:
            cosine, nearest: sum and maximum, over the apps that the user used, of their cosine with the app, by who
                used them (item-based filtering, doi 10.1145/371920.372071). An app is no neighbour of itself.
            lift: mean over those apps j of P(app | j), damped.
            neighbours: sum of the cosines of the other users who used the app with the user.
            rank_k: the app's entry in the rank-k approximation of the normalised use matrix (truncated SVD).
    """

    def __init__(self, positives: Rows) -> None:
        self.positives = positives
        shape = (SIZES["user"], SIZES["item"])
        flat = np.bincount(positives[:, USER] * shape[1] + positives[:, ITEM], minlength=shape[0] * shape[1])
        self.uses: Floats = flat.reshape(shape).astype(np.float32)
        used = csr_array((self.uses > 0).astype(np.float32))
        self.user_uses, self.item_uses = self.uses.sum(axis=1), self.uses.sum(axis=0)
        self.user_apps, self.item_users = used.sum(axis=1), used.sum(axis=0)
        self.pairs = self._pair_scores(used)

    def _pair_scores(self, used: csr_array) -> dict[str, Floats]:
        """used: [users, items], 1 where the user used the app."""
        together: Floats = (used.T @ used).toarray()  # [items, items]: how many users have both
        np.fill_diagonal(together, 0)
        root_items, root_users = np.sqrt(self.item_users + 1), np.sqrt(self.user_apps + 1)
        given = together / (self.item_users + 5)[:, None]
        cosine = together / root_items[:, None] / root_items
        alike: Floats = (used @ used.T).toarray()  # [users, users]: how many apps both have
        np.fill_diagonal(alike, 0)
        alike /= root_users[:, None] * root_users
        apps = np.split(used.indices, used.indptr[1:-1])  # of each user
        return {
            "uses": self.uses,
            "cosine": used @ cosine,
            "lift": used @ given / np.maximum(self.user_apps, 1)[:, None],
            "nearest": np.stack([cosine[mine].max(axis=0, initial=0) for mine in apps]),
            "neighbours": alike @ used,
            **_low_rank(self.uses > 0, root_users, root_items),
        }

    def count(self, fields: Sequence[str], rows: Rows) -> Floats:
        """[n]: how many positives have the same values of `fields` as each row."""
        known, counts = np.unique(_key(fields, self.positives), return_counts=True)
        key = _key(fields, rows)
        at = np.minimum(np.searchsorted(known, key), len(known) - 1)
        return np.where(known[at] == key, counts[at], 0).astype(np.float32)

    def features(self, rows: Rows) -> Floats:
        """[n, len(NAMES)] float32, in the order of NAMES."""
        user, item = rows[:, USER], rows[:, ITEM]
        columns: dict[str, NDArray[np.floating | np.integer]] = {
            name: score[user, item] for name, score in self.pairs.items()
        }
        user_uses, user_apps = self.user_uses[user], self.user_apps[user]
        item_uses, item_users = self.item_uses[item], self.item_users[item]
        columns |= {"user_uses": user_uses, "user_apps": user_apps, "item_uses": item_uses, "item_users": item_users}
        columns["use_share"] = columns["uses"] / (user_uses + 1)
        columns["new_rate"] = (user_apps + 1) / (user_uses + 2)
        for field in _RELATED:
            both, alone = self.count(("item", field), rows), self.count((field,), rows)
            expected = (item_uses + 5) * (alone + 1) / len(self.positives)
            columns[f"count_{field}"] = both
            columns[f"share_{field}"] = both / (alone + 1)
            columns[f"lift_{field}"] = np.log((both + 1) / (expected + 1))
        columns |= {f"total_{name}": self.count(fields, rows) for name, fields in _COUNTED.items()}
        columns |= {name: rows[:, FIELDS.index(name)] for name in _SHOWN}
        return np.stack([columns[name] for name in NAMES], axis=1, dtype=np.float32, casting="unsafe")


def out_of_fold(
    positives: Rows, negatives: Rows, folds: int, rng: np.random.Generator
) -> Iterator[tuple[Floats, Floats]]:
    """Splits both at random into `folds` parts. Yields, for each, the features of the part's positives and of its
    negatives, by the statistics of the positives outside of the part."""
    part, negative_part = rng.integers(0, folds, len(positives)), rng.integers(0, folds, len(negatives))
    for fold in range(folds):
        statistics = Statistics(positives[part != fold])
        yield statistics.features(positives[part == fold]), statistics.features(negatives[negative_part == fold])


def _low_rank(used: NDArray[np.bool_], root_users: Floats, root_items: Floats) -> dict[str, Floats]:
    """rank_k: [users, items], the closest matrix of rank k to the uses, normalised by both roots."""
    normalised = used / root_users[:, None] / root_items
    # The users' singular vectors are eigenvectors of a matrix much smaller than the uses; eigh sorts upwards.
    vectors = np.linalg.eigh(normalised @ normalised.T).eigenvectors
    return {f"rank_{k}": (vectors[:, -k:] @ (vectors[:, -k:].T @ normalised)).astype(np.float32) for k in RANKS}


def _key(fields: Sequence[str], rows: Rows) -> NDArray[np.int64]:
    """[n]: one number for the values of `fields`."""
    key = np.zeros(len(rows), dtype=np.int64)
    for name in fields:
        key = key * SIZES[name] + rows[:, FIELDS.index(name)]
    return key
