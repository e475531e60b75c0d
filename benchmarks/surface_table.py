"""The results of the surface benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["table"]


@dataclass(frozen=True)
class Column:
    """Head, and the figures (one after the other, between slashes) with their factor and digits."""

    head: str
    keys: tuple[str, ...]
    digits: int
    factor: float = 1.0


_END = (Column("triangles, thousands", ("triangles",), 0, 1e-3), Column("seconds: scene / mesh", ("reconstruct_s", "mesh_s"), 0))


def _depth(where: str, what: str) -> tuple[Column, ...]:
    return (
        Column(f"{what}: depth off, median %", (f"mesh_{where}_median", f"render_{where}_median"), 2, 100),
        Column("within 1 %", (f"mesh_{where}_within_1", f"render_{where}_within_1"), 1, 100),
        Column("within 5 %", (f"mesh_{where}_within_5", f"render_{where}_within_5"), 1, 100),
        Column("covered %", (f"mesh_{where}_cover", f"render_{where}_cover"), 1, 100),
    )


_SCORES = (Column("accuracy", ("accuracy",), 2), Column("completeness", ("completeness",), 2), Column("Chamfer", ("chamfer",), 2))
TABLES: tuple[tuple[str, str, tuple[Column, ...]], ...] = (  # title, a score that only its captures have, columns
    (
        "Made scenes, against the exact surface (distances in percent of the median depth)",
        "normal_degrees",
        (*_SCORES, Column("F-score at 1 %", ("fscore",), 3), Column("normals off, degrees", ("normal_degrees",), 1), *_END),
    ),
    ("The same scenes, depth (mesh / rendered)", "normal_degrees", (*_depth("train", "photos"), *_depth("held_out", "held out"))),
    (
        "DTU, against pseudo truth (stereo of all 49 photos), in mm, and against masks",
        "outside_hull",
        (
            *_SCORES,
            Column("F-score at 2 mm", ("fscore",), 3),
            Column("accuracy of rendered depth", ("render_accuracy",), 2),
            Column("silhouette IoU: near / all", ("silhouette_iou_near", "silhouette_iou"), 3),
            Column("outside the hull %", ("outside_hull",), 1, 100),
            *_END,
        ),
    ),
    ("A room, against the depth that came with it (mesh / rendered)", "train_seen", (*_depth("train", "photos"), *_depth("held_out", "held out"), *_END)),
)


def _cell(row: dict[str, Any], column: Column) -> str:
    parts = []
    for key in column.keys:
        figure = row.get(key)
        if figure is None:
            parts.append("-")
            continue
        text = f"{figure['mean'] * column.factor:.{column.digits}f}"
        spread = figure["std"]
        parts.append(text if spread is None else f"{text} ± {spread * column.factor:.{column.digits}f}")
    return " / ".join(parts)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of a result's `summary`; a run with other than the method's own steps says so."""
    out: list[str] = []
    for title, mark, columns in TABLES:
        mine = [r for r in rows if mark in r]
        if not mine:
            continue
        heads = ["capture", "method", *(c.head for c in columns)]
        out += [f"{title}:", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for r in mine:
            method = f"`{r['method']}`" + (f", {r['steps']} steps" if r["steps"] is not None else "")
            out.append(f"| {r['capture']} | {method} | {' | '.join(_cell(r, c) for c in columns)} |")
        out.append("")
    failed = [f"{r['capture']} {r['method']}" for r in rows if not any(mark in r for _, mark, _ in TABLES)]
    if failed:
        out += [f"No surface: {', '.join(failed)}.", ""]
    return "\n".join(out).rstrip("\n")
