"""A field's surface as points, against closed forms: on the surface, in its colours, turned towards who sees them."""

from __future__ import annotations

import pytest
import torch
from handful.pipelines.nerf.points import field_points, typical_depth
from handful.recon.field.space import Space
from torch import Tensor

from .known_fields import BOX, CONTRACTED, FRUSTUM, around, ball, before, plain, scene_of

BALLS = [(BOX, (0.4, -0.1, 0.9), 0.9), (FRUSTUM, (0.2, -0.1, 3.0), 0.8), (CONTRACTED, (0.3, -0.2, 1.0), 0.6)]


@pytest.mark.parametrize(("space", "center", "radius"), BALLS)
def test_points_lie_on_a_ball(space: Space, center: tuple[float, float, float], radius: float) -> None:
    scene = scene_of(space, ball(center, radius), steepness=400.0, steps=256.0)
    cloud = field_points(scene)
    assert cloud.normals is not None and cloud.rgb is not None and len(cloud) > 500
    outward = (cloud.xyz - torch.tensor(center)) / radius
    off = (torch.linalg.vector_norm(outward, dim=1) - 1).abs() * radius
    assert float(off.max()) < 0.05 and float(off.median()) < 0.015
    assert float((cloud.normals.norm(dim=1) - 1).abs().max()) < 1e-5
    cosine = (cloud.normals * torch.nn.functional.normalize(outward, dim=1)).sum(1)
    assert float(cosine.median()) > 0.999 and float(cosine.min()) > 0.95
    assert float((cloud.rgb - torch.tensor([0.8, 0.3, 0.1])).abs().max()) < 1e-3, "without the white behind"


def test_every_camera_sees_its_own_side() -> None:
    """Of a ball, each photo adds what is turned towards it: as many points as pixels that the ball covers, but for its rim."""
    cameras = around((0.3, -0.2, 1.0), 3.0, 4, 64)
    cloud = field_points(scene_of(BOX, ball((0.3, -0.2, 1.0), 0.8), steepness=400.0, steps=256.0, cameras=cameras))
    radius = 1.2 * 64 * 0.8 / (3.0**2 - 0.8**2) ** 0.5  # of its outline, pixels: it is seen under an angle with the sine r / d
    assert 0.7 < len(cloud) / (4 * torch.pi * radius**2) < 1.0
    assert cloud.normals is not None
    towards = cameras.centers[:, None] - cloud.xyz
    assert bool(((towards * cloud.normals).sum(-1) > 0).any(0).all())


def test_no_more_points_than_asked_for_and_none_between_surfaces() -> None:
    """A small ball before a wall: nothing hangs between the two."""

    def depth(at: Tensor) -> Tensor:
        return torch.maximum(ball((0.0, 0.0, 2.0), 0.4)(at), at[:, 2] - 5.0)

    scene = scene_of(FRUSTUM, depth, steepness=400.0, steps=256.0, cameras=before(96))
    assert typical_depth(scene) == pytest.approx(5.0, rel=0.02)
    cloud = field_points(scene)
    z = cloud.xyz[:, 2]
    on_ball = (torch.linalg.vector_norm(cloud.xyz - torch.tensor([0.0, 0.0, 2.0]), dim=1) - 0.4).abs() < 0.05
    on_wall = (z - 5.0).abs() < 0.1
    assert bool((on_ball | on_wall).all()) and int(on_ball.sum()) > 500 and int(on_wall.sum()) > 5000
    few = field_points(scene, most=1000)
    assert 300 < len(few) <= 1000


def test_what_is_not_solid_is_no_surface() -> None:
    fog = scene_of(BOX, lambda at: torch.full((len(at),), -10.0), plain(0.5, 0.5, 0.5), 1.0)
    assert len(field_points(fog)) == 0 and typical_depth(fog) > 0


def test_nothing_hangs_between_what_is_half_clear_and_what_lies_behind() -> None:
    """Seen through a thin sheet of half opacity, the mean depth is between the sheet and the wall, and smooth: no point is there. Beside the sheet the wall is."""

    def density(at: Tensor) -> Tensor:
        sheet = torch.minimum(0.05 - (at[:, 2] - 2.0).abs(), -at[:, 0])
        return torch.maximum(torch.where(sheet > 0, 1.0, -100.0), 100 * (at[:, 2] - 5.0))

    scene = scene_of(FRUSTUM, density, steepness=1.0, steps=256.0, cameras=before(64))
    left = scene.render(scene.cameras[0])
    depth, alpha = left.depth[0, 32, 8], left.alpha[0, 32, 8]
    assert 2.2 < float(depth) < 4.5 and float(alpha) > 0.99, "as it is rendered"
    cloud = field_points(scene)
    z = cloud.xyz[:, 2]
    assert bool(((z - 5.0).abs() < 0.15).all()) and bool((cloud.xyz[:, 0] < 0).any()) and len(cloud) > 1500
