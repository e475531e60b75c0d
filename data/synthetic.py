"""Captures with known truth: made-up scenes of textured meshes, ray-cast (not splatted), with exact depth, normals, flow and matches.

World: z up, the table at z = 0, units of about a forearm. Cameras and depth follow docs/conventions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..recon.camera import Cameras, pixel_centers
from ..recon.capture import ArrayImage, Capture, View
from ..recon.errors import ConfigError
from ..recon.matches import FlowField, Matches
from ..recon.mesh import Mesh
from ..recon.srgb import srgb_from_linear
from ._synth.cast import cast, meet_planes, one_thread_each
from ._synth.kinds import KINDS
from ._synth.light import Baked, bake
from ._synth.scenes import Stage

__all__ = ["WHITE", "Demo", "SyntheticScene", "Truth", "arc_cameras", "capture_of", "demo_capture", "look_at", "make_scene", "render_truth", "true_flow", "true_matches", "true_mesh"]

WHITE = ("object", "toys")  # kinds with nothing around them


@dataclass(frozen=True)
class SyntheticScene:
    """A scene made by `make_scene`; `stage` says where a photographer stands, `baked` is what rays meet."""

    kind: str
    seed: int
    stage: Stage
    baked: Baked


@dataclass(frozen=True)
class Truth:
    """What V cameras see.

    Attributes:
        images: sRGB, anti-aliased (averaged in linear light), not rounded to 8 bit.
        depth: exact z-depth at the pixel centres, world units; 0 where no surface is.
        normal: unit normal of the surface at the pixel centres, camera frame, facing the camera; 0 where no surface is.
        mask: share of each pixel that a surface covers, [0, 1].
        sheet: index of the surface seen at the pixel centre, -1 = none; its borders are the scene's edges.
    """

    images: Float[Tensor, "V H W 3"]
    depth: Float[Tensor, "V H W"]
    normal: Float[Tensor, "V H W 3"]
    mask: Float[Tensor, "V H W"]
    sheet: Int[Tensor, "V H W"]


@dataclass(frozen=True)
class Demo:
    """The embedded capture: what a user would have (`photos`: no cameras, no points) and what only the score may know.

    Attributes:
        photos: training photos without cameras.
        photo_cameras: their true cameras, for aligning estimated ones before scoring.
        held_out: views never trained on, with true cameras.
        photo_truth, held_out_truth: depth, normals and unrounded images of both.
    """

    scene: SyntheticScene
    photos: Capture
    photo_cameras: Cameras
    held_out: Capture
    photo_truth: Truth
    held_out_truth: Truth


def make_scene(seed: int = 0, kind: str = "tabletop") -> SyntheticScene:
    """A scene of `kind`: "tabletop" (the demo), "room", "object" (white background, masks), "still" and "toys"
    (random things on a floor, or on white with masks), "plane" (a brick wall at y = 0) or "blank" (no
    texture). The seed moves, turns and recolours things. Raises ConfigError for another kind."""
    if kind not in KINDS:
        raise ConfigError(f"There is no synthetic scene {kind!r}; choose one of {', '.join(KINDS)}.")
    with one_thread_each():
        stage = KINDS[kind](seed)
        return SyntheticScene(kind, seed, stage, bake(stage, seed))


def look_at(center: Float[Tensor, "3"], target: Float[Tensor, "3"], roll_degrees: float = 0.0) -> Float[Tensor, "4 4"]:
    """cam_from_world of a camera at `center` whose axis passes through `target`, world z up in the picture, then rolled."""
    forward = torch.nn.functional.normalize(target - center, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0], dtype=center.dtype)), dim=0)
    down = torch.linalg.cross(forward, right)
    a = torch.deg2rad(torch.tensor(roll_degrees, dtype=center.dtype))
    R = torch.stack([torch.cos(a) * right + torch.sin(a) * down, torch.cos(a) * down - torch.sin(a) * right, forward])
    out = torch.eye(4, dtype=center.dtype)
    out[:3, :3], out[:3, 3] = R, -R @ center
    return out


def arc_cameras(
    scene: SyntheticScene, azimuths: list[float], width: int = 480, height: int = 360, focal: float | None = None, jitter: float = 1.0, seed: int = 0
) -> Cameras:
    """Hand-held cameras on an arc around the stage's target, azimuth in degrees (0 = from -y), each a little higher, nearer, turned and rolled.

    `focal` in pixels, 1.15 x width when not given. `jitter` 0 gives the exact arc.
    """
    rng = np.random.default_rng([seed, scene.seed])
    stage, poses = scene.stage, []
    for azimuth in azimuths:
        wobble = rng.uniform(-1, 1, 7) * jitter
        a, e = np.deg2rad(azimuth + wobble[0]), np.deg2rad(stage.elevation + 3.0 * wobble[1])
        r = stage.distance * (1 + 0.04 * wobble[2])
        target = np.array(stage.target) + 0.02 * stage.distance * wobble[3:6]
        center = np.array(stage.target) + r * np.array([np.sin(a) * np.cos(e), -np.cos(a) * np.cos(e), np.sin(e)])
        poses.append(look_at(torch.from_numpy(center), torch.from_numpy(target), 2.0 * float(wobble[6])))
    f = focal or 1.15 * width
    K = torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(torch.stack(poses), K.expand(len(poses), 3, 3).clone(), width, height).to(dtype=torch.float32)


def _geometry(scene: SyntheticScene, camera: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth, normal, sheet and triangle at the pixel centres of one camera."""
    camera = camera.to(dtype=torch.float64)
    origins, directions = camera.rays()
    shape = directions.shape[1:3]
    hits = cast(scene.baked.tree, origins.reshape(-1, 3), directions.reshape(-1, 3))
    hit = hits.triangle >= 0
    R = camera.cam_from_world[0, :3, :3]
    d_cam = directions.reshape(-1, 3) @ R.T
    depth = torch.where(hit, hits.t * d_cam[:, 2], torch.zeros(()))
    n = scene.baked.normal[hits.triangle.clamp_min(0)] @ R.T
    n = torch.where(((n * d_cam).sum(-1, keepdim=True) > 0), -n, n) * hit[:, None]
    sheet = torch.where(hit, scene.baked.sheet[hits.triangle.clamp_min(0)], hits.triangle)
    return depth.reshape(shape).float(), n.reshape(*shape, 3).float(), sheet.reshape(shape), hits.triangle.reshape(shape)


