"""The worst test views of a protocol, and where their error lies."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .page_parts import dot, escape, src

__all__ = ["because", "worst_views"]

SHOWN = 3
WORTH_SAYING = 0.15  # share of the error from which a part is named
WHERE = {
    "outside": "where no training photo looks",
    "hidden": "behind what the training photos show",
    "unmeasured": "where a photo looks but its depth could only be guessed",
    "measured": "on surfaces whose depth was measured",
}


def worst_views(records: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """Of the method with the best mean PSNR, the lowest views of each scene's first seed."""
    means = {label: statistics.fmean(r["scores"]["psnr"] for r in runs) for label in labels if (runs := [r for r in records if r["label"] == label and r["views"]])}
    if not means:
        return ""
    label = max(means, key=lambda k: means[k])
    firsts = {r["protocol"]["scene"]: r for r in sorted(records, key=lambda r: -r["seed"]) if r["label"] == label and r["views"]}
    views = sorted(((v, r) for r in firsts.values() for v in r["views"]), key=lambda item: item[0]["psnr"])[:SHOWN]
    items = "".join(_item(view, record) for view, record in views)
    return f"<h3>Worst views of {dot(labels.index(label), label)}</h3><ul>{items}</ul>"


def _item(view: dict[str, Any], record: dict[str, Any]) -> str:
    blame = next((b for b in record.get("blame", ()) if b["view"] == view["name"]), None)
    text = f"{record['protocol']['scene']}, {view['name']}: {view['psnr']:.2f} dB. {because(blame) if blame else ''}"
    picture = next((p for p in record["pictures"] if p["view"] == view["name"]), None)
    images = "" if picture is None else "".join(f'<img loading="lazy" class="small" alt="{k}" src="{src(picture[k])}">' for k in ("truth", "render", "error"))
    return f"<li>{escape(text)}<br>{images}</li>"


def because(blame: dict[str, Any]) -> str:
    """A sentence on where the error lies, the largest share first."""
    parts = sorted(((name, blame[name]["error"], blame[name]["area"]) for name in WHERE), key=lambda part: -part[1])
    said = [f"{error:.0%} of the error lies {WHERE[name]} ({area:.0%} of the picture)" for name, error, area in parts if error >= WORTH_SAYING]
    return "; ".join(said) + "." if said else "There is next to no error."
