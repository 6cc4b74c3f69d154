"""Scenario: one surface and its objectives; data, features, tasks. No architecture and no recipe.

    scenario = load_scenario(Path("income_workers.yaml"))
    scenario.template, scenario.features, scenario.tasks, scenario.train_files()

See docs/ARCHITECTURE.md for the YAML; `smt new-scenario` writes a commented one.
"""

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from smt.training.config import (
    ConfigError,
    Location,
    Problem,
    StrictModel,
    YamlDocument,
    load_yaml,
    mistake,
    shown,
    validate,
)
from smt.training.entries import DEFAULT_MAX_LENGTH, FeatureDefinition, FeatureEntry, Words
from smt.training.expressions import Expression, ExpressionError
from smt.training.template import Name, Template, load_template

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
_BELONGS_TO_TEMPLATE = ("recipe", "components", "slots", "capacity")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def _expression(source: str) -> str:
    try:
        Expression.parse(source)
    except ExpressionError as error:
        raise mistake(error.found, error.allowed) from error
    return source


def _paths(value: Any) -> list[str]:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise mistake(shown(value), "the path of a parquet file, a pattern with *, or a list of them")
    return paths


ExpressionText = Annotated[str, AfterValidator(_expression)]
Paths = Annotated[
    list[str],
    BeforeValidator(_paths),
    Field(description="the path of a parquet file, a pattern with *, or a list of them"),
]


class DataEntry(StrictModel):
    train: Paths
    valid: Paths
    # Rows that no choice sees: cycles report on them what they chose by `valid`.
    test: Paths | None = None
    filter: ExpressionText | None = None
    # Of the training rows that the filter keeps, the share to train on, drawn by their place in the files.
    share: Annotated[float, Field(gt=0, le=1)] = 1.0


class TaskEntry(StrictModel):
    name: Name
    label: ExpressionText
    weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0


class ScenarioEntry(StrictModel):
    """A scenario's YAML."""

    scenario: Name
    template: Words
    description: str = ""
    data: DataEntry
    features: Annotated[list[FeatureEntry], Field(min_length=1)]
    tasks: Annotated[list[TaskEntry], Field(min_length=1)]


@dataclass(frozen=True)
class Task:
    """One objective: rows where `label` is missing have no label for it. Task i uses head i of the template."""

    name: str
    label: Expression
    weight: float


@dataclass(frozen=True)
class Scenario:
    """A checked scenario with its template. Data files are looked for only when they are read."""

    name: str
    description: str
    template: Template
    features: tuple[FeatureDefinition, ...]
    tasks: tuple[Task, ...]
    filter: Expression | None
    data: DataEntry
    document: YamlDocument

    @property
    def path(self) -> Path:
        """The YAML file it was loaded from."""
        return self.document.path

    @property
    def sha256(self) -> str:
        """Of the YAML file's bytes."""
        return self.document.sha256

    @property
    def readers(self) -> list[FeatureDefinition]:
        """Each use of a raw column: the features, and their sequences as if they were features."""
        return [reader for feature in self.features for reader in feature.readers]

    @property
    def inputs(self) -> list[str]:
        """Distinct raw columns of the features, in order of first use."""
        return list(dict.fromkeys(reader.input for reader in self.readers))

    def files(self, split: Split) -> list[Path]:
        """The parquet files of a split, sorted within each pattern, each once; of `test` none where it is no key.

        Raises:
            ConfigError: a path that does not exist, a pattern that matches nothing, an unset variable.
        """
        found: list[Path] = []
        problems: list[Problem] = []
        for index, text in enumerate(getattr(self.data, split) or []):
            at: Location = ("data", split, index)
            try:
                path = self._expand(text, at)
            except ConfigError as error:
                problems += error.problems
                continue
            pattern = str(path)
            matches = (
                [path] if path.is_file() else [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]
            )
            matches = [match for match in matches if match.is_file()]
            if not matches:
                what = "a pattern without a matching file" if any(c in pattern for c in "*?[") else "no such file"
                allowed = f"parquet files, relative to {self.path.parent} (${{NAME}} is an environment variable)"
                problems.append(self.document.problem(at, f"{what}: {pattern}", allowed))
            found += [match for match in matches if match not in found]
        if problems:
            raise ConfigError(problems)
        return found

    def _expand(self, text: str, at: Location) -> Path:
        def value(match: re.Match[str]) -> str:
            name, default = match.groups()
            if name not in os.environ and default is None:
                found = f"the unset environment variable {name} in {text!r}"
                raise self.document.fail(at, found, f"a variable that is set, or ${{{name}:-a default}}")
            return os.environ.get(name) or default or ""

        return Path(os.path.normpath(self.path.parent / _VARIABLE.sub(value, text)))