def _settled(sheet: Tensor, flat: Tensor) -> Tensor:
    """Pixels all of whose 3x3 neighbours show one flat sheet (or nothing): rays between the centres need no search."""
    padded = torch.nn.functional.pad(sheet[None, None].float(), (1, 1, 1, 1), mode="replicate")
    most = torch.nn.functional.max_pool2d(padded, 3, 1)[0, 0]
    least = -torch.nn.functional.max_pool2d(-padded, 3, 1)[0, 0]
    return (most == least) & (flat[sheet.clamp_min(0)] | (sheet < 0))


def _colors(scene: SyntheticScene, camera: Cameras, supersample: int, sheet: Tensor, triangle: Tensor) -> tuple[Tensor, Tensor]:
    """Box-filtered picture (H, W, 3) and coverage (H, W) of one camera from supersample^2 rays a pixel.

    `sheet` and `triangle` (H, W) are those at the pixel centres.
    """
    s, (w, h), baked = supersample, (camera.width, camera.height), scene.baked
    origins, directions = (x.reshape(-1, 3).float() for x in camera.to(dtype=torch.float64).resized(w * s, h * s).rays())

    def fine(x: Tensor) -> Tensor:
        return x.repeat_interleave(s, 0).repeat_interleave(s, 1).reshape(-1)

    settled, guess = fine(_settled(sheet, baked.flat)), fine(triangle)
    linear = torch.tensor(baked.background).repeat(len(guess), 1)
    easy, hard = (settled & (guess >= 0)).nonzero()[:, 0], (~settled).nonzero()[:, 0]
    found = cast(baked.tree, origins[hard], directions[hard])
    covered = settled & (guess >= 0)
    covered[hard] = found.triangle >= 0
    on = (found.triangle >= 0).nonzero()[:, 0]
    linear[hard[on]] = baked.radiance(found.triangle[on], found.bary[on])
    linear[easy] = baked.radiance(guess[easy], meet_planes(baked.tree, guess[easy], origins[easy], directions[easy]).bary)
    linear = linear.clamp(0, 1).reshape(h, s, w, s, 3).mean((1, 3))
    return srgb_from_linear(linear), covered.float().reshape(h, s, w, s).mean((1, 3))


def render_truth(scene: SyntheticScene, cameras: Cameras, supersample: int = 2) -> Truth:
    """What `cameras` see of the scene. About one second for a 480x360 photo at supersample 2 on two cores."""
    parts: list[tuple[Tensor, ...]] = []
    with one_thread_each():
        for i in range(len(cameras)):
            depth, normal, sheet, triangle = _geometry(scene, cameras[i])
            image, mask = _colors(scene, cameras[i], supersample, sheet, triangle)
            parts.append((image, depth, normal, mask, sheet))
    return Truth(*(torch.stack(x) for x in zip(*parts, strict=True)))


