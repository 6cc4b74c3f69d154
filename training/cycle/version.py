"""The YAML of a template's next version: its text with another version, its parent, and the techniques taken up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from smt.training.checkpoint import write_atomically
from smt.training.config import load_yaml
from smt.training.cycle.sources import filled
from smt.training.cycle.variant import Variant, settings
from smt.training.template import Template, load_template


def next_version(version: str) -> str:
    """1.4.2 -> 1.5.0"""
    major, minor, _ = (int(part) for part in version.split("."))
    return f"{major}.{minor + 1}.0"


def cut_version(variant: Variant, cycle: str, path: Path, places: Mapping[str, list[str]]) -> Template:
    """Writes the next version of the variant's template and loads it. Raises ConfigError: it does not load.

    The text and the comments of its parent stay, but for the keys version, parent and techniques.

    places: paths of the runs that techniques name, see `Sources.link`.
    """
    document = load_yaml(variant.path)
    before = str(document.data["version"])
    added_settings = filled(list(map(settings, variant.added)), dict(places))
    techniques = [*document.data.get("techniques", []), *added_settings]
    text = _without(variant.path.read_text(), document.lines, document.data, ("version", "parent", "techniques"))
    added = ", ".join(variant.labels)
    head = f"# Version {next_version(before)}, cut by the cycle {cycle}: {added} added to {before}.\n"
    tail = _yaml({"version": next_version(before), "parent": before, "techniques": techniques})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (head + text.rstrip("\n") + "\n" + tail).encode())
    return load_template(path)


def _without(text: str, lines: dict[tuple[str | int, ...], int], data: dict[str, Any], keys: Sequence[str]) -> str:
    """The text without the blocks of some top-level keys."""
    rows = text.splitlines()
    starts = sorted((lines[(key,)] - 1, key) for key in data)
    kept = rows[: starts[0][0]]
    for i, (start, key) in enumerate(starts):
        end = starts[i + 1][0] if i + 1 < len(starts) else len(rows)
        if key not in keys:
            kept += rows[start:end]
    return "\n".join(kept)


def _yaml(data: dict[str, Any]) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
