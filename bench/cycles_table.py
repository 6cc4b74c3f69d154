"""The tables of development cycles, of what the evaluate.py of examples/ecosystem and examples/synthetic write."""

from typing import Any

from bench.markdown import asked, table


def _gain(row: dict[str, Any]) -> str:
    """In percent, with its interval where it has one."""
    mean, low, high = row["gain"], row["gain_low"], row["gain_high"]
    return f"{mean:+.2%}" if low is None else f"{mean:+.2%} [{low:+.2%}, {high:+.2%}]"


def _ne(row: dict[str, Any], side: str) -> str:
    """Mean and half of the interval."""
    mean, high = row[f"ne_{side}"], row[f"ne_{side}_high"]
    return f"{mean:.4f}" if high is None else f"{mean:.4f} ± {high - mean:.4f}"


def _distance(row: dict[str, Any]) -> str:
    """With its interval."""
    return f"{row['distance']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"


def _rounds(content: dict[str, Any]) -> list[str]:
    """Each cycle."""
    rows = [
        [each["cycle"], ", ".join(each["candidates"]), ", ".join(each["adopted"]) or "nothing", _gain(each),
         each["runs"], each["adoptions"]]
        for each in content["cycles"]
    ]  # fmt: skip
    return table(["cycle", "candidates", "adopted", "gain in NE", "runs", "adoptions"], rows)


def cycles(content: dict[str, Any]) -> list[str]:
    """What was asked; each cycle; each scenario; both ways of working."""
    last = f"cycle_{len(content['cycles'])}"
    scenarios = [
        [row["scenario"], _ne(row, "before"), _ne(row, last), _ne(row, "alone"), _gain(row),
         ", ".join(row["alone_adopted"]) or "nothing"]
        for row in content["results"]
    ]  # fmt: skip
    both = content["comparison"]
    ways = [
        [way, *(both[f"{key}{figure}"] for figure in ("runs", "adoptions", "adoptions_per_run"))]
        for way, key in (("cycles", ""), ("each scenario alone", "alone_"))
    ]
    titles = ["scenario", "NE before", "NE after the cycles", "NE tuned alone", "gain over alone", "alone it took up"]
    return [
        *asked(content),
        "",
        *_rounds(content),
        "",
        *table(titles, scenarios),
        "",
        *table(["way of working", "runs", "adoptions", "adoptions per run"], ways),
    ]


def synthetic(content: dict[str, Any]) -> list[str]:
    """What was asked; each cycle; the distance after each, over all scenarios and of each."""
    means = content["mean_distance"]
    names = [each["cycle"] for each in means]
    distances = [["all", *(_distance(each) for each in means)]]
    distances += [[row["scenario"], *(row[name] for name in names)] for row in content["results"]]
    titles = ["distance to the best possible model", "before", *(f"after {name}" for name in names[1:])]
    return [*asked(content), "", *_rounds(content), "", *table(titles, distances)]
