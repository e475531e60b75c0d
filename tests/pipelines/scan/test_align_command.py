"""`handful align` as a user types it: a scan in place, off, of elsewhere, and input that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data import odometry_kiss
from handful.data import registry as data_registry
from handful.data.atomic import write_bytes
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.data.registry import load_capture
from handful.data.scans.npz_files import write_sweep
from handful.data.scans.registry import load_sweeps
from handful.pipelines.cli.align import write_aligned
from handful.pipelines.cli.main import _run
from handful.pipelines.init import registry
from handful.pipelines.init.protocol import CameraReport, InitState
from handful.pipelines.scan import fit as fit_module
from handful.pipelines.scan.fit import fit_scans
from handful.recon.capture import ArrayImage, Capture
from handful.recon.depth import DepthMap
from handful.recon.sweeps import Sweep
from PIL import Image

from .scenes import Scene


@pytest.fixture(scope="module")
def made(tabletop: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with and without cameras, and an exact scan."""
    root, demo = tmp_path_factory.mktemp("capture"), tabletop.demo
    names = [f"images/{view.name}" for view in demo.photos.views]
    for view, name in zip(demo.photos.views, names, strict=True):
        write_bytes(root / "given" / name, encode_png(view.image.load()))
        write_bytes(root / "alone" / view.name, encode_png(view.image.load()))
    write_transforms(root / "given" / "transforms.json", demo.photo_cameras, names)
    depth = demo.held_out_truth.depth[0]
    xyz = demo.held_out.cameras[0].unproject_depth(depth[None])[0][depth > 0][::3]
    write_sweep(root / "in_place.npz", Sweep(xyz, torch.eye(4), "tabletop"))
    away = torch.nn.functional.normalize(demo.photo_cameras.world_from_cam[1, :3, 2], dim=0) * float(depth.median())
    write_sweep(root / "off.npz", Sweep(xyz + 0.05 * away, torch.eye(4), "off"))
    write_sweep(root / "elsewhere.npz", Sweep(xyz + 1.0 * away, torch.eye(4), "elsewhere"))
    return root


