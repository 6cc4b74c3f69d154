"""Cells and tables of Markdown, of a result file's rows."""

from typing import Any


def source(content: dict[str, Any], name: str) -> str:
    device = content["device"]
    isa = ", ".join(device["isa"]) or "no vector extension"
    machine = f"{device['cores']} cores of {device['cpu']} ({isa}), torch {device['torch']}"
    load = content.get("machine", {}).get("load_average")
    busy = "" if load is None else f", load average {load[0]:.1f}"
    commit, *dirty = content["commit"].split("-")
    with_changes = ", with changes" if dirty else ""
    return f"From `bench/results/{name}.json`: {machine}{busy}, commit {commit[:12]}{with_changes}."


def cell(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "**no**"
        case int():
            return f"{value:,}"
        case float():
            if abs(value) >= 100:
                return f"{value:,.1f}"
            return f"{value:.4f}" if value == 0 or abs(value) >= 0.01 else f"{value:.1e}"
        case None:
            return "-"
        case _:
            return str(value).replace("|", "\\|")


def table(header: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [header, ["---"] * len(header), *[[cell(value) for value in row] for row in rows]]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def asked(content: dict[str, Any]) -> list[str]:
    """What the run was asked to show, and whether it did."""
    rows = [[t["what"], t["value"], f"{t['op']} {t['target']}", t["met"]] for t in content["targets"]]
    return table(["asked", "measured", "target", "met"], rows)


def picked(titles: dict[str, str], rows: list[dict[str, Any]]) -> list[str]:
    """Rows by key; `titles`: the keys to show, and what to call them."""
    return table(list(titles.values()), [[row.get(key) for key in titles] for row in rows])
