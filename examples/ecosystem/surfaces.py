"""The surfaces that the scenarios of this folder are about: which rows of which data set each one sees."""

from dataclasses import dataclass
from pathlib import Path

from smt.training.expressions import Expression
from smt.training.scenario import Scenario, load_scenario

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Surface:
    """Rows of one data set, for the scenario `<name>.yaml`.

    source: a function of sources.py. rows: a condition on its columns. unit: where there are too many rows, whole
    values of this column are left out, such as users; None: rows.
    """

    name: str
    source: str
    rows: Expression
    unit: str | None = None


def _surface(name: str, source: str, rows: str) -> Surface:
    # Of ratings spread over all users, a part says next to nothing about anyone.
    return Surface(name, source, Expression.parse(rows), "user_id" if source == "movielens" else None)


_UNEMPLOYED = "['NIU', 'Never worked', 'Without pay']"
# Of Frappe_x1: 5053 is the weekend and 5054 a workday; 5039, 5040 and 5044 are morning, afternoon and noon, and 5041,
# 5042, 5043 and 5045 evening, sunset, night and sunrise.
_DAY = "[5039, 5040, 5044]"

SURFACES = [
    _surface("census_private", "census", "class_of_worker == 'Private'"),
    _surface("census_public", "census", f"class_of_worker != 'Private' and class_of_worker not in {_UNEMPLOYED}"),
    _surface("census_unemployed", "census", f"class_of_worker in {_UNEMPLOYED} and age >= 18"),
    _surface("census_schooling", "census", f"class_of_worker not in {_UNEMPLOYED}"),
    _surface("movies_young", "movielens", "age < 25"),
    _surface("movies_adult", "movielens", "age == 25"),
    _surface("movies_older", "movielens", "age > 25"),
    _surface("movies_women", "movielens", "gender == 'F'"),
    _surface("movies_drama", "movielens", "is_drama"),
    _surface("apps_workday", "frappe", f"isweekend == 5054 and daytime in {_DAY}"),
    _surface("apps_workday_evening", "frappe", f"isweekend == 5054 and daytime not in {_DAY}"),
    _surface("apps_weekend", "frappe", f"isweekend == 5053 and daytime in {_DAY}"),
    _surface("apps_weekend_evening", "frappe", f"isweekend == 5053 and daytime not in {_DAY}"),
]


def scenarios() -> list[Scenario]:
    """All scenarios of the ecosystem, in the order of SURFACES.

    Raises:
        ConfigError: a mistake in a YAML file.
    """
    return [load_scenario(FOLDER / f"{surface.name}.yaml") for surface in SURFACES]