@pytest.fixture
def matched(tabletop: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photos' points are those of the same photos, matched before: where tests are about something else."""

    class Known:
        def run(self, capture: Capture, seed: int, progress: object) -> InitState:
            return InitState(capture, tabletop.points, CameraReport("given", len(capture), len(capture), 0.5, 300.0, "given", 0.2, len(tabletop.points)))

    monkeypatch.setattr(registry, "get_initializer", lambda *a, **k: Known())


def align(made: Path, out: Path, capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[dict, str, str]:
    file = out.with_suffix(".json")
    assert _run(["align", str(made / "given"), "-o", str(out), "--json", str(file), *map(str, args)]) == 0
    told = capsys.readouterr()
    return json.loads(file.read_text()), told.out, told.err


def test_a_scan_in_place(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, out, err = align(made, tmp_path / "out", capsys, "--scan", made / "in_place.npz")
    assert summary["verdict"] == "fits" and summary["moved"] is None and summary["near"] > 0.8 and not summary["cameras_found"]
    assert "The scan fits (" in out and "WARNING" not in err
    picture = np.asarray(Image.open(tmp_path / "out/overlay/photo_00.png")).astype(int)
    photo = np.asarray(Image.open(tmp_path / "out/images/photo_00.png"))
    assert picture.shape == photo.shape
    assert 0.05 < ((picture.max(-1) - picture.min(-1)) > 60).mean() < 0.7  # coloured returns on a grey photo, which can still be seen
    assert len(load_capture(tmp_path / "out").views) == 3  # a capture itself
    torch.testing.assert_close(load_sweeps(tmp_path / "out/scans/0000.npz")[0].world_xyz, load_sweeps(made / "in_place.npz")[0].world_xyz)


def test_a_scan_that_is_off_is_moved_and_one_may_forbid_it(made: Path, matched: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, out, _ = align(made, tmp_path / "out", capsys, "--scan", made / "off.npz", "--rigid")
    assert summary["verdict"] == "fits" and summary["moved"] == "scan" and summary["scale"] == pytest.approx(1)
    assert "The scan was moved; as it came, it nearly fits (" in out
    told = json.loads((tmp_path / "out/align.json").read_text())
    new, old = load_sweeps(tmp_path / "out/scans/0000.npz")[0].world_xyz, load_sweeps(made / "off.npz")[0].world_xyz
    T = torch.tensor(told["new_from_old"])
    torch.testing.assert_close(new, old @ T[:3, :3].T + T[:3, 3], atol=1e-4, rtol=1e-4)
    assert float((new - load_sweeps(made / "in_place.npz")[0].world_xyz).norm(dim=-1).max()) < 0.02
    assert told["before"]["verdict"] == "nearly fits" and told["after"]["near"] == summary["near"]
    summary, _, err = align(made, tmp_path / "left", capsys, "--scan", made / "off.npz", "--move", "nothing")
    assert summary["verdict"] == "nearly fits" and summary["moved"] is None
    assert "WARNING: The scan nearly fits (" in err


def test_a_scan_of_elsewhere_is_told_loudly_and_left(made: Path, matched: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary, _, err = align(made, tmp_path / "out", capsys, "--scan", made / "elsewhere.npz")
    assert summary["verdict"] == "does not fit" and summary["moved"] is None and "WARNING: The scan does not fit (" in err
    summary, out, err = align(made, tmp_path / "quiet", capsys, "--scan", made / "elsewhere.npz", "--quiet")
    assert out == err == "" and summary["verdict"] == "does not fit"


def test_cameras_are_found_and_brought_to_the_scan(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["align", made / "alone", "--scan", made / "in_place.npz", "-o", tmp_path / "out", "--json", tmp_path / "s.json"]
    assert _run([str(a) for a in args]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["cameras_found"] and summary["moved"] == "cameras" and summary["verdict"] == "fits", capsys.readouterr()
    found, given = load_capture(tmp_path / "out").cameras, load_capture(made / "given").cameras
    assert found is not None and given is not None
    off = (found.centers - given.centers).norm(dim=-1) / float(load_sweeps(made / "in_place.npz")[0].world_xyz.sub(given.centers[0]).norm(dim=-1).median())
    print(f"cameras off by {float(off.max()):.1%} of the depth")
    assert float(off.max()) < 0.1


def test_input_that_cannot_be_used(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*args: str | Path) -> str:
        assert _run(["align", *map(str, args)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("handful: ") and told.count("\n") == 1, told
        return told

    assert "no scan beside its photos" in refused(made / "given", "-o", tmp_path / "a")
    assert "There is no file" in refused(made / "given", "--scan", tmp_path / "none.npz", "-o", tmp_path / "a")
    assert "is not empty" in refused(made / "given", "--scan", made / "off.npz", "-o", made)
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    assert "bad.npz" in refused(made / "given", "--scan", tmp_path / "bad.npz", "-o", tmp_path / "a")
    assert refused(made / "alone", "--scan", made / "off.npz", "--rigid", "-o", tmp_path / "a").endswith("given cameras: found ones have no scale to keep.\n")
    assert "--odometry" in refused(made / "given", "--scan", made / "off.npz", "--rigid", "--odometry", "-o", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_padding_is_no_object(tabletop: Scene, tmp_path: Path) -> None:
    """Photos of mixed sizes have padding; read again, the aligned capture knows that nothing was cut out."""
    there = torch.ones(240, 320)
    there[:, 300:] = 0
    padded = replace(tabletop.capture, views=tuple(replace(v, image=ArrayImage(v.image.load(), extent=there)) for v in tabletop.capture.views))
    write_aligned(tmp_path / "out", fit_scans(padded, None, refine=False))
    back = load_capture(tmp_path / "out")
    extents, masks = back.extents(), back.masks()
    assert extents is not None and masks is not None and not padded.is_cut_out() and not back.is_cut_out()
    assert torch.equal(extents > 0.5, (there > 0.5).expand(3, -1, -1)) and torch.equal(masks > 0.5, extents > 0.5)


def test_what_the_reader_dropped_and_what_is_not_written_is_told(made: Path, matched: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    xyz = load_sweeps(made / "in_place.npz")[0].world_xyz.numpy()
    np.savez(tmp_path / "holes.npz", xyz=np.concatenate([xyz, np.full((7, 3), np.nan, "f4")]))
    _, out, err = align(made, tmp_path / "out", capsys, "--scan", tmp_path / "holes.npz")
    assert "holes.npz has 7 rows without a return" in err and "depth sensor" not in out
    sensor = DepthMap(torch.ones(240, 320), torch.ones(240, 320), torch.ones(240, 320, dtype=torch.bool))
    load = data_registry.load_capture
    monkeypatch.setattr(data_registry, "load_capture", lambda *a: replace(load(*a), depth=(sensor,) * 3))
    _, out, _ = align(made, tmp_path / "again", capsys, "--scan", made / "in_place.npz")
    assert "What a depth sensor told of the photos is not in" in out


def test_scans_that_follow_each_other_are_searched_for(made: Path, matched: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Odometry's world is the first scan's own frame, whatever world the cameras have: they are not taken to share one."""
    asked: list[int] = []

    def rough(points: object, returns: torch.Tensor, tell: object) -> list[object]:
        asked.append(len(returns))
        return []

    monkeypatch.setattr(odometry_kiss, "odometry", lambda sweeps, progress: sweeps)
    monkeypatch.setattr(fit_module, "rough_places", rough)
    summary, _, err = align(made, tmp_path / "out", capsys, "--scan", made / "off.npz", made / "off.npz", "--odometry")
    one = len(load_sweeps(made / "off.npz")[0])
    assert asked == [one] and summary["moved"] is None and "None of the 2 scans has a pose" in err
