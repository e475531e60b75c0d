"""Charts that bend, surfels that follow and turn with them, the losses that hold both, and scenes that know they are surfels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.pipelines.config import override
from handful.pipelines.methods import method_config
from handful.pipelines.methods.config import MotionConfig, TermsConfig
from handful.pipelines.methods.motion.bound import PIXEL, bound_pixels
from handful.pipelines.methods.motion.charts import FINE, Charts
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.splat import SplatMethod, SplatRun
from handful.pipelines.methods.surface import facing
from handful.pipelines.methods.terms.flat_surface import depth_distortion, normal_agreement
from handful.pipelines.methods.terms.silhouette import silhouette
from handful.pipelines.methods.terms.structure import chart_structure
from handful.pipelines.scene_folder import load_scene, write_scene_folder
from handful.recon.camera import Cameras
from handful.recon.depth import DepthMap
from handful.recon.gaussians import Gaussians
from handful.recon.raster.changed import with_surfels
from handful.recon.raster.protocol import RasterOptions
from handful.recon.raster.registry import get_rasterizer
from handful.recon.se3 import matrix_from_quat, quat_from_matrix

from .terms_common import rendered, step_on

CONFIG = override(method_config("matcha"), ["optim.steps=30", "seed.budget=20000"])


@pytest.fixture
def run(small_start) -> SplatRun:
    return SplatMethod(CONFIG).start(small_start)


def charts_of(run: SplatRun) -> Charts:
    assert isinstance(run.field.motion, Charts)
    return run.field.motion


def plane_photos(photos: Photos, tilt: float) -> tuple[Photos, torch.Tensor]:
    """The photos with the depth of one plane, confident everywhere, and its normal in each camera's frame."""
    c = photos.cameras
    n = torch.tensor([tilt, -0.2, 1.0]) / torch.tensor([tilt, -0.2, 1.0]).norm()
    u, v = torch.meshgrid(torch.arange(c.width) + 0.5, torch.arange(c.height) + 0.5, indexing="xy")
    K = c.K[:, None, None]
    ray = torch.stack([(u - K[..., 0, 2]) / K[..., 0, 0], (v - K[..., 1, 2]) / K[..., 1, 1], torch.ones(len(c), *u.shape)], -1)
    depth = 3.0 * n[2] / (ray @ n)
    maps = tuple(DepthMap(d, torch.ones_like(d), torch.ones_like(d, dtype=torch.bool)) for d in depth)
    return replace(photos, depth=maps), n


