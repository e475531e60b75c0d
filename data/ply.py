"""PLY files: Gaussians in the layout every splat viewer reads (Kerbl et al. 2023), and coloured points.

Gaussian layout, binary little endian, one float32 each: x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3.
f_rest is channel-major: all coefficients of red, then green, then blue. opacity is a logit, scale a natural logarithm, rot wxyz.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..recon.errors import CaptureError
from ..recon.gaussians import Gaussians
from ..recon.points import PointCloud
from .atomic import atomic_file
from .ply_file import PlyFile, open_ply, read_vertices
from .splat_rows import FiniteRows, Meter, Progress, empty_gaussians, put

__all__ = ["check_rest", "read_gaussians", "read_points", "write_gaussians", "write_points"]

_NEEDED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")


def write_gaussians(path: str | Path, gaussians: Gaussians, progress: Progress | None = None) -> None:
    """Writes the file atomically. Quaternions are normalised, Gaussians with a number that is not finite are left out:
    most viewers handle neither. Raises HandfulError in one sentence when the disk is full or read-only."""
    rows = FiniteRows.of(gaussians)
    n, rest = len(rows), 3 * ((rows.sh_degree + 1) ** 2 - 1)
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(rest))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = ["ply", "format binary_little_endian 1.0", "comment made by Handful", f"element vertex {n}"]
    header += [f"property float {name}" for name in names] + ["end_header\n"]
    with atomic_file(path) as f:
        f.write("\n".join(header).encode())
        for g in rows.pieces(Meter(progress, n)):
            tail = g.sh[:, 1:].transpose(1, 2).reshape(len(g), rest)
            columns = [g.means, torch.zeros(len(g), 3), g.sh[:, 0], tail, g.logit_opacities[:, None], g.log_scales, g.quats_wxyz]
            f.write(torch.cat(columns, dim=1).numpy().astype("<f4", copy=False).data)


def read_gaussians(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """Reads the layout above (any number of f_rest that fits degree 0 to 3, properties in any order), float32.

    Raises CaptureError when the file is no PLY, its header lies about its content, or it holds no Gaussians.
    """
    file = open_ply(Path(path))
    names = file.names("vertex")
    if "packed_position" in names:
        raise CaptureError(f"{path} is PlayCanvas' compressed PLY; `handful export {path} -o scene.ply` makes an ordinary one of it.")
    blocks = file.blocks("vertex")
    first = next(blocks, None)  # the file is checked here, before anything is allocated
    missing = [n for n in _NEEDED if n not in names]
    if missing:
        raise CaptureError(f"{path} holds no Gaussian splats: the property {missing[0]!r} is missing (a point cloud, perhaps).")
    rest = check_rest(file, "vertex")
    n = file.count("vertex")
    out, at, meter = empty_gaussians(n, {0: 0, 9: 1, 24: 2, 45: 3}[rest]), 0, Meter(progress, n)
    while first is not None:
        at = put(out, at, _gaussians_of(first, rest))
        meter.add(len(first))
        first = next(blocks, None)
    return out


def check_rest(file: PlyFile, element: str) -> int:
    """How many f_rest there are: 0, 9, 24 or 45. Raises CaptureError for any other number or for gaps."""
    names = file.names(element)
    rest = sum(n.startswith("f_rest_") for n in names)
    if rest not in (0, 9, 24, 45) or any(f"f_rest_{i}" not in names for i in range(rest)):
        raise CaptureError(f"{file.path} has {rest} f_rest properties; expected f_rest_0 to f_rest_8, 23 or 44 (spherical harmonics of degree 1 to 3), or none.")
    return rest


def _gaussians_of(v: np.ndarray, rest: int) -> Gaussians:
    def columns(*wanted: str) -> torch.Tensor:
        with np.errstate(all="ignore"):  # a double may not fit
            return torch.from_numpy(np.stack([v[n].astype(np.float32) for n in wanted], axis=1))

    sh = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest:
        tail = columns(*(f"f_rest_{i}" for i in range(rest))).reshape(len(v), 3, rest // 3).transpose(1, 2)
        sh = torch.cat([sh, tail], dim=1)
    scales, quats = columns("scale_0", "scale_1", "scale_2"), columns("rot_0", "rot_1", "rot_2", "rot_3")
    return Gaussians(columns("x", "y", "z"), quats, scales, columns("opacity")[:, 0], sh)


def write_points(path: str | Path, points: PointCloud) -> None:
    """x y z (float32), nx ny nz where the points have normals, red green blue (8 bit) where they have colours; atomic."""
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    header = ["ply", "format binary_little_endian 1.0", "comment made by Handful", f"element vertex {len(points)}"]
    header += [f"property float {n}" for n in "xyz"]
    if points.normals is not None:
        fields += [("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4")]
        header += [f"property float n{n}" for n in "xyz"]
    if points.rgb is not None:
        fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
        header += [f"property uchar {n}" for n in ("red", "green", "blue")]
    v = np.zeros(len(points), np.dtype(fields))
    xyz = points.xyz.detach().cpu().numpy()
    for i, n in enumerate("xyz"):
        v[n] = xyz[:, i]
    if points.normals is not None:
        for n, column in zip(("nx", "ny", "nz"), points.normals.detach().cpu().numpy().T, strict=True):
            v[n] = column
    if points.rgb is not None:
        rgb = (points.rgb.detach().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
        for i, n in enumerate(("red", "green", "blue")):
            v[n] = rgb[:, i]
    with atomic_file(path) as f:
        f.write(("\n".join(header) + "\nend_header\n").encode())
        f.write(v.tobytes())


def read_points(path: str | Path) -> PointCloud:
    """Points with their colours and normals where there are any; those that are not finite are left out. Raises CaptureError."""
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
    normals = torch.from_numpy(np.stack([v[n].astype(np.float32) for n in ("nx", "ny", "nz")], axis=1)[ok]) if {"nx", "ny", "nz"} <= set(names) else None
    return PointCloud(torch.from_numpy(xyz[ok]), rgb, normals=normals)
