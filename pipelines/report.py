"""Side-by-side pictures and a static page: what a score looks like."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.atomic import write_bytes, write_text
from ..data.image_io import encode_jpeg, encode_png
from ..recon.colormap import rainbow
from ..recon.errors import ShapeError
from .config import to_jsonable
from .evaluate import EvalReport, Pictures
from .results import METRICS, EvalResults

__all__ = ["ERROR_FULL", "TITLES", "Row", "cell", "error_map", "report_rows", "side_by_side", "write_html"]

_BAR = 20  # height of a label line, pixels
_GAP = 4
_INK, _PAPER = (0.12, 0.12, 0.14), (1.0, 1.0, 1.0)
ERROR_FULL = 0.25  # mean absolute error that is drawn in the last colour
TITLES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips_vgg": "LPIPS-VGG", "lpips_alex": "LPIPS-Alex"}


@dataclass(frozen=True)
class Row:
    """One line of a sheet: a label and pictures of any sizes, each with a caption ("" = none). H,W,3 sRGB in [0, 1]."""

    label: str
    pictures: tuple[tuple[str, Float[Tensor, "H W 3"]], ...]


def error_map(render: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> Float[Tensor, "H W 3"]:
    """Mean absolute error over the channels as colours: violet 0, dark red 0.25 and above."""
    return rainbow((render - truth).abs().mean(-1) / ERROR_FULL)


def _text(text: str, width: int) -> Tensor:
    """A bar with dark text on white, cut with an ellipsis where it does not fit."""
    from PIL import Image, ImageDraw, ImageFont

    try:
        font = ImageFont.load_default(13)
    except (TypeError, OSError):  # a Pillow without FreeType has one small bitmap font
        font = ImageFont.load_default()
        text = text.encode("ascii", "replace").decode()
    bar = Image.new("RGB", (width, _BAR), tuple(round(255 * c) for c in _PAPER))
    draw = ImageDraw.Draw(bar)
    shown = text
    while len(shown) > 1 and draw.textlength(shown, font) > width - 8:
        shown = shown.rstrip("…")[:-1] + "…"
    draw.text((4, 2), shown, fill=tuple(round(255 * c) for c in _INK), font=font)
    return torch.frombuffer(bytearray(bar.tobytes()), dtype=torch.uint8).reshape(_BAR, width, 3).float() / 255


def _paste(canvas: Tensor, picture: Tensor, x: int, y: int) -> None:
    h, w = picture.shape[:2]
    canvas[y : y + h, x : x + w] = picture.detach().cpu().float().clamp(0, 1)


def _sheet(rows: Sequence[Row]) -> Float[Tensor, "H W 3"]:
    columns = max(len(r.pictures) for r in rows)
    widths = [max((r.pictures[c][1].shape[1] for r in rows if c < len(r.pictures)), default=0) for c in range(columns)]
    total = sum(widths) + _GAP * (columns + 1)
    heights = [max(p.shape[0] for _, p in r.pictures) + _BAR * (2 if any(c for c, _ in r.pictures) else 1) + _GAP for r in rows]
    canvas = torch.ones(sum(heights) + _GAP, total, 3) * torch.tensor(_PAPER)
    y = _GAP
    for row, height in zip(rows, heights, strict=True):
        _paste(canvas, _text(row.label, total - 2 * _GAP), _GAP, y)
        captions = any(c for c, _ in row.pictures)
        x, top = _GAP, y + _BAR
        for (caption, picture), width in zip(row.pictures, widths, strict=False):
            if caption:
                _paste(canvas, _text(caption, max(width, 1)), x, top)
            _paste(canvas, picture, x, top + (_BAR if captions else 0))
            x += width + _GAP
        y += height
    return canvas


def side_by_side(path: Path, rows: Sequence[Row | tuple[Any, ...]]) -> None:
    """A labelled PNG, written beside and renamed.

    Rows are `Row`s, or tuples (label, truth, render, *more pictures), captioned photo, render and error between the two. Raises ShapeError
    for no rows or a picture that is not H,W,3.
    """
    made = [r if isinstance(r, Row) else _row_of(r) for r in rows]
    if not made or not all(r.pictures for r in made):
        raise ShapeError("A side-by-side sheet needs at least one row with at least one picture.")
    for r in made:
        for caption, p in r.pictures:
            if p.ndim != 3 or p.shape[-1] != 3 or p.numel() == 0:
                raise ShapeError(f"Pictures of a sheet are (H, W, 3); {r.label!r}, {caption!r} is {tuple(p.shape)}.")
    write_bytes(path, encode_png(_sheet(made)))


def _row_of(row: tuple[Any, ...]) -> Row:
    label, truth, render, *more = row
    pictures = [("photo", truth), ("render", render)]
    if truth.shape == render.shape:
        pictures.append((f"error (violet 0, dark red {ERROR_FULL:g})", error_map(render.cpu(), truth.cpu())))
    return Row(str(label), (*pictures, *(("", m) for m in more)))


def report_rows(report: EvalReport) -> list[Row]:
    """A row per test photo, labelled with its scores. Empty when the report kept no pictures."""
    if report.pictures is None:
        return []
    rows = []
    for i, view in enumerate(report.views):
        scores = ", ".join(f"{TITLES[m]} {value:.4g}" for m in METRICS if (value := getattr(view, m)) is not None)
        rows.append(_row_of((f"{view.name}: {scores}", report.pictures.truths[i], report.pictures.renders[i])))
    return rows


# -- the page ----------------------------------------------------------------------------------------------------------

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:110rem;padding:0 1.5rem;color:#1e1e22;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}figure{margin:0}figcaption{color:#555;font-size:.85rem}
.row{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:.5rem;margin-bottom:1.2rem}img{width:100%;display:block}
pre{background:#f5f5f7;padding:.8rem;overflow:auto;font-size:.8rem}.note{color:#8a4b00}h3{margin:.6rem 0 .3rem}
@media(prefers-color-scheme:dark){body{color:#e8e8ea;background:#17171a}th,td{border-color:#333}pre{background:#222226}figcaption{color:#aaa}.note{color:#e0a860}}
"""