def test_nothing_moves_at_first(run: SplatRun) -> None:
    field = run.field
    moved, stored = field.gaussians(), field.rows
    torch.testing.assert_close(moved.means, stored["means"], atol=1e-5, rtol=1e-5)
    angle = (matrix_from_quat(moved.quats_wxyz)[..., 2] * matrix_from_quat(stored["quats_wxyz"])[..., 2]).sum(-1)
    assert float(angle.min()) > 1 - 1e-5
    pixel = field.rows[PIXEL]
    assert bool((pixel >= 0).any()) and bool((pixel < 0).any())
    # what lies beside and behind is free, also on the ray of a pixel
    on_rays = bound_pixels(stored["means"].detach(), run.photos.cameras)
    z = run.photos.cameras.project(stored["means"].detach())[1].gather(0, (on_rays.clamp_min(0) // run.photos.completed[0].numel())[None])[0]
    off = (z / run.photos.completed.reshape(-1)[on_rays.clamp_min(0)] - 1).abs()
    behind = (on_rays >= 0) & (off > 0.02)
    assert bool(behind.any()) and bool((pixel[behind] < 0).all()) and float(off[pixel >= 0].max()) < 0.011


def test_a_surfel_turns_with_its_chart(small_start) -> None:
    """A chart of one plane, bent into another plane: what belongs to it gets that one's normal."""
    photos, n = plane_photos(Photos.of(small_start), 0.3)
    charts = Charts(MotionConfig(kind="charts"), photos, 0)
    _, other = plane_photos(photos, 0.6)
    c = photos.cameras
    goal = plane_photos(photos, 0.6)[0].depth
    change = torch.stack([(a.depth / b.depth).log() for a, b in zip(photos.depth, goal, strict=True)])
    charts.coarse = torch.nn.functional.avg_pool2d(change[:, None], FINE, ceil_mode=True)[:, 0]
    turned = matrix_from_quat(charts.turns())
    R = c.cam_from_world[:, None, None, :3, :3]
    got = (R @ turned @ R.transpose(-1, -2) @ n)[:, :-1, :-1]
    assert float((got @ other).min()) > 0.999 and float(n @ other) < 0.97


def test_parts_at_two_depths_move_apart(run: SplatRun) -> None:
    """The grids know depth: neighbours in the picture on two depths may go two ways."""
    charts = charts_of(run)
    near = charts._at[0, 0, ..., 2]  # pyright: ignore[reportPrivateUsage]
    assert float(near.max() - near.min()) == 2.0
    with torch.no_grad():
        for grid in charts.weights.values():
            grid[:, :, 3:] = 0.05
    r = charts.decode()[0].detach()
    half = r[::FINE, ::FINE][: near.shape[0], : near.shape[1]]
    # at pixels well inside one depth
    assert float(half[near > 0.9].mean()) > float(half[near < -0.9].mean()) + 0.05


def test_the_charts_gradient_by_finite_differences(run: SplatRun) -> None:
    field, charts = run.field, charts_of(run)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for grid in charts.weights.values():
            grid.normal_(0, 0.01, generator=rng)
    wm, wq = torch.randn(len(field), 3, generator=rng), torch.randn(len(field), 4, generator=rng)

    def loss() -> torch.Tensor:
        g = field.gaussians()
        return (g.means * wm).sum() + (g.quats_wxyz * wq).sum()

    loss().backward()
    for name, grid in charts.weights.items():
        assert grid.grad is not None
        way = grid.grad.sign()  # along itself: of a random way float32 would tell too little
        told, ends = float((grid.grad * way).sum()), []
        for s in (-1, 1):
            with torch.no_grad():
                grid += s * 2e-3 * way
                ends.append(loss().double())
                grid -= s * 2e-3 * way
        assert told > 100 and float(ends[1] - ends[0]) / 4e-3 == pytest.approx(told, rel=0.02), name


def test_structure_is_free_where_nothing_bends_and_grows_with_the_bend(run: SplatRun) -> None:
    charts, terms = charts_of(run), TermsConfig(structure=1.0)
    h, w = run.photos.images.shape[1:3]
    context = step_on(run.photos, rendered(torch.ones(h, w)), field=run.field)
    still = chart_structure(context, terms)
    assert still is not None and float(still) == pytest.approx(0.0, abs=1e-5)
    losses = []
    for size in (0.02, 0.04):
        with torch.no_grad():
            for grid in charts.weights.values():
                grid.copy_(size * torch.randn(grid.shape, generator=torch.Generator().manual_seed(1)))
        run.field.gaussians()
        loss = chart_structure(context, terms)
        assert loss is not None
        losses.append(float(loss))
    assert 0.001 < losses[0] < losses[1]
    assert chart_structure(context, TermsConfig()) is None


def test_normals_and_distortion_of_a_plane_and_of_fog(run: SplatRun) -> None:
    h, w = run.photos.images.shape[1:3]
    photos, n = plane_photos(run.photos, 0.3)
    depth = photos.depth[0].depth
    out = rendered(depth, normal=(-n).expand(h, w, 3))
    terms = TermsConfig(normals=1.0, distortion=1.0, surface_from=0.0)
    flat = replace(out, distortion=torch.zeros(1, h, w))
    context = step_on(run.photos, flat)
    agree, apart = normal_agreement(context, terms), depth_distortion(context, terms)
    assert agree is not None and float(agree) < 1e-4 and apart is not None and float(apart) == pytest.approx(0.0, abs=1e-6)
    fog = step_on(run.photos, replace(rendered(depth, normal=torch.tensor([0.0, 0, -1]).expand(h, w, 3)), distortion=(0.1 * depth[None]) ** 2))
    agree, apart = normal_agreement(fog, terms), depth_distortion(fog, terms)
    assert agree is not None and float(agree) == pytest.approx(1 - float(n[2]), abs=1e-3) and apart is not None and float(apart) == pytest.approx(0.1, rel=1e-2)


def test_nothing_reaches_beyond_the_masks_of_an_object(run: SplatRun) -> None:
    h, w = run.photos.images.shape[1:3]
    mask = torch.zeros(3, h, w)
    mask[:, : h // 2] = 1
    terms = TermsConfig(silhouette=2.0)
    out = rendered(torch.ones(h, w))
    cut = replace(run.photos, masks=mask, cut_out=True)
    loss = silhouette(step_on(cut, out), terms)
    assert loss is not None and float(loss) == pytest.approx(2.0 * (1 - h // 2 / h))
    padded = torch.ones(3, h, w)
    padded[:, -4:] = 0  # no photo there: nothing is known of it
    loss = silhouette(step_on(replace(cut, extents=padded), out), terms)
    assert loss is not None and float(loss) == pytest.approx(2.0 * (h - h // 2 - 4) / h)
    assert silhouette(step_on(replace(cut, cut_out=False), out), terms) is None  # a mask of padding alone
    assert silhouette(step_on(replace(cut, masks=None), out), terms) is None


def test_what_is_round_faces_the_nearest_camera() -> None:
    cameras = Cameras(torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1), 8, 8)
    cameras.cam_from_world[1, 0, 3] = -4.0  # at x = 4
    flat = quat_from_matrix(torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    quats = torch.stack([torch.tensor([1.0, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0]), flat])
    means = torch.tensor([[0.5, 0.5, 2], [4, -1, 3], [0, 0, 2]])
    g = Gaussians(means, quats, torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, -2]]), torch.zeros(3), torch.zeros(3, 1, 3))
    turned = facing(g, cameras)
    axis = matrix_from_quat(turned.quats_wxyz)[..., 2]
    for k, centre in enumerate([torch.zeros(3), torch.tensor([4.0, 0, 0])]):
        ray = torch.nn.functional.normalize(means[k] - centre, dim=0)
        assert float((axis[k] @ ray).abs()) > 1 - 1e-5
    assert torch.equal(turned.quats_wxyz[2], flat)


def test_a_run_learns_is_kept_as_surfels_and_goes_on_exactly(small_start, tmp_path: Path) -> None:
    whole = SplatMethod(CONFIG).start(small_start)
    before = whole.snapshot()
    shown = before.render(before.cameras[0])
    assert shown.distortion is not None  # drawn as surfels
    half = None
    for event in whole.events():
        if getattr(event, "step", 0) == 15 and half is None:
            half = whole.state()
    assert half is not None
    other = SplatMethod(CONFIG).start(small_start)
    other.restore(*half)
    for _ in other.events():
        pass
    a, b = whole.snapshot(), other.snapshot()
    assert torch.equal(a.gaussians.means, b.gaussians.means) and torch.equal(a.gaussians.quats_wxyz, b.gaussians.quats_wxyz)
    photo = whole.images[0]
    assert float((a.render(a.cameras[0]).color[0] - photo).abs().mean()) < float((shown.color[0] - photo).abs().mean())
    assert bool((a.gaussians.log_scales[:, 2] < a.gaussians.log_scales[:, :2].amin(1) - 4).all())
    write_scene_folder(tmp_path / "out", a, small_start.init, CONFIG, {"method": "matcha"})
    again = load_scene(tmp_path / "out").scene.render(a.cameras[0])
    assert again.distortion is not None
    torch.testing.assert_close(again.color, a.render(a.cameras[0]).color, atol=1e-4, rtol=0)


def test_flattened_surfels_look_the_same_as_ellipsoids() -> None:
    """What other programs show: thin ellipsoids in place of discs."""
    rng = torch.Generator().manual_seed(0)
    n = 400
    g = Gaussians(
        torch.randn(n, 3, generator=rng) * torch.tensor([1.2, 0.9, 0.3]), torch.tensor([1.0, 0, 0, 0]) + 0.2 * torch.randn(n, 4, generator=rng),
        -2.2 + 0.2 * torch.randn(n, 3, generator=rng), torch.randn(n, generator=rng), 0.4 * torch.randn(n, 1, 3, generator=rng),
    )  # fmt: skip
    w2c = torch.eye(4)[None].clone()
    w2c[:, 2, 3] = 4.0
    camera = Cameras(w2c, torch.tensor([[[90.0, 0, 48], [0, 90, 36], [0, 0, 1]]]), 96, 72)
    judge = get_rasterizer("reference")
    surfels = with_surfels(judge).render(g, camera).color
    assert float((judge.render(g.flattened(), camera, RasterOptions()).color - surfels).abs().mean()) < 0.02
