"""Cameras that a point map network tells: kept up to a similarity, in the frame of all estimated cameras, with points from matches where they fit."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from handful.data.atomic import write_bytes
from handful.data.image_io import encode_png
from handful.pipelines.config import override
from handful.pipelines.init.config import InitConfig
from handful.pipelines.init.from_capture import FromCapture
from handful.pipelines.init.from_matches import FromMatches
from handful.pipelines.init.from_pointmap import FromPointMap
from handful.pipelines.init.gauge import MEDIAN_DEPTH
from handful.pipelines.init.registry import get_initializer
from handful.pipelines.job import Reconstruction, ReconstructJob
from handful.pipelines.methods import method_config
from handful.pipelines.poses import pose_errors
from handful.pipelines.scene_folder import load_scene
from handful.priors import oracle
from handful.priors.oracle import OraclePointMaps
from handful.priors.registry import PRIORS
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import CaptureError, ConfigError, ShapeError

from .captures import KnownPhotos, known_photos


@pytest.fixture(scope="module")
def photos() -> KnownPhotos:
    return known_photos([-12.0, 0.0, 12.0])


def network(photos: KnownPhotos, turn_deg: float = 0.0, **more: bool) -> OraclePointMaps:
    """Tells the truth in a frame of its own: lying on its side, moved, seven times as large; one photo turned on its axis by `turn_deg`."""
    side = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    T = photos.cameras.cam_from_world.clone()
    T[:, :3, :3] = T[:, :3, :3] @ side.T
    T[:, :3, 3] = 7 * T[:, :3, 3] - T[:, :3, :3] @ torch.tensor([4.0, -2, 9])
    a = torch.deg2rad(torch.tensor(turn_deg))
    roll = torch.tensor([[a.cos(), -a.sin(), 0], [a.sin(), a.cos(), 0], [0, 0, 1]])
    T[0, :3] = roll @ T[0, :3]
    cameras = Cameras(T, photos.cameras.K, photos.cameras.width, photos.cameras.height)
    return OraclePointMaps(photos.capture.names, 7 * photos.truth.depth, cameras, **more)


def test_cameras_are_the_networks_in_the_usual_frame(photos):
    state = FromPointMap(InitConfig(pointmap="oracle"), network(photos), [photos.points()]).run(photos.capture)
    cameras = state.capture.cameras
    assert cameras is not None and state.report.method == "oracle" and state.report.focal_source == "estimated" and state.report.registered == 3
    e = pose_errors(cameras, photos.cameras)
    assert float(e.rotation_deg.max()) < 0.01 and float(e.center.max()) < 0.01 and float(e.focal.abs().max()) < 0.01
    assert state.report.reprojection_px is not None and state.report.reprojection_px < 0.3 and len(state.points) > 100, "matches fit the cameras; aligning small pictures moves them a little"
    down = cameras.cam_from_world[:, 1, :3].mean(0)
    assert float(down[1] / down.norm()) > 0.999, "upright"
    seen = torch.stack([c[2] for c in (cameras.cam_from_world[:, :3, :3] @ state.points.xyz.T + cameras.cam_from_world[:, :3, 3:]).unbind(0)])
    assert abs(float(seen.median()) / MEDIAN_DEPTH - 1) < 0.1


def test_without_matches_points_are_the_networks(photos):
    nothing = replace(photos.points(), count=0)
    state = FromPointMap(InitConfig(pointmap="oracle"), network(photos), [nothing]).run(photos.capture)
    assert state.capture.cameras is not None and len(state.points) > 1000
    uv, z = state.capture.cameras.project(state.points.xyz)
    inside = (z > 0) & (uv >= 0).all(-1) & (uv[..., 0] < photos.cameras.width) & (uv[..., 1] < photos.cameras.height)
    assert bool(inside.any(0).all()), "each in some photo"
    assert state.points.rgb is not None and float(state.points.rgb.std()) > 0.05
    assert state.report.reprojection_px is None and state.report.baseline is None, "nothing to measure them by"


def test_the_report_shows_a_network_that_errs(photos):
    good = FromPointMap(InitConfig(), network(photos), [photos.points()]).run(photos.capture).report
    bad = FromPointMap(InitConfig(), network(photos, turn_deg=8.0), [photos.points()]).run(photos.capture).report
    assert bad.reprojection_px is not None and good.reprojection_px is not None
    assert bad.points < good.points or bad.reprojection_px > 10 * good.reprojection_px


def test_what_cannot_be_placed_is_said(photos):
    with pytest.raises(ConfigError, match=r"does not tell where photos were taken.*init\.pointmap=null"):
        FromPointMap(InitConfig(), network(photos, blind=True), []).run(photos.capture)
    with pytest.raises(CaptureError, match="One photo alone"):
        FromPointMap(InitConfig(), network(photos), []).run(photos.capture.select(photos.capture.names[:1]))

    class OneSize(OraclePointMaps):
        def predict(self, views):
            raise ShapeError("Point maps need views of one size, got [(2, 2), (3, 2)] (width, height).")

    odd = replace(photos.capture, views=(*photos.capture.views[:2], View("small.png", ArrayImage(torch.zeros(4, 4, 3)))))
    with pytest.raises(CaptureError, match="these differ in size"):
        FromPointMap(InitConfig(), OneSize((), photos.truth.depth), []).run(odd)


def test_settings_choose_the_initialiser(photos):
    given = replace(photos.capture, cameras=photos.cameras)
    chosen = [get_initializer("auto", c, p) for c, p in ((InitConfig(), photos.capture), (InitConfig(pointmap="vggt"), photos.capture), (InitConfig(pointmap="vggt"), given))]
    assert [type(c) for c in chosen] == [FromMatches, FromPointMap, FromCapture]
    named = InitConfig(matchers=("sift", "disk-lightglue"))
    for kind in (FromMatches, FromCapture):
        assert kind.named(named).config.matchers == named.matchers
    with pytest.raises(ConfigError, match="choose one of auto, given, matches, pointmap"):
        get_initializer("guess")


def test_a_scene_from_photos_that_a_network_places(photos, tmp_path, monkeypatch):
    """The whole job, by the settings alone; the cameras are corrected in it, since nobody gave them."""
    for view in photos.capture.views:
        write_bytes(tmp_path / "photos" / view.name, encode_png(view.image.load()))
    monkeypatch.setattr(oracle, "Toy", lambda: network(photos), raising=False)
    monkeypatch.setitem(PRIORS["pointmap"], "toy", "oracle:Toy")
    settings = ["init.pointmap=toy", "init.matchers=sift", "optim.steps=4", "seed.budget=1000", "seed.extra=100"]
    job = ReconstructJob(tmp_path / "photos", tmp_path / "out", config=override(method_config("handful"), settings))
    work = Reconstruction(job)
    list(work.events())
    work.finish()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["cameras"]["method"], metrics["registered"], metrics["cameras"]["focal_source"]) == ("oracle", 3, "estimated")
    e = pose_errors(load_scene(tmp_path / "out").scene.cameras, photos.cameras)
    assert float(e.rotation_deg.max()) < 0.5 and 0 < float(e.center.max()) < 3


def test_a_network_that_is_not_here_is_told_before_any_work(photos, tmp_path):
    for view in photos.capture.views:
        write_bytes(tmp_path / "photos" / view.name, encode_png(view.image.load()))
    job = ReconstructJob(tmp_path / "photos", tmp_path / "out", config=override(method_config("handful"), ["init.pointmap=oracle"]))
    with pytest.raises(ConfigError, match="cannot be had by its name alone"):
        list(Reconstruction(job).events())
    assert not (tmp_path / "out").exists()
