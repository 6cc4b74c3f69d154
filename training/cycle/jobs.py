"""A job: one training run of one scenario with one template and one seed, named by its content."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from smt.training.config import load_yaml
from smt.training.scenario import SPLITS, Split, load_scenario

# Raised when records of before mean something else.
FORMAT = 2

# Keys of a template that change nothing about a run of it.
_NAMES = ("template", "version", "parent", "capacity")


def canonical(value: Any) -> str:
    """The same text for equal JSON values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class Job:
    """A run to be made, or to be found in the store.

    Attributes:
        scenario: its YAML, whose own template is replaced.
        template: the content of the template's YAML, techniques included, as canonical JSON.
        share: of the training rows.
        epochs: None is the recipe's number.
        keep: keep the run directory, for publishing and as a teacher. Names and version then count as content.
        needs: jobs whose run directories the template's techniques name.
    """

    scenario: Path
    template: str
    seed: int
    share: float = 1.0
    epochs: int | None = None
    keep: bool = False
    needs: tuple["Job", ...] = field(default=())

    @cached_property
    def template_data(self) -> dict[str, Any]:
        """The template's YAML with the job's seed and epochs in its recipe."""
        data: dict[str, Any] = json.loads(self.template)
        data["recipe"] = {**data["recipe"], "seed": self.seed}
        if self.epochs is not None:
            data["recipe"]["epochs"] = self.epochs
        return data

    @cached_property
    def scenario_data(self) -> dict[str, Any]:
        """The scenario's YAML with the job's share, its template beside it, and the files of its data by full names."""
        data: dict[str, Any] = json.loads(_content(self.scenario))
        files = {split: [str(path.resolve()) for path in data_files(self.scenario, split)] for split in _splits(data)}
        data["template"] = "template.yaml"
        share = self.share * data["data"].get("share", 1.0)
        data["data"] = {**data["data"], **files, "share": share}
        return data

    @cached_property
    def name(self) -> str:
        """The scenario's."""
        return str(self.scenario_data["scenario"])

    @cached_property
    def cost(self) -> float:
        """In runs: a full training of the scenario is 1."""
        epochs = int(json.loads(self.template)["recipe"]["epochs"])
        return self.share * (self.epochs or epochs) / epochs

    @cached_property
    def key(self) -> str:
        """SHA-256 over everything that decides what comes out: also over the bytes of the data."""
        template, scenario = dict(self.template_data), dict(self.scenario_data)
        if not self.keep:
            template = {key: value for key, value in template.items() if key not in _NAMES}
        scenario.pop("description", None)
        scenario["data"] = {**scenario["data"], **data_sha256(self.scenario)}
        for need in self.needs:  # by content, wherever the store is
            template = json.loads(re.sub(rf'[^"]*/{need.key}/', f"{need.key}/", canonical(template)))
        content = {"format": FORMAT, "template": template, "scenario": scenario, "keep": self.keep}
        return hashlib.sha256(canonical(content).encode()).hexdigest()


def _splits(scenario: dict[str, Any]) -> list[Split]:
    """Those that a scenario's YAML names."""
    return [split for split in SPLITS if scenario["data"].get(split) is not None]


@lru_cache(maxsize=4096)
def _content(scenario: Path) -> str:
    return canonical(load_yaml(scenario).data)


@lru_cache(maxsize=4096)
def data_files(scenario: Path, split: Split) -> tuple[Path, ...]:
    """The files of a scenario's split. Raises ConfigError: a mistake in the scenario or its template; no file."""
    return tuple(load_scenario(scenario).files(split))


@lru_cache(maxsize=4096)
def data_sha256(scenario: Path) -> Mapping[str, list[str]]:
    """SHA-256 of the files of each split."""
    splits = _splits(json.loads(_content(scenario)))
    return {split: [_sha256(path) for path in data_files(scenario, split)] for split in splits}


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
