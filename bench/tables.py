"""Writes the README's tables from committed result files.

python -m bench.tables README.md          # rewrite what stands between the markers
python -m bench.tables README.md --check  # exit 1 if the file is not up to date
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
MARKER = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def _source(content: dict[str, Any], name: str) -> str:
    device = content["device"]
    return (
        f"`bench/results/{name}.json`: {device['cores']} cores of {device['cpu']} "
        f"({', '.join(device['isa']) or 'no vector extension'}), torch {device['torch']}, commit {content['commit'][:12]}."
    )


def _row(cells: list[Any]) -> str:
    return (
        "| "
        + " | ".join(
            f"{cell:.4f}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else str(cell)
            for cell in cells
        )
        + " |"
    )


def _table(header: list[str], rows: list[list[Any]]) -> list[str]:
    return [_row(list(header)), "|" + "---|" * len(header), *map(_row, rows)]


def demo(content: dict[str, Any]) -> list[str]:
    """Quality per scenario and task, then what the run was asked to show."""
    lines = _table(
        ["scenario", "task", "rows", "NE trained", "NE served", "AUC served", "calibration"],
        [
            [r["scenario"], r["task"], r["rows"], r["ne_train_side"], r["ne_served"], r["auc_served"], r["calibration"]]
            for r in content["results"]
        ],
    )
    lines += ["", *_table(
        ["asked", "measured", "target", "met"],
        [
            [t["what"], t["value"] if not isinstance(t["value"], float) else f"{t['value']:.3g}" if abs(t["value"]) < 0.01 else t["value"], f"{t['op']} {t['target']}", "yes" if t["met"] else "**no**"]
            for t in content["targets"]
        ],
    )]  # fmt: skip
    return lines


TABLES = {"demo": demo}


def render(text: str) -> str:
    """The text with every marked table rebuilt from its result file."""

    def rebuild(match: re.Match[str]) -> str:
        name = match[2]
        content = json.loads((RESULTS / f"{name}.json").read_text())
        body = "\n".join([*TABLES[name](content), "", _source(content, name), ""])
        return f"{match[1]}{body}{match[3]}"

    return MARKER.sub(rebuild, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the tables are out of date")
    arguments = parser.parse_args()
    before = arguments.file.read_text()
    after = render(before)
    if arguments.check:
        sys.exit(f"{arguments.file}: tables are out of date; run `make tables`" if before != after else 0)
    arguments.file.write_text(after)


if __name__ == "__main__":
    main()
