"""Point maps: what networks answer at their own size comes back in the photos' pixels, in one frame, with cameras that agree with the points."""

from __future__ import annotations

import math
import sys
import types

import pytest
import torch
from handful.data.synthetic import arc_cameras, make_scene, render_truth
from handful.priors.pointmap_common import from_depth, work_size
from handful.priors.pointmap_da3 import DepthAnything3, DepthAnything3Points, network
from handful.priors.pointmap_mapanything import MapAnything
from handful.priors.pointmap_vggt import Vggt
from handful.priors.registry import PRIORS, get_prior
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import BackendUnavailable, ShapeError
from handful.recon.pointmaps import PointMaps


@pytest.fixture(scope="module")
def truth():
    """Two photos of 112 x 84, and depth as a network of half that size would tell it."""
    scene = make_scene(1, "plane")
    cameras = arc_cameras(scene, [-6.0, 6.0], 112, 84)
    t = render_truth(scene, cameras, 1)
    small = Cameras(cameras.cam_from_world, cameras.K * torch.tensor([[0.5], [0.5], [1.0]]), 56, 42)
    return cameras, [View(f"{k}.png", ArrayImage(im)) for k, im in enumerate(t.images)], small, render_truth(scene, small, 1).depth, t.depth


def check(maps: PointMaps, truth) -> None:
    """The answer is the truth: cameras of the photos' size, points where the true depth puts them."""
    cameras, _, _, _, depth = truth
    maps.validate()
    assert maps.cameras is not None and torch.allclose(maps.cameras.K, cameras.K, atol=1e-3)
    assert torch.allclose(maps.cameras.cam_from_world, cameras.cam_from_world, atol=1e-5)
    true = cameras.unproject_depth(depth)
    assert float((maps.xyz - true).norm(dim=-1)[maps.valid].median()) < 0.01 * float(depth.median())
    uv, _ = maps.cameras.project(maps.xyz[0].reshape(-1, 3))
    assert torch.allclose(uv[0][maps.valid[0].flatten()], pixel_centers(112, 84).reshape(-1, 2)[maps.valid[0].flatten()], atol=1e-2)


def test_depth_and_cameras_come_back_in_the_photos_pixels(truth):
    _, views, small, depth, _ = truth
    certainty = torch.full_like(depth, 4.0)
    certainty[0, :20] = 1.0
    maps = from_depth(views, depth, certainty, small.cam_from_world[:, :3], small.K)
    check(maps, truth)
    assert (maps.confidence[0, :38] == 0).all() and maps.confidence[1][maps.valid[1]].median() == pytest.approx(0.75, abs=1e-4)
    cloud = maps.cloud(torch.stack([v.image.load() for v in views]))
    assert len(cloud) < maps.valid.sum() and cloud.rgb is not None and cloud.confidence is not None and float(cloud.confidence.min()) >= 0.5


def test_masks_and_nonsense_are_no_points(truth):
    _, views, small, depth, _ = truth
    mask = torch.ones(84, 112)
    mask[:, :50] = 0.0
    masked = [View("m.png", ArrayImage(views[0].image.load(), mask)), views[1]]
    bad = depth.clone()
    bad[1, :, 30:] = torch.nan
    maps = from_depth(masked, bad, torch.full_like(depth, 3.0), small.cam_from_world, small.K).validate()
    assert (
        not maps.valid[0, :, :50].any()
        and maps.valid[0, :, 50:].any()
        and not maps.valid[1, :, 62:].any()
        and (maps.xyz[~maps.valid] == 0).all()
    )


def test_vggt_on_a_stand_in(truth):
    _, views, small, depth, _ = truth

    class Network:
        aggregator = None

        def __call__(self, images):
            assert images.shape == (1, 2, 3, 42, 56) and 0 <= float(images.min()) and float(images.max()) <= 1
            return {"pose_enc": "encoded", "depth": depth[None, ..., None], "depth_conf": torch.full((1, 2, 42, 56), 2.0)}

    def cameras_of(code, size):
        assert code == "encoded" and tuple(size) == (42, 56)
        return small.cam_from_world[None, :, :3], small.K[None]

    check(Vggt(side=56, _net=Network(), _cameras_of=cameras_of).predict(views), truth)


