"""Scores: known errors give known numbers, masks and rounding do what the protocol says, and poses are mapped and optimised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.data.atomic import write_bytes
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.data.protocol import LoadOptions
from handful.pipelines.evaluate import available_lpips, evaluate_scene, held_out, score_views, training_capture
from handful.pipelines.poses import map_cameras, optimise_test_cameras, pose_errors, turn_errors
from handful.pipelines.protocols import EvalProtocol, load_holdout, metrics, pose_free
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.errors import BackendUnavailable, CaptureError, ShapeError
from handful.recon.gaussians import Gaussians
from handful.recon.metrics import psnr, ssim
from handful.recon.points import PointCloud
from handful.recon.raster.registry import get_rasterizer
from handful.recon.se3 import Similarity, se3_exp, so3_exp

PROTOCOL = EvalProtocol("llff-3", "llff", "made", ("a", "b"), ("t0", "t1"), 8)
MASKED = replace(PROTOCOL, id="dtu-3", mask="object", metrics=metrics("white", mask_psnr=True))


@pytest.fixture
def photos():
    g = torch.Generator().manual_seed(0)
    return (torch.rand(2, 40, 50, 3, generator=g) * 255).round() / 255


def _capture(images: torch.Tensor, masks: torch.Tensor | None = None, names=("a.png", "b.png", "t0.png", "t1.png")) -> Capture:
    images = images[torch.arange(len(names)) % len(images)]
    views = tuple(View(n, ArrayImage(im, None if masks is None else masks[i % len(masks)])) for i, (n, im) in enumerate(zip(names, images, strict=True)))
    pose = torch.eye(4).repeat(len(names), 1, 1)
    pose[:, 0, 3] = torch.arange(len(names))
    K = torch.tensor([[50.0, 0, 25], [0, 50.0, 20], [0, 0, 1]]).repeat(len(names), 1, 1)
    return Capture(views, Cameras(pose, K, 50, 40), points=PointCloud(torch.zeros(4, 3)))


def test_known_errors_give_known_numbers(photos):
    inside = photos.clamp(0.2, 0.8)
    inside = (inside * 255).round() / 255
    renders = inside + torch.tensor([26 / 255, -13 / 255]).view(2, 1, 1, 1)
    report = score_views(("t0", "t1"), renders, inside, None, PROTOCOL, {})
    assert [v.psnr for v in report.views] == pytest.approx([-20 * torch.log10(torch.tensor(k / 255.0)).item() for k in (26, 13)], abs=1e-4)
    assert report.views[0].ssim == pytest.approx(float(ssim(renders, inside)[0]), abs=1e-9)
    assert report.psnr == pytest.approx((report.views[0].psnr + report.views[1].psnr) / 2), "the mean of the photos' PSNR, not the PSNR of the mean"
    assert report.lpips_vgg is None and report.lpips_alex is None


def test_renders_are_rounded_as_if_saved(photos):
    nearly = photos + 0.4 / 255
    assert score_views(("t0", "t1"), nearly, photos, None, PROTOCOL, {}).psnr == 100.0
    exact = replace(PROTOCOL, quantize_8bit=False)
    assert score_views(("t0", "t1"), nearly.clamp(0, 1), photos, None, exact, {}).psnr < 60


def test_masks_choose_what_counts(photos):
    masks = torch.zeros(2, 40, 50)
    masks[:, 8:30, 10:40] = 0.9  # a soft mask is cut at one half
    renders = photos.clone()
    renders[:, :5] = 0  # wrong, but not on the object
    clean = score_views(("t0", "t1"), renders, photos, masks, MASKED, {})
    assert clean.psnr == 100.0 and clean.ssim == pytest.approx(1.0)
    renders[:, 10:12, 12:20] = 0
    spoilt = score_views(("t0", "t1"), renders, photos, masks, MASKED, {})
    assert spoilt.views[0].psnr == pytest.approx(float(psnr(renders[:, 8:30, 10:40], photos[:, 8:30, 10:40])[0]), abs=1e-6)
    assert spoilt.ssim < 1
    assert spoilt.pictures is not None and (spoilt.pictures.renders[:, 35:] == 1).all(), "shown on white"
    assert score_views(("t0", "t1"), renders, photos, masks, PROTOCOL, {}).psnr < spoilt.psnr, "another protocol ignores the masks"


def test_what_no_camera_took_is_not_scored(photos):
    extents = torch.ones(2, 40, 50)
    extents[:, :, :10] = 0
    photos = photos * extents[..., None]
    renders = photos.clone()
    renders[:, :, :10] = 0.7  # a guess beside the photo, which padding is no truth for
    assert score_views(("t0", "t1"), renders, photos, None, PROTOCOL, {}, extents).psnr == 100.0
    renders[:, 20:24, 30:36] = 0
    some = score_views(("t0", "t1"), renders, photos, None, PROTOCOL, {}, extents)
    assert some.views[0].psnr == pytest.approx(float(psnr(renders[:, :, 10:], photos[:, :, 10:])[0]), abs=1e-6)
    assert score_views(("t0", "t1"), renders, photos, None, PROTOCOL, {}).psnr < some.psnr
    capture = _capture(photos)
    padded = replace(capture, views=tuple(replace(v, image=replace(v.image, extent=extents[0])) for v in capture.views))  # pyright: ignore[reportArgumentType]
    order = iter((*renders, *renders))
    assert evaluate_scene(lambda cameras: next(order)[None], padded, PROTOCOL, nets={}).psnr == pytest.approx(some.psnr)


def test_masks_of_one_s_own_photos(photos, tmp_path):
    """A holdout leaves out who passes by, scores an object that is cut out alone, and says which photo lacks the mask it would need."""
    passing, around = torch.ones(2, 40, 50), torch.zeros(2, 40, 50)
    passing[:, :, :10], around[:, 12:28, 15:35] = 0, 1
    renders = photos.clone()
    renders[:, :, :10] = 0.7
    ignoring = replace(PROTOCOL, mask="ignore")
    assert score_views(("t0", "t1"), renders, photos, passing, ignoring, {}).psnr == 100.0
    for masks, mask in ((None, "none"), (passing, "ignore"), (around, "object")):
        folder = tmp_path / mask
        for i, image in enumerate(torch.cat([photos, photos])):
            write_bytes(folder / "images" / f"{i}.png", encode_png(image))
            if masks is not None:
                write_bytes(folder / "masks" / f"{i}.png", encode_png(masks[0, ..., None].expand(-1, -1, 3)))
        cameras = _capture(photos).cameras
        assert cameras is not None
        write_transforms(folder / "transforms.json", cameras, [f"images/{i}.png" for i in range(4)])
        _, protocol = load_holdout(folder, 2, None, LoadOptions())
        assert protocol.mask == mask and [m.region for m in protocol.metrics][:2] == (["mask", "white"] if mask == "object" else ["image", "image"])
    (tmp_path / "object" / "masks" / "2.png").unlink()  # the object fills this one
    capture, protocol = load_holdout(tmp_path / "object", 2, None, LoadOptions())
    assert protocol.mask == "object" and len(held_out(capture, protocol)) == 2
    with pytest.raises(CaptureError, match="the test photo 2.png has none; add the data set's mask folder"):
        held_out(capture, replace(protocol, dataset="dtu"))
    write_bytes(tmp_path / "ignore" / "masks" / "2.png", encode_png(torch.zeros(40, 50, 3)))
    capture, protocol = load_holdout(tmp_path / "ignore", 2, None, LoadOptions())
    with pytest.raises(CaptureError, match="The mask of the test photo 2.png leaves nothing of it to score"):
        held_out(capture, protocol)


def test_missing_masks_are_said(photos):
    with pytest.raises(CaptureError, match="PSNR inside masks, but the capture has none"):
        score_views(("t0", "t1"), photos, photos, None, MASKED, {})
    with pytest.raises(CaptureError, match="mask is empty"):
        score_views(("t0", "t1"), photos, photos, torch.zeros(2, 40, 50), MASKED, {})
    with pytest.raises(ShapeError, match="a render per photo of the same size"):
        score_views(("t0",), photos[:1], photos, None, PROTOCOL, {})


def test_what_is_not_finite_is_wrong_not_fatal(photos):
    renders = photos.clone()
    renders[0, 0, 0, 0], renders[1, 3, 3] = torch.nan, torch.inf
    report = score_views(("t0", "t1"), renders, photos, None, PROTOCOL, {})
    assert 0 < report.psnr < 100 and any("not finite" in n for n in report.notes)


def test_missing_weights_leave_columns_out_and_say_so(photos, monkeypatch):
    from handful.pipelines import evaluate

    def missing(net, device):
        raise BackendUnavailable(f"The lpips-{net} weights are not on this machine.")

    monkeypatch.setattr(evaluate, "load_lpips", missing)
    nets, notes = available_lpips(PROTOCOL)
    assert nets == {} and len(notes) == 2 and notes[0].startswith("lpips_vgg is left out.")
    report = score_views(("t0", "t1"), photos, photos, None, PROTOCOL)
    assert report.lpips_vgg is None and report.notes == notes


def test_photos_too_small_for_a_network_are_scored_without_it(monkeypatch):
    from handful.pipelines import evaluate

    monkeypatch.setattr(evaluate, "load_lpips", lambda net, device: net)
    assert available_lpips(PROTOCOL, size=(64, 63))[0] == {"lpips_vgg": "vgg", "lpips_alex": "alex"}
    nets, notes = available_lpips(PROTOCOL, size=(64, 12))
    assert nets == {} and [n.split(" is ")[0] for n in notes] == ["lpips_vgg", "lpips_alex"] and "63 pixels a side, and the photos are 64x12" in notes[1]


def test_networks_fill_their_own_column(photos):
    report = score_views(("t0", "t1"), photos, photos, None, PROTOCOL, {"lpips_alex": lambda a, b: torch.tensor([0.25])})  # pyright: ignore
    assert report.lpips_alex == 0.25 and report.lpips_vgg is None


def test_a_method_sees_only_the_training_photos(photos):
    capture = _capture(photos)
    train = training_capture(capture, PROTOCOL)
    assert train.names == ("a.png", "b.png") and train.points is None and train.cameras is not None
    assert torch.equal(train.cameras.cam_from_world[:, 0, 3], torch.tensor([0.0, 1.0]))
    assert training_capture(capture, pose_free(PROTOCOL, "sim3_aligned")).cameras is None
    test = held_out(capture, PROTOCOL)
    assert test.names == ("t0.png", "t1.png") and test.cameras is not None and test.cameras.cam_from_world[0, 0, 3] == 2
    with pytest.raises(CaptureError, match="no cameras for its test photos"):
        held_out(replace(capture, cameras=None), PROTOCOL)


def test_evaluate_renders_each_test_camera(photos):
    capture, seen = _capture(photos), []

    def render(cameras: Cameras) -> torch.Tensor:
        seen.append(float(cameras.cam_from_world[0, 0, 3]))
        return photos[int(seen[-1]) - 2][None]

    report = evaluate_scene(render, capture, PROTOCOL, nets={})
    assert seen == [2.0, 3.0] and report.psnr == 100.0 and [v.name for v in report.views] == ["t0.png", "t1.png"]
    with pytest.raises(CaptureError, match="mapped into the scene's world; pass them"):
        evaluate_scene(render, capture, pose_free(PROTOCOL, "sim3_aligned"), nets={})
    with pytest.raises(ShapeError, match=r"must be \(1, 40, 50, 3\), got \(1, 20, 50, 3\)"):
        evaluate_scene(lambda c: photos[:1, :20], capture, PROTOCOL, nets={})


# -- poses -------------------------------------------------------------------------------------------------------------


def _ring(n: int = 5) -> Cameras:
    g = torch.Generator().manual_seed(2)
    xi = torch.cat([0.5 * torch.randn(n, 3, generator=g, dtype=torch.float64), 0.2 * torch.randn(n, 3, generator=g, dtype=torch.float64)], -1)
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]], dtype=torch.float64).repeat(n, 1, 1)
    return Cameras(se3_exp(xi), K, 64, 48)


def test_mapped_cameras_see_the_moved_world_at_the_same_pixels():
    given = _ring()
    move = Similarity(torch.tensor(2.5).double(), so3_exp(torch.tensor([0.3, -0.8, 0.5]).double()), torch.tensor([1.0, -2.0, 3.0]).double())
    estimated = move.apply_to_cameras(given)
    mapped = map_cameras(given[3:], given[:3], estimated[:3])
    xyz = torch.randn(20, 3, dtype=torch.float64) + torch.tensor([0.0, 0, 5])
    torch.testing.assert_close(mapped.project(move.apply(xyz))[0], given[3:].project(xyz)[0])
    errors = pose_errors(estimated, given)
    assert errors.rotation_deg.max() < 1e-6 and errors.center.max() < 1e-6 and errors.focal.abs().max() < 1e-6


def test_pose_errors_are_in_degrees_and_percent():
    given = _ring()
    turned = given.cam_from_world.clone()
    turned[0, :3] = so3_exp(torch.tensor([0.0, 0.0, torch.pi / 180 * 5]).double()) @ turned[0, :3]
    K = given.K.clone()
    K[:, 0, 0] *= 1.1
    errors = pose_errors(replace(given, cam_from_world=turned, K=K).resized(128, 96), given)
    assert errors.rotation_deg[0] == pytest.approx(5 * 4 / 5, abs=0.1), "the mean rotation takes its share"
    assert errors.focal.tolist() == pytest.approx([10.0] * 5)
    turns = turn_errors(replace(given, cam_from_world=turned), given)
    assert turns[0, 1:].tolist() == pytest.approx([5.0] * 4, abs=1e-6) and turns[1:, 0].tolist() == pytest.approx([5.0] * 4, abs=1e-6)
    assert float(turns[1:, 1:].max()) < 1e-5, "one wrong camera does not touch what the others say of each other"


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_test_camera_finds_its_photo(backend):
    try:
        raster = get_rasterizer(backend)
    except BackendUnavailable:
        pytest.skip("needs compiled kernels")
    g = torch.Generator().manual_seed(0)
    n = 250
    means = torch.rand(n, 3, generator=g) * torch.tensor([3.0, 2.4, 1.5]) - torch.tensor([1.5, 1.2, -3.0])
    splats = Gaussians(means, torch.randn(n, 4, generator=g), torch.full((n, 3), -2.2), torch.full((n,), 2.0), torch.randn(n, 1, 3, generator=g))
    K = torch.tensor([[[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]])
    true = Cameras(torch.eye(4)[None], K, 64, 48)
    photo = raster.render(splats, true).color
    start = replace(true, cam_from_world=se3_exp(torch.tensor([[0.05, -0.04, 0.05, 0.02, -0.03, 0.01]])))
    found = optimise_test_cameras(splats, raster, photo, start, steps=60)
    before, after = (psnr(raster.render(splats, c).color, photo)[0] for c in (start, found))
    assert after > before + 15
    spoilt, counts = photo.clone(), torch.ones(1, 48, 64)
    spoilt[:, :, :20], counts[:, :, :20] = 1.0, 0.0
    masked = optimise_test_cameras(splats, raster, spoilt, start, steps=60, masks=counts)
    assert psnr(raster.render(splats, masked).color, photo)[0] > before + 12, "what a mask leaves out does not pull"
    with pytest.raises(ShapeError, match="do not fit 1 cameras of 64x48"):
        optimise_test_cameras(splats, raster, photo[:, :20], start)


def test_optimising_never_makes_it_worse():
    """A photo of something else: the start is returned rather than a place that matches worse."""
    raster = get_rasterizer("reference")
    splats = Gaussians(torch.tensor([[0.0, 0, 3]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), -1.0), torch.zeros(1), torch.zeros(1, 1, 3))
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[40.0, 0, 16], [0, 40, 12], [0, 0, 1]]]), 32, 24)
    photo = torch.rand(1, 24, 32, 3)
    found = optimise_test_cameras(splats, raster, photo, camera, steps=6)
    before, after = ((raster.render(splats, c).color - photo).abs().mean() for c in (camera, found))
    assert after <= before
