"""What a surface is scored by: distances between mesh and truth, normals, silhouettes, the visual hull, depth. Knows no capture and no method.

Points and triangles are numpy in world units, cameras and images torch (docs/conventions.md). Distances to a mesh are exact ones to its triangles, not to samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data.mesh_open3d import MeshRays
from ..recon.camera import Cameras
from ..recon.mesh import Mesh

__all__ = [
    "Surface", "angles", "area_samples", "depth_scores", "face_normals", "finer", "hidden", "mesh_depth", "outside_hull", "pixels_of", "score_depths",
    "score_distances", "seen_by", "seen_part", "silhouette_scores",
]  # fmt: skip

SLACK = 0.01  # of the depth: what lies less far behind a surface is not hidden by it
WITHIN = (1, 5)  # percent


@dataclass(frozen=True)
class Surface:
    """Triangles that rays can be cast at."""

    vertices: Float[np.ndarray, "N 3"]
    triangles: Int[np.ndarray, "M 3"]

    @staticmethod
    def of(mesh: Mesh) -> Surface:
        return Surface(mesh.vertices, mesh.triangles)

    @cached_property
    def rays(self) -> MeshRays:
        return MeshRays(self.vertices, self.triangles)

    @cached_property
    def normals(self) -> Float[np.ndarray, "M 3"]:
        return face_normals(self.vertices, self.triangles)


# -- meshes ------------------------------------------------------------------------------------------------------------


def face_normals(vertices: Float[np.ndarray, "N 3"], triangles: Int[np.ndarray, "M 3"]) -> Float[np.ndarray, "M 3"]:
    """Unit normals of the triangles; 0 for those without area."""
    n = _cross(vertices, triangles)
    return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-30)


def _cross(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def area_samples(surface: Surface, count: int, seed: int) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "N"]]:
    """Points on the surface, alike in number per area, and the triangle of each."""
    rng = np.random.default_rng(seed)
    area = np.linalg.norm(_cross(surface.vertices, surface.triangles), axis=1)
    # stratified: the share of each triangle is as its area to within one point
    at = (np.arange(count) + rng.random(count)) / count * area.sum()
    triangle = np.searchsorted(area.cumsum(), at).clip(max=len(area) - 1)
    root, b = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - root, root * (1 - b), root * b], 1)
    return (surface.vertices[surface.triangles[triangle]] * weights[..., None]).sum(1), triangle


def finer(surface: Surface, edge: float) -> Surface:
    """The same surface in triangles whose edges are at most `edge` long (each cut into four until they are)."""
    corners, done = surface.vertices[surface.triangles], []
    while len(corners):
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
        done.append(corners[longest <= edge])
        a, b, c = np.moveaxis(corners[longest > edge], 1, 0)
        ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
        corners = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    every = np.concatenate(done)
    return Surface(every.reshape(-1, 3), np.arange(3 * len(every), dtype=np.int32).reshape(-1, 3))


# -- what cameras see --------------------------------------------------------------------------------------------------


def pixels_of(camera: Cameras, xyz: Float[Tensor, "N 3"]) -> tuple[Int[Tensor, "N"], Int[Tensor, "N"], Float[Tensor, "N"], Bool[Tensor, "N"]]:
    """Row and column of the pixel of one camera that each point falls in (0, 0 where it falls in none), its z-depth, and whether it falls in one."""
    uv, z = (t[0] for t in camera.project(xyz))
    inside = (z > 0) & (uv >= 0).all(-1) & (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
    uv = torch.where(inside[:, None], uv, 0.0)
    return uv[:, 1].long(), uv[:, 0].long(), z, inside


def mesh_depth(surface: Surface, cameras: Cameras) -> tuple[Float[Tensor, "V H W"], Int[Tensor, "V H W"]]:
    """z-depth of the first surface at every pixel centre (0 = none), and its triangle (-1 = none)."""
    cameras = cameras.to("cpu", torch.float64)
    shape = (len(cameras), cameras.height, cameras.width)
    eye = cameras.centers[:, None, None].expand(*shape, 3)
    ahead = cameras.unproject_depth(torch.ones(shape, dtype=torch.float64)) - eye  # as long as a depth of 1 is
    t, triangle = surface.rays.cast(eye.reshape(-1, 3).numpy(), ahead.reshape(-1, 3).numpy())
    depth = torch.from_numpy(np.where(np.isfinite(t), t, 0.0)).float()
    return depth.reshape(shape), torch.from_numpy(triangle).reshape(shape)


def hidden(surface: Surface, eye: Float[np.ndarray, "3"], xyz: Float[np.ndarray, "N 3"]) -> Bool[np.ndarray, "N"]:
    """Which points lie behind the surface as seen from `eye`, by more than SLACK."""
    t, _ = surface.rays.cast(np.broadcast_to(eye, xyz.shape), xyz - eye)
    return t < 1 - SLACK


def seen_by(xyz: Float[np.ndarray, "N 3"], cameras: Cameras, *surfaces: Surface) -> Bool[np.ndarray, "V N"]:
    """Which cameras have each point in their picture, with at least one of the surfaces not hiding it."""
    cameras, points = cameras.to("cpu", torch.float64), torch.from_numpy(np.ascontiguousarray(xyz, np.float64))
    out = []
    for i in range(len(cameras)):
        eye = cameras.centers[i].numpy()
        inside = pixels_of(cameras[i], points)[3].numpy()
        behind_all = np.ones(len(xyz), bool)
        for s in surfaces:
            behind_all &= hidden(s, eye, xyz)
        out.append(inside & ~behind_all)
    return np.stack(out)


def seen_part(surface: Surface, cameras: Cameras, edge: float) -> Surface:
    """The part of a surface that at least one camera sees: its triangles, cut to `edge`, whose middle it sees."""
    fine = finer(surface, edge)
    middle = fine.vertices[fine.triangles].mean(1)
    return Surface(fine.vertices, fine.triangles[seen_by(middle, cameras, surface).any(0)])


# -- scores ------------------------------------------------------------------------------------------------------------


def score_distances(
    to_truth: Float[np.ndarray, "N"], from_truth: Float[np.ndarray, "M"], threshold: float, unit: float = 1.0, far: float = np.inf
) -> dict[str, float]:
    """Accuracy (surface to truth), completeness (truth to surface), their mean `chamfer`, and the F-score: all means, with medians of the first two.

    Args:
        threshold, far: world units; distances of `far` or more are left out of the means (`*_far` has their share), as DTU's own script does.
        unit: what distances are divided by.
    """
    out: dict[str, float] = {}
    for name, d in (("accuracy", to_truth), ("completeness", from_truth)):
        near = d[d < far]
        out[name] = float(near.mean() / unit) if len(near) else float("nan")
        out[f"{name}_median"] = float(np.median(near) / unit) if len(near) else float("nan")
        if np.isfinite(far):
            out[f"{name}_far"] = float((d >= far).mean()) if len(d) else float("nan")
    precision, recall = (float((d < threshold).mean()) if len(d) else 0.0 for d in (to_truth, from_truth))
    fscore = 2 * precision * recall / max(precision + recall, 1e-12)
    return out | {"chamfer": (out["accuracy"] + out["completeness"]) / 2, "precision": precision, "recall": recall, "fscore": fscore}


def angles(a: Float[np.ndarray, "N 3"], b: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N"]:
    """Degrees between unit normals, 0 to 90: which side is the outside does not matter."""
    return np.rad2deg(np.arccos(np.abs((a * b).sum(-1)).clip(max=1)))


def depth_scores(depth: Float[Tensor, "V H W"], truth: Float[Tensor, "V H W"], counts: Bool[Tensor, "V H W"]) -> dict[str, float]:
    """Of the pixels that count and have a true depth: `cover`, the share that has any; of those, the `median` relative error and the shares off by less than
    WITHIN percent."""
    counts = counts & (truth > 0)
    has = counts & (depth > 0) & torch.isfinite(depth)
    e = (depth[has] - truth[has]).abs() / truth[has]
    out = {"cover": float(has.sum()) / max(1, int(counts.sum())), "median": float(e.median()) if len(e) else float("nan")}
    return out | {f"within_{p}": float((e < p / 100).float().mean()) if len(e) else float("nan") for p in WITHIN}


def score_depths(
    depths: Mapping[str, Float[Tensor, "V H W"]], truth: Float[Tensor, "V H W"], counts: Bool[Tensor, "V H W"], where: str
) -> dict[str, float]:
    """`depth_scores` of several depths of the same cameras, as NAME_WHERE_SCORE."""
    return {f"{name}_{where}_{k}": v for name, depth in depths.items() for k, v in depth_scores(depth, truth, counts).items()}


def silhouette_scores(shown: Bool[Tensor, "V H W"], masks: Bool[Tensor, "V H W"]) -> dict[str, Float[Tensor, "V"]]:
    """Per view: intersection over union, the share of what is shown that lies in the mask (1 where nothing is), the share of the mask that is shown."""
    both, either = (shown & masks).sum((1, 2)).float(), (shown | masks).sum((1, 2)).clamp(min=1)
    a, b = shown.sum((1, 2)), masks.sum((1, 2))
    return {"iou": both / either, "inside": torch.where(a > 0, both / a.clamp(min=1), 1.0), "filled": both / b.clamp(min=1)}


def outside_hull(xyz: Float[np.ndarray, "N 3"], cameras: Cameras, masks: Bool[Tensor, "V H W"], slack: int = 0) -> Bool[np.ndarray, "N"]:
    """Which points at least one photo shows outside its mask, grown by `slack` pixels. What no photo has in its picture is not outside."""
    grown = torch.nn.functional.max_pool2d(masks[:, None].float(), 2 * slack + 1, 1, slack)[:, 0] > 0.5
    points, out = torch.from_numpy(np.ascontiguousarray(xyz, np.float64)), torch.zeros(len(xyz), dtype=torch.bool)
    cameras = cameras.to("cpu", torch.float64)
    for i in range(len(cameras)):
        rows, columns, _, inside = pixels_of(cameras[i], points)
        out |= inside & ~grown[i][rows, columns]
    return out.numpy()
