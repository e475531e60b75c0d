"""What a benchmark file says, what is refused, and the protocols that came with it: holdout, SpaRe, mip-NeRF 360."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.atomic import write_bytes
from handful.data.colmap import write_model
from handful.data.image_io import encode_jpeg, encode_png
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.data.spare import load_spare, spare_scenes
from handful.pipelines.bench.material import identity, job_name, load_material, photo_digests
from handful.pipelines.bench.plan import Place, find_scene, read_plan
from handful.pipelines.protocols import holdout, load_benchmark, load_holdout
from handful.pipelines.trial import refuse_leak, train_trial
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.errors import CaptureError, ConfigError

from .bench_captures import write_capture, write_file

TOML = """
title = "try"
seeds = [0, 1]
data = "captures"

[[methods]]
method = "handful"

[[methods]]
label = "few steps"
set = ["optim.steps=5"]

[[benchmarks]]
dataset = "llff"
scenes = ["fern", "llff_horns"]
views = [3, 9]
poses = ["given", "sim3_aligned"]
downscale = 4
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("llff_fern", "nerf_llff_data/horns", "table"):
        (tmp_path / "captures" / name).mkdir(parents=True)
    return tmp_path


def _write(folder: Path, text: str, name: str = "b.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_file_is_the_product_of_its_lists(data: Path) -> None:
    plan = read_plan(_write(data, TOML))
    assert [m.label for m in plan.methods] == ["handful", "few steps"] and plan.methods[1].settings.optim.steps == 5
    assert len(plan.places) == 2 * 2 * 2 and plan.file.title == "try"
    assert {p.scene for p in plan.places} == {"fern", "horns"}, "a scene is called by its own name, whatever its folder"
    assert Path(plan.places[-1].path) == (data / "captures/nerf_llff_data/horns").resolve(), "relative to the file, in the layouts data sets come in"
    jobs = plan.jobs(plan.places[0])
    assert [(j.seed, j.method.label) for j in jobs] == [(0, "handful"), (0, "few steps"), (1, "handful"), (1, "few steps")]
    as_json = {"methods": ["handful"], "benchmarks": [{"dataset": "holdout", "scenes": ["table"], "views": [0]}], "data": "captures"}
    assert read_plan(_write(data, json.dumps(as_json), "b.json")).places[0].dataset == "holdout"


def test_another_folder_of_captures_can_be_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "other" / "fern").mkdir(parents=True)
    (tmp_path / "other" / "horns").mkdir()
    assert Path(read_plan(_write(data, TOML), tmp_path / "other").places[0].path) == (tmp_path / "other/fern").resolve()
    with pytest.raises(ConfigError, match="There is no folder .*nowhere with the captures; name it with --data"):
        read_plan(_write(data, TOML), tmp_path / "nowhere")
    with pytest.raises(CaptureError, match="has no folder fern or llff_fern"):
        find_scene(data, "llff", "fern")


