"""`handful refine`: a new scene folder beside the old one, which stays as it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.data.edits_file import read_edits, write_edits
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.pipelines.cli.main import main
from handful.pipelines.cli.refine import Refine
from handful.pipelines.job import Reconstruction, ReconstructJob
from handful.pipelines.methods import method_config
from handful.pipelines.scene_folder import load_scene
from handful.recon.edits import DropFaint
from handful.recon.errors import ConfigError

DEFAULT = method_config("handful")
QUICK = replace(DEFAULT, seed=replace(DEFAULT.seed, budget=4000, extra=500), optim=replace(DEFAULT.optim, steps=15))


@pytest.fixture(scope="module")
def out(small_demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of three photos whose names lie in folders."""
    root = tmp_path_factory.mktemp("refine")
    names = [f"shots/day one/{k}.png" for k in range(3)]
    for name, view in zip(names, small_demo.photos.views, strict=True):
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).write_bytes(encode_png(view.image.load()))
    write_transforms(root / "photos" / "transforms.json", small_demo.photo_cameras, names)
    work = Reconstruction(ReconstructJob(root / "photos", root / "out", config=QUICK))
    for _ in work.events():
        pass
    work.finish()
    return root / "out"


def digests(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_all_of_it_without_asking(out: Path, tmp_path: Path) -> None:
    write_edits(out / "edits.json", [DropFaint(0.05)])
    before = digests(out)
    summary = Refine(scene=out, out=tmp_path / "r", strength=1.0, quiet=True).run()
    assert digests(out) == before, "the scene stays as it is"
    old, new = load_scene(out), load_scene(tmp_path / "r")
    assert new.names == old.names and torch.equal(new.cameras.cam_from_world, old.cameras.cam_from_world)
    assert len(new.gaussians) == summary["gaussians"] and not torch.equal(new.gaussians.means, old.gaussians.means)
    assert torch.equal(new.images(), old.images()) and read_edits(tmp_path / "r" / "edits.json") == (DropFaint(0.05),)
    assert new.metrics["refined"] == {"strength": 1.0, "left_out": {}, "unasked": []} and new.metrics["train_psnr"] == summary["train_psnr"]
    assert (tmp_path / "r" / "preview.png").stat().st_size > 1000 and not (tmp_path / "r" / "checkpoint").exists()
    (out / "edits.json").unlink()
    with pytest.raises(ConfigError, match="refined already"):
        Refine(scene=tmp_path / "r", out=tmp_path / "twice", strength=0.5, quiet=True).run()


def test_none_of_it_is_the_same_scene(out: Path, tmp_path: Path) -> None:
    Refine(scene=out, out=tmp_path / "r", strength=0.0, quiet=True).run()
    assert digests(tmp_path / "r")["scene.ply"] == digests(out)["scene.ply"]


def test_the_photos_are_asked(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["refine", str(out), "-o", str(tmp_path / "r"), "--json", str(tmp_path / "s.json")])
    assert e.value.code == 0
    summary, printed = json.loads((tmp_path / "s.json").read_text()), capsys.readouterr().out
    assert summary["photos_asked"] == 3 and 0 <= summary["strength"] <= 1 and "eft-out photos" in printed
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert list(metrics["refined"]["left_out"]) == list(load_scene(out).names) and metrics["refined"]["strength"] == summary["strength"]
    same = digests(tmp_path / "r")["scene.ply"] == digests(out)["scene.ply"]
    assert same == (summary["strength"] == 0)


def test_what_cannot_work_is_said(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        Refine(scene=out, out=tmp_path / "full", quiet=True).run()
    for argv, word in (
        ([str(out), "-o", str(tmp_path / "r"), "--strength", "1.5"], "from 0 to 1"),
        ([str(tmp_path), "-o", str(tmp_path / "r")], "scene.ply"),
        ([str(out), "-o", str(tmp_path / "r"), "--device", "gpu"], "no device"),
        ([str(out), "-o", str(tmp_path / "r"), "--seed", "-1"], "--seed"),
    ):
        with pytest.raises(SystemExit) as e:
            main(["refine", *argv])
        printed = capsys.readouterr()
        assert e.value.code == 2 and word in printed.err + printed.out and not (tmp_path / "r").exists()
    surfels = tmp_path / "surfels"
    Refine(scene=out, out=surfels, strength=0.0, quiet=True).run()
    config = json.loads((surfels / "config.json").read_text())
    config["settings"]["surfels"] = True
    (surfels / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="surfels"):
        Refine(scene=surfels, out=tmp_path / "r", strength=1.0, quiet=True).run()
