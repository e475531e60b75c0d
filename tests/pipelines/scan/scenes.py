"""Three photos of a made-up scene with what they triangulate, and an exact scan of it from a fourth place, for tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from handful.data.synthetic import Demo, demo_capture
from handful.pipelines.init.registry import get_initializer
from handful.recon.camera import Cameras
from handful.recon.capture import Capture
from handful.recon.points import PointCloud
from handful.recon.se3 import Similarity, so3_exp
from handful.recon.sweeps import Sweep, world_returns
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """Three photos with their true cameras, what the initialiser triangulates from them, and an exact scan from a fourth place."""

    capture: Capture
    points: PointCloud
    depth: float  # median, of what the scan shows
    demo: Demo

    @property
    def returns(self) -> Tensor:
        return world_returns(self.capture.sweeps)

    def displaced(self, similarity: Similarity) -> Capture:
        return replace(self.capture, sweeps=tuple(s.carried(similarity) for s in self.capture.sweeps))

    def off(self, fitted: Capture) -> float:
        """Largest distance of a return from its true place, in depths."""
        return float((world_returns(fitted.sweeps) - self.returns).norm(dim=-1).max()) / self.depth


def scan_of(camera: Cameras, depth: Tensor, step: int) -> Sweep:
    """Every `step`-th pixel's exact depth, as a scanner at the camera would give it."""
    camera = camera.to(dtype=torch.float64)
    xyz = camera.unproject_depth(depth.double()[None])[0][depth > 0][::step]
    local = (xyz - camera.centers[0]) @ camera.cam_from_world[0, :3, :3].T
    return Sweep(local, camera.world_from_cam[0])


def made(kind: str) -> Scene:
    demo = demo_capture(3, 1, 320, 240, kind=kind, supersample=1)
    depth = demo.held_out_truth.depth[0]
    capture = replace(demo.photos, cameras=demo.photo_cameras, sweeps=(scan_of(demo.held_out.cameras[0], depth, 5),))
    return Scene(capture, get_initializer("given").run(capture).points, float(depth[depth > 0].median()), demo)


def motion(scene: Scene, degrees: float = 0.0, shift: float = 0.0, scale: float = 1.0) -> Similarity:
    """Turned and scaled about the scan's middle, shifted by a share of the depth."""
    axis = torch.tensor([0.5, -0.6, 0.62], dtype=torch.float64)
    R = so3_exp(axis / axis.norm() * math.radians(degrees))
    way = torch.tensor([0.3, 0.8, -0.4], dtype=torch.float64)
    s, c = torch.tensor(scale, dtype=torch.float64), scene.returns.mean(0)
    return Similarity(s, R, c - s * (R @ c) + shift * scene.depth * way / way.norm())