def test_an_ablation_removes_or_adds_parts(data: Path) -> None:
    text = """
data = "captures"
benchmarks = [{dataset = "holdout", scenes = ["table"], views = [0]}]
[ablation]
method = "handful"
[[ablation.parts]]
name = "dropout"
set = ["optim.dropout=0"]
[[ablation.parts]]
name = "depth"
set = ["terms.depth=0", "terms.smooth=0"]
"""
    plan = read_plan(_write(data, text))
    assert [m.label for m in plan.methods] == ["handful", "without dropout", "without depth"]
    assert plan.methods[2].settings.terms.depth == 0 == plan.methods[2].settings.terms.smooth and plan.methods[2].settings.optim.dropout > 0
    added = read_plan(_write(data, text.replace('method = "handful"', 'method = "3dgs"\ndirection = "add"').replace("dropout=0", "dropout=0.2").replace("=0\"", "=1\"")))
    assert [m.label for m in added.methods] == ["3dgs", "with dropout", "with depth"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("seeds = [0, 1]", "seedz = [0, 1]"), "BenchmarkFile has no setting 'seedz'; did you mean 'seeds'"),
        (("seeds = [0, 1]", "seeds = [1, 1]"), "seeds must be at least one, each named once"),
        (("optim.steps=5", "optim.stepz=5"), "no setting 'optim.stepz'"),
        (("optim.steps=5", "optim.steps=0"), "must be at least 1, got 0"),
        (('set = ["optim.steps=5"]', ""), "'handful' and 'few steps' have the same settings"),
        (('label = "few steps"', 'label = "handful"'), "two methods labelled 'handful'"),
        (('"llff"', '"lff"'), "'lff' is not one of llff"),
        (("views = [3, 9]", "views = [3, 3]"), "names llff fern, 3 views twice"),
        (("views = [3, 9]", "views = []"), "llff needs views and poses"),
        (("downscale = 4", "max_side = 100"), "the size of llff is its protocol's"),
        (('dataset = "llff"', 'dataset = "spare"'), "with max_side, not with downscale"),
        (('title = "try"', "title = try"), "not valid TOML"),
        (('method = "handful"', 'method = "nerf"'), "no method 'nerf'"),
    ],
)
def test_what_a_file_cannot_say_is_one_sentence(data: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as e:
        read_plan(_write(data, TOML.replace(*change)))
    assert "\n" not in str(e.value)


def test_the_files_that_come_along_can_be_read(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2] / "benchmarks"
    for folder in ("llff_fern", "llff_flower", "llff_fortress", "llff_horns", "dtu_scan24", "dtu_scan37", "synthetic_lego"):
        (tmp_path / folder).mkdir()
    files = sorted(root.glob("*.toml"))
    assert len(files) >= 9
    for file in files:
        plan = read_plan(file, tmp_path)
        assert len(plan.methods) * len(plan.places) >= 4, file.name  # something is compared with something, on more than one scene


# -- no test photo trains ----------------------------------------------------------------------------------------------


def _photos(count: int = 6) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    small = torch.rand(count, 3, 6, 8, generator=g)
    return torch.nn.functional.interpolate(small, (96, 128), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)


def _capture(images: torch.Tensor, names: list[str]) -> Capture:
    pose = torch.eye(4).repeat(len(names), 1, 1)
    K = torch.tensor([[90.0, 0, 64], [0, 90.0, 48], [0, 0, 1]]).repeat(len(names), 1, 1)
    return Capture(tuple(View(n, ArrayImage(i)) for n, i in zip(names, images, strict=True)), Cameras(pose, K, 128, 96))


def _refused(capture: Capture, protocol, says: str) -> None:
    with pytest.raises(CaptureError, match=says):
        train_trial(capture, protocol, None, 0, torch.device("cpu"))  # pyright: ignore[reportArgumentType] - it never comes to training


def test_a_test_photo_under_another_name_is_refused_before_training() -> None:
    images, names = _photos(), [f"v{i}.png" for i in range(6)]
    protocol = holdout(names, 3, None, "made")
    refuse_leak(_capture(images, names), protocol)
    again = images.clone()
    again[4] = images[3]  # v3 is a test photo, v4 trains
    _refused(_capture(again, names), protocol, "training photo v4.png and the test photo v3.png are the same picture")


def test_a_test_photo_encoded_once_more_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    images, names = _photos(), [f"v{i}.png" for i in range(6)]
    write_bytes(tmp_path / "x.jpg", encode_jpeg(images[3]))
    again = images.clone()
    again[4] = torch.from_numpy(np.array(Image.open(tmp_path / "x.jpg"))).float() / 255
    assert not torch.equal(again[4], again[3])
    _refused(_capture(again, names), holdout(names, 3, None, "made"), "v4.png and the test photo v3.png are the same picture")


def test_a_name_that_two_spellings_hide_is_refused() -> None:
    images, names = _photos(), [f"v{i}.png" for i in range(6)]
    protocol = replace(holdout(names, 3, None, "made"), train=("v1.png", "v2.png", "v3"))
    _refused(_capture(images, names), protocol, "the photo v3.png is in train and in test")


def test_photos_that_are_merely_alike_may_train() -> None:
    """A step to the side, and pictures with nothing in them."""
    images, names = _photos(), [f"v{i}.png" for i in range(6)]
    images[4] = images[3].roll(4, 1)
    images[5], images[0] = 1.0, 0.999
    refuse_leak(_capture(images, names), holdout(names, 3, None, "made"))


# -- protocols ---------------------------------------------------------------------------------------------------------


def test_a_holdout_names_its_photos() -> None:
    p = holdout([f"img{i}.jpg" for i in (10, 9, 2, 1, 3, 4, 5, 6, 7, 8)], 4, None, "mine")
    assert p.test == ("img1.jpg", "img5.jpg", "img9.jpg") and p.train == tuple(f"img{i}.jpg" for i in (2, 3, 4, 6, 7, 8, 10)) and p.id == "holdout-4"
    few = holdout([f"img{i}.jpg" for i in range(1, 11)], 4, 3, "mine")
    assert few.train == ("img2.jpg", "img6.jpg", "img10.jpg") and few.id == "holdout-4-3" and few.test == p.test
    with pytest.raises(ConfigError, match="every 2nd photo or fewer"):
        holdout(["a", "b", "c"], 1, None, "x")
    with pytest.raises(CaptureError, match="leaves 1 of 2 photos"):
        holdout(["a", "b"], 8, None, "x")


def test_a_holdout_needs_cameras(tmp_path: Path) -> None:
    for i, image in enumerate(_photos(4)):
        write_bytes(tmp_path / f"p{i}.png", encode_png(image))
    with pytest.raises(CaptureError, match="has no cameras, so its test photos could not be rendered"):
        load_holdout(tmp_path, 2, None, LoadOptions())


def test_mipnerf360_reads_its_colmap_files_beside_llffs(tmp_path: Path) -> None:
    names = [f"DSC{i:04d}.JPG" for i in range(30)]
    images = _photos(30)
    for name, image in zip(names, images, strict=True):
        write_bytes(tmp_path / "images_4" / name, encode_jpeg(image))
        write_bytes(tmp_path / "images" / name, encode_jpeg(image))
    pose = torch.eye(4).repeat(30, 1, 1)
    pose[:, 0, 3] = torch.arange(30)
    K = torch.tensor([[400.0, 0, 256], [0, 400.0, 192], [0, 0, 1]]).repeat(30, 1, 1)
    write_model(tmp_path / "sparse/0", Cameras(pose, K, 512, 384), names)
    np.save(tmp_path / "poses_bounds.npy", np.zeros((30, 17)))
    capture, protocol = load_benchmark("mipnerf360", tmp_path, 12)
    assert protocol.id == "mipnerf360-12" and protocol.size == (128, 96) and protocol.downscale == 4
    assert protocol.test == ("DSC0000", "DSC0008", "DSC0016", "DSC0024") and len(protocol.train) == 12 and not set(protocol.train) & set(protocol.test)
    assert capture.cameras is not None and float(capture.cameras.K[0, 0, 0]) == pytest.approx(100.0)


def _spare(root: Path, with_tests: bool = False) -> Path:
    """A track of two scenes in the challenge's layout, at a sixteenth of its size."""
    split = {"scan63": {"input_views": [24, 21, 27], "test_views": [1, 13], "dataset": "DTU"}, "Amplifier": {"input_views": [2, 5, 7], "test_views": [0], "dataset": "SpaRe"}}
    root.mkdir(parents=True, exist_ok=True)
    (root / "Track1_split_test.json").write_text(json.dumps(split))
    for word, shift in (("dtu_calibration", 0.0), ("synth_calibration", 5.0)):
        (root / word).mkdir()
        for i in range(49):
            P = np.array([[1800.0, 0, 799.5], [0, 1800, 599.5], [0, 0, 1]]) @ np.array([[1, 0, 0, i + shift], [0, 1, 0, 0], [0, 0, 1, 4.0]])
            (root / word / f"pos_{i + 1:03d}.txt").write_text("\n".join(" ".join(map(str, row)) for row in P))
    images = torch.nn.functional.interpolate(_photos(5).permute(0, 3, 1, 2), (75, 100)).permute(0, 2, 3, 1)
    for scene, form in (("scan63", "rect_{:03d}_3_r5000.png"), ("Amplifier", "cam_{:03d}_3_0000.png")):
        entry = split[scene]
        for k, i in enumerate((*entry["input_views"], *(entry["test_views"] if with_tests else ()))):
            write_bytes(root / scene / form.format(i + 1), encode_png(images[k]))
    return root


def test_spare_is_read_as_the_challenge_lays_it_out(tmp_path: Path) -> None:
    root = _spare(tmp_path / "spare")
    assert spare_scenes(root, 3) == ("scan63", "Amplifier")
    s = load_spare(root, "scan63", 3)
    assert s.train == ("rect_025_3_r5000.png", "rect_022_3_r5000.png", "rect_028_3_r5000.png") == s.capture.names
    assert s.test == ("rect_002_3_r5000.png", "rect_014_3_r5000.png") and (s.test_cameras.width, s.test_cameras.height) == (1600, 1200)
    assert s.test_cameras.K[0, 0, 2] == pytest.approx(800.0), "integer pixel centres become ours"
    assert s.test_cameras.cam_from_world[:, 0, 3].tolist() == pytest.approx([1.0, 13.0], abs=1e-4)
    assert s.capture.cameras is not None and s.capture.cameras.K[0, 0, 0] == pytest.approx(1800 / 16, rel=1e-5)
    synth = load_spare(root, "Amplifier", 3)
    assert synth.test == ("cam_001_3_0000.png",) and synth.test_cameras.cam_from_world[0, 0, 3] == pytest.approx(5.0, abs=1e-4)
    with pytest.raises(CaptureError, match="no Track2_split"):
        load_spare(root, "scan63", 9)
    with pytest.raises(CaptureError, match="has no scene 'scan1'"):
        load_spare(root, "scan1", 3)
    (root / "scan63" / "rect_025_3_r5000.png").unlink()
    with pytest.raises(CaptureError, match="lacks the input photo rect_025_3_r5000.png"):
        load_spare(root, "scan63", 3)


def test_spare_without_its_test_photos_is_submitted_with_them_scored(tmp_path: Path) -> None:
    hidden = load_material(Place("spare", "scan63", str(_spare(tmp_path / "a")), 3))
    assert hidden.submit == ("scan63/rect_002_3_r5000.png", "scan63/rect_014_3_r5000.png") and hidden.hidden is not None
    assert not set(hidden.protocol.test) & set(hidden.capture.names) and hidden.protocol.id == "spare-3"
    shown = load_material(Place("spare", "scan63", str(_spare(tmp_path / "b", with_tests=True)), 3))
    assert set(shown.protocol.test) <= set(shown.capture.names)
    assert set(photo_digests(hidden)) == set(hidden.protocol.train) and set(photo_digests(shown)) == {*shown.protocol.train, *shown.protocol.test}


# -- identity ----------------------------------------------------------------------------------------------------------


def test_all_that_decides_a_result_is_its_identity(tmp_path: Path) -> None:
    write_capture(tmp_path / "table", 4)
    plan = read_plan(write_file(tmp_path / "b.json", seeds=[0, 1]))
    material = load_material(plan.places[0])
    digests = photo_digests(material)
    jobs = plan.jobs(plan.places[0])
    ids = [identity(j, material, digests) for j in jobs]
    assert len(set(ids)) == 4 and ids == [identity(j, load_material(plan.places[0]), digests) for j in jobs], "the same again for the same job"
    assert identity(replace(jobs[0], pictures=9), material, digests) == ids[0], "how many pictures are kept decides nothing"
    name = job_name(jobs[0], material, ids[0])
    assert name == f"holdout-3-table-one-seed0-{ids[0][:8]}"
    write_bytes(tmp_path / "table/images/v1.png", encode_png(torch.rand(48, 64, 3)))
    moved = load_material(plan.places[0])
    assert identity(jobs[0], moved, photo_digests(moved)) != ids[0], "another photo"
    cameras = material.capture.cameras
    assert cameras is not None
    T = cameras.cam_from_world.clone()
    T[0, 0, 3] += 1e-3
    other = replace(material, capture=replace(material.capture, cameras=replace(cameras, cam_from_world=T)))
    assert identity(jobs[0], other, digests) != ids[0], "another camera"
    assert load_capture(tmp_path / "table").names == ("v0.png", "v1.png", "v2.png", "v3.png")


def test_validation_reads_no_test_photo(shared_data: Path) -> None:
    place = Place("llff", "fern", str(shared_data / "llff_fern"), 3, validation=True)
    material = load_material(place)
    _, nine = load_benchmark("llff", shared_data / "llff_fern", 9)
    used = {*material.protocol.train, *material.protocol.test}
    assert len(material.protocol.train) == 3
    assert used == set(nine.train)
    assert not used & set(nine.test)
    assert "validation" in place.title
    assert "validation" in material.protocol.id


def test_validation_is_for_protocols_with_names(data: Path) -> None:
    holdout_file = 'methods = ["handful"]\ndata = "captures"\n[[benchmarks]]\ndataset = "holdout"\nscenes = ["table"]\nviews = [0]\nvalidation = true\n'
    with pytest.raises(ConfigError, match="validation is for data sets whose training photos a protocol names"):
        read_plan(_write(data, holdout_file))
