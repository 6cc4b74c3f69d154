"""The tables of development cycles, of the result file that examples/ecosystem/evaluate.py writes."""

from typing import Any

from bench.markdown import asked, table


def _interval(row: dict[str, Any], key: str) -> str:
    """A relative gain in percent, with its interval where it has one."""
    if row.get(key) is None:
        return "-"
    ends = [row[f"{key}_{end}"] for end in ("low", "high")]
    mean = f"{100 * row[key]:+.2f} %"
    return mean if None in ends else f"{mean} [{100 * ends[0]:+.2f}, {100 * ends[1]:+.2f}]"


def _ne(row: dict[str, Any], side: str) -> str:
    """Mean and half of the interval."""
    if row.get(f"ne_{side}") is None:
        return "-"
    mean, high = row[f"ne_{side}"], row[f"ne_{side}_high"]
    return f"{mean:.4f}" if high is None else f"{mean:.4f} ± {high - mean:.4f}"


def cycles(content: dict[str, Any]) -> list[str]:
    """What was asked; each cycle; each scenario; both ways of working."""
    rounds = [
        [each["cycle"], ", ".join(each["candidates"]), ", ".join(each["adopted"]) or "nothing", _interval(each, "gain"),
         each["runs"], each["adoptions"]]
        for each in content["cycles"]
    ]  # fmt: skip
    last = len(content["cycles"])
    scenarios = [
        [row["scenario"], _ne(row, "before"), _ne(row, f"cycle_{last}"), _ne(row, "alone"), _interval(row, "gain"),
         ", ".join(row.get("alone_adopted", [])) or "-"]
        for row in content["results"]
    ]  # fmt: skip
    lines = [
        *asked(content),
        "",
        *table(["cycle", "candidates", "adopted", "gain in NE", "runs", "adoptions"], rounds),
        "",
        *table(
            [
                "scenario",
                "NE before",
                f"NE after cycle {last}",
                "NE tuned alone",
                "gain over alone",
                "alone it took up",
            ],
            scenarios,
        ),
    ]
    if "comparison" in content:
        both = content["comparison"]
        ways = [
            ["cycles", len(content["results"]), both["runs"], both["adoptions"], both["adoptions_per_run"]],
            ["alone", both["scenarios"], both["alone_runs"], both["alone_adoptions"], both["alone_adoptions_per_run"]],
        ]
        lines += ["", *table(["way", "scenarios", "runs", "adoptions", "adoptions per run"], ways)]
    return lines
