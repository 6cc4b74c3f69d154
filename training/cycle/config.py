"""cycle.yaml: what a development cycle is to try, on what, and how much it may spend.

cycle: spring
template: template.yaml
scenarios: [scenarios/*.yaml]
representatives: 3
candidates: [ema, {name: label_smoothing, epsilon: 0.05}, head_noise]
rungs:
  - {share: 0.25, seeds: 2, keep: 2}
  - {share: 1.0, seeds: 4}
verify: {seeds: 4}
budget: {runs: 100}
"""

import glob
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from smt.training.config import ConfigError, Problem, StrictModel, YamlDocument, load_yaml, validate
from smt.training.cycle.sources import TEACHERS, TRUNK
from smt.training.scenario import Paths, load_scenario
from smt.training.techniques.technique import Technique, by_name
from smt.training.template import AnyTechnique, Name, Template, load_template

Seeds = Annotated[int, Field(ge=2, le=1000)]
Share = Annotated[float, Field(gt=0, le=1)]


class Rung(StrictModel):
    """One round of successive halving (arXiv 1502.07943): every candidate left, then the best `keep` go on."""

    share: Share = 1.0  # of each scenario's training rows
    seeds: Seeds
    keep: Annotated[int, Field(ge=1, le=1000)] | None = None  # in the last rung, evidence decides


class Verify(StrictModel):
    """The new version against the old one, on every scenario, with seeds that no decision has seen."""

    seeds: Seeds
    share: Share = 1.0


class Budget(StrictModel):
    """A run is one full training of one scenario; one on a share of its rows, or of its epochs, is that share."""

    runs: Annotated[float, Field(gt=0, le=1e9)]


class Teachers(StrictModel):
    """Runs of each scenario with the template as it is, for `{teachers}` in candidates; see sources.py."""

    seeds: Annotated[int, Field(ge=1, le=64)]


class CapacityCheck(StrictModel):
    """Of a candidate that is served by another binary: how its speed is measured."""

    tolerance: Annotated[float, Field(ge=0, le=1)] = 0.01
    rows: Annotated[int, Field(ge=1, le=65536)] = 256
    repetitions: Annotated[int, Field(ge=10, le=100_000)] = 400


class Quick(StrictModel):
    """What `--quick` makes of it: shares are multiplied, seeds replaced, epochs and candidates limited."""

    share: Share = 0.2
    seeds: Seeds = 2
    epochs: Annotated[int, Field(ge=1)] = 2
    candidates: Annotated[int, Field(ge=1)] = 3


class CycleEntry(StrictModel):
    """cycle.yaml."""

    cycle: Name
    template: Annotated[str, Field(min_length=1)]
    scenarios: Paths
    representatives: Annotated[int, Field(ge=1, le=1000)]
    candidates: Annotated[list[AnyTechnique], BeforeValidator(by_name), Field(min_length=1)]
    rungs: Annotated[list[Rung], Field(min_length=1, max_length=10)]
    verify: Verify
    budget: Budget
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    first_seed: Annotated[int, Field(ge=0, le=10**6)] = 1
    teachers: Teachers | None = None
    trunk: Annotated[str, Field(min_length=1)] | None = None
    capacity: CapacityCheck = CapacityCheck()
    quick: Quick = Quick()


@dataclass(frozen=True)
class Cycle:
    """A checked cycle.yaml with its template. epochs: of every run; None is the recipe's."""

    entry: CycleEntry
    document: YamlDocument
    template: Template
    scenarios: dict[str, Path]
    candidates: dict[str, Technique]
    epochs: int | None = None
    trunk: Path | None = None

    @property
    def name(self) -> str:
        return self.entry.cycle

    def seeds(self, rung: int) -> list[int]:
        """Of each rung, then of the verification, then of the teachers: no two have one in common."""
        teachers = 0 if self.entry.teachers is None else self.entry.teachers.seeds
        counts = [*(rung.seeds for rung in self.entry.rungs), self.entry.verify.seeds, teachers]
        first = self.entry.first_seed + sum(counts[:rung])
        return list(range(first, first + counts[rung]))


