"""The captures on which surfaces are judged, each with its training photos and its judge: made scenes with exact truth, DTU without a scan, a room with depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data.registry import load_capture
from ..data.synthetic import Demo, arc_cameras, demo_capture, render_truth, true_mesh
from ..pipelines.evaluate import training_capture
from ..pipelines.protocols import EvalProtocol, load_benchmark, resolve
from ..recon.camera import Cameras
from ..recon.capture import Capture
from ..recon.errors import CaptureError
from ..recon.mesh import Mesh
from ..recon.neighbours import nearest
from ..recon.scene import SplatScene
from .surface_reference import Reference, stereo_reference
from .surface_scores import (
    Surface,
    angles,
    area_samples,
    mesh_depth,
    outside_hull,
    pixels_of,
    score_depths,
    score_distances,
    seen_by,
    seen_part,
    silhouette_scores,
)

__all__ = ["CASES", "FOLDERS", "Case", "DtuCase", "Look", "RoomCase", "SyntheticCase", "rendered_depth"]

SAMPLES = 200_000  # points on the mesh
THRESHOLD = 0.01  # of the median depth: the F-score's, on made scenes
EDGE = 0.005  # of the median depth: how finely the truth is cut into what is seen and what is not
OPAQUE = 0.5  # from which a rendered pixel has a depth
DTU_THRESHOLD, DTU_FAR, DTU_CELL = 2.0, 20.0, 0.5  # mm
DTU_NEAR = 20.0  # degrees from the nearest training photo: views that see about what the photos see
HULL_SLACK = 2  # pixels
ROOM_TRAIN, ROOM_HELD_OUT = (0, 1, 2), (3,)  # of the others none sees what these three see
SEEN = 0.02  # relative difference of two depth maps that show one point


@dataclass(frozen=True)
class Look:
    """A view to draw: the photo, and its true depth where there is one (0 = none)."""

    name: str
    camera: Cameras
    photo: Float[Tensor, "H W 3"]
    depth: Float[Tensor, "H W"] | None = None


class Case(Protocol):
    """One capture. `judge` gives flat scores; `looks` are a training view and novel ones."""

    @property
    def train(self) -> Capture: ...

    @property
    def looks(self) -> tuple[Look, ...]: ...

    def judge(self, scene: SplatScene, mesh: Mesh) -> dict[str, float]: ...


def rendered_depth(scene: SplatScene, cameras: Cameras) -> Float[Tensor, "V H W"]:
    """The rasterizer's depth where the scene is opaque (0 elsewhere)."""
    outs = [scene.render(cameras[i].to(dtype=torch.float32)) for i in range(len(cameras))]
    return torch.cat([torch.where(o.alpha > OPAQUE, o.depth, 0.0).cpu().nan_to_num(0.0, 0.0, 0.0) for o in outs])


def _world_points(cameras: Cameras, depth: Float[Tensor, "V H W"]) -> Float[np.ndarray, "N 3"]:
    """Of all pixels that have a depth."""
    return cameras.to("cpu", torch.float64).unproject_depth(depth.double())[depth > 0].numpy()


def _given(capture: Capture) -> Cameras:
    if capture.cameras is None:
        raise CaptureError("Surfaces are scored on captures with cameras.")
    return capture.cameras


