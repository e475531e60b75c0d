"""The visual hull against balls whose outlines are known in closed form, and what it must never leave out."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.field.hull import cells_in_hull
from handful.recon.field.space import BoxSpace
from handful.recon.hull import Hull, shown_whole
from torch import Tensor

SPACE = BoxSpace(torch.tensor([0.3, -0.2, 0.1]), 4.0)
SIDE = 40


def looking_in(count: int, distance: float = 5.0, size: tuple[int, int] = (160, 120), focal: float = 150.0) -> Cameras:
    """Cameras on a sphere about the cube's middle, that look at it."""
    rng = torch.Generator().manual_seed(0)
    poses = []
    for k in range(count):
        away = torch.nn.functional.normalize(torch.randn(3, generator=rng) + torch.eye(3)[k % 3] * (1 if k < 3 else -1), dim=0)
        forward = -away
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.1, 0.9, 0.3])), dim=0)
        R = torch.stack([right, torch.linalg.cross(forward, right), forward])
        T = torch.eye(4)
        T[:3, :3], T[:3, 3] = R, -R @ (SPACE.center + distance * away)
        poses.append(T)
    K = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]).expand(count, 3, 3).clone()
    return Cameras(torch.stack(poses), K, *size)


def outlines(cameras: Cameras, center: Tensor, radius: float) -> Tensor:
    """Of a ball: pixels whose ray passes within its radius."""
    uv = pixel_centers(cameras.width, cameras.height, torch.device("cpu"))
    masks = []
    for T, K in zip(cameras.cam_from_world, cameras.K, strict=True):
        rays = torch.nn.functional.normalize(torch.cat([(uv - K[:2, 2]) / K[[0, 1], [0, 1]], torch.ones_like(uv[..., :1])], -1), dim=-1)
        at = T[:3, :3] @ center + T[:3, 3]
        masks.append((torch.linalg.cross(rays, at.expand_as(rays)).norm(dim=-1) <= radius).float())
    return torch.stack(masks)


def cells_in_outlines(cameras: Cameras, masks: Tensor, space: BoxSpace, side: int) -> Tensor:
    """All of them where no photo shows the object whole."""
    hull = Hull.of(cameras, masks)
    return torch.ones(side, side, side, dtype=torch.bool) if hull is None else cells_in_hull(hull, space, side)


def cell_centers() -> Tensor:
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    return SPACE.to_world(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)).view(SIDE, SIDE, SIDE, 3)


@pytest.mark.parametrize("radius", [0.15, 0.8])
def test_all_of_a_ball_and_little_beside_it(radius: float) -> None:
    cameras, middle = looking_in(12), SPACE.center + torch.tensor([0.4, -0.3, 0.2])
    masks = outlines(cameras, middle, radius)
    assert bool(shown_whole(masks).all())
    kept = cells_in_outlines(cameras, masks, SPACE, SIDE)
    distance, half = (cell_centers() - middle).norm(dim=-1), 0.5 * SPACE.size / SIDE
    assert bool(kept[distance < radius + half].all()), "a cell that the ball reaches into"
    # a pixel is 1/30 there, and a cell's ball has .087: beyond both, a dozen cameras leave little
    assert not bool(kept[distance > 2 * (radius + 0.3)].any()) and float(kept.float().mean()) < 3 * (4 / 3 * math.pi * (radius + 0.25) ** 3) / SPACE.size**3


def test_by_hand_for_every_cell() -> None:
    """A cell is left out only if no pixel that any of its points falls on is held, in some photo that shows the object whole."""
    cameras, middle = looking_in(3), SPACE.center.clone()
    masks = outlines(cameras, middle, 0.5)
    kept = cells_in_outlines(cameras, masks, SPACE, 12)
    rng = torch.Generator().manual_seed(1)
    for k in range(3):
        xyz = torch.rand(12**3, 300, 3, generator=rng)
        axis = torch.arange(12)
        cell = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 1, 3)
        world = SPACE.to_world((cell + xyz) / 12).reshape(-1, 3)
        local = world @ cameras.cam_from_world[k, :3, :3].T + cameras.cam_from_world[k, :3, 3]
        uv = (local @ cameras.K[k].T)[:, :2] / local[:, 2:]
        inside = (uv >= 0).all(1) & (uv[:, 0] < cameras.width) & (uv[:, 1] < cameras.height)
        hit = torch.zeros(len(uv), dtype=torch.bool)
        hit[inside] = masks[k][uv[inside, 1].long(), uv[inside, 0].long()] > 0
        seen = hit.view(12**3, 300).any(1) if k == 0 else seen & hit.view(12**3, 300).any(1)
    assert int(seen.sum()) > 5 and bool(kept.view(-1)[seen].all())


