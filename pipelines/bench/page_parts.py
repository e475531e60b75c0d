"""Pieces of the report: cells, charts and intervals as HTML text. Everything that was written by somebody is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from .compare import SMALLER_IS_BETTER, number
from .page_style import COLOURS
from .stats import Difference

__all__ = ["Line", "chart", "colour", "dot", "escape", "interval_bar", "interval_cell", "plus_minus", "src", "table"]

escape = html.escape


def src(path: str) -> str:
    """A relative path as an address."""
    return escape(quote(path))


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def dot(index: int, text: str) -> str:
    """A method's colour before its name."""
    return f'<span class="dot" style="background:{colour(index)}"></span>{escape(text)}'


def plus_minus(stats: dict[str, float | None] | None, digits: int, best: bool = False) -> str:
    """A table cell: mean +- standard deviation over seeds."""
    if stats is None or stats["mean"] is None:
        return "<td>-</td>"
    spread = "" if stats["std"] is None else f' <span class="pm">&plusmn; {stats["std"]:.{digits}f}</span>'
    return f'<td{" class=best" if best else ""}>{stats["mean"]:.{digits}f}{spread}</td>'


def table(head: Sequence[str], groups: Sequence[Sequence[str]]) -> str:
    """`head`: plain text; `groups`: rows of ready cells, each group set off by a line."""
    top = "".join(f'<th{" class=left" if h in ("method", "why") else ""}>{escape(h)}</th>' for h in head)
    body = "".join('<tbody class="group">' + "".join(f"<tr>{row}</tr>" for row in rows) + "</tbody>" for rows in groups)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead>{body}</table></div>'


def interval_cell(d: Difference | None, metric: str) -> str:
    """Mean difference and its interval, coloured where it is told."""
    if d is None:
        return "<td>-</td>"
    better = (d.mean > 0) != (metric in SMALLER_IS_BETTER)
    kind = ' class="good"' if d.told and better else ' class="bad"' if d.told else ""
    interval = "one pair" if d.low is None or d.high is None else f"{number(d.low, metric)} to {number(d.high, metric)}"
    return f'<td{kind}>{"+" if d.mean > 0 else ""}{number(d.mean, metric)} <span class="pm">{interval}</span></td>'


def interval_bar(d: Difference, reach: float, index: int) -> str:
    """The interval drawn about zero; `reach`: half the width of the scale."""
    width, middle = 180, 90

    def x(value: float) -> float:
        return round(middle + 84 * max(-1.0, min(1.0, value / reach if reach > 0 else 0.0)), 1)

    low, high = (d.mean, d.mean) if d.low is None or d.high is None else (d.low, d.high)
    return (
        f'<svg width="{width}" height="18" role="img" aria-label="{d.mean:+.4g}"><line class="axis" x1="{middle}" y1="1" x2="{middle}" y2="17" stroke-dasharray="2 2"/>'
        f'<line x1="{x(low)}" y1="9" x2="{x(high)}" y2="9" stroke="{colour(index)}" stroke-width="2"/><circle cx="{x(d.mean)}" cy="9" r="4" fill="{colour(index)}"/></svg>'
    )


# -- curves ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One curve: (x, y) points, drawn in the colour of method `index`."""

    index: int
    points: tuple[tuple[float, float], ...]


def chart(title: str, lines: Sequence[Line], digits: int) -> str:
    """Curves over training steps as an inline picture; empty without points."""
    points = [p for line in lines for p in line.points]
    if not points:
        return ""
    w, h, left, right, top, bottom = 420, 220, 48, 12, 30, 26
    x_max = max(p[0] for p in points) or 1.0
    ticks = _ticks(min(p[1] for p in points), max(p[1] for p in points))
    lo, hi = ticks[0], ticks[-1]

    def at(p: tuple[float, float]) -> str:
        return f"{left + (w - left - right) * p[0] / x_max:.1f},{top + (h - top - bottom) * (1 - (p[1] - lo) / (hi - lo)):.1f}"

    parts = [f'<text x="{left}" y="18">{escape(title)}</text>']
    for t in ticks:
        y = at((0, t)).split(",")[1]
        parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{w - right}" y2="{y}"/><text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{t:.{digits}f}</text>')
    parts.append(f'<text x="{left}" y="{h - 8}">0</text><text x="{w - right}" y="{h - 8}" text-anchor="end">{x_max:.0f} steps</text>')
    for line in lines:
        if len(line.points) == 1:
            cx, cy = at(line.points[0]).split(",")
            parts.append(f'<circle cx="{cx}" cy="{cy}" r="3" fill="{colour(line.index)}"/>')
        elif line.points:
            parts.append(f'<polyline points="{" ".join(map(at, line.points))}" fill="none" stroke="{colour(line.index)}" stroke-width="1.6" stroke-linejoin="round"/>')
    return f'<svg class="chart" viewBox="0 0 {w} {h}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round values that enclose low and high."""
    span = max(high - low, abs(high) * 1e-3, 1e-6)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(f for f in (1, 2, 2.5, 5, 10) if span / (step * f) <= 4.5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [k * step for k in range(first, max(last, first + 1) + 1)]
