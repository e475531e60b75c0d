"""A field drawn by its cells, nearest first: the order is front to back, and the picture is that of the rays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.errors import ConfigError
from handful.recon.field.cells import draw_cells, draw_cells_torch, steps_away
from handful.recon.field.contracted import ContractedSpace
from handful.recon.field.decoder import Decoder
from handful.recon.field.occupancy import march
from handful.recon.field.radiance import RadianceField
from handful.recon.field.samples import Segments
from handful.recon.field.scene import FieldScene, pixel_segments
from handful.recon.field.space import BoxSpace
from handful.recon.field.vm import VmGrid
from handful.recon.kernels import native_or_none
from torch import Tensor

needs_kernels = pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
SPACE = BoxSpace(torch.tensor([0.3, -0.2, 1.0]), 3.0)
# in the cube's edges from its middle: before a corner, before a face, far away, beside an edge, inside, on a face's plane
PLACES = [(1.0, -0.8, 0.9), (0.0, 0.0, -1.2), (6.0, 1.0, -2.0), (-0.7, 0.1, 0.49), (0.13, -0.21, 0.05), (0.5, 0.0, 1.5)]


def camera_at(place: tuple[float, float, float], width: int = 37, height: int = 29, seed: int = 0) -> Cameras:
    """Towards about the middle of the cube, turned about its own axis."""
    rng = torch.Generator().manual_seed(seed)
    at = torch.tensor(place) * SPACE.size + SPACE.center
    ahead = torch.nn.functional.normalize(SPACE.center + 0.2 * torch.randn(3, generator=rng) - at, dim=0)
    side = torch.nn.functional.normalize(torch.linalg.cross(torch.randn(3, generator=rng), ahead), dim=0)
    T = torch.eye(4)
    T[:3, :3] = torch.stack([side, torch.linalg.cross(ahead, side), ahead])
    T[:3, 3] = -T[:3, :3] @ at
    focal = width * max(0.6, 0.8 * float(torch.tensor(place).norm()))
    return Cameras(T[None], torch.tensor([[[focal, 0, width / 2 + 1], [0, focal * 1.1, height / 2], [0, 0, 1.0]]]), width, height)


def scene_of(density: float, seed: int = 0, side: int = 20, full: bool = False) -> FieldScene:
    rng = torch.Generator().manual_seed(seed)
    field = RadianceField(VmGrid(24, 16, rng), Decoder(48, 16, 1, density, rng))
    with torch.no_grad():
        field.decoder.w2[:, 0] *= 4
    cells = torch.rand(side, side, side, generator=rng) < 0.3
    cells = torch.ones_like(cells) if full else cells
    return FieldScene(field.requires_grad_(False).ready(), SPACE, cells, 64, camera_at(PLACES[0]), ("a",))


def segments_of(camera: Cameras) -> Segments:
    uv = pixel_centers(camera.width, camera.height, "cpu").reshape(-1, 2)
    return pixel_segments(SPACE, camera, torch.zeros(len(uv), dtype=torch.int64), uv)


def flat(scene: FieldScene, camera: Cameras) -> Tensor:
    out = scene.render(camera)
    return torch.cat([out.color, out.alpha[..., None], out.depth[..., None]], -1)


@pytest.mark.parametrize("place", PLACES)
def test_along_every_ray_cells_only_get_further(place: tuple[float, float, float]) -> None:
    """The claim the order rests on, of all samples of all rays; and equally far cells on one ray are one cell."""
    camera, side = camera_at(place, 60, 50, 3), 17
    samples = march(segments_of(camera), torch.ones(side, side, side, dtype=torch.bool), 200)
    at = (samples.xyz * side).long().clamp_max(side - 1)
    away = steps_away(at, SPACE.to_cube(camera.centers)[0], side)
    same_ray = samples.rays[1:] == samples.rays[:-1]
    assert len(samples) > 1000 and int(away.diff()[same_ray].min()) == 0
    still = same_ray & (away.diff() == 0)
    assert torch.equal(at[1:][still], at[:-1][still])


@needs_kernels
@pytest.mark.parametrize("density", [1.0, 30.0, 3000.0])
@pytest.mark.parametrize("place", PLACES)
def test_the_picture_is_that_of_the_rays(place: tuple[float, float, float], density: float) -> None:
    """Thin, dense, and solid at the first sample. Opacity and depth to the last bit, as both add the same samples in the same order; colours but for how the compiler
    rounds their products."""
    scene, camera = scene_of(density), camera_at(place, seed=5)
    by_rays = flat(scene, camera)
    assert float(by_rays[..., 3].max()) > 0.05
    by_cells = flat(replace(scene, order="points"), camera)
    assert torch.equal(by_cells[..., 3:], by_rays[..., 3:])
    torch.testing.assert_close(by_cells, by_rays, rtol=0, atol=5e-7)


@needs_kernels
def test_every_sample_is_met_once() -> None:
    """Where no light is used up, as many are decoded as are marched: all cells full, and a pixel the size of many cells or a small part of one."""
    scene = scene_of(1e-3, full=True)
    for width in (5, 150):
        camera = camera_at(PLACES[0], width, width)
        segments = segments_of(camera)
        _, decoded = draw_cells(scene.field, SPACE, camera, segments, scene.cells, 64)
        assert decoded == len(march(segments, scene.cells, 64))


@needs_kernels
def test_light_that_is_used_up_spares_samples() -> None:
    scene, camera = scene_of(3000.0, full=True), camera_at(PLACES[0])
    segments = segments_of(camera)
    _, decoded = draw_cells(scene.field, SPACE, camera, segments, scene.cells, 64)
    assert decoded < 0.3 * len(march(segments, scene.cells, 64))


@needs_kernels
def test_a_picture_in_bands_is_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seven rows, the last one of fewer."""
    scene, camera = replace(scene_of(30.0), order="points"), camera_at(PLACES[2])
    whole = flat(scene, camera)
    monkeypatch.setattr("handful.recon.field.scene.BAND", 7 * camera.width + 3)
    assert camera.height % 7 and len(list(scene.strips(camera))) == math.ceil(camera.height / 7)
    torch.testing.assert_close(flat(scene, camera), whole, rtol=1e-4, atol=2e-5)


