"""Where a benchmark ran both splats and fields: which to choose, told from its own scores."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .page_parts import dot, escape

__all__ = ["choice", "fields_or_splats"]

KINDS = {True: "field", False: "splats"}
EVEN_DB, EVEN_LPIPS = 0.2, 0.005  # differences that nobody sees


def fields_or_splats(records: Sequence[dict[str, Any]], labels: Sequence[str]) -> str:
    """A sentence for each scene that both kinds were scored on; nothing where none was."""
    items = []
    for scene in dict.fromkeys(r["protocol"]["scene"] for r in records):
        best = {kind: _best([r for r in records if r["protocol"]["scene"] == scene and ("grid" in r["settings"]) == kind]) for kind in KINDS}
        splats, field = best[False], best[True]
        if splats is not None and field is not None:
            names = {kind: dot(labels.index(run["label"]), f"{run['label']} ({KINDS[kind]})") for kind, run in ((False, splats), (True, field))}
            items.append(f"<li>{escape(scene)}: {choice(splats, field, names[False], names[True])}</li>")
    if not items:
        return ""
    head = '<h3>Splats or a field?</h3><p class="soft">Of each kind the method with the best PSNR. A field is slow to draw; the splats that <code>reconstruct</code> turns it into are not.</p>'
    return f"{head}<ul>{''.join(items)}</ul>"


def choice(splats: dict[str, Any], field: dict[str, Any], splats_name: str, field_name: str) -> str:
    """What speaks for which, in a sentence. `splats` and `field`: mean psnr, lpips (None = not measured), seconds (None = not timed alone), seeds."""
    more = field["psnr"] - splats["psnr"]
    less = None if field["lpips"] is None or splats["lpips"] is None else field["lpips"] - splats["lpips"]
    by_psnr = 0 if abs(more) < EVEN_DB else 1 if more > 0 else -1
    by_eye = by_psnr if less is None else 0 if abs(less) < EVEN_LPIPS else -1 if less > 0 else 1
    scores = f"{more:+.2f} dB" + ("" if less is None else f", LPIPS-VGG {less:+.3f}") + " from splats to field"
    if by_psnr * by_eye < 0:
        closer, sharper = (field_name, splats_name) if by_psnr > 0 else (splats_name, field_name)
        text = f"{closer} is nearer to the photos in the mean, {sharper} looks more like them"
    elif by_psnr + by_eye == 0:
        text = f"{splats_name} and {field_name} are alike"
    else:
        text = f"choose {field_name if by_psnr + by_eye > 0 else splats_name}"
    ratio = None if not splats["seconds"] or not field["seconds"] else field["seconds"] / splats["seconds"]
    time = "" if ratio is None else f"; the field takes {ratio:.1f} times as long" if ratio >= 1 else f"; the splats take {1 / ratio:.1f} times as long"
    seeds = min(splats["seeds"], field["seeds"])
    return f"{text} ({scores}; {seeds} seed{'s' if seeds != 1 else ''}){time}."


def _best(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    means = []
    for label in dict.fromkeys(r["label"] for r in records):
        runs = [r for r in records if r["label"] == label and r["scores"]]
        if not runs:
            continue
        lpips = [r["scores"]["lpips_vgg"] for r in runs]
        alone = all(r["training"]["timed_alone"] for r in runs)
        means.append({
            "label": label,
            "psnr": statistics.fmean(r["scores"]["psnr"] for r in runs),
            "lpips": None if None in lpips else statistics.fmean(lpips),
            "seconds": statistics.fmean(r["training"]["seconds"] for r in runs) if alone else None,
            "seeds": len(runs),
        })  # fmt: skip
    return max(means, key=lambda m: m["psnr"], default=None)
