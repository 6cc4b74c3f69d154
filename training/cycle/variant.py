"""A template with techniques, as the content of a YAML file; and what stands in the way of one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from smt.training.config import ConfigError, YamlDocument, load_yaml
from smt.training.cycle.jobs import canonical
from smt.training.techniques.technique import Technique, TechniqueError
from smt.training.template import Template, load_template, template_of


@dataclass(frozen=True)
class Variant:
    """The incumbent template with some techniques added to its own.

    Attributes:
        path: the incumbent's YAML.
        data: its content, as canonical JSON.
        added: techniques, in order.
    """

    path: Path
    data: str
    added: tuple[Technique, ...] = ()

    @staticmethod
    def of(path: Path) -> "Variant":
        """The incumbent itself. Raises ConfigError."""
        load_template(path)
        return Variant(path.resolve(), canonical(load_yaml(path).data))

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(technique.label for technique in self.added)

    def __str__(self) -> str:
        return " + ".join(self.labels) or "the template as it is"

    def plus(self, *techniques: Technique) -> "Variant":
        return Variant(self.path, self.data, (*self.added, *techniques))

    @cached_property
    def content(self) -> str:
        """The variant's YAML as canonical JSON."""
        data: dict[str, Any] = json.loads(self.data)
        if self.added:
            data["techniques"] = [*data.get("techniques", []), *map(settings, self.added)]
        return canonical(data)

    def template(self) -> Template:
        """Raises ConfigError: techniques that do not go together, a requirement unmet, a cost above the budget."""
        return _template(self.path, self.content)

    def fault(self) -> str:
        """Why there is no such template; empty if there is."""
        try:
            self.template()
        except ConfigError as error:
            return "; ".join(problem.found for problem in error.problems)
        return ""


@lru_cache(maxsize=256)
def _template(path: Path, content: str) -> Template:
    return template_of(YamlDocument(path, json.loads(content), "", {}))


def settings(technique: Technique) -> dict[str, Any]:
    """A technique as a template's YAML has it: its name, and what differs from the defaults."""
    return {"name": technique.model_dump()["name"], **technique.model_dump(mode="json", exclude_defaults=True)}


def conflicts(technique: Technique, others: Sequence[Technique], base: Template) -> str:
    """Why a technique cannot join others on a template; empty if it can."""
    try:
        for each in (*others, technique):
            base = each.apply(base)
    except TechniqueError as error:
        return str(error)
    return ""