def _inline(picture: Tensor) -> str:
    """As a data address: the page is to be looked at, scores were computed before."""
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture)).decode()


def cell(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in r) + "</tr>" for r in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _summary(results: EvalResults) -> str:
    rows = []
    for run in results.runs:
        rows.append([f"seed {run.seed}", *(cell(getattr(run.report, m), 2 if m == "psnr" else 4) for m in METRICS), f"{run.seconds:.1f}"])
    flat = results.summary()
    rows.append(["mean", *(cell(flat[m], 2 if m == "psnr" else 4) for m in METRICS), f"{flat['seconds']:.1f}"])
    if flat["psnr_std"] is not None:
        rows.append(["PSNR, standard deviation over seeds", cell(flat["psnr_std"], 2), "", "", "", ""])
    return _table(["", *(TITLES[m] for m in METRICS), "seconds"], rows)


def _view_section(report: EvalReport, pictures: Pictures, i: int) -> str:
    view = report.views[i]
    cells = ", ".join(f"{TITLES[m]} {cell(getattr(view, m), 2 if m == 'psnr' else 4)}" for m in METRICS if getattr(view, m) is not None)
    shown = (
        ("render", pictures.renders[i]),
        ("photo", pictures.truths[i]),
        (f"error: violet 0, dark red {ERROR_FULL:g} and above", error_map(pictures.renders[i].cpu(), pictures.truths[i].cpu())),
    )
    figures = "".join(f'<figure><img alt="{html.escape(c)}" src="{_inline(p)}"><figcaption>{html.escape(c)}</figcaption></figure>' for c, p in shown)
    return f'<h3>{html.escape(view.name)}</h3><p>{html.escape(cells)}</p><div class="row">{figures}</div>'


def _settings(results: EvalResults) -> str:
    import json

    from .results import commit, machine, versions

    protocol = to_jsonable(results.protocol)
    parts = {"protocol": protocol, "method": results.method, "settings": to_jsonable(results.settings)}
    parts |= {"commit": commit(), "machine": machine(), "versions": versions()}
    return f"<pre>{html.escape(json.dumps(parts, indent=1, default=str))}</pre>"


def write_html(path: Path, results: EvalResults) -> None:
    """One self-contained page: scores, every test photo as render, photo and error (of the first seed), all settings. Nothing is loaded from elsewhere."""
    p = results.protocol
    first = results.runs[0].report
    title = f"{p.id}: {p.scene or p.dataset}"
    notes = sorted({n for r in results.runs for n in r.report.notes})
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(results.method)}, {len(p.train)} training photos ({html.escape(', '.join(p.train))}), {len(p.test)} test photos; poses: {p.poses}.</p>",
        _summary(results),
        *(f'<p class="note">{html.escape(n)}</p>' for n in notes),
        "<h2>Per test photo</h2>",
        _table(["photo", *(TITLES[m] for m in METRICS)], [[v.name, *(cell(asdict(v)[m], 2 if m == "psnr" else 4) for m in METRICS)] for v in first.views]),
    ]
    if first.pictures is not None:
        parts += [_view_section(first, first.pictures, i) for i in range(len(first.views))]
    parts += ["<h2>Settings</h2>", _settings(results)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    write_text(path, f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n')
