"""Synthetic truth: the caster against brute force and closed forms, flow against pictures, the demo capture against its promises."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from handful.data import synthetic
from handful.data._synth.cast import build_tree, cast
from handful.data._synth.surfaces import sphere, torus
from handful.data._synth.textures import blank
from handful.data.synthetic import arc_cameras, demo_capture, look_at, make_scene, render_truth, true_flow, true_matches
from handful.recon.camera import Cameras, pixel_centers
from handful.recon.errors import ConfigError


@pytest.fixture(scope="module")
def table():
    scene = make_scene(0)
    cameras = arc_cameras(scene, [-6.0, 6.0], 160, 120, seed=1)
    return scene, cameras, render_truth(scene, cameras, 2)


def test_the_tree_finds_what_trying_every_triangle_finds():
    objects = [torus([0, 0, 0], 0.6, 0.25, 20, blank(), 10, 16).triangles, sphere([0.4, 0.3, 0.5], 0.4, 0, blank(), 7, 11).triangles]
    tree, soup = build_tree(objects), torch.from_numpy(np.concatenate(objects))
    g = torch.Generator().manual_seed(3)
    o = torch.randn(400, 3, generator=g).double() * 1.5
    d = 0.5 * torch.randn(400, 3, generator=g).double() - o
    e1, e2, s = soup[:, 1] - soup[:, 0], soup[:, 2] - soup[:, 0], o[:, None] - soup[:, 0]
    p = torch.linalg.cross(d[:, None], e2[None])
    det = (e1 * p).sum(-1)
    q = torch.linalg.cross(s, e1.expand_as(s))
    b1, b2, t = (s * p).sum(-1) / det, (d[:, None] * q).sum(-1) / det, (e2 * q).sum(-1) / det
    t = torch.where((b1 >= 0) & (b2 >= 0) & (b1 + b2 <= 1) & (t > 1e-6), t, torch.inf)  # a pole's flat triangle gives nan: no hit
    best = t.min(1)
    hits = cast(tree, o, d)
    hit = torch.isfinite(best.values)
    assert 40 < hit.sum() < 380
    assert torch.equal(torch.isfinite(hits.t), hit)
    torch.testing.assert_close(hits.t[hit], best.values[hit], rtol=1e-9, atol=1e-9)
    assert (hits.triangle[hit] == best.indices[hit]).float().mean() > 0.99  # the rest sits on a shared edge
    assert (hits.triangle[~hit] == -1).all()


def test_nothing_is_hit_behind_or_beyond():
    tree = build_tree([sphere([0, 0, 5], 1.0, 0, blank(), 8, 12).triangles])
    o = torch.zeros(2, 3, dtype=torch.float64)
    d = torch.tensor([[0.0, 0, 1], [0, 0, -1]], dtype=torch.float64)
    assert cast(tree, o, d).triangle.ge(0).tolist() == [True, False]
    assert cast(tree, o, d, t_max=3.9).triangle.ge(0).tolist() == [False, False]


def test_depth_and_normal_of_a_wall_in_closed_form():
    scene = make_scene(0, "plane")
    center = torch.tensor([0.3, -4.0, 0.2], dtype=torch.float64)
    pose = look_at(center, torch.tensor([0.8, 0.0, -0.1], dtype=torch.float64))[None]
    K = torch.tensor([[[90.0, 0, 40], [0, 90.0, 30], [0, 0, 1]]], dtype=torch.float64)
    truth = render_truth(scene, Cameras(pose, K, 80, 60), 1)
    rays = torch.cat([pixel_centers(80, 60, dtype=torch.float64), torch.ones(60, 80, 1)], -1) @ torch.linalg.inv(K[0]).T
    along = (rays @ pose[0, :3, :3])[..., 1]  # world y per unit of depth
    torch.testing.assert_close(truth.depth[0], (4.0 / along).float(), rtol=1e-6, atol=1e-6)
    facing = pose[0, :3, :3] @ torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(truth.normal[0], facing.float().expand(60, 80, 3), rtol=0, atol=1e-6)


def test_a_sphere_is_as_deep_as_its_tessellation_allows():
    body = sphere([0, 0, 4], 1.0, 0, blank(), 36, 72)
    hits = cast(build_tree([body.triangles]), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[0.05, 0.02, 1.0]], dtype=torch.float64))
    d = torch.tensor([0.05, 0.02, 1.0], dtype=torch.float64)
    a, b = (d * d).sum(), -2 * 4 * d[2]
    exact = (-b - (b * b - 4 * a * 15) ** 0.5) / (2 * a)
    assert 0 <= float(hits.t[0] - exact) < 1 - np.cos(np.pi / 36)  # a chord lies inside the sphere by at most its sagitta


def test_truth_is_well_formed(table):
    _, _, truth = table
    assert truth.images.shape == (2, 120, 160, 3) and truth.images.dtype == torch.float32
    assert 0 <= truth.images.min() and truth.images.max() <= 1
    assert truth.depth.min() > 2 and truth.depth.max() < 9, "the room is closed in every direction the demo looks"
    torch.testing.assert_close(truth.normal.norm(dim=-1), torch.ones(2, 120, 160))
    rays = torch.cat([pixel_centers(160, 120), torch.ones(120, 160, 1)], -1) @ torch.linalg.inv(table[1].K[0]).T
    assert ((truth.normal[0] * rays).sum(-1) <= 1e-6).all(), "normals face the camera"
    assert len(truth.sheet.unique()) > 12


def test_normals_are_the_slope_of_the_depth(table):
    _, cameras, truth = table
    xyz = cameras[0].unproject_depth(truth.depth[:1])[0]
    along_u, along_v = xyz[1:-1, 2:] - xyz[1:-1, :-2], xyz[2:, 1:-1] - xyz[:-2, 1:-1]
    slope = torch.nn.functional.normalize(torch.linalg.cross(along_v, along_u), dim=-1) @ cameras.cam_from_world[0, :3, :3].T
    agree = (slope * truth.normal[0, 1:-1, 1:-1]).sum(-1)
    assert (agree > 0.99).float().mean() > 0.75  # all but depth edges and curved things


def test_flow_leads_to_the_same_point_and_colour(table):
    scene, cameras, truth = table
    flow = true_flow(scene, cameras, truth.depth, 0, 1)
    seen = flow.confidence > 0
    assert 0.6 < seen.float().mean() < 0.99
    uv1 = pixel_centers(160, 120) + flow.flow
    size = torch.tensor([160.0, 120.0])
    sampled = torch.nn.functional.grid_sample(truth.images[1:].permute(0, 3, 1, 2), (uv1 / size * 2 - 1)[None], align_corners=False)[0].permute(1, 2, 0)
    error = (sampled - truth.images[0]).abs().mean(-1)
    assert error[seen].median() < 0.02 and error[~seen & (uv1 >= 0).all(-1) & (uv1 < size).all(-1)].median() > 0.06


def test_matches_lie_on_both_pictures_and_project_to_one_point(table):
    scene, cameras, truth = table
    m = true_matches(scene, cameras, truth.depth, 0, 1, count=50)
    assert len(m) == 50 and (m.score == 1).all()
    iu, iv = m.uv0.floor().long().unbind(-1)
    xyz = cameras[0].unproject(m.uv0[None], truth.depth[0, iv, iu][None])[0]
    uv1, _ = cameras[1].project(xyz)
    torch.testing.assert_close(uv1[0], m.uv1, rtol=0, atol=2e-3)


def test_no_light_is_shed_where_a_thing_stands(table):
    scene, _, _ = table
    light = scene.baked.light
    floor = light.texels[: int(light.width[0] * light.height[0])].mean(-1)
    assert floor.min() < 0.2 * floor.median() and floor.max() < 1.3 * floor.median(), "shadows on an evenly lit table"


def test_the_shortcut_for_flat_sheets_changes_nothing_to_see(table, monkeypatch):
    scene, cameras, truth = table
    monkeypatch.setattr(synthetic, "_settled", lambda sheet, flat: torch.zeros(sheet.shape, dtype=torch.bool))
    slow = render_truth(scene, cameras[0], 2)
    differs = ((slow.images[0] - truth.images[0]).abs() > 1 / 255).any(-1)
    assert differs.float().mean() < 2e-3  # a tip thinner than a pixel may hide between two centres


def test_a_seed_is_a_scene():
    a, b, c = (make_scene(s, "object") for s in (4, 4, 5))
    camera = arc_cameras(a, [0.0], 48, 36)
    first, same, other = (render_truth(s, camera, 1) for s in (a, b, c))
    assert torch.equal(first.images, same.images) and torch.equal(first.depth, same.depth)
    assert (first.images - other.images).abs().mean() > 0.01


def test_the_demo_hands_out_no_cameras_and_keeps_the_truth():
    demo = demo_capture(2, 1, 96, 72, kind="object")
    assert demo.photos.cameras is None and demo.photos.points is None and demo.photos.names == ("photo_00.png", "photo_01.png")
    assert demo.held_out.cameras is not None and len(demo.held_out.cameras) == 1 and len(demo.photo_cameras) == 2
    assert all(v.focal_prior_px is None for v in demo.photos.views)
    photos = demo.photos.images()
    assert torch.equal((photos * 255).round() / 255, photos), "photos have 8 bits"
    assert demo.photos.white_background and photos[0, 0, 0].tolist() == [1.0, 1.0, 1.0]
    masks = demo.photos.masks()
    assert masks is not None and 0.15 < masks.mean() < 0.8
    demo.held_out.cameras.validate()


def test_neighbouring_photos_can_be_matched(table):
    """SIFT has to find its way from photo to photo, and the matches it finds have to be true ones."""
    import cv2

    scene = table[0]
    cameras = arc_cameras(scene, [-5.5, 5.5], 320, 240, seed=1)
    truth = render_truth(scene, cameras, 2)
    sift = cv2.SIFT_create(1500)
    found = [sift.detectAndCompute((im.numpy() * 255).round().astype(np.uint8), None) for im in truth.images]
    pairs = cv2.BFMatcher().knnMatch(found[0][1], found[1][1], k=2)
    good = [a for a, b in pairs if a.distance < 0.75 * b.distance]
    uv0, uv1 = (torch.tensor(np.array([found[k][0][getattr(m, key)].pt for m in good])).float() + 0.5 for k, key in ((0, "queryIdx"), (1, "trainIdx")))
    flow = true_flow(scene, cameras, truth.depth, 0, 1).flow
    iu, iv = uv0.floor().long().unbind(-1)
    error = (uv0 + flow[iv, iu] - uv1).norm(dim=-1)
    assert len(good) > 120 and (error < 2).float().mean() > 0.8


def test_a_blank_wall_shows_nothing_to_match():
    scene = make_scene(0, "blank")
    image = render_truth(scene, arc_cameras(scene, [0.0], 64, 48), 1).images
    assert image.std((1, 2)).max() < 0.03


def test_an_unknown_scene_is_named_with_the_known_ones():
    with pytest.raises(ConfigError, match="no synthetic scene 'kitchen'; choose one of tabletop, room, object, still, toys, plane, blank"):
        make_scene(0, "kitchen")
    with pytest.raises(ConfigError, match="at least 2 photos"):
        demo_capture(1)


def test_importing_makes_nothing():
    code = "import handful.data.synthetic as s; from handful.data._synth import textures as t; assert t._volume.cache_info().currsize == 0"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_the_demo_is_made_in_ten_seconds():
    start = time.process_time()
    demo_capture()
    assert time.process_time() - start < 20  # processor seconds: ten on two cores


def test_torchs_threads_are_the_callers_again():
    before = torch.get_num_threads()
    render_truth(make_scene(0, "blank"), arc_cameras(make_scene(0, "blank"), [0.0], 16, 12), 1)
    assert torch.get_num_threads() == before