def test_a_photo_that_shows_a_part_says_nothing() -> None:
    cameras, middle = looking_in(4), SPACE.center.clone()
    masks = outlines(cameras, middle, 0.6)
    cut = masks.clone()
    cut[0, :, 75:] = 1  # reaches the border
    assert shown_whole(cut).tolist() == [False, True, True, True]
    assert torch.equal(cells_in_outlines(cameras, cut, SPACE, SIDE), cells_in_outlines(cameras[1:], masks[1:], SPACE, SIDE))
    assert shown_whole(torch.zeros_like(masks)).tolist() == [False] * 4
    assert bool(cells_in_outlines(cameras, torch.ones_like(masks), SPACE, SIDE).all()) and bool(cells_in_outlines(cameras, 0 * masks, SPACE, SIDE).all())
    specks = masks.clone()
    specks[:, 0, 3] = 1
    assert bool(shown_whole(specks).all())
    leg = masks.clone()
    leg[0, 60:, 78:80] = 1  # two pixels wide, and runs out of the picture
    assert shown_whole(leg).tolist() == [False, True, True, True]


def test_a_photo_on_a_larger_canvas_may_show_a_part() -> None:
    """Padding, or a corner that the lens left out, is not beside the object: where the photo ends there, so may the object."""
    cameras, middle = looking_in(4), SPACE.center.clone()
    masks = outlines(cameras, middle, 0.6)
    extents = torch.ones_like(masks)
    extents[0, :55] = 0
    cut = masks * extents
    assert shown_whole(cut).all() and shown_whole(cut, extents).tolist() == [False, True, True, True]
    hull, less = Hull.of(cameras, cut, extents), Hull.of(cameras[1:], masks[1:])
    assert hull is not None and less is not None and hull.photos == (1, 2, 3)
    assert torch.equal(cells_in_hull(hull, SPACE, SIDE), cells_in_hull(less, SPACE, SIDE))
    extents[0] = 1
    extents[0, :5] = 0
    assert bool(shown_whole(masks, extents).all()), "padding that does not touch it says nothing"


def test_what_lies_behind_a_camera_cannot_be_and_what_lies_at_it_may() -> None:
    """A camera within the cube."""
    cameras = looking_in(1, distance=1.0, focal=60.0)
    masks = outlines(cameras, SPACE.center, 0.3)
    kept = cells_in_outlines(cameras, masks, SPACE, SIDE)
    z = ((cell_centers() - cameras.centers[0]) @ cameras.cam_from_world[0, 2, :3]).view(SIDE, SIDE, SIDE)
    assert not bool(kept[z < -0.2].any()) and bool(kept[(cell_centers() - SPACE.center).norm(dim=-1) < 0.3].all())
    small = replace(cameras, K=cameras.K * torch.tensor([1e-3, 1e-3, 1.0])[:, None])
    assert cells_in_outlines(small, masks, SPACE, 8).shape == (8, 8, 8)


def test_the_first_depth_is_the_hull_s_front() -> None:
    """Before the ball, and by no more than the cameras leave open; nothing beside it."""
    cameras, radius = looking_in(12), 0.8
    hull = Hull.of(cameras, outlines(cameras, SPACE.center, radius))
    assert hull is not None and len(hull.cameras) == 12
    front = hull.first_depth(cameras[0], torch.linspace(2, 8, 200))
    assert front.shape == (120, 160)
    assert 5.0 - 1.35 * radius < float(front[60, 80]) <= 5.0 - radius + 0.05, "the ball's front is at 4.2"
    assert bool(front[:20].isinf().all()) and bool(front[:, :20].isinf().all())
    assert Hull.of(cameras, torch.ones(12, 120, 160)) is None
