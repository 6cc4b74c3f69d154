"""Plots of cycles as SVG, to stand in a page of HTML."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Result = dict[str, Any]

BEFORE, AFTER, ALONE, INK = "#8a8f98", "#1769aa", "#c05621", "#22262b"
_COLUMNS = 4
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: to be searched, and in the page's font
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.edgecolor": "#b8bdc6",
    "axes.grid": True,
    "grid.color": "#e6e8ec",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


def versions(results: Sequence[Result]) -> list[str]:
    """The template before the first cycle, and after each."""
    names = [results[0]["template"]["version"]]
    for result in results:
        names.append(result["version"]["version"] if result["version"] else f"{names[-1]}\n(kept)")
    return names


def shown(side: Result) -> Result:
    """The figures of a scenario's side that are shown: on rows that no choice has seen, where it has some."""
    figures: Result = side["test"] or side
    return figures


def ne_over_cycles(results: Sequence[Result], baseline: Result | None) -> str:
    """A panel per scenario: NE of each version with its interval; a line for the scenario tuned alone."""
    names = versions(results)

    def draw(axes: Axes, scenario: str) -> None:
        sides = [results[0]["quality"][scenario]["before"], *(r["quality"][scenario]["after"] for r in results)]
        values = [shown(side)["ne"] for side in sides]
        means = [value["mean"] for value in values]
        spread = [0.0 if value["low"] is None else value["high"] - value["mean"] for value in values]
        axes.errorbar(range(len(means)), means, yerr=spread, color=AFTER, marker="o", markersize=4, capsize=3, lw=1.2)
        if baseline is not None and scenario in baseline["scenarios"]:
            alone = shown(baseline["scenarios"][scenario]["quality"]["after"])["ne"]
            axes.axhline(alone["mean"], color=ALONE, lw=1.1, ls="--", label="tuned alone")
            if alone["low"] is not None:
                axes.axhspan(alone["low"], alone["high"], color=ALONE, alpha=0.1, lw=0)
            axes.legend(loc="upper right", fontsize=7.5)
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.15, y=0.15)

    return _panels("ne", list(results[0]["scenarios"]), draw)


def adoption(result: Result) -> str:
    """Technique × scenario: gains as colours and numbers; a filled dot where it was adopted."""
    scenarios, techniques = list(result["scenarios"]), list(result["candidates"])
    cells = {(cell["technique"], cell["scenario"]): cell for cell in result["adoption"]}
    gains = np.full((len(techniques), len(scenarios)), math.nan)
    for (technique, scenario), cell in cells.items():
        if cell["gain"] is not None:
            gains[techniques.index(technique), scenarios.index(scenario)] = 100 * cell["gain"]["mean"]
    limit = max(np.nanmax(np.abs(gains), initial=0.0), 0.1)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"adoption {result['cycle']}", "axes.grid": False}):
        figure = Figure(figsize=(2.6 + 1.15 * len(scenarios), 1.3 + 0.36 * len(techniques)), layout="constrained")
        axes = figure.add_subplot()
        palette = mpl.colormaps["RdBu"].with_extremes(bad="#f1f2f4")
        image = axes.imshow(np.ma.masked_invalid(gains), cmap=palette, vmin=-limit, vmax=limit, aspect="auto")
        for i, technique in enumerate(techniques):
            for j, scenario in enumerate(scenarios):
                cell, gain = cells[technique, scenario], gains[i, j]
                text = f"via {cell['measured_on']}" if math.isnan(gain) else f"{gain:+.2f}"
                shown = text if cell["gain"] is not None or cell["adopted"] else ""
                dark = not math.isnan(gain) and abs(gain) > 0.6 * limit
                axes.text(
                    j, i, f"{'● ' if cell['adopted'] else ''}{shown}", ha="center", va="center",
                    color="white" if dark else INK, fontsize=7 if math.isnan(gain) else 8.5,
                )  # fmt: skip
        axes.set_xticks(range(len(scenarios)), scenarios, rotation=25, ha="right")
        axes.set_yticks(range(len(techniques)), techniques)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xticks(np.arange(len(scenarios) + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(len(techniques) + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", lw=2)
        axes.tick_params(which="minor", length=0)
        figure.colorbar(image, ax=axes, label="gain in NE, %", shrink=0.9, pad=0.01)
        return _svg(figure)


def reliability(result: Result) -> str:
    """A panel per scenario and task: label rate against mean prediction, before and after."""
    quality = result["quality"]
    panels = {f"{name} · {task}": (name, task) for name in quality for task in quality[name]["after"]["reliability"]}

    def draw(axes: Axes, panel: str) -> None:
        name, task = panels[panel]
        top = 0.0
        for side, color in (("before", BEFORE), ("after", AFTER)):
            bins = np.asarray(quality[name][side]["reliability"][task])
            axes.plot(bins[:, 0], bins[:, 1], color=color, marker="o", markersize=3, lw=1, label=side)
            top = max(top, float(bins[:, :2].max()))
        axes.plot([0, top], [0, top], color=INK, lw=0.7, ls=":")
        axes.set_xlabel("mean prediction")
        axes.set_ylabel("label rate")

    return _panels(f"reliability {result['cycle']}", list(panels), draw, legend=True)


def curves(result: Result) -> str:
    """A panel per scenario: mean NE on the validation split by epoch, before and after."""

    def draw(axes: Axes, scenario: str) -> None:
        for side, color in (("before", BEFORE), ("after", AFTER)):
            curve = [point for point in result["quality"][scenario][side]["curve"] if point["mean_ne"] is not None]
            epochs, values = [point["epoch"] for point in curve], [point["mean_ne"] for point in curve]
            axes.plot(epochs, values, color=color, marker="o", markersize=3, lw=1.1, label=side)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("NE")

    return _panels(f"curves {result['cycle']}", list(result["quality"]), draw, legend=True)


def _panels(salt: str, names: Sequence[str], draw: Callable[[Axes, str], None], *, legend: bool = False) -> str:
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(2.75 * columns + 0.4, 2.1 * rows + 0.2), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, name in zip(grid.flat, names, strict=False):
            draw(axes, name)
            axes.set_title(name, loc="left")
        if legend:
            grid.flat[0].legend(loc="best", fontsize=7.5)
        for axes in list(grid.flat)[len(names) :]:
            axes.set_axis_off()
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The <svg> element, as wide as the page allows."""
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    text = content.getvalue()
    return text[text.index("<svg") :]
