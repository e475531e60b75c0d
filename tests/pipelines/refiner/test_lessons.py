"""Lessons are what they say: the same for a seed, with views from where they should be, which see what photos saw."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data._synth.kinds import KINDS
from handful.data.synthetic import render_truth
from handful.pipelines.refiner.lessons import GROUPS, Lesson, lesson, load_lesson, make_lessons, save_lesson, shoot
from handful.recon.gaussians import Gaussians


@pytest.fixture(scope="module")
def toys() -> Lesson:
    return lesson(3, "toys", 2)


def elevation(centers: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    offset = centers - target
    return torch.rad2deg(torch.asin(offset[:, 2] / offset.norm(dim=1)))


def test_views_stand_where_their_group_says(toys: Lesson) -> None:
    made, _ = shoot(3, "toys", 2)
    target = torch.tensor(made.scene.stage.target)
    high = [i for i, g in enumerate(toys.group) if GROUPS[g] == "high"]
    near = [i for i, g in enumerate(toys.group) if GROUPS[g] == "near"]
    assert high and near
    assert elevation(toys.views.centers, target)[high].min() > 69
    photos = elevation(toys.photos.centers, target)
    assert (elevation(toys.views.centers, target)[near] - photos.mean()).abs().max() < 12
    assert len(toys.gaussians) > 1000 and toys.background == (1.0, 1.0, 1.0)
    assert torch.equal(toys.images, (made.capture.images() * 255).round().to(torch.uint8))


def test_what_a_view_sees_is_in_some_photo(toys: Lesson) -> None:
    """Counted anew from rays of the view's own, on a finer grid than the lesson's choice was made on."""
    made, _ = shoot(3, "toys", 2)
    for i in range(len(toys.views)):
        view = toys.views[i].resized(80, 60)
        z = render_truth(made.scene, view, 1).depth[0]
        xyz = view.unproject_depth(z[None])[0][z > 0]
        seen = torch.zeros(len(xyz), dtype=torch.bool)
        for p in range(len(made.cameras)):
            uv, far = made.cameras[p].project(xyz)
            for k, ((u, v), d) in enumerate(zip(uv[0].tolist(), far[0].tolist(), strict=True)):
                if 0 <= u < made.cameras.width and 0 <= v < made.cameras.height:
                    seen[k] |= abs(float(made.depth[p, int(v), int(u)]) - d) < 0.03 * d
        assert seen.float().mean() > 0.33, i


def test_files(toys: Lesson, tmp_path: Path) -> None:
    save_lesson(toys, tmp_path / "toys_2photos_000003.safetensors")
    back = load_lesson(tmp_path / "toys_2photos_000003.safetensors")
    for f in fields(Lesson):
        a, b = getattr(toys, f.name), getattr(back, f.name)
        if isinstance(a, Gaussians):
            assert torch.equal(a.means, b.means) and torch.allclose(a.log_scales, b.log_scales, rtol=1e-3)
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
        elif f.name in ("kind", "background", "group"):
            assert a == b
    when = (tmp_path / "toys_2photos_000003.safetensors").stat().st_mtime_ns
    assert list(make_lessons(tmp_path, range(3, 4), 1, "toys", 2)) == [tmp_path / "toys_2photos_000003.safetensors"]
    assert (tmp_path / "toys_2photos_000003.safetensors").stat().st_mtime_ns == when, "what is there is kept"


@pytest.mark.parametrize("kind", ["still", "toys"])
def test_random_scenes(kind: str) -> None:
    stages = [KINDS[kind](seed) for seed in (8, 8, 9)]
    points = [np.concatenate([s.points.reshape(-1, 3) for o in stage.objects for s in o]) for stage in stages]
    assert np.array_equal(points[0], points[1]) and points[0].shape != points[2].shape
    assert np.isfinite(points[0]).all() and points[0][:, 2].min() > -0.3, "everything stands on the ground, or on a board on it; what is bumpy sinks in a little"
    assert stages[0].distance > 1
