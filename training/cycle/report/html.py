"""Pieces of the page."""

from collections.abc import Sequence
from html import escape
from typing import Any

Cell = str | int | float


def section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table; cells that begin like a number are aligned to the right."""
    sides = [_side(cell) for cell in rows[0]] if rows else [""] * len(titles)
    head = "".join(f"<th{side}>{escape(title)}</th>" for title, side in zip(titles, sides, strict=True))
    lines = []
    for row in rows:
        cells = [f"<td{_side(cell)}>{escape(str(cell))}</td>" for cell in row]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{chr(10).join(lines)}\n</tbody>\n</table>"


def _side(cell: Cell) -> str:
    text = str(cell).lstrip("+-")
    return ' class="n"' if text[:1].isdigit() and text.count(".") < 2 else ""


def percent(interval: dict[str, Any] | None) -> str:
    """A gain: its mean, and its interval where it has one."""
    if interval is None:
        return "-"
    mean = f"{100 * interval['mean']:+.2f} %"
    return mean if interval["low"] is None else f"{mean} [{100 * interval['low']:+.2f}, {100 * interval['high']:+.2f}]"