def load_scenario(path: Path | str) -> Scenario:
    """Reads and checks a scenario and its template.

    Raises:
        ConfigError: every mistake in the file, or in the template's.
    """
    document = load_yaml(Path(path))
    _refuse_architecture(document)
    problems: list[Problem] = []
    template = None
    try:
        template = _template_of(document)
    except ConfigError as error:
        problems += error.problems
    try:
        entry = validate(document, ScenarioEntry)
    except ConfigError as error:
        raise ConfigError(sorted([*error.problems, *problems], key=lambda problem: problem.line)) from error
    if template is None:
        raise ConfigError(problems)
    features = _define(entry, template, document, problems)
    tasks = tuple(Task(task.name, Expression.parse(task.label), task.weight) for task in entry.tasks)
    _check_tasks(tasks, template, features, document, problems)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line))
    row_filter = Expression.parse(entry.data.filter) if entry.data.filter is not None else None
    return Scenario(entry.scenario, entry.description, template, features, tasks, row_filter, entry.data, document)


def _refuse_architecture(document: YamlDocument) -> None:
    keys = [key for key in _BELONGS_TO_TEMPLATE if key in document.data]
    for key in keys:
        allowed = "data, features and tasks: architecture and recipe belong to the template"
        document.problems.append(document.problem((key,), f"{key!r} in a scenario", allowed))
        del document.data[key]


def _template_of(document: YamlDocument) -> Template | None:
    text = document.data.get("template")
    if not isinstance(text, str) or not text:
        return None  # the schema reports it
    path = document.path.parent / text
    if not path.is_file():
        raise document.fail(("template",), f"no such file: {path}", "the path of a template, relative to this file")
    return load_template(path)


