"""Rows for a teacher to label: users and contexts of training positives, with other apps.

Nothing but training positives is known here.
"""

import numpy as np
from numpy.typing import NDArray

from examples.frappe.rows import ITEM, SIZES, USER, Rows
from examples.frappe.statistics import Statistics


def unused_apps(positives: Rows, per_row: int, rng: np.random.Generator) -> Rows:
    """[per_row · n, 10]: each positive's user and context, with apps drawn uniformly from those the user has not used.

    Raises:
        ValueError: a user has used every app.
    """
    used = np.zeros((SIZES["user"], SIZES["item"]), dtype=bool)
    used[positives[:, USER], positives[:, ITEM]] = True
    if (full := used.all(axis=1)).any():
        raise ValueError(f"found user {int(np.argmax(full))} with a use of every app; expected an unused one to draw")
    rows = np.repeat(positives, per_row, axis=0)
    todo = np.arange(len(rows))
    while len(todo):
        rows[todo, ITEM] = rng.integers(0, SIZES["item"], len(todo))
        todo = todo[used[rows[todo, USER], rows[todo, ITEM]]]
    return rows


def likely_apps(statistics: Statistics, per_row: int, rng: np.random.Generator) -> Rows:
    """[per_row · n, 10]: each positive's user and context, with unused apps drawn by how likely they are.

    In proportion to the square root of `Statistics.pairs["lift"]`: the cases between yes and no.

    A user whose apps nobody else has gets any unused app.
    """
    positives = statistics.positives
    rows = np.repeat(positives, per_row, axis=0)
    for user in np.unique(positives[:, USER]):
        # The floor keeps every unused app possible, and a user's draw defined.
        weight = np.where(statistics.uses[user] > 0, 0.0, np.sqrt(statistics.pairs["lift"][user]) + 1e-9)
        mine = rows[:, USER] == user
        rows[mine, ITEM] = _draw(weight, int(mine.sum()), rng)
    return rows


def _draw(weight: NDArray[np.float64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[count] positions, each with a probability in proportion to its weight; one of weight 0 never."""
    return rng.choice(len(weight), size=count, p=weight / weight.sum()).astype(np.int64)
