"""First splats: what is only guessed keeps clear of the places where photos were taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.methods.config import SeedConfig
from handful.pipelines.methods.seed import CLEAR, seed_gaussians, ways
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.depth import DepthMap
from handful.recon.gaussians import Gaussians

SIZE = 48


def two_photos(valid_near: bool, apart: float = 0.5, focal: float = 40.0, z_near: float = 0.7) -> tuple[Capture, tuple[DepthMap, DepthMap]]:
    """Two cameras side by side that look at a wall 3 away; in photo 0 a block of pixels to the right claims a thing at `z_near`."""
    T = torch.eye(4).repeat(2, 1, 1)
    T[1, 0, 3] = -apart
    K = torch.tensor([[focal, 0, SIZE / 2], [0, focal, SIZE / 2], [0, 0, 1]]).repeat(2, 1, 1)
    rng = torch.Generator().manual_seed(0)
    views = tuple(View(f"{i}.png", ArrayImage(torch.rand(SIZE, SIZE, 3, generator=rng))) for i in range(2))
    z = torch.full((SIZE, SIZE), 3.0)
    valid = torch.ones(SIZE, SIZE, dtype=torch.bool)
    near = z.clone()
    near[20:28, 30:48] = z_near
    trusted = valid.clone()
    trusted[20:28, 30:48] = valid_near
    # confidence keeps the block in the completed depth; not being valid makes it a guess
    maps = (DepthMap(near, valid.float(), trusted), DepthMap(z, valid.float(), valid))
    return Capture(views, Cameras(T, K, SIZE, SIZE)), maps


def nearest(capture: Capture, maps: tuple[DepthMap, DepthMap]) -> float:
    assert capture.cameras is not None
    g = seed_gaussians(capture, maps, SeedConfig())
    return float(torch.cdist(g.means, capture.cameras.centers).min())


def nearest_to_middle(valid_near: bool, apart: float) -> float:
    """Of two photos whose block of pixels claims a thing between them, more than CLEAR away from both."""
    capture, maps = two_photos(valid_near, apart, focal=10.0, z_near=0.6)
    g = seed_gaussians(capture, maps, SeedConfig())
    return float((g.means - torch.tensor([apart / 2, 0, 0])).norm(dim=-1).min())


def test_guesses_keep_clear_of_the_way_between_neighbours():
    assert nearest_to_middle(valid_near=False, apart=2.4) >= CLEAR * 3.0 * 0.999


def test_what_was_measured_on_the_way_stays():
    assert nearest_to_middle(valid_near=True, apart=2.4) < 0.7


def test_between_photos_further_apart_than_what_they_show_nobody_walks():
    assert nearest_to_middle(valid_near=False, apart=3.3) < 0.75


def test_neighbours_have_nobody_between_them():
    """Five photos on a line and one beside: each is linked with the next one, not with the next but one."""
    centers = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0], [2, 1, 0]])
    pairs = [p for p in ways(centers, torch.full((6,), 10.0)) if p[0] != p[1]]
    assert pairs == [(0, 1), (1, 2), (2, 3), (2, 5), (3, 4)]


def test_guesses_keep_clear_of_where_photos_were_taken():
    assert nearest(*two_photos(valid_near=False)) >= CLEAR * 3.0 * 0.999


def test_without_guesses_only_what_was_measured_is_seeded():
    capture, maps = two_photos(valid_near=False)
    config = SeedConfig(guesses=False, surround=0.0, behind=0.0, merge=False)
    assert len(seed_gaussians(capture, maps, config)) == sum(int(m.valid.sum()) for m in maps)


def test_the_extra_budget_bounds_what_no_photo_shows():
    capture, maps = two_photos(valid_near=True)
    shown = len(seed_gaussians(capture, maps, SeedConfig(surround=0.0, behind=0.0)))
    assert len(seed_gaussians(capture, maps, SeedConfig(extra=0))) == shown, "no budget, no splats"
    some = len(seed_gaussians(capture, maps, SeedConfig(extra=400))) - shown
    assert 300 < some < 500, "a random share of about the budget"


def test_what_was_measured_stays_however_near():
    assert nearest(*two_photos(valid_near=True)) < 0.8


def test_guesses_where_others_look_are_fewer_and_larger_and_what_was_measured_gets_their_room():
    capture, maps = two_photos(valid_near=True, apart=0.02)  # hardly apart: each shows almost all that the other shows
    half = maps[0].valid.clone()
    half[:, : SIZE // 2] = False  # nothing vouches for the left half of both photos
    maps = tuple(replace(m, valid=half, confidence=half.float()) for m in maps)
    plain = replace(SeedConfig(), budget=600, surround=0.0, behind=0.0, merge=False, thickness=1.0)
    fine, coarse = (seed_gaussians(capture, maps, replace(plain, guess_spacing=spacing)) for spacing in (1.0, 4.0))

    def parts(g: Gaussians) -> tuple[tuple[int, float], tuple[int, float]]:
        """Count and size of the guessed, which are faint, and of the measured."""
        guessed = g.logit_opacities.sigmoid() < 0.3
        return tuple((int(w.sum()), float(g.log_scales.exp()[w].median())) for w in (guessed, ~guessed))  # pyright: ignore[reportReturnType]

    (few, large), (measured, small) = parts(coarse)
    (many, usual), (fewer, wider) = parts(fine)
    assert 0.8 < large / small / 4 < 1.2 and 0.8 < usual / wider < 1.2
    assert few * 16 == pytest.approx(measured, rel=0.2) and many == pytest.approx(fewer, rel=0.1)
    assert few + measured == pytest.approx(600, rel=0.05) and many + fewer == pytest.approx(600, rel=0.05)


def test_guesses_where_nobody_else_looks_stay_fine():
    capture, maps = two_photos(valid_near=True, apart=3.3, z_near=3.0)  # a wall 3 away: each shows less than a twelfth of what the other shows
    maps = tuple(replace(m, valid=torch.zeros_like(m.valid)) for m in maps)
    plain = replace(SeedConfig(), budget=10_000, surround=0.0, behind=0.0, thickness=1.0)
    fine, coarse = (seed_gaussians(capture, maps, replace(plain, guess_spacing=spacing)) for spacing in (1.0, 4.0))
    assert 0.85 * len(fine) < len(coarse) < len(fine) and coarse.log_scales.median() == fine.log_scales.median()
