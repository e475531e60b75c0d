"""PLY files: Gaussians in the layout every splat viewer reads (Kerbl et al. 2023), and coloured points.

Gaussian layout, binary little endian, one float32 each: x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3.
f_rest is channel-major: all coefficients of red, then green, then blue. opacity is a logit, scale a natural logarithm, rot wxyz.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..recon.errors import CaptureError
from ..recon.gaussians import Gaussians
from ..recon.points import PointCloud
from .atomic import atomic_file

__all__ = ["finite_gaussians", "read_gaussians", "read_points", "read_vertices", "write_gaussians", "write_points"]

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "="}
_MAX_HEADER = 65536


def write_gaussians(path: str | Path, gaussians: Gaussians) -> None:
    """Writes the file atomically. Quaternions are normalised, Gaussians with a number that is not finite are left out:
    most viewers handle neither. Raises HandfulError in one sentence when the disk is full or read-only."""
    g = finite_gaussians(gaussians)
    n, rest = len(g), 3 * (g.sh.shape[1] - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    columns = [
        g.means,
        torch.zeros(n, 3),
        g.sh[:, 0],
        g.sh[:, 1:].transpose(1, 2).reshape(n, rest),
        g.logit_opacities[:, None],
        g.log_scales,
        g.quats_wxyz,
    ]
    header = ["ply", "format binary_little_endian 1.0", "comment made by Handful", f"element vertex {n}"]
    header += [f"property float {name}" for name in names] + ["end_header\n"]
    with atomic_file(path) as f:
        f.write("\n".join(header).encode())
        f.write(torch.cat(columns, dim=1).numpy().astype("<f4").tobytes())


def finite_gaussians(gaussians: Gaussians) -> Gaussians:
    """On the CPU in float32, unit quaternions (a zero one becomes the identity), rows that are not finite left out."""
    g = gaussians.detach().to("cpu", torch.float32)
    ok = torch.isfinite(torch.cat([g.means, g.quats_wxyz, g.log_scales, g.logit_opacities[:, None], g.sh.flatten(1)], dim=1)).all(dim=1)
    if not bool(ok.all()):
        g = g[ok]
    norm = g.quats_wxyz.norm(dim=1, keepdim=True)
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0])
    quats = torch.where(norm > 1e-12, g.quats_wxyz / norm.clamp_min(1e-12), identity)
    return Gaussians(g.means, quats, g.log_scales, g.logit_opacities, g.sh)


def read_gaussians(path: str | Path) -> Gaussians:
    """Reads the layout above (any number of f_rest that fits degree 0 to 3, properties in any order), float32.

    Raises CaptureError when the file is no PLY, its header lies about its content, or it holds no Gaussians.
    """
    path = Path(path)
    v = read_vertices(path)
    names = v.dtype.names or ()
    if "packed_position" in names:
        raise CaptureError(f"{path} is PlayCanvas' compressed PLY, which is not read; export it as an ordinary .ply first.")
    needed = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    missing = [n for n in needed if n not in names]
    if missing:
        raise CaptureError(f"{path} holds no Gaussian splats: the property {missing[0]!r} is missing (a point cloud, perhaps).")
    rest = sum(n.startswith("f_rest_") for n in names)
    if rest not in (0, 9, 24, 45) or any(f"f_rest_{i}" not in names for i in range(rest)):
        raise CaptureError(f"{path} has {rest} f_rest properties; expected f_rest_0 to f_rest_8, 23 or 44 (spherical harmonics of degree 1 to 3), or none.")

    def columns(*wanted: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([v[n].astype(np.float32) for n in wanted], axis=1))

    sh = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        tail = columns(*(f"f_rest_{i}" for i in range(rest))).reshape(len(v), 3, rest // 3).transpose(1, 2)
        sh = torch.cat([sh, tail], dim=1)
    return Gaussians(
        means=columns("x", "y", "z"),
        quats_wxyz=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=columns("scale_0", "scale_1", "scale_2"),
        logit_opacities=columns("opacity")[:, 0],
        sh=sh.contiguous(),
    ).validate()


def write_points(path: str | Path, points: PointCloud) -> None:
    """x y z (float32) and red green blue (8 bit) where the points have colours; atomic."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    header = ["ply", "format binary_little_endian 1.0", "comment made by Handful", f"element vertex {len(points)}"]
    header += [f"property float {n}" for n in "xyz"]
    if points.rgb is not None:
        fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
        header += [f"property uchar {n}" for n in ("red", "green", "blue")]
    v = np.zeros(len(points), np.dtype(fields))
    xyz = points.xyz.detach().cpu().numpy()
    for i, n in enumerate("xyz"):
        v[n] = xyz[:, i]
    if points.rgb is not None:
        rgb = (points.rgb.detach().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
        for i, n in enumerate(("red", "green", "blue")):
            v[n] = rgb[:, i]
    with atomic_file(path) as f:
        f.write(("\n".join(header) + "\nend_header\n").encode())
        f.write(v.tobytes())


def read_points(path: str | Path) -> PointCloud:
    """Points with their colours where there are any; those that are not finite are left out. Raises CaptureError."""
    path = Path(path)
    v = read_vertices(path)
    names = v.dtype.names or ()
    if not {"x", "y", "z"} <= set(names):
        raise CaptureError(f"{path} has vertices without x, y, z.")
    xyz = np.stack([v[n].astype(np.float32) for n in "xyz"], axis=1)
    ok = np.isfinite(xyz).all(axis=1)
    rgb = None
    for triple in (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b")):
        if set(triple) <= set(names):
            c = np.stack([v[n] for n in triple], axis=1)
            rgb = c.astype(np.float32) / (np.iinfo(c.dtype).max if c.dtype.kind in "ui" else 1.0)
            rgb = torch.from_numpy(np.nan_to_num(rgb[ok]).clip(0, 1))
            break
    return PointCloud(torch.from_numpy(xyz[ok]), rgb)


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    fields: tuple[tuple[str, str], ...]  # (property, numpy type); a list property has the type "list"


def read_vertices(path: Path) -> np.ndarray:
    """The element `vertex` of any PLY (ascii, little or big endian) as a structured array.

    Raises CaptureError in one sentence when the file is no PLY or its header does not fit its content. Never allocates more than
    the file's own size asks for, whatever the header claims.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e
    order, elements, start = _header(data, path)
    for element in elements:
        if any(t == "list" for _, t in element.fields):
            raise CaptureError(f"{path}: the element {element.name!r} with lists comes before the vertices, or its vertices hold lists; such PLY files are not read.")
        dtype = np.dtype([(n, (order + t) if order != "=" else t) for n, t in element.fields])
        if order == "=":
            values, start = _ascii(data, start, element, dtype, path)
        else:
            room = len(data) - start
            if dtype.itemsize == 0 or element.count * dtype.itemsize > room:
                held = 0 if dtype.itemsize == 0 else room // dtype.itemsize
                raise CaptureError(f"{path}: its header promises {element.count} of {element.name!r}, but the file holds {held} (truncated?); get it again.")
            values = np.frombuffer(data, dtype, element.count, start)
            start += element.count * dtype.itemsize
        if element.name == "vertex":
            return values
    raise CaptureError(f"{path} is a PLY file without vertices.")


def _header(data: bytes, path: Path) -> tuple[str, list[_Element], int]:
    """(byte order, elements up to the vertices, where the body starts)."""
    if not data.startswith((b"ply\n", b"ply\r")):
        raise CaptureError(f"{path} is no PLY file.")
    end = data.find(b"end_header", 0, _MAX_HEADER)
    newline = data.find(b"\n", end) if end >= 0 else -1
    if newline < 0:
        raise CaptureError(f"{path}: the PLY header has no end.")
    order = ""
    elements: list[_Element] = []
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        try:
            if words[0] == "format":
                order = _ORDER[words[1]]
            elif words[0] == "element":
                count = int(words[2])
                if not 0 <= count < 2**40:
                    raise ValueError
                elements.append(_Element(words[1], count, ()))
            elif words[0] == "property":
                last = elements[-1]
                field = (words[-1], "list" if words[1] == "list" else _TYPES[words[1]])
                if field[0] in (n for n, _ in last.fields):
                    raise ValueError
                elements[-1] = _Element(last.name, last.count, (*last.fields, field))
            else:
                raise ValueError
        except (IndexError, KeyError, ValueError) as e:
            raise CaptureError(f"{path}: the PLY header line {line[:80]!r} makes no sense.") from e
    if not order:
        raise CaptureError(f"{path}: the PLY header names no format.")
    vertex = next((i for i, e in enumerate(elements) if e.name == "vertex"), len(elements))
    return order, elements[: vertex + 1], newline + 1


def _ascii(data: bytes, start: int, element: _Element, dtype: np.dtype, path: Path) -> tuple[np.ndarray, int]:
    """Reads `count` lines; numbers that do not parse or do not suffice are an error."""
    end = start
    lines: list[bytes] = []
    while len(lines) < element.count:
        newline = data.find(b"\n", end)
        line = data[end : newline if newline >= 0 else len(data)]
        if line.strip():
            lines.append(line)
        end = newline + 1 if newline >= 0 else len(data)
        if newline < 0:
            break
    if len(lines) < element.count:
        raise CaptureError(f"{path}: its header promises {element.count} of {element.name!r}, but the file holds {len(lines)} (truncated?); get it again.")
    out = np.zeros(element.count, dtype)
    try:
        table = np.array([line.split()[: len(element.fields)] for line in lines], dtype=np.float64).reshape(element.count, len(element.fields))
    except ValueError as e:
        raise CaptureError(f"{path}: a line of {element.name!r} does not hold {len(element.fields)} numbers.") from e
    with np.errstate(all="ignore"):
        for i, (name, _) in enumerate(element.fields):
            out[name] = table[:, i]
    return out, end