# -- made scenes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SyntheticCase:
    """Three photos of a made scene with their true cameras; the truth is its triangles, cut to `edge` median depths where what is seen ends."""

    demo: Demo
    samples: int = SAMPLES
    edge: float = EDGE

    @staticmethod
    def load(kind: str) -> SyntheticCase:
        return SyntheticCase(demo_capture(kind=kind))

    @property
    def train(self) -> Capture:
        return replace(self.demo.photos, cameras=self.demo.photo_cameras)

    @property
    def looks(self) -> tuple[Look, ...]:
        d = self.demo
        aside = arc_cameras(d.scene, [34.0], d.photo_cameras.width, d.photo_cameras.height, jitter=0.0)  # 23 degrees beyond the last photo
        truth = render_truth(d.scene, aside, 1)
        middle = len(d.photos) // 2
        return (
            Look("training photo", d.photo_cameras[middle], d.photo_truth.images[middle], d.photo_truth.depth[middle]),
            Look("34 degrees aside", aside, truth.images[0], truth.depth[0]),
        )

    @cached_property
    def truth(self) -> Surface:
        return Surface.of(true_mesh(self.demo.scene))

    @cached_property
    def unit(self) -> float:
        """A percent of the median depth."""
        z = self.demo.photo_truth.depth
        return float(z[z > 0].median()) / 100

    @cached_property
    def seen(self) -> Surface:
        return seen_part(self.truth, self.demo.photo_cameras, 100 * self.edge * self.unit)

    @cached_property
    def hits(self) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"], Bool[np.ndarray, "N"]]:
        """What the training photos' pixels see: points, normals in the world, and whether two photos or more see the point."""
        d, cameras = self.demo.photo_truth, self.demo.photo_cameras
        R = cameras.cam_from_world[:, :3, :3].double()
        normals = (d.normal.double()[..., None, :] @ R[:, None, None])[..., 0, :][d.depth > 0].numpy()
        xyz = _world_points(cameras, d.depth)
        return xyz, normals, seen_by(xyz, cameras, self.truth).sum(0) >= 2

    def judge(self, scene: SplatScene, mesh: Mesh) -> dict[str, float]:
        """Distances in percent of the median depth."""
        surface, cameras = Surface.of(mesh), self.demo.photo_cameras
        samples, _ = area_samples(surface, self.samples, 0)
        counts = seen_by(samples, cameras, self.truth, surface).any(0)
        to_truth = self.seen.rays.nearest(samples[counts])[0]
        points, normals, twice = self.hits
        from_truth, triangle = surface.rays.nearest(points)
        threshold = 100 * THRESHOLD * self.unit
        out = score_distances(to_truth, from_truth, threshold, self.unit)
        out |= {"left_out": float(1 - counts.mean()), "completeness_twice": float(from_truth[twice].mean() / self.unit), "seen_twice": float(twice.mean())}
        near = from_truth < threshold
        out["normal_degrees"] = float(angles(surface.normals[triangle[near]], normals[near]).mean()) if near.any() else float("nan")
        return out | self._depths(scene, surface)

    def _depths(self, scene: SplatScene, surface: Surface) -> dict[str, float]:
        d, held = self.demo, _given(self.demo.held_out)
        photos = {"mesh": mesh_depth(surface, d.photo_cameras)[0], "render": rendered_depth(scene, d.photo_cameras)}
        others = {"mesh": mesh_depth(surface, held)[0], "render": rendered_depth(scene, held)}
        counts = torch.zeros_like(d.held_out_truth.depth, dtype=torch.bool)
        known = d.held_out_truth.depth > 0
        counts[known] = torch.from_numpy(seen_by(_world_points(held, d.held_out_truth.depth), d.photo_cameras, self.truth).any(0))
        out = score_depths(photos, d.photo_truth.depth, d.photo_truth.depth > 0, "train")
        out |= score_depths(others, d.held_out_truth.depth, counts, "held_out")
        for name, depth in photos.items():  # as points in space, so that floaters in front of nothing count, too
            out[f"{name}_train_distance"] = float(self.seen.rays.nearest(_world_points(d.photo_cameras, depth))[0].mean() / self.unit)
        return out


