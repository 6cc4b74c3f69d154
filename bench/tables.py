"""Writes the README's tables from committed result files.

python -m bench.tables README.md          # rewrite what stands between the markers
python -m bench.tables README.md --check  # exit 1 if the file is not up to date
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from textwrap import shorten
from typing import Any

from bench.cycles_table import cycles, synthetic
from bench.markdown import asked, picked, source, table

RESULTS = Path(__file__).resolve().parent / "results"
MARKER = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def demo(content: dict[str, Any]) -> list[str]:
    """Quality per scenario and task, then what the run was asked to show."""
    figures = ["scenario", "task", "rows", "ne_train_side", "ne_served", "auc_served", "calibration"]
    titles = ["scenario", "task", "rows", "NE in training", "NE served", "AUC served", "calibration"]
    return [
        *asked(content),
        "",
        *table(titles, [[row[key] for key in figures] for row in content["results"]]),
    ]


def transform(content: dict[str, Any]) -> list[str]:
    """Ours and the peer, per kind of column and number of rows."""
    figures = ["shape", "rows", "median_ms", "peer", "peer_median_ms", "ratio_best_peer"]
    titles = ["shape", "rows", "ours, ms", "peer", "peer, ms", "peer / ours"]
    return table(titles, [[row[key] for key in figures] for row in content["results"]])


def kernels(content: dict[str, Any]) -> list[str]:
    """What was asked; ours against the best peer at each point; then the median of every engine."""
    rows = [row for row in content["results"] if row["shape"] in content["shapes"]]
    ours = [row for row in rows if "best_peer" in row]
    figures = ["shape", "rows", "threads", "backend", "median_ms", "gflops", "peak_fraction", "max_abs_dp"]
    titles = ["shape", "rows", "threads", "ours", "ms", "GFLOP/s", "of peak", "\\|Δp\\|", "best peer", "peer / ours"]
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    points = dict.fromkeys((row["shape"], row["rows"], row["threads"]) for row in rows)
    medians = {(row["shape"], row["rows"], row["threads"], row["backend"]): row["median_ms"] for row in rows}
    return [
        *asked(content),
        "",
        *table(titles, [[row[key] for key in [*figures, "best_peer", "ratio_best_peer"]] for row in ours]),
        "",
        "Medians in ms:",
        "",
        *table(
            ["shape", "rows", "threads", *backends],
            [[*point, *(medians.get((*point, backend)) for backend in backends)] for point in points],
        ),
    ]


def kernels_summary(content: dict[str, Any]) -> list[str]:
    """Ours in bf16 and int8 on one thread against the best peer, of all and of those that compute in floats."""
    rows = [row for row in content["results"] if "best_peer" in row and row["threads"] == 1]
    int8 = {(row["shape"], row["rows"]): row for row in rows if row["backend"] == "fused int8"}
    titles = ["shape", "rows", "bf16, ms", "of peak", "best float peer / bf16", "best peer", "best peer / bf16"]
    titles += ["int8, ms", "best peer / int8"]
    cells = []
    for row in rows:
        if row["backend"] == "fused bf16":
            other = int8[row["shape"], row["rows"]]
            cells.append(
                [row["shape"], row["rows"], row["median_ms"], row["peak_fraction"], row["ratio_best_float_peer"],
                 row["best_peer"], row["ratio_best_peer"], other["median_ms"], other["ratio_best_peer"]]
            )  # fmt: skip
    return table(titles, cells)


_LOAD = {
    "rows": "rows", "backend": "server", "rows_per_second": "rows/s", "calls_per_second": "calls/s",
    "median_ms": "p50, ms", "p99_ms": "p99, ms",
}  # fmt: skip


def serving(content: dict[str, Any]) -> list[str]:
    """What was asked; every point that took turns; then overload."""
    rows = content["results"]
    points = sorted((row for row in rows if row["shape"] == "R1"), key=lambda row: (-row["rows"], row["callers"] or 0))
    beyond = {"shape": "load", "offered_per_second": "calls/s offered", "rows_per_second": "goodput, rows/s"}
    beyond |= {"peak_rows_per_second": "peak, rows/s", "p99_ms": "p99 of OK, ms"}
    beyond |= {"rejected_p99_ms": "p99 of rejected, ms", "server_cpu_seconds": "server CPU, s"}
    return [
        *asked(content),
        "",
        *picked({"callers": "clients", **_LOAD}, points),
        "",
        *picked(beyond, [row for row in rows if row["shape"] != "R1"]),
    ]


def scenarios(content: dict[str, Any]) -> list[str]:
    """What was asked; ours by number of scenarios; ours and the peers in-process; memory."""
    rows = content["results"]
    ours = {"scenarios": "scenarios", "shape": "traffic", **_LOAD, "ratio_one_scenario": "of one scenario"}
    ours |= {"ratio_limit": "of the limit", "best_peer": "best engine", "ratio_best_peer": "ours / engine"}
    served = [row for row in rows if row["backend"] == "smt"]
    alone = {"scenarios": "scenarios", "shape": "traffic", **_LOAD, "ratio_best_peer": "ours / best engine"}
    del alone["p99_ms"]  # of servers
    memory = [[row["scenarios"], row["start_seconds"], row["rss_bytes"] / 2**20] for row in content["servers"]]
    engines = [[row["backend"], row["scenarios"], row["bytes_per_scenario"] / 2**20] for row in content["engines"]]
    return [
        *asked(content),
        "",
        *picked(ours, served),
        "",
        *picked(alone, [row for row in rows if row not in served]),
        "",
        *table(["scenarios", "start-up, s", "memory of the server, MiB"], memory),
        "",
        *table(["in-process", "scenarios", "MiB per scenario"], engines),
    ]


def isolation(content: dict[str, Any]) -> list[str]:
    """What was asked; every round."""
    figures = {"shape": "who", "rows_per_second": "rows/s", "median_ms": "p50, ms", "p99_ms": "p99, ms"}
    return [
        *asked(content),
        "",
        *picked(figures | {"generator_lag_p99_ms": "sent late, p99, ms"}, content["results"]),
    ]


def _of_each_kind(phases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the phases of bench.hotswap's swaps, whose rounds have one of each kind: the medians, and the sums."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for phase in phases:
        kinds.setdefault(phase["shape"], []).append(phase)
    steady = kinds["R1, steady"]
    summed = ("calls", "failed", "wrong", "swaps", "published")
    rows = []
    for kind, found in sorted(kinds.items()):
        row: dict[str, Any] = {"shape": kind, "count": len(found)}
        row |= {name: median(phase[name] for phase in found) for name in ("median_ms", "p99_ms", "p999_ms")}
        row["over"] = median(one["p99_ms"] / other["p99_ms"] for one, other in zip(found, steady, strict=True))
        row |= {name: sum(phase[name] for phase in found) for name in summed}
        rows.append({**row, "rss_mib": max(phase["rss_mib"] for phase in found)})
    return rows


def hotswap(content: dict[str, Any]) -> list[str]:
    """What was asked; then each part's rows, of those parts that the file has."""
    load = {"median_ms": "p50, ms", "p99_ms": "p99, ms", "p999_ms": "p99.9, ms"}
    swaps = {"shape": "phases", "count": "of them", **load, "over": "p99 over that of its round's steady phase, median"}
    swaps |= {"calls": "calls", "failed": "failed", "wrong": "wrong", "swaps": "swaps", "published": "of them new"}
    swaps |= {"rss_mib": "server's memory at most, MiB"}
    fresh = {"shape": "publication", "publications": "of them", "written_mib": "written, MiB"}
    fresh |= {"publish_median_ms": "publishing, median ms", "response_median_ms": "then to the answer, median ms"}
    fresh |= {"response_p99_ms": "p99", "both_p99_ms": "both, p99 ms", "grown_mib": "growth of memory at most, MiB"}
    fresh |= {"disk_median_ms": "the bytes to the disk by themselves, median ms", "disk_p99_ms": "that, p99 ms"}
    crashes = {"publishers_killed": "publishers killed", "servers_killed": "servers killed", "published": "published"}
    peers = {"backend": "server", "capacity_rows_per_second": "capacity, rows/s", "steady_p99_ms": "p99 before, ms"}
    peers |= {"p99_ms": "p99 during swaps, ms", "p999_ms": "p99.9, ms", "failed": "failed calls", "swaps": "swaps"}
    peers |= {"first_answer_ms": "to the first answer, ms", "resident_mib": "memory, MiB", "grown_mib": "growth, MiB"}
    lines = asked(content)
    for part, titles in (("swaps", swaps), ("freshness", fresh), ("crashes", crashes), ("peers", peers)):
        rows = [row for row in content["results"] if row["part"] == part]
        lines += ["", *picked(titles, _of_each_kind(rows) if part == "swaps" else rows)] if rows else []
    return lines