def _define(
    entry: ScenarioEntry, template: Template, document: YamlDocument, problems: list[Problem]
) -> tuple[FeatureDefinition, ...]:
    """One definition per input, with its slot: given ones first, the others take the free ones in order."""
    capacity = {"dense": template.slots.dense, "categorical": template.slots.categorical}
    taken: dict[str, dict[int, str]] = {"dense": {}, "categorical": {}}
    counts = {"dense": 0, "categorical": 0}
    names: dict[str, int] = {}
    types: dict[str, tuple[str, str]] = {}
    for index, item in enumerate(entry.features):
        kind = "dense" if item.encode is None else "categorical"
        counts[kind] += len(item.inputs)
        at: Location = ("features", index)
        for source in item.inputs:
            name = item.name.replace("{input}", source)
            if name in names:
                allowed = 'features with different names; set `name`, as in name: "{input}_bucket"'
                problems.append(document.problem(at, f"the feature {name!r} a second time", allowed))
            names[name] = index
        for source in [*item.inputs, *([item.sequence.input] if item.sequence else [])]:
            name = item.name.replace("{input}", item.inputs[0])
            known = types.setdefault(source, (item.type, name))
            if (known[0] == "string") != (item.type == "string"):
                found = f"type {item.type} for the input {source!r}, which feature {known[1]!r} reads as {known[0]}"
                problems.append(document.problem((*at, "type"), found, "one type for an input"))
        if item.slot is not None:
            name = item.name.replace("{input}", item.inputs[0])
            if item.slot >= capacity[kind]:
                allowed = f"0 to {capacity[kind] - 1}: the template has {capacity[kind]} {kind} slots"
                problems.append(document.problem((*at, "slot"), str(item.slot), allowed))
            elif item.slot in taken[kind]:
                found = f"{item.slot}, which feature {taken[kind][item.slot]!r} has"
                problems.append(document.problem((*at, "slot"), found, "one feature per slot"))
            else:
                taken[kind][item.slot] = name
        if item.sequence is not None:
            _take_sequence(item, index, capacity[kind], taken[kind], document, problems)
            counts[kind] += item.sequence.length
    for kind, count in counts.items():
        if count > capacity[kind]:
            allowed = f"at most {capacity[kind]}, the {kind} slots of template {template.name}"
            problems.append(document.problem(("features",), f"{count} {kind} features", allowed))
    if not counts["categorical"]:
        allowed = "at least one; `encode: {bucketise: {quantiles: 20}}` makes a category of a number"
        problems.append(document.problem(("features",), "no categorical feature", allowed))
    if problems:
        return ()
    free = {kind: iter([slot for slot in range(capacity[kind]) if slot not in taken[kind]]) for kind in capacity}
    return tuple(
        FeatureDefinition(
            name=item.name.replace("{input}", source),
            input=source,
            type=item.type,
            slot=item.slot if item.slot is not None else next(free["dense" if item.encode is None else "categorical"]),
            required=item.required,
            default=item.default,
            steps=tuple(item.dense) if item.dense is not None else None,
            encode=item.encode,
            multi_valued=item.multi_valued,
            max_length=(item.max_length or DEFAULT_MAX_LENGTH) if item.multi_valued else 1,
            entry=index,
            sequence=item.sequence,
        )
        for index, item in enumerate(entry.features)
        for source in item.inputs
    )


def _take_sequence(
    item: FeatureEntry,
    index: int,
    capacity: int,
    taken: dict[int, str],
    document: YamlDocument,
    problems: list[Problem],
) -> None:
    """Notes a sequence's slots as taken, and what speaks against them."""
    assert item.sequence is not None
    first, length = item.sequence.slot, item.sequence.length
    name = item.name.replace("{input}", item.inputs[0])
    at: Location = ("features", index, "sequence", "slot")
    if first + length > capacity:
        allowed = f"at most {capacity - length}: {length} of the template's {capacity} categorical slots"
        problems.append(document.problem(at, str(first), allowed))
    for slot in range(first, min(first + length, capacity)):
        if slot in taken:
            found = f"{first}, from where slot {slot} is taken, which feature {taken[slot]!r} has"
            problems.append(document.problem(at, found, "one feature per slot"))
            break
        taken[slot] = name


def _check_tasks(
    tasks: tuple[Task, ...],
    template: Template,
    features: tuple[FeatureDefinition, ...],
    document: YamlDocument,
    problems: list[Problem],
) -> None:
    if len(tasks) > template.tasks:
        allowed = f"at most {template.tasks}, the heads of template {template.name}"
        problems.append(document.problem(("tasks",), f"{len(tasks)} tasks", allowed))
    seen: set[str] = set()
    for index, task in enumerate(tasks):
        at: Location = ("tasks", index)
        if task.name in seen:
            problems.append(document.problem((*at, "name"), f"the task {task.name!r} a second time", "different names"))
        seen.add(task.name)
        if not task.label.columns:
            problems.append(
                document.problem((*at, "label"), f"no column in {task.label.source!r}", "a label of the data")
            )
        for feature in [reader for each in features for reader in each.readers]:
            if feature.input in task.label.columns:
                found = f"a label leak: {feature.input!r} is in the label of task {task.name!r} and an input of feature"
                allowed = "inputs that no label is made of"
                where: Location = ("features", feature.entry, "inputs")
                problems.append(document.problem(where, f"{found} {feature.name!r}", allowed))
