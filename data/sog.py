"""PlayCanvas' SOG, version 2: splats as lossless WebP images beside a meta.json, in a zip with the ending .sog or in a folder.

Our own codec (Pillow does the WebP), from the format's public specification. A pixel is a splat, row by row. Images: the two bytes of 16-bit positions
(sign(x) ln(1 + |x|) between `mins` and `maxs`), rotations (three components of wxyz in bytes, alpha 252 + which is left out), log scales
and colours (an index into a codebook of 256 each; alpha of the colours is the opacity), and for higher harmonics a label into a palette of
at most 65,536 vectors, 64 to a row, whose numbers are again indices into a codebook.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..recon.errors import CaptureError, HandfulError
from ..recon.gaussians import Gaussians
from .atomic import atomic_file, new_folder
from .codebook import cluster, levels, nearest_level
from .files import inside
from .splat_rows import (
    FiniteRows,
    Meter,
    Progress,
    empty_gaussians,
    from_smallest_three,
    logits_of_bytes,
    morton_order,
    smallest_three,
    spans,
)

__all__ = ["read_sog", "write_sog"]

_PALETTE = 65536
_ROW = 64  # palette entries in a row of their image
_SQRT2 = 2.0**0.5
_MOST_SIDE = 16383  # of a WebP
_MOST_FILE = 1 << 31
_COEFFICIENTS = {1: 3, 2: 8, 3: 15}
_BANDS = {0: 0, 3: 1, 8: 2, 15: 3}


# -- writing ---------------------------------------------------------------------------------------------------------------------------


def write_sog(path: str | Path, gaussians: Gaussians, progress: Progress | None = None) -> None:
    """A zip where the path ends with .sog, else a folder, new or empty; all or nothing, in Morton order. Lossy: see the module."""
    path = Path(path)
    rows = FiniteRows.of(gaussians)
    if path.suffix.lower() == ".sog":
        with atomic_file(path) as f, zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as z:
            _write(rows, z.writestr, progress)
        return
    with new_folder(path) as folder:
        _write(rows, lambda name, data: (folder / name).write_bytes(data), progress)


def _write(rows: FiniteRows, put: Callable[[str, bytes], Any], progress: Progress | None) -> None:
    n = len(rows)
    width = max(4, int(np.ceil(np.sqrt(n) / 4)) * 4)
    size = (width, max(4, -(-n // width // 4) * 4))
    if max(size) > _MOST_SIDE:
        raise HandfulError(f"{n} splats are more than the images of a SOG file hold; write a .ply, .spz or .glb.")
    rows = rows.in_order(morton_order(rows.column(lambda g: g.means)))
    meter = Meter(progress, 6)

    def image(name: str, pixels: np.ndarray, size: tuple[int, int] = size) -> str:
        canvas = np.zeros((size[0] * size[1], 4), np.uint8)
        canvas[:, 3] = 255
        canvas[: len(pixels), : pixels.shape[1]] = pixels
        put(name, _encode(canvas.reshape(size[1], size[0], 4)))
        return name

    meta: dict[str, Any] = {"version": 2, "asset": {"generator": "Handful"}, "count": n}
    meta["means"] = _write_places(rows, image)
    meter.add(1)
    meta["quats"] = {"files": [image("quats.webp", _pixels(rows, _rotation))]}
    meter.add(1)
    book = levels(rows.column(lambda g: g.log_scales).numpy())
    meta["scales"] = {"codebook": book.tolist(), "files": [image("scales.webp", _pixels(rows, lambda g: nearest_level(g.log_scales.numpy(), book)))]}
    meter.add(1)
    hues = levels(rows.column(lambda g: g.sh[:, 0]).numpy())
    meta["sh0"] = {"codebook": hues.tolist(), "files": [image("sh0.webp", _pixels(rows, lambda g: _color(g, hues)))]}
    meter.add(1)
    if rows.sh_degree and n:
        meta["shN"] = _write_harmonics(rows, image)
    meter.add(1)
    put("meta.json", json.dumps(meta, allow_nan=False).encode())
    meter.add(1)


def _pixels(rows: FiniteRows, what: Callable[[Gaussians], np.ndarray]) -> np.ndarray:
    """what(piece) of all pieces, one behind the other: doubles on the way to bytes never fill a column."""
    parts = [what(g) for g in rows.pieces()]
    return np.concatenate(parts) if parts else np.zeros((0, 3), np.uint8)


def _logs(g: Gaussians) -> np.ndarray:
    means = g.means.double().numpy()
    return np.sign(means) * np.log1p(np.abs(means))


def _write_places(rows: FiniteRows, image: Callable[..., str]) -> dict[str, Any]:
    ends = [(p.min(axis=0), p.max(axis=0)) for p in map(_logs, rows.pieces())] or [(np.zeros(3), np.zeros(3))]
    low, high = np.min([e[0] for e in ends], axis=0), np.max([e[1] for e in ends], axis=0)
    span = np.where(high > low, high - low, 1)
    steps = _pixels(rows, lambda g: np.rint((_logs(g) - low) / span * 65535).astype(np.uint16))
    files = [image("means_l.webp", (steps & 255).astype(np.uint8)), image("means_u.webp", (steps >> 8).astype(np.uint8))]
    return {"mins": low.tolist(), "maxs": high.tolist(), "files": files}


def _rotation(g: Gaussians) -> np.ndarray:
    largest, three = smallest_three(g.quats_wxyz.numpy())
    return np.concatenate([np.rint((three / _SQRT2 + 0.5) * 255), 252.0 + largest[:, None]], axis=1).astype(np.uint8)


def _color(g: Gaussians, book: np.ndarray) -> np.ndarray:
    return np.concatenate([nearest_level(g.sh[:, 0].numpy(), book), np.rint(g.opacities.numpy() * 255).astype(np.uint8)[:, None]], axis=1)


class _Harmonics:
    """The higher harmonics N,D of rows, taken where they lie: a column of them is as large as the scene."""

    def __init__(self, rows: FiniteRows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: Tensor) -> Tensor:
        sh = self._rows.gaussians.sh
        at = which if self._rows.index is None else self._rows.index[which]
        return sh[at.to(sh.device), 1:].flatten(1).to("cpu", torch.float32)


def _write_harmonics(rows: FiniteRows, image: Callable[..., str]) -> dict[str, Any]:
    k = (rows.sh_degree + 1) ** 2 - 1
    palette, labels = cluster(_Harmonics(rows), _PALETTE)
    book = levels(palette.numpy())
    entries = np.zeros((-(-len(palette) // _ROW) * _ROW, k, 3), np.uint8)
    entries[: len(palette)] = nearest_level(palette.numpy(), book).reshape(-1, k, 3)
    label = labels.numpy().astype(np.uint16)
    del labels
    files = [
        image("shN_centroids.webp", entries.reshape(-1, 3), (_ROW * k, len(entries) // _ROW)),
        image("shN_labels.webp", np.stack([(label & 255).astype(np.uint8), (label >> 8).astype(np.uint8), np.zeros(len(label), np.uint8)], axis=1)),
    ]
    return {"count": len(palette), "bands": _BANDS[k], "codebook": book.tolist(), "files": files}


def _encode(rgba: np.ndarray) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "WEBP", lossless=True, exact=True, quality=50, method=2)  # exact: colours under alpha 0 count, too
    return out.getvalue()


# -- reading ---------------------------------------------------------------------------------------------------------------------------


def read_sog(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """A .sog file, a folder, or its meta.json. Raises CaptureError when it is broken, or of version 1."""
    path = Path(path)
    load = _opened(path)
    try:
        meta = json.loads(load("meta.json"))
    except (ValueError, RecursionError) as e:
        raise CaptureError(f"{path}: its meta.json is not valid JSON ({str(e)[:100]}).") from e
    if not isinstance(meta, dict) or meta.get("version") != 2:
        raise CaptureError(f"{path} is no SOG of version 2, the only one that is read; splat-transform makes one of an older file.")
    try:
        return _read(path, meta, load, Meter(progress, 6))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as e:
        raise CaptureError(f"{path}: its meta.json is not that of a SOG ({type(e).__name__}: {str(e)[:100]}).") from e


def _opened(path: Path) -> Callable[[str], bytes]:
    """load(name): the bytes of a file of it."""

    def load(name: str) -> bytes:
        try:
            if folder is not None:
                return inside(folder, name, folder / "meta.json").read_bytes()
            with zipfile.ZipFile(path) as z:
                entry = z.getinfo(name)
                if entry.file_size > _MOST_FILE or entry.file_size > 100 * entry.compress_size + 65536:
                    raise CaptureError(f"{path}: {name} would unpack to {entry.file_size} bytes, which is no honest image.")
                return z.read(entry)
        except KeyError as e:
            raise CaptureError(f"{path} lacks {name}; get it again.") from e
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error, lzma.LZMAError) as e:
            raise CaptureError(f"{path}: {name} cannot be read ({getattr(e, 'strerror', None) or e}).") from e

    folder = path if path.is_dir() else path.parent if path.name == "meta.json" else None
    return load


def _read(path: Path, meta: dict[str, Any], load: Callable[[str], bytes], meter: Meter) -> Gaussians:
    n = meta["count"]
    if type(n) is not int or not 0 <= n <= _MOST_SIDE**2:
        raise CaptureError(f"{path}: its meta.json counts {n!r} splats, which cannot be.")

    def image(part: str, which: int = 0) -> np.ndarray:
        return _decode(load(str(meta[part]["files"][which])), n, f"{path}: {meta[part]['files'][which]}")[:n]

    def book(part: str) -> np.ndarray:
        values = np.nan_to_num(np.array([np.nan if v is None else v for v in meta[part]["codebook"]], np.float32))
        return np.concatenate([values, np.zeros(256, np.float32)])[:256]

    degree = int(meta["shN"]["bands"]) if meta.get("shN") else 0
    if degree not in (0, 1, 2, 3):
        raise CaptureError(f"{path} has spherical harmonics of degree {degree}; up to 3 are read.")
    low_bytes, high_bytes = image("means", 0), image("means", 1)
    out = empty_gaussians(n, degree)  # the images were as large as the count says
    low, high = (np.array(meta["means"][k], np.float64).reshape(3) for k in ("mins", "maxs"))
    for rows in spans(n):
        steps = low_bytes[rows, :3].astype(np.float64) + high_bytes[rows, :3].astype(np.float64) * 256
        logs = low + steps / 65535 * np.where(high > low, high - low, 0)
        with np.errstate(over="ignore"):
            out.means[rows] = torch.from_numpy((np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32))
    del low_bytes, high_bytes
    meter.add(1)
    pixels = image("quats")
    for rows in spans(n):
        p = pixels[rows]
        quats = from_smallest_three((p[:, 3] & 3).astype(np.int64), (p[:, :3] / 255.0 - 0.5) * _SQRT2)  # 252 is a multiple of 4
        quats[p[:, 3] < 252] = (1, 0, 0, 0)
        out.quats_wxyz[rows] = torch.from_numpy(quats)
    meter.add(1)
    pixels, values = image("scales"), book("scales")
    for rows in spans(n):
        out.log_scales[rows] = torch.from_numpy(values[pixels[rows, :3]])
    meter.add(1)
    pixels, values = image("sh0"), book("sh0")
    for rows in spans(n):
        out.sh[rows, 0], out.logit_opacities[rows] = torch.from_numpy(values[pixels[rows, :3]]), logits_of_bytes(pixels[rows, 3])
    del pixels
    meter.add(1)
    if degree:
        _read_harmonics(path, meta["shN"], out, image("shN", 1), load, book("shN"))
    meter.add(2)
    return out


def _read_harmonics(path: Path, said: dict[str, Any], out: Gaussians, labels: np.ndarray, load: Callable[[str], bytes], book: np.ndarray) -> None:
    k, name = out.sh.shape[1] - 1, str(said["files"][0])
    rows = -(-min(int(said["count"]), _PALETTE) // _ROW)
    palette = _decode(load(name), rows * _ROW * k, f"{path}: {name}", _ROW * k)[: rows * _ROW * k, :3]
    values = torch.from_numpy(book[palette].reshape(-1, k, 3))
    for rows in spans(len(out)):
        label = torch.from_numpy(labels[rows, 0].astype(np.int64) + 256 * labels[rows, 1].astype(np.int64))
        if int(label.max()) >= len(values):
            raise CaptureError(f"{path}: a label asks for entry {int(label.max())} of {len(values)} in {name} (broken?); get it again.")
        out.sh[rows, 1:] = values[label]


def _decode(data: bytes, pixels: int, what: str, width: int | None = None) -> np.ndarray:
    """Pixels,4 of an image that has at least as many, and not many more (or it is a bomb)."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as im:
            held = im.width * im.height
            if held < pixels or held > 2 * pixels + (1 << 20) or (width is not None and im.width != width):
                raise CaptureError(f"{what} has {im.width} x {im.height} pixels, which does not fit its {pixels} values; get it again.")
            return np.asarray(im.convert("RGBA")).reshape(-1, 4)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        raise CaptureError(f"{what} is no readable image ({str(e)[:80]}).") from e
