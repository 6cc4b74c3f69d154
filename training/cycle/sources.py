"""Runs that candidates learn from or start at: `{teachers}` and `{trunk}` in their settings.

    teachers: {seeds: 3}
    trunk: all.yaml
    candidates:
      - {name: distill, teachers: ["{teachers}"]}
      - {name: warm_start, run: "{trunk}"}

`{teachers}` in a list is as many run directories: of the scenario itself, with the template as it is, on the share of
its rows that the candidate gets (on other rows, features are fitted to other values). `{trunk}` is one, of a scenario
that holds the rows of all. They are jobs like all others, with their weights kept.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smt.training.cycle.jobs import Job, canonical
from smt.training.cycle.store import Store
from smt.training.cycle.variant import Variant

TEACHERS, TRUNK = "{teachers}", "{trunk}"


@dataclass(frozen=True)
class Sources:
    """Which runs there are. teacher_seeds: one for each teacher; epochs: of them all, None is the recipe's."""

    store: Store
    incumbent: Variant
    teacher_seeds: tuple[int, ...] = ()
    trunk: Path | None = None
    epochs: int | None = None

    def teachers(self, scenario: Path, share: float = 1.0) -> list[Job]:
        return [self._kept(scenario, seed, share) for seed in self.teacher_seeds]

    def trunks(self) -> list[Job]:
        """The trunk, if there is one."""
        return [] if self.trunk is None else [self._kept(self.trunk, 0)]

    def _kept(self, scenario: Path, seed: int, share: float = 1.0) -> Job:
        return Job(scenario, self.incumbent.content, seed, share, self.epochs, keep=True)

    def job(self, variant: Variant, scenario: Path, seed: int, share: float, epochs: int | None) -> Job:
        """A job of a variant, with what its techniques name in its place."""
        needs: list[Job] = []
        places: dict[str, list[str]] = {}
        for name, jobs in ((TEACHERS, self.teachers(scenario, share)), (TRUNK, self.trunks())):
            if name in variant.content:
                needs += jobs
                places[name] = [str(self.store.run_dir(job)) for job in jobs]
        content = canonical(filled(json.loads(variant.content), places)) if places else variant.content
        return Job(scenario, content, seed, share, epochs, needs=tuple(needs))

    def link(self, variant: Variant, scenarios: Iterable[tuple[str, Path]], folder: Path) -> dict[str, list[str]]:
        """Links in `folder` to what a variant's techniques name, and their paths, for a template of all scenarios.

        {scenario} in a path stands for the scenario that is trained.
        """
        places: dict[str, list[str]] = {}
        if TEACHERS in variant.content:
            for name, path in scenarios:
                for i, job in enumerate(self.teachers(path)):
                    _link(folder / "teachers" / name / str(i), self.store.run_dir(job))
            count = len(self.teacher_seeds)
            places[TEACHERS] = [str(folder.resolve() / "teachers" / "{scenario}" / str(i)) for i in range(count)]
        for job in self.trunks() if TRUNK in variant.content else []:
            _link(folder / "trunk", self.store.run_dir(job))
            places[TRUNK] = [str(folder.resolve() / "trunk")]
        return places


def filled(value: Any, places: dict[str, list[str]]) -> Any:
    """The value with each name in it replaced: in a list by all paths, elsewhere by the first."""
    if isinstance(value, dict):
        return {key: filled(item, places) for key, item in value.items()}
    if isinstance(value, list):
        return [each for item in value for each in (places[item] if _named(item, places) else [filled(item, places)])]
    return places[value][0] if _named(value, places) else value


def _named(value: Any, places: dict[str, list[str]]) -> bool:
    return isinstance(value, str) and value in places


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(target)
