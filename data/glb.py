"""Binary glTF 2.0 with the extension KHR_gaussian_splatting, as ratified by Khronos; float32 throughout, so next to nothing is lost.

Our own codec. A primitive of POINTS with the attributes POSITION, COLOR_0 (for programs that
only know points) and KHR_gaussian_splatting:ROTATION (xyzw), SCALE (standard deviations), OPACITY (0 to 1) and SH_DEGREE_l_COEF_n
(l = 0 to 3, with the 0.5 of 3DGS not included), colours in sRGB. glTF's axes have y up where a PLY's have y down: the scene is turned by
180 degrees about z, as splat-transform does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..recon.errors import CaptureError, HandfulError
from ..recon.gaussians import Gaussians
from ..recon.sh import rgb_from_sh_dc
from ..recon.srgb import linear_from_srgb
from .atomic import atomic_file
from .glb_file import glb_start, read_glb_start
from .splat_rows import FiniteRows, Meter, Progress, empty_gaussians, half_turn, half_turn_in_place, spans

__all__ = ["read_glb", "write_glb"]

EXTENSION = "KHR_gaussian_splatting"
_FLOAT, _BYTE = 5126, 5121
_Z = 2  # the axis of the half turn between a PLY's axes and glTF's
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_KIND = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
_MOST_STRIDE = 252


# -- writing ---------------------------------------------------------------------------------------------------------------------------


def write_glb(path: str | Path, gaussians: Gaussians, progress: Progress | None = None) -> None:
    """Atomic. Raises HandfulError where the splats are more than the 4 GiB of a .glb hold."""
    rows = FiniteRows.of(gaussians)
    n, attributes = len(rows), _attributes(rows.sh_degree)
    if not n:
        raise HandfulError("There is no splat to write, and glTF has no empty list; write a .ply.")
    sizes = [n * width * (1 if name == "COLOR_0" else 4) for name, width, _ in attributes]
    bounds = [(g.means * torch.tensor([-1.0, -1.0, 1.0])).aminmax(dim=0) for g in rows.pieces()]
    low, high = torch.stack([b.min for b in bounds]).amin(dim=0), torch.stack([b.max for b in bounds]).amax(dim=0)
    start = glb_start(_document(n, attributes, sizes, low.tolist(), high.tolist()), sum(sizes), f"{n} splats", "write a .ply or .spz")
    meter = Meter(progress, n * len(attributes))
    with atomic_file(path) as f:
        f.write(start)
        for _, _, values in attributes:
            for g in rows.pieces(meter):
                f.write(np.ascontiguousarray(values(half_turn(g, _Z)).numpy()).data)


def _attributes(degree: int) -> list[tuple[str, int, Callable[[Gaussians], torch.Tensor]]]:
    """(name, numbers a splat, how they are made); each a multiple of four bytes."""

    def color(g: Gaussians) -> torch.Tensor:
        """Linear: what glTF means by COLOR_0, whatever the splats' own colour space. In bytes, since some readers know no more."""
        return (torch.cat([linear_from_srgb(rgb_from_sh_dc(g.sh[:, 0])), g.opacities[:, None]], dim=1).clamp(0, 1) * 255).round().to(torch.uint8)

    def coefficient(i: int) -> Callable[[Gaussians], torch.Tensor]:
        return lambda g: g.sh[:, i]

    named = [(f"{EXTENSION}:SH_DEGREE_{d}_COEF_{c}", 3, coefficient(d * d + c)) for d in range(degree + 1) for c in range(2 * d + 1)]
    return [
        ("POSITION", 3, lambda g: g.means),
        ("COLOR_0", 4, color),
        (f"{EXTENSION}:ROTATION", 4, lambda g: g.quats_wxyz[:, [1, 2, 3, 0]]),
        (f"{EXTENSION}:SCALE", 3, lambda g: g.scales.nan_to_num()),
        (f"{EXTENSION}:OPACITY", 1, lambda g: g.opacities),
        *named,
    ]


