"""A new version published for every scenario, one by one through the gate."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from smt.serving.cycle.release import publish_version
from smt.serving.registry import Registry
from smt.training.template import Template


def test_each_scenario_is_published_or_refused_with_the_reason(
    registry_folder: Path, template: Template, shop: tuple[Path, Path], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(shop[1], tmp_path / "other"))
    result = json.loads((other / "result.json").read_text())
    result["metrics"]["bought"]["ne"] *= 1.01
    (other / "result.json").write_text(json.dumps(result))
    registry, said = Registry(registry_folder), list[str]()
    found = publish_version(template, {"other": other, "shop": shop[1]}, registry, said.append)
    assert found["shop"]["version"] == registry.current("shop")
    assert found["other"]["version"] is None
    assert "task 'bought': NE" in found["other"]["refused"]
    assert said == [f"compiling {template.name} {template.version}", "publishing other", "publishing shop"]