@needs_kernels
@pytest.mark.parametrize("place", PLACES[:5:2])
def test_the_slow_twin(place: tuple[float, float, float]) -> None:
    scene, camera = scene_of(30.0), camera_at(place)
    segments = segments_of(camera)
    fast, _ = draw_cells(scene.field, SPACE, camera, segments, scene.cells, 64)
    slow, _ = draw_cells_torch(scene.field, SPACE.to_cube(camera.centers)[0], segments, scene.cells, 64)
    for name in ("color", "alpha", "place", "distortion"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), rtol=1e-4, atol=2e-5, msg=name)


@needs_kernels
def test_threads_and_instruction_sets_draw_the_same() -> None:
    from handful.recon.kernels import native

    scene, camera = replace(scene_of(30.0), order="points"), camera_at(PLACES[0])
    expected, threads = flat(scene, camera), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(flat(scene, camera), expected)
        for name in ("avx2", "sse2", "neon", "scalar"):
            if native().set_isa(name):
                torch.testing.assert_close(flat(scene, camera), expected, rtol=1e-3, atol=1e-4)
    finally:
        torch.set_num_threads(threads)
        native().set_isa("auto")


def test_the_quickest_order_is_by_cells_where_kernels_do_it() -> None:
    scene = scene_of(30.0)
    assert scene.quickest().order == ("points" if native_or_none() is not None else "rays")
    assert replace(scene, order="points", space=SPACE, field=RadianceField(scene.field.encoding, scene.field.decoder).ready(twin=True)).quickest().order == "rays"
    assert replace(scene, space=ContractedSpace(torch.zeros(3), 1.0)).quickest().order == "rays"


def test_without_kernels_the_twin_draws() -> None:
    scene, camera = scene_of(30.0), camera_at(PLACES[0], 12, 9)
    plain = RadianceField(VmGrid(24, 16, torch.Generator().manual_seed(0)), scene.field.decoder).requires_grad_(False).ready(twin=True)
    by_rays = flat(replace(scene, field=plain), camera)
    torch.testing.assert_close(flat(replace(scene, field=plain, order="points"), camera), by_rays, rtol=1e-4, atol=2e-5)


@needs_kernels
def test_what_is_no_picture_stays_black() -> None:
    scene = scene_of(30.0)
    camera = camera_at(PLACES[0])
    T = camera.cam_from_world.clone()
    T[:, :3] = torch.diag(torch.tensor([1.0, -1.0, -1.0])) @ T[:, :3]  # looks the other way
    away = replace(camera, cam_from_world=T)
    out = replace(scene, order="points").render(away)
    assert not bool(out.color.any()) and not bool(out.alpha.any())
    empty = replace(scene, order="points", cells=torch.zeros_like(scene.cells)).render(camera)
    assert not bool(empty.alpha.any())
    broken = replace(camera, cam_from_world=camera.cam_from_world * torch.nan)
    assert not bool(replace(scene, order="points").render(broken).alpha.nan_to_num().any())


def test_only_in_a_box() -> None:
    with pytest.raises(ConfigError, match="only where it lives in a box"):
        replace(scene_of(1.0), space=ContractedSpace(torch.zeros(3), 1.0), order="points")