def _document(n: int, attributes: list, sizes: list[int], low: list[float], high: list[float]) -> dict[str, Any]:
    starts = np.cumsum([0, *sizes]).tolist()
    accessors: list[dict[str, Any]] = []
    for i, (name, width, _) in enumerate(attributes):
        kind = {"componentType": _BYTE, "normalized": True} if name == "COLOR_0" else {"componentType": _FLOAT}
        ends = {"min": low, "max": high} if name == "POSITION" else {}
        accessors.append({"bufferView": i, "count": n, "type": _KIND[width], **kind, **ends})
    extension = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display", "projection": "perspective", "sortingMethod": "cameraDistance"}
    primitive = {"mode": 0, "attributes": {name: i for i, (name, _, _) in enumerate(attributes)}, "extensions": {EXTENSION: extension}}
    return {
        "asset": {"version": "2.0", "generator": "Handful"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": starts[-1]}],
        "bufferViews": [{"buffer": 0, "byteOffset": at, "byteLength": size, "target": 34962} for at, size in zip(starts, sizes, strict=False)],
        "accessors": accessors,
    }


# -- reading ---------------------------------------------------------------------------------------------------------------------------


def read_glb(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """The primitive with the extension. Raises CaptureError when the file is broken, has none, compresses it, or places it by a node
    (a translation, rotation or scale)."""
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            document, at = read_glb_start(f, size, path)
            try:
                return _read(f, document, at, size, path, progress)
            except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as e:
                raise CaptureError(f"{path}: its JSON is not that of glTF with {EXTENSION} ({type(e).__name__}: {str(e)[:100]}).") from e
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e


def _read(f: Any, document: dict[str, Any], start: int, size: int, path: Path, progress: Progress | None) -> Gaussians:
    found = [(m, p) for m, mesh in enumerate(document.get("meshes", [])) for p in mesh["primitives"] if EXTENSION in p.get("extensions", {})]
    if not found:
        raise CaptureError(f"{path} holds no Gaussian splats (no primitive with {EXTENSION}).")
    if len(found) > 1:
        raise CaptureError(f"{path} holds its splats in {len(found)} pieces, and only one is read; join them in the program that wrote the file.")
    mesh, primitive = found[0]
    extension = primitive["extensions"][EXTENSION]
    if extension.get("extensions"):
        raise CaptureError(f"{path} compresses its splats with {next(iter(extension['extensions']))}, which is not read; export them without.")
    if extension.get("colorSpace", "srgb_rec709_display") != "srgb_rec709_display":
        raise CaptureError(f"{path} has its colours in {extension['colorSpace']}; only srgb_rec709_display is read.")
    for node in document.get("nodes", []):
        if (node.get("mesh") == mesh or node.get("children")) and node.keys() & {"matrix", "translation", "rotation", "scale"}:
            raise CaptureError(f"{path} places its splats by a node (translation, rotation or scale), which is not read; apply it in the program that wrote the file.")
    attributes = primitive["attributes"]
    degree = max((d for d in range(1, 4) if f"{EXTENSION}:SH_DEGREE_{d}_COEF_{2 * d}" in attributes), default=0)
    n = document["accessors"][attributes["POSITION"]]["count"]
    names = [(name, width) for name, width, _ in _attributes(degree) if name != "COLOR_0"]
    views = {name: _View(document, attributes[name], width, n, start, size, path) for name, width in names}
    out, meter = empty_gaussians(n, degree), Meter(progress, n * len(views))
    columns = [out.means, out.quats_wxyz, out.log_scales, out.logit_opacities[:, None], *out.sh.unbind(1)]
    for (name, _), column in zip(names, columns, strict=True):
        for span in spans(n):
            values = torch.from_numpy(views[name].rows(f, span.start, span.stop - span.start))
            column[span] = values[:, [3, 0, 1, 2]] if name.endswith(":ROTATION") else values
            meter.add(len(values))
    if not bool((out.log_scales < 0).any()):  # else written by a draft of the extension, which had logarithms here
        out.log_scales.clamp_min_(1e-30).log_()
    out.logit_opacities.clamp_(1e-30, 1 - 2.0**-24).logit_()
    half_turn_in_place(out, _Z)
    return out


class _View:
    """An accessor that has been checked against the file: its rows, piece by piece."""

    def __init__(self, document: dict[str, Any], index: int, width: int, n: int, start: int, size: int, path: Path) -> None:
        accessor = document["accessors"][index]
        view = document["bufferViews"][accessor["bufferView"]]
        kind = _TYPES.get(accessor["componentType"])
        if kind is None or _WIDTHS.get(accessor["type"]) != width or accessor.get("sparse") or view.get("buffer", 0) != 0:
            raise CaptureError(f"{path}: an attribute is stored in a way that is not read (sparse, or {accessor['type']} of {accessor['componentType']}).")
        self._type, self._width = np.dtype(kind), width
        self._stride = view.get("byteStride") or self._type.itemsize * width
        self._at = start + view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        self._normalized = bool(accessor.get("normalized"))
        if self._stride > _MOST_STRIDE:
            raise CaptureError(f"{path}: an attribute steps {self._stride} bytes from one splat to the next, more than glTF allows.")
        if not (0 < accessor["count"] == n) or self._at < start or self._stride < self._type.itemsize * width or self._at + (n - 1) * self._stride + self._type.itemsize * width > size:
            raise CaptureError(f"{path}: its JSON promises {n} splats, which the file does not hold (truncated?); get it again.")

    def rows(self, f: Any, first: int, count: int) -> np.ndarray:
        """count,width float32; integers are brought to -1..1 where they are normalised."""
        f.seek(self._at + first * self._stride)
        used = self._type.itemsize * self._width
        raw = np.frombuffer(f.read((count - 1) * self._stride + used), np.uint8)
        raw = np.concatenate([raw, np.zeros(self._stride - used, np.uint8)]).reshape(count, self._stride)[:, :used]
        values = np.ascontiguousarray(raw).view(self._type).astype(np.float32)
        if self._normalized and self._type.kind in "ui":
            values = np.maximum(values / np.iinfo(self._type).max, -1.0)
        return values