def faults(content: dict[str, Any]) -> list[str]:
    """What was asked; every kind of fault, and the beginning of one of the reasons with which it was refused."""
    titles = ["fault", "tried", "refused", "no fault, and taken", "such as"]
    rows = [
        [*(row[key] for key in ("case", "tried", "refused", "taken")), shorten(row["reason"], 120, placeholder=" …")]
        for row in content["results"]
    ]
    return [*asked(content), "", *table(titles, rows)]


def budget(content: dict[str, Any]) -> list[str]:
    """Microseconds of CPU time per request, by part of the server."""
    parts = {key: key.removesuffix(" us") for key in content["results"][0] if key.endswith(" us")}
    return picked({"rows": "rows", "callers": "clients", "cpu_us": "CPU, us", **parts}, content["results"])


def _spread(content: dict[str, Any], name: str) -> str:
    """Mean and standard deviation over the seeds of a figure."""
    return f"{content['mean'][name]:.4f} ± {content['deviation'][name]:.4f}"


def quality_frappe(content: dict[str, Any]) -> list[str]:
    """What was asked; the mean over the seeds of each split; every seed."""
    named = {"valid_auc": "valid AUC", "valid_logloss": "valid logloss"}
    named |= {"test_auc": "test AUC", "test_logloss": "test logloss"}
    mean = ["mean ± sd", "", *(_spread(content, name) for name in named)]
    seeds = [[row[key] for key in ("seed", "epoch", *named)] for row in content["results"]]
    return [
        *asked(content),
        "",
        *table(["seed", "best epoch", *named.values()], [*seeds, mean]),
        "",
        f"{len(seeds)} seeds; {content['statement']}.",
    ]


