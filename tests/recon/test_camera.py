"""Cameras: projection, its inverse, rays, resizing, cropping, checks."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.errors import HandfulError, ShapeError
from handful.recon.se3 import se3_exp


@pytest.fixture
def cameras() -> Cameras:
    gen = torch.Generator().manual_seed(0)
    w2c = se3_exp(torch.randn(3, 6, generator=gen, dtype=torch.float64) * 0.3)
    K = torch.tensor([[70.0, 0, 31.5], [0, 75, 26.0], [0, 0, 1]], dtype=torch.float64).repeat(3, 1, 1)
    K[1, 0, 0] = 90
    return Cameras(w2c, K, 64, 48)


def test_project_and_unproject(cameras: Cameras) -> None:
    xyz = torch.randn(50, 3, dtype=torch.float64) + torch.tensor([0, 0, 6.0], dtype=torch.float64)
    uv, z = cameras.project(xyz)
    assert (z > 0).all()
    torch.testing.assert_close(cameras.unproject(uv, z), xyz.expand(3, -1, -1), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        cameras.world_from_cam @ cameras.cam_from_world, torch.eye(4, dtype=torch.float64).expand(3, 4, 4), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(cameras.world_from_cam[:, :3, 3], cameras.centers, atol=1e-12, rtol=0)


def test_a_point_in_the_camera_plane_is_finite(cameras: Cameras) -> None:
    uv, z = cameras.project(cameras.centers)
    assert torch.isfinite(uv).all() and z.diagonal().abs().max() < 1e-9


def test_depth_and_rays_agree(cameras: Cameras) -> None:
    depth = torch.rand(3, 48, 64, dtype=torch.float64) + 1
    xyz = cameras.unproject_depth(depth)
    origins, directions = cameras.rays()
    t = torch.linalg.vector_norm(xyz - origins, dim=-1, keepdim=True)
    torch.testing.assert_close(origins + t * directions, xyz, atol=1e-10, rtol=0)
    uv, z = cameras[1].project(xyz[1].reshape(-1, 3))
    torch.testing.assert_close(uv[0].reshape(48, 64, 2), pixel_centers(64, 48, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(z[0].reshape(48, 64), depth[1], atol=1e-10, rtol=0)


def test_resize_and_crop_move_pixels_as_they_say(cameras: Cameras) -> None:
    xyz = torch.randn(20, 3, dtype=torch.float64) + torch.tensor([0, 0, 6.0], dtype=torch.float64)
    uv, _ = cameras.project(xyz)
    half, _ = cameras.resized(32, 24).project(xyz)
    torch.testing.assert_close(half, uv / 2)
    odd, _ = cameras.resized(128, 24).project(xyz)
    torch.testing.assert_close(odd, uv * torch.tensor([2.0, 0.5], dtype=torch.float64))
    crop = cameras.cropped(10, -4, 30, 60)
    torch.testing.assert_close(crop.project(xyz)[0], uv - torch.tensor([10.0, -4.0], dtype=torch.float64))
    assert (crop.width, crop.height) == (30, 60)


def test_subsets_keep_the_camera_dimension(cameras: Cameras) -> None:
    assert len(cameras) == 3
    for index, want in ((1, [1]), ([2, 0], [2, 0]), (slice(1, 3), [1, 2]), (torch.tensor([2]), [2])):
        assert torch.equal(cameras[index].K, cameras.K[want])
        assert torch.equal(cameras[index].cam_from_world, cameras.cam_from_world[want])


def test_frozen_and_converted(cameras: Cameras) -> None:
    with pytest.raises(FrozenInstanceError):
        cameras.width = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert cameras.to(dtype=torch.float32).K.dtype == torch.float32 and cameras.to("cpu").device.type == "cpu"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cam_from_world": torch.eye(4)}, r"cam_from_world \(V,4,4\)"),
        ({"K": torch.eye(3)[None].repeat(2, 1, 1)}, r"K \(V,3,3\).*\(2, 3, 3\)"),
        ({"width": 0}, "positive image size; got 0x48"),
        ({"cam_from_world": torch.full((3, 4, 4), float("nan"))}, "Camera 0 holds a number that is not finite"),
        ({"cam_from_world": 2 * torch.eye(4).repeat(3, 1, 1)}, "Camera 0: the upper left 3x3 .* is not a rotation"),
        ({"cam_from_world": torch.diag(torch.tensor([1.0, 1, -1, 1])).repeat(3, 1, 1)}, "is not a rotation"),
        ({"K": torch.diag(torch.tensor([-5.0, 5, 1])).repeat(3, 1, 1)}, "focal length must be positive, got -5, 5"),
    ],
)
def test_bad_cameras_are_named(cameras: Cameras, change: dict, message: str) -> None:
    assert cameras.validate() is cameras
    with pytest.raises(ShapeError, match=message) as e:
        replace(cameras, **change).validate()
    assert isinstance(e.value, HandfulError) and "\n" not in str(e.value)


def test_gradients_reach_the_camera(cameras: Cameras) -> None:
    w2c, K = cameras.cam_from_world.clone().requires_grad_(), cameras.K.clone().requires_grad_()
    xyz = torch.randn(4, 3, dtype=torch.float64) + torch.tensor([0, 0, 6.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: Cameras(a, b, 64, 48).project(xyz)[0], (w2c, K))