def test_mapanything_on_a_stand_in(truth):
    _, views, small, depth, _ = truth

    class Network:
        def infer(self, asked, **options):
            assert (
                len(asked) == 2
                and asked[0]["img"].shape == (1, 3, 42, 56)
                and asked[0]["data_norm_type"] == ["dinov2"]
                and not options["apply_mask"]
            )
            assert float(asked[0]["img"].min()) < 0, "normalised"
            return [
                {"depth_z": d[None, ..., None], "conf": torch.full((1, 42, 56), 2.0), "camera_poses": p[None], "intrinsics": K[None]}
                for d, p, K in zip(depth, small.world_from_cam, small.K, strict=True)
            ]

    maps = MapAnything(side=56, _net=Network()).predict(views)
    check(maps, truth)
    assert maps.metric


def test_depth_anything_3_on_a_stand_in(truth):
    _, views, small, depth, full = truth

    def net(images, *rest):
        assert images.shape == (1, 2, 3, 42, 56) and rest[0] is None and rest[1] is None and rest[3] is False
        return {
            "depth": depth[None], "depth_conf": torch.full((1, 2, 42, 56), 2.0),
            "extrinsics": small.cam_from_world[None, :, :3], "intrinsics": small.K[None],
        }  # fmt: skip

    check(DepthAnything3Points(side=56, _net=net).predict(views), truth)
    alone = DepthAnything3(side=56, _net=net).predict(views, None, None)
    known = full[0] > 0
    assert alone[0].kind == "affine_inverse" and float((alone[0].depth[known] * full[0][known] - 1).abs().median()) < 0.01


def test_the_real_depth_anything_3_with_random_weights(truth):
    """The smallest published model: shapes, a number of parameters, rigid cameras."""
    try:
        net = network("da3-small", pretrained=False)
    except BackendUnavailable:
        pytest.skip("needs depth_anything_3")
    maps = DepthAnything3Points(side=56, _net=net).predict(truth[1])
    assert maps.xyz.shape == (2, 84, 112, 3) and maps.cameras is not None
    R = maps.cameras.cam_from_world[:, :3, :3]
    assert torch.allclose(R @ R.transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-4)
    assert sum(p.numel() for p in net.parameters()) == 34299463


@pytest.mark.parametrize(("name", "module"), [("depth-anything-3", "depth_anything_3"), ("vggt", "vggt"), ("mapanything", "mapanything")])
def test_missing_packages_and_weights_are_told(no_weights, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendUnavailable, match=f"pointmap prior {name} needs the package {module}; run `pip install "):
        get_prior("pointmap", name)
    assert set(PRIORS["pointmap"]) - {"oracle"} == {"depth-anything-3", "vggt", "mapanything"}


def test_weights_that_commerce_may_not_use_are_no_default_and_need_consent(no_weights, monkeypatch):
    import handful.priors.registry as registry

    monkeypatch.setattr(registry, "find_spec", lambda name: object())
    with pytest.raises(
        BackendUnavailable,
        match="vggt-1b-commercial weights are not on this machine: ask for it at https://huggingface.co/facebook/VGGT-1B-Commercial",
    ):
        get_prior("pointmap", "vggt")
    with pytest.raises(BackendUnavailable, match="vggt-1b weights may not be used commercially"):
        get_prior("pointmap", "vggt", weights=("vggt-1b",))
    with pytest.raises(
        BackendUnavailable, match=r"da3-small weights are not on this machine: run `handful doctor --fetch da3-small --unverified`"
    ):
        get_prior("pointmap", "depth-anything-3")


def test_views_of_one_size_only(truth):
    views = [truth[1][0], View("s.png", ArrayImage(torch.zeros(20, 30, 3)))]
    with pytest.raises(ShapeError, match="views of one size"):
        Vggt(_net=object()).predict(views)
    assert work_size(504, 378, 518) == (518, 392) and math.prod(work_size(10, 1000, 28)) == 14 * 28


def test_mapanything_does_not_let_its_package_download_code(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mapanything", types.ModuleType("mapanything"))
    models = types.ModuleType("mapanything.models")
    models.MapAnything = None
    monkeypatch.setitem(sys.modules, "mapanything.models", models)
    with pytest.raises(BackendUnavailable, match="torch.hub downloads"):
        MapAnything()._load()