# -- DTU ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DtuCase:
    """A DTU scan in its data set's world (millimetres), dtu-3's training photos. There is no scan at hand: masks and a stereo cloud of all photos judge."""

    capture: Capture
    protocol: EvalProtocol
    kept: Path | None = None

    @staticmethod
    def load(folder: Path, kept: Path | None = None) -> DtuCase:
        capture, protocol = load_benchmark("dtu", folder, 3)
        return DtuCase(capture.kept(), protocol, None if kept is None else kept / f"{folder.name}_stereo.npz")

    @property
    def train(self) -> Capture:
        return training_capture(self.capture, self.protocol)

    @cached_property
    def trained(self) -> list[int]:
        return [self.capture.names.index(n) for n in resolve(self.protocol.train, self.capture.names)]

    @cached_property
    def masks(self) -> Bool[Tensor, "V H W"]:
        masks = self.capture.masks()
        if masks is None:
            raise CaptureError("DTU's surfaces are scored with its masks; add the mask folder.")
        return masks > 0.5

    @cached_property
    def away(self) -> Float[Tensor, "V"]:
        """Degrees from each photo's viewing direction to the nearest training photo's."""
        ahead = _given(self.capture).cam_from_world[:, 2, :3].double()
        return torch.rad2deg(torch.arccos((ahead @ ahead[self.trained].T).clamp(-1, 1))).amin(1)

    @property
    def looks(self) -> tuple[Look, ...]:
        cameras, first = _given(self.capture), self.trained[0]
        others = [i for i in range(len(self.capture)) if i not in self.trained]
        near = min(others, key=lambda i: float(self.away[i]))
        aside = min(others, key=lambda i: abs(float(self.away[i]) - 25.0))
        names = {first: "training photo", near: f"held out, {self.away[near]:.0f} degrees", aside: f"held out, {self.away[aside]:.0f} degrees"}
        return tuple(Look(name, cameras[i], self.capture.views[i].image.load()) for i, name in names.items())

    @cached_property
    def reference(self) -> Reference:
        """The stereo cloud inside the visual hull."""
        r = stereo_reference(self.capture, self.trained, DTU_CELL, self.kept)
        inside = ~outside_hull(r.xyz, _given(self.capture), self.masks, HULL_SLACK)
        return Reference(r.xyz[inside], r.seen_by[inside])

    def judge(self, scene: SplatScene, mesh: Mesh) -> dict[str, float]:
        """Distances in millimetres; from the reference only where a training photo sees it."""
        surface, cameras = Surface.of(mesh), _given(self.capture)
        samples, _ = area_samples(surface, SAMPLES, 0)
        r = self.reference
        from_truth = surface.rays.nearest(r.xyz)[0]
        out = score_distances(self._to_reference(samples), from_truth[r.seen_by >= 1], DTU_THRESHOLD, far=DTU_FAR)
        twice = from_truth[r.seen_by >= 2]
        out |= {"completeness_twice": float(twice[twice < DTU_FAR].mean()), "reference_points": float((r.seen_by >= 1).sum())}
        rendered = _world_points(cameras[self.trained], rendered_depth(scene, cameras[self.trained]) * self.masks[self.trained])
        picked = rendered[np.random.default_rng(0).permutation(len(rendered))[:SAMPLES]]
        d = self._to_reference(picked)
        out["render_accuracy"] = float(d[d < DTU_FAR].mean())
        out["outside_hull"] = float(outside_hull(samples, cameras, self.masks, HULL_SLACK).mean())
        return out | self._silhouettes(surface)

    def _to_reference(self, xyz: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N"]:
        return nearest(torch.from_numpy(self.reference.xyz), torch.from_numpy(xyz), 1)[1][:, 0].numpy()

    def _silhouettes(self, surface: Surface) -> dict[str, float]:
        held = [i for i in range(len(self.capture)) if i not in self.trained]
        shown = mesh_depth(surface, _given(self.capture)[held])[1] >= 0
        per_view = silhouette_scores(shown, self.masks[held])
        near = self.away[held] <= DTU_NEAR
        out = {f"silhouette_{k}": float(v.mean()) for k, v in per_view.items()}
        return out | {f"silhouette_{k}_near": float(v[near].mean()) for k, v in per_view.items()} | {"views": float(len(held)), "views_near": float(near.sum())}


# -- a room ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoomCase:
    """Three photos of a room with the dense depth that came with it."""

    capture: Capture

    @staticmethod
    def load(folder: Path) -> RoomCase:
        capture = load_capture(folder)
        if len(capture.depth) != len(capture) or any(d is None for d in capture.depth):
            raise CaptureError(f"{folder} lacks the depth that surfaces are scored against.")
        return RoomCase(capture.kept())

    @property
    def train(self) -> Capture:
        return replace(self.capture.select([self.capture.names[i] for i in ROOM_TRAIN]), depth=())

    @cached_property
    def depth(self) -> Float[Tensor, "V H W"]:
        return torch.stack([d.depth for d in self.capture.depth if d is not None])

    @property
    def looks(self) -> tuple[Look, ...]:
        names = {ROOM_TRAIN[1]: "training photo", ROOM_HELD_OUT[0]: "held out"}
        return tuple(Look(n, _given(self.capture)[i], self.capture.views[i].image.load(), self.depth[i]) for i, n in names.items())

    def judge(self, scene: SplatScene, mesh: Mesh) -> dict[str, float]:
        """Depth alone; of the held-out photo what a training photo sees."""
        surface, cameras, out = Surface.of(mesh), _given(self.capture), {}
        for where, ids in (("train", list(ROOM_TRAIN)), ("held_out", list(ROOM_HELD_OUT))):
            depths = {"mesh": mesh_depth(surface, cameras[ids])[0], "render": rendered_depth(scene, cameras[ids])}
            counts = torch.ones_like(self.depth[ids], dtype=torch.bool) if where == "train" else torch.stack([self._seen(i) for i in ids])
            out |= score_depths(depths, self.depth[ids], counts, where)
            out[f"{where}_seen"] = float(counts.float().mean())
        return out

    def _seen(self, i: int) -> Bool[Tensor, "H W"]:
        """Pixels of photo i whose point a training photo shows, too, by the capture's depth."""
        cameras, out = _given(self.capture).to(dtype=torch.float32), torch.zeros(self.depth[i].numel(), dtype=torch.bool)
        xyz = cameras[i].unproject_depth(self.depth[i][None]).reshape(-1, 3)
        for j in ROOM_TRAIN:
            rows, columns, z, inside = pixels_of(cameras[j], xyz)
            out |= inside & ((self.depth[j][rows, columns] - z).abs() < SEEN * z)
        return out.reshape(self.depth[i].shape) & (self.depth[i] > 0)


# -- all of them -------------------------------------------------------------------------------------------------------

CASES: dict[str, dict[str, Callable[[Path, Path | None], Case]]] = {  # group -> name -> from the data folder and the one for references
    "synthetic": {
        "tabletop": lambda data, kept: SyntheticCase.load("tabletop"),
        "object": lambda data, kept: SyntheticCase.load("object"),
    },
    "dtu": {
        "dtu_scan24": lambda data, kept: DtuCase.load(data / "dtu_scan24", kept),
        "dtu_scan37": lambda data, kept: DtuCase.load(data / "dtu_scan37", kept),
    },
    "room": {"pi3_room8": lambda data, kept: RoomCase.load(data / "pi3_room8")},
}
FOLDERS = ("dtu_scan24", "dtu_scan37", "pi3_room8")  # cases whose photos lie in the data folder under their name
