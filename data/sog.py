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

from ..recon.errors import CaptureError, HandfulError
from ..recon.gaussians import Gaussians
from .atomic import atomic_file, new_folder
from .codebook import cluster, levels, nearest_level
from .files import inside
from .splat_rows import FiniteRows, Meter, Progress, empty_gaussians, from_smallest_three, logits_of_bytes, morton_order, smallest_three

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
    means = rows.column(lambda g: g.means)
    order = morton_order(means)
    rows, means = rows.in_order(order), means[order].double().numpy()
    meter = Meter(progress, 6)

    def image(name: str, pixels: np.ndarray, size: tuple[int, int] = size) -> str:
        canvas = np.zeros((size[0] * size[1], 4), np.uint8)
        canvas[:, 3] = 255
        canvas[: len(pixels), : pixels.shape[1]] = pixels
        put(name, _encode(canvas.reshape(size[1], size[0], 4)))
        return name

    logs = np.sign(means) * np.log1p(np.abs(means))
    low, high = (logs.min(axis=0), logs.max(axis=0)) if n else (np.zeros(3), np.zeros(3))
    steps = np.rint((logs - low) / np.where(high > low, high - low, 1) * 65535).astype(np.uint16)
    meta: dict[str, Any] = {"version": 2, "asset": {"generator": "Handful"}, "count": n}
    files = [image("means_l.webp", (steps & 255).astype(np.uint8)), image("means_u.webp", (steps >> 8).astype(np.uint8))]
    meta["means"] = {"mins": low.tolist(), "maxs": high.tolist(), "files": files}
    meter.add(1)
    largest, three = smallest_three(rows.column(lambda g: g.quats_wxyz).numpy())
    quats = np.concatenate([np.rint((three / _SQRT2 + 0.5) * 255), 252.0 + largest[:, None]], axis=1).astype(np.uint8)
    meta["quats"] = {"files": [image("quats.webp", quats)]}
    meter.add(1)
    scales = rows.column(lambda g: g.log_scales).numpy()
    book = levels(scales)
    meta["scales"] = {"codebook": book.tolist(), "files": [image("scales.webp", nearest_level(scales, book))]}
    meter.add(1)
    colors, opacities = rows.column(lambda g: g.sh[:, 0]).numpy(), rows.column(lambda g: g.opacities).numpy()
    book = levels(colors)
    pixels = np.concatenate([nearest_level(colors, book), np.rint(opacities * 255).astype(np.uint8)[:, None]], axis=1)
    meta["sh0"] = {"codebook": book.tolist(), "files": [image("sh0.webp", pixels)]}
    meter.add(1)
    if rows.sh_degree and n:
        meta["shN"] = _write_harmonics(rows, image)
    meter.add(1)
    put("meta.json", json.dumps(meta, allow_nan=False).encode())
    meter.add(1)


def _write_harmonics(rows: FiniteRows, image: Callable[..., str]) -> dict[str, Any]:
    k = (rows.sh_degree + 1) ** 2 - 1
    palette, labels = cluster(rows.column(lambda g: g.sh[:, 1:].flatten(1)), _PALETTE)
    book = levels(palette.numpy())
    entries = np.zeros((-(-len(palette) // _ROW) * _ROW, k, 3), np.uint8)
    entries[: len(palette)] = nearest_level(palette.numpy(), book).reshape(-1, k, 3)
    label = labels.numpy().astype(np.uint16)
    files = [
        image("shN_centroids.webp", entries.reshape(-1, 3), (_ROW * k, len(entries) // _ROW)),
        image("shN_labels.webp", np.stack([label & 255, label >> 8, label * 0], axis=1).astype(np.uint8)),
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
    steps = image("means", 0)[:, :3].astype(np.float64) + image("means", 1)[:, :3].astype(np.float64) * 256
    out = empty_gaussians(n, degree)  # the images were as large as the count says
    low, high = (np.array(meta["means"][k], np.float64).reshape(3) for k in ("mins", "maxs"))
    logs = low + steps / 65535 * np.where(high > low, high - low, 0)
    with np.errstate(over="ignore"):
        out.means[:] = torch.from_numpy((np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32))
    meter.add(1)
    pixels = image("quats")
    quats = from_smallest_three((pixels[:, 3] & 3).astype(np.int64), (pixels[:, :3] / 255.0 - 0.5) * _SQRT2)  # 252 is a multiple of 4
    quats[pixels[:, 3] < 252] = (1, 0, 0, 0)
    out.quats_wxyz[:] = torch.from_numpy(quats)
    meter.add(1)
    out.log_scales[:] = torch.from_numpy(book("scales")[image("scales")[:, :3]])
    meter.add(1)
    pixels = image("sh0")
    out.sh[:, 0], out.logit_opacities[:] = torch.from_numpy(book("sh0")[pixels[:, :3]]), logits_of_bytes(pixels[:, 3])
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
    label = torch.from_numpy(labels[:, 0].astype(np.int64) + 256 * labels[:, 1].astype(np.int64))
    if len(label) and int(label.max()) >= len(values):
        raise CaptureError(f"{path}: a label asks for entry {int(label.max())} of {len(values)} in {name} (broken?); get it again.")
    out.sh[:, 1:] = values[label]


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