def true_mesh(scene: SyntheticScene) -> Mesh:
    """Every surface of the scene, grey, also what no camera sees; triangles share no vertices."""
    tree = scene.baked.tree
    corner, edge1, edge2 = (x[tree.slot].numpy() for x in (tree.corner, tree.edge1, tree.edge2))
    vertices = np.stack([corner, corner + edge1, corner + edge2], 1).reshape(-1, 3)
    return Mesh(vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3), np.full_like(vertices, 0.5))


def true_flow(scene: SyntheticScene, cameras: Cameras, depth: Float[Tensor, "V H W"], source: int, target: int) -> FlowField:
    """Exact flow from the centres of `source`'s pixels into `target`; confidence 1 where that surface point is seen there, else 0.

    `depth` is `Truth.depth` of the same cameras. Visibility is decided by a ray from the target camera to the point, not by its depth map.
    """
    cams = cameras.to(dtype=torch.float64)
    xyz = cams[source].unproject_depth(depth[source][None].double())[0]
    uv, z = cams[target].project(xyz.reshape(-1, 3))
    uv, z = uv[0].reshape(*xyz.shape[:2], 2), z[0].reshape(xyz.shape[:2])
    inside = (depth[source] > 0) & (z > 0) & (uv >= 0).all(-1) & (uv[..., 0] <= cams.width) & (uv[..., 1] <= cams.height)
    eye = cams[target].centers[0]
    to_point = xyz[inside] - eye
    hits = cast(scene.baked.tree, eye.expand_as(to_point).contiguous(), to_point)
    seen = torch.zeros(inside.shape)
    seen[inside] = (hits.t > 1 - 1e-4).float()
    flow = (uv - pixel_centers(cams.width, cams.height, dtype=torch.float64)).float()
    return FlowField(torch.where((depth[source] > 0)[..., None], flow, torch.zeros(())), seen)


def true_matches(scene: SyntheticScene, cameras: Cameras, depth: Float[Tensor, "V H W"], source: int, target: int, count: int = 500, seed: int = 0) -> Matches:
    """At most `count` exact matches, random pixel centres of `source` that `target` sees too; score 1."""
    flow = true_flow(scene, cameras, depth, source, target)
    at = flow.confidence.nonzero()
    pick = at[torch.randperm(len(at), generator=torch.Generator().manual_seed(seed))[:count]]
    uv0 = pixel_centers(cameras.width, cameras.height)[pick[:, 0], pick[:, 1]]
    return Matches(uv0, uv0 + flow.flow[pick[:, 0], pick[:, 1]], torch.ones(len(pick)))


def capture_of(truth: Truth, prefix: str, cameras: Cameras | None, white: bool) -> Capture:
    """Rounded to 8 bit as a camera would; masks travel only where the scene leaves pixels empty."""
    masks = [m if (m < 1).any() else None for m in truth.mask]
    rounded = (truth.images * 255).round() / 255
    views = tuple(View(f"{prefix}_{i:02d}.png", ArrayImage(im, m)) for i, (im, m) in enumerate(zip(rounded, masks, strict=True)))
    return Capture(views, cameras, white_background=white, source="synthetic")


def demo_capture(
    n: int = 3, held_out: int = 3, width: int = 480, height: int = 360, seed: int = 0, kind: str = "tabletop", step_degrees: float = 11.0, supersample: int = 2
) -> Demo:
    """`n` photos taken by hand along an arc, `step_degrees` apart (at most 80 in all), and `held_out` views from between them."""
    if n < 2 or held_out < 1:
        raise ConfigError(f"A demo capture needs at least 2 photos and 1 held-out view; got {n} and {held_out}.")
    scene = make_scene(seed, kind)
    span = min(step_degrees * (n - 1), 80.0)
    between = [span * ((k + 0.5) / held_out - 0.5) for k in range(held_out)]
    cameras = arc_cameras(scene, np.linspace(-span / 2, span / 2, n).tolist(), width, height, seed=1)
    others = arc_cameras(scene, between, width, height, seed=2)
    truth = render_truth(scene, cameras, supersample)
    unseen = render_truth(scene, others, supersample)
    white = kind in WHITE
    return Demo(scene, capture_of(truth, "photo", None, white), cameras, capture_of(unseen, "held_out", others, white), truth, unseen)
