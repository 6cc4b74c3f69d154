"""Small scenarios of one template and a cycle.yaml over them."""

from __future__ import annotations

from pathlib import Path

from smt.training.cycle.config import Cycle, load_cycle
from tests.training.support import make_scenario, synthetic, write_parquet

CYCLE = """\
cycle: spring
template: template.yaml
scenarios: [scenarios/*.yaml]
representatives: 2
candidates:
  - {candidates}
rungs:
  - {{share: 0.5, seeds: 2, keep: {keep}}}
  - {{seeds: 4}}
verify: {{seeds: 4}}
budget: {{runs: {runs}}}
"""

FILTERS = {"all": None, "old": "age > 50", "young": "age <= 50", "click_only": None}


def make_cycle(
    folder: Path,
    candidates: list[str],
    *,
    keep: int = 3,
    runs: float = 200,
    train: int = 600,
    valid: int = 300,
    epochs: int = 3,
    more: str = "",
    test: bool = False,
) -> Cycle:
    """Four scenarios over the same rows, whose YAML is in `scenarios`; candidates in YAML, as `more` is.

    test: they name a test split.
    """
    shop = make_scenario(folder, template={"epochs: 3": f"epochs: {epochs}"}, train=train, valid=valid)
    text = shop.path.read_text()
    if test:
        write_parquet(folder / "test.parquet", synthetic(valid, 3))
        text = text.replace("  valid: valid.parquet", "  valid: valid.parquet\n  test: ../test.parquet")
    (folder / "scenarios").mkdir()
    for name, row_filter in FILTERS.items():
        changed = text.replace("scenario: shop", f"scenario: {name}").replace("template: ", "template: ../")
        changed = changed.replace("train: ", "train: ../").replace("valid: ", "valid: ../")
        if row_filter:
            changed = changed.replace("../valid.parquet", f"../valid.parquet\n  filter: {row_filter}")
        if name == "click_only":
            changed = changed[: changed.index("  - {name: buy")]
        (folder / "scenarios" / f"{name}.yaml").write_text(changed)
    (folder / "cycle.yaml").write_text(CYCLE.format(candidates="\n  - ".join(candidates), keep=keep, runs=runs) + more)
    return load_cycle(folder / "cycle.yaml")
