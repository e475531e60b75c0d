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
from handful.recon.sh import rgb_from_sh_dc

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


def at(centers: torch.Tensor) -> Cameras:
    T = torch.eye(4).repeat(len(centers), 1, 1)
    T[:, :3, 3] = -centers
    return Cameras(T, torch.eye(3).repeat(len(centers), 1, 1), SIZE, SIZE)


def beyond(g: Gaussians, capture: Capture, of: int, box: tuple[float, float, float, float]) -> int:
    """How many splats lie outside the box (x0, y0, x1, y1) of photo `of`."""
    assert capture.cameras is not None
    uv, z = (t[0] for t in capture.cameras[of].project(g.means))
    x0, y0, x1, y1 = box
    return int(((z > 0) & ((uv[:, 0] < x0) | (uv[:, 0] > x1) | (uv[:, 1] < y0) | (uv[:, 1] > y1))).sum())


def with_maps(capture: Capture, mask: torch.Tensor | None, extent: torch.Tensor | None) -> Capture:
    views = tuple(replace(v, image=replace(v.image, mask=mask, extent=extent)) for v in capture.views)  # pyright: ignore[reportArgumentType]
    return replace(capture, views=views)


def test_padding_is_no_object_mask_and_the_ring_begins_where_the_photo_ends():
    capture, maps = two_photos(valid_near=True, apart=0.02)
    whole = seed_gaussians(capture, maps, SeedConfig())
    full = torch.ones(SIZE, SIZE)
    for mask, extent in ((full, None), (full, full), (None, full)):
        same = seed_gaussians(with_maps(capture, mask, extent), maps, SeedConfig())
        assert torch.equal(same.means, whole.means), "maps that leave nothing out change nothing"
    padded = full.clone()
    padded[:, :12], padded[:, 36:] = 0, 0
    assert not with_maps(capture, None, padded).is_cut_out() and with_maps(capture, padded, None).is_cut_out()
    around = seed_gaussians(with_maps(capture, None, padded), maps, SeedConfig())
    object_only = seed_gaussians(with_maps(capture, padded, None), maps, SeedConfig())
    assert beyond(object_only, capture, 0, (11, -1, 37, 49)) == 0, "what surrounds an object is not wanted"
    in_padding = beyond(around, capture, 0, (11, -1, 37, 49)) - beyond(around, capture, 0, (0, -1, 48, 49))
    assert in_padding > 30 and beyond(around, capture, 0, (0, 0, 48, 48)) > 100
    # coloured as the photo next to it, not black as the padding
    uv, _ = capture.cameras[0].project(around.means)  # pyright: ignore[reportOptionalSubscript]
    side = (uv[0, :, 0] < 10) & (uv[0, :, 0] > 2)
    assert float(rgb_from_sh_dc(around.sh[side, 0]).mean()) > 0.35


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
    pairs = [p for p in ways(at(centers).distances, torch.full((6,), 10.0)) if p[0] != p[1]]
    assert pairs == [(0, 1), (1, 2), (2, 3), (2, 5), (3, 4)]


@pytest.mark.parametrize("away", [0.0, 1000.0])
def test_of_many_photos_far_from_the_origin_each_has_its_neighbours(away: float):
    """torch multiplies matrices for the distances of more than 25 points, which are then neither symmetric nor 0 where they must be."""
    centers = torch.zeros(40, 3)
    centers[:, 0] = torch.arange(40) * 0.25 + away  # exact in float32
    distance = at(centers).distances
    assert torch.equal(distance, distance.T) and bool((distance.diagonal() == 0).all())
    assert sorted(ways(distance, torch.full((40,), 100.0))) == sorted([(i, i) for i in range(40)] + [(i, i + 1) for i in range(39)])


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


def test_depth_beyond_an_object_s_hull_becomes_that_of_its_front():
    """Two cameras at right angles see a square object of half width .6; photo 0 takes it to be 9 away, far behind."""
    turned = torch.tensor([[0.0, 0, -1, 3], [0, 1, 0, 0], [1, 0, 0, 3], [0, 0, 0, 1]])  # from +x, towards the middle 3 before camera 0
    T = torch.stack([torch.eye(4), turned])
    K = torch.tensor([[40.0, 0, SIZE / 2], [0, 40.0, SIZE / 2], [0, 0, 1]]).repeat(2, 1, 1)
    mask = torch.zeros(SIZE, SIZE)
    mask[16:32, 16:32] = 1
    rng = torch.Generator().manual_seed(0)
    views = tuple(View(f"{i}.png", ArrayImage(torch.rand(SIZE, SIZE, 3, generator=rng), mask=mask)) for i in range(2))
    none = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    maps = tuple(DepthMap(torch.where(mask > 0, z, 3.0), torch.ones(SIZE, SIZE), none) for z in (9.0, 3.0))
    capture = Capture(views, Cameras(T, K, SIZE, SIZE))
    assert capture.is_cut_out()
    middle = torch.tensor([0.0, 0.0, 3.0])
    held, free = (seed_gaussians(capture, maps, SeedConfig(hull=h)).means for h in (True, False))
    assert float((held - middle).abs().amax()) < 1.0  # pixels are large here
    assert int((held[:, 2] < 2.5).sum()) > 8, "those of photo 0 lie on the front"
    blank = DepthMap(torch.zeros(SIZE, SIZE), torch.zeros(SIZE, SIZE), none)  # it shares nothing with the other
    alone = seed_gaussians(capture, (blank, maps[1]), SeedConfig(hull=True)).means
    assert int((alone[:, 2] < 2.5).sum()) > 8 and float((alone - middle).abs().amax()) < 1.0
    assert float((free - middle).abs().amax()) > 3