def load_cycle(path: Path | str, quick: bool = False) -> Cycle:
    """Reads and checks a cycle.yaml, its template and its scenarios' YAML.

    Raises:
        ConfigError: every mistake of the file, or those of a template or scenario.
    """
    document = load_yaml(Path(path))
    entry = validate(document, CycleEntry)
    problems = _misplaced(entry, document)
    template = load_template(_file(document, ("template",), entry.template))
    files = [file for i, text in enumerate(entry.scenarios) for file in _files(document, i, text, problems)]
    scenarios: dict[str, Path] = {}
    for file in dict.fromkeys(files):
        name = load_scenario(file).name
        if name in scenarios:
            found = f"scenario {name!r} in {scenarios[name]} and in {file}"
            problems.append(document.problem(("scenarios",), found, "scenarios of different names"))
        scenarios[name] = file
    candidates: dict[str, Technique] = {}
    for i, technique in enumerate(entry.candidates):
        if technique.label in candidates:
            found = f"the candidate {technique.label!r} a second time"
            problems.append(document.problem(("candidates", i), found, "each technique once"))
        candidates[technique.label] = technique
        problems += _without_source(entry, document, i, technique)
    if problems:
        raise ConfigError(problems)
    trunk = _file(document, ("trunk",), entry.trunk) if entry.trunk is not None else None
    cycle = Cycle(entry, document, template, dict(sorted(scenarios.items())), candidates, trunk=trunk)
    return _quick(cycle) if quick else cycle


def _misplaced(entry: CycleEntry, document: YamlDocument) -> list[Problem]:
    problems = []
    for i, rung in enumerate(entry.rungs):
        last = i == len(entry.rungs) - 1
        if last and rung.keep is not None:
            allowed = "no keep in the last rung: what has evidence for it is taken"
            problems.append(document.problem(("rungs", i, "keep"), str(rung.keep), allowed))
        if not last and rung.keep is None:
            problems.append(document.problem(("rungs", i), "no keep", "how many candidates go on to the next rung"))
    return problems


def _without_source(entry: CycleEntry, document: YamlDocument, index: int, technique: Technique) -> list[Problem]:
    text = technique.model_dump_json()
    problems = []
    for key, name, given in (("teachers", TEACHERS, entry.teachers), ("trunk", TRUNK, entry.trunk)):
        if name in text and given is None:
            allowed = f"a key `{key}` in this file, which says what that is"
            problems.append(document.problem(("candidates", index), f"{name} without any", allowed))
    return problems


def _file(document: YamlDocument, at: tuple[str | int, ...], text: str) -> Path:
    path = document.path.parent / text
    if not path.is_file():
        raise document.fail(at, f"no such file: {path}", "the path of a YAML file, relative to this one")
    return path.resolve()


def _files(document: YamlDocument, index: int, text: str, problems: list[Problem]) -> list[Path]:
    pattern = str(document.path.parent / text)
    found = [Path(match).resolve() for match in sorted(glob.glob(pattern, recursive=True))]
    if not found:
        allowed = "scenario YAML files, relative to this one; patterns with * are allowed"
        problems.append(document.problem(("scenarios", index), f"no such file: {pattern}", allowed))
    return found


def _quick(cycle: Cycle) -> Cycle:
    entry, quick = cycle.entry, cycle.entry.quick
    last = len(entry.rungs) - 1
    rungs = [
        Rung(share=rung.share * quick.share, seeds=quick.seeds, keep=rung.keep and min(rung.keep, quick.candidates))
        for rung in entry.rungs
    ]
    verify = Verify(seeds=quick.seeds, share=entry.verify.share * quick.share)
    # One round: with so few rows, a first one on a part of them says nothing.
    changed = entry.model_copy(update={"rungs": rungs[last:], "verify": verify})
    candidates: dict[str, Any] = dict(list(cycle.candidates.items())[: quick.candidates])
    epochs = min(quick.epochs, cycle.template.recipe.epochs)
    return replace(cycle, entry=changed, candidates=candidates, epochs=epochs)