def quality_movielens(content: dict[str, Any]) -> list[str]:
    """What was asked; the three scenarios and the shared model, mean over the seeds."""
    rows = [
        [
            name,
            *(_spread(content, f"{who}{name}_{figure}") for figure in ("auc", "logloss") for who in ("", "control_")),
        ]
        for name in content["teacher"]["valid"]
    ]
    titles = ["rows of", "AUC", "AUC, shared MLP", "logloss", "logloss, shared MLP"]
    return [
        *asked(content),
        "",
        *table(titles, rows),
        "",
        f"Mean ± sd of {len(content['results'])} seeds; {content['statement']}.",
    ]


def quality_census(content: dict[str, Any]) -> list[str]:
    """What was asked; ours and the teacher itself."""
    rows = [
        [f"{task}, {figure.upper()}", _spread(content, f"{task}_{figure}"), teacher[figure]]
        for task, teacher in content["teacher"]["valid"].items()
        for figure in ("auc", "ne")
    ]
    return [
        *asked(content),
        "",
        *table(["on valid", "the template", "its teacher, not served"], rows),
        "",
        f"Mean ± sd of {len(content['results'])} seeds; {content['statement']}.",
    ]


def training(content: dict[str, Any]) -> list[str]:
    """What was asked; every trainer."""
    titles = {"shape": "model", "backend": "trainer", "loader_processes": "loader processes", "epochs": "epochs"}
    titles |= {"rows_per_second": "rows/s", "lowest": "lowest", "highest": "highest", "ratio": "smt / trainer"}
    titles |= {
        "limit_rows_per_second": "limit, rows/s",
        "limit_gflops": "GFLOP/s at it",
        "share_of_limit": "of the limit",
    }
    return [*asked(content), "", *picked(titles, content["results"])]


# Marker: result file and how it is shown.
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], list[str]]]] = {
    "budget": ("budget", budget),
    "cycles": ("cycles", cycles),
    "demo": ("demo", demo),
    "faults": ("faults", faults),
    "hotswap": ("hotswap", hotswap),
    "isolation": ("isolation", isolation),
    "kernels": ("kernels", kernels),
    "kernels_avx2": ("kernels_avx2", kernels),
    "kernels_summary": ("kernels", kernels_summary),
    "quality_census": ("quality_census", quality_census),
    "quality_frappe": ("quality_frappe", quality_frappe),
    "quality_movielens": ("quality_movielens", quality_movielens),
    "quality_frappe_summary": ("quality_frappe", asked),
    "quality_movielens_summary": ("quality_movielens", asked),
    "scenarios": ("scenarios", scenarios),
    "serving": ("serving", serving),
    "serving_summary": ("serving", asked),
    "soak": ("soak", asked),
    "synthetic": ("synthetic", synthetic),
    "training": ("training", training),
    "transform": ("transform", transform),
}


def render(text: str) -> str:
    """The text with every marked table rebuilt from its result file."""

    def rebuild(match: re.Match[str]) -> str:
        name, show = TABLES[match[2]]
        content = json.loads((RESULTS / f"{name}.json").read_text())
        body = "\n".join([*show(content), "", source(content, name), ""])
        return f"{match[1]}{body}{match[3]}"

    return MARKER.sub(rebuild, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the tables are out of date")
    arguments = parser.parse_args()
    for file in arguments.files:
        before = file.read_text()
        after = render(before)
        if not arguments.check:
            file.write_text(after)
        elif before != after:
            sys.exit(f"{file}: tables are out of date; run `make tables`")


if __name__ == "__main__":
    main()
