"""Discs in the surface that a depth map shows: closed forms of planes, and what happens at edges."""

from __future__ import annotations

import math

import pytest
import torch
from handful.pipelines.methods.surface import surface_discs
from handful.recon.camera import Cameras
from handful.recon.se3 import matrix_from_quat, so3_exp
from torch import Tensor

W, H, FOCAL = 64, 48, 60.0


def camera(turned: bool = True) -> Cameras:
    T = torch.eye(4)[None].clone()
    if turned:
        T[0, :3, :3] = so3_exp(torch.tensor([0.3, -0.5, 0.2]))
        T[0, :3, 3] = torch.tensor([0.4, -0.1, 0.7])
    K = torch.tensor([[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1.0]])[None]
    return Cameras(T, K, W, H)


def plane(cam: Cameras, degrees: float) -> tuple[Tensor, Tensor]:
    """z-depth of a plane through the optical axis 3 away, tilted about the camera's y axis, and its normal in the world."""
    a = math.radians(degrees)
    n = torch.tensor([math.sin(a), 0.0, math.cos(a)])
    u, v = torch.meshgrid(torch.arange(W) + 0.5, torch.arange(H) + 0.5, indexing="xy")
    ray = torch.stack([(u - W / 2) / FOCAL, (v - H / 2) / FOCAL, torch.ones_like(u)], -1)
    return 3.0 * n[2] / (ray @ n), cam.cam_from_world[0, :3, :3].T @ n


@pytest.mark.parametrize("degrees", [0.0, 40.0, 60.0])
def test_a_disc_lies_in_its_plane_and_looks_round(degrees: float) -> None:
    cam = camera()
    depth, normal = plane(cam, degrees)
    quats, stretch = surface_discs(cam, depth, thickness=1e-3, tilt=10.0)
    R = matrix_from_quat(quats)
    inner = R[4:-4, 4:-4, :, 2]
    torch.testing.assert_close((inner @ normal).abs(), torch.ones(inner.shape[:2]), atol=1e-4, rtol=0)
    y, x = H // 2, W // 2
    assert stretch[y, x, 0] == pytest.approx(1 / math.cos(math.radians(degrees)), rel=0.02)
    spread = R[y, x] * stretch[y, x]
    to_camera = cam.cam_from_world[0, :3, :3] @ spread
    picture = (to_camera @ to_camera.T)[:2, :2]  # near the optical axis a projection drops z
    torch.testing.assert_close(picture, torch.eye(2), atol=0.03, rtol=0)


def test_a_disc_is_no_longer_than_asked_for() -> None:
    cam = camera()
    depth, _ = plane(cam, 60.0)
    _, stretch = surface_discs(cam, depth, thickness=0.3, tilt=1.5)
    assert stretch[..., 0].max() == pytest.approx(1.5)
    assert bool((stretch[..., 1] == 1).all())
    assert bool((stretch[..., 2] == 0.3).all())


def test_at_an_edge_of_depth_a_disc_faces_the_camera() -> None:
    cam = camera(turned=False)
    depth = torch.full((H, W), 2.0)
    depth[:, W // 2 :] = 3.0
    quats, stretch = surface_discs(cam, depth, thickness=0.3, tilt=3.0)
    edge = slice(W // 2 - 1, W // 2 + 1)
    ray = cam.unproject_depth(depth[None])[0]
    ray = ray / ray.norm(dim=-1, keepdim=True)
    facing = (matrix_from_quat(quats)[..., 2] * ray).sum(-1).abs()
    assert bool((facing[:, edge] > 0.9999).all())
    assert bool((stretch[:, edge, 0] == 1).all())


def test_balls_stay_balls() -> None:
    cam = camera()
    depth, _ = plane(cam, 60.0)
    quats, stretch = surface_discs(cam, depth, thickness=1.0, tilt=1.0)
    assert bool((stretch == 1).all())
    torch.testing.assert_close(quats.norm(dim=-1), torch.ones(H, W))


def test_nothing_is_made_of_no_depth() -> None:
    quats, stretch = surface_discs(camera(), torch.zeros(H, W), thickness=0.3, tilt=3.0)
    assert bool(torch.isfinite(quats).all() and torch.isfinite(stretch).all())
