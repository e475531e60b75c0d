"""Protocols: the stored names are the rule's, captures at hand fit them, and a misspelt key or a leak is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from handful.benchmarks.make_splits import make
from handful.pipelines.protocols import (
    DATASETS,
    SPLITS,
    EvalProtocol,
    MetricSpec,
    load_benchmark,
    load_protocol,
    pose_free,
    protocol_by_rule,
    protocol_for,
    resolve,
    save_protocol,
    scene_name,
    stored_path,
    stored_protocols,
    validation,
)
from handful.recon.errors import CaptureError, ConfigError

STORED = stored_protocols()


def _count(p: EvalProtocol) -> int:
    return {"fern": 20, "flower": 34, "fortress": 42, "horns": 62}.get(p.scene, 49)


def _all_names(p: EvalProtocol) -> list[str]:
    """Every photo of the scene, as the data set numbers them."""
    if p.dataset == "llff":
        undistorted = p.scene in ("fortress", "horns")
        return [f"img{i + 1:03d}.jpg" if undistorted else f"image{i:03d}.jpg" for i in range(_count(p))]
    return [f"{i:06d}.jpg" for i in range(49)]


def test_what_is_promised_is_stored():
    have = {(p.dataset, p.scene, p.id) for p in STORED}
    for views in (3, 6, 9):
        assert {("llff", s, f"llff-{views}") for s in ("fern", "flower", "fortress", "horns")} <= have
        assert {("dtu", s, f"dtu-{views}") for s in ("scan24", "scan37")} <= have
    assert {("llff", s, "llff-12") for s in ("fern", "flower", "fortress", "horns")} <= have
    assert {("llff", s, f"llff-{v}-quarter") for s in ("fern", "flower", "fortress", "horns") for v in (3, 9)} <= have
    assert {("blender", "lego", f"blender-{v}") for v in ("4", "6", "8", "6-spread", "8-spread")} <= have


BY_NAMES = [p for p in STORED if not p.id.endswith("-spread") and p.id != "blender-32"]  # those depend on the photos at hand


@pytest.mark.parametrize("p", BY_NAMES, ids=lambda p: f"{p.id}-{p.scene}")
def test_the_stored_names_are_the_rules(p):
    views = len(p.train)
    ruled = protocol_by_rule(p.dataset, _all_names(p), views, p.scene, p.downscale if p.dataset == "llff" else None)
    assert replace(ruled, size=p.size) == p
    assert stored_path(p).is_file() and json.loads(stored_path(p).read_text())["version"] == 1


def test_fern_is_the_split_of_the_tables():
    p = protocol_for("llff", [f"image{i:03d}.png" for i in range(20)], 3, "fern")
    assert p.train == ("image001", "image010", "image019") and p.test == ("image000", "image008", "image016")
    assert p.downscale == 8 and p.size == (504, 378) and p.poses == "given" and p.mask == "none" and p.quantize_8bit
    assert [m.key for m in p.metrics] == ["psnr", "ssim", "lpips_vgg", "lpips_alex"]
    assert p.metrics[1] == MetricSpec("ssim", "image", 11, 1.5, "zero")
    nine = protocol_for("llff", [f"image{i:03d}" for i in range(20)], 9, "fern")
    assert [int(n[-3:]) for n in nine.train] == [1, 3, 5, 7, 10, 12, 14, 17, 19]
    horns = protocol_for("llff", [f"img{i + 1:03d}.jpg" for i in range(62)], 3, "horns")
    assert horns.train == ("img002", "img031", "img062"), "half a place rounds to even, as in RegNeRF"


def test_dtu_is_the_split_of_the_tables():
    p = protocol_for("dtu", [f"{i:06d}.png" for i in range(49)], 6, "scan24")
    assert [int(n) for n in p.train] == [25, 22, 28, 40, 44, 48] and len(p.test) == 25
    assert p.size == (400, 300) and p.mask == "object"
    assert [m.region for m in p.metrics] == ["mask", "white", "white", "white"]
    unused = {*range(3, 8), *range(16, 22), *range(36, 40)}
    assert not unused & {int(n) for n in (*p.train, *p.test)}
    three = protocol_for("dtu", [f"{i:06d}.png" for i in range(49)], 3, "scan24")
    assert three.test == p.test, "the test photos do not depend on the number of training photos"


def test_a_scene_or_release_not_stored_follows_the_rule():
    leaves = protocol_for("llff", [f"image{i:03d}.png" for i in range(26)], 3, "leaves")
    assert leaves.id == "llff-3" and leaves.test == tuple(f"image{i:03d}" for i in (0, 8, 16, 24)) and leaves.size is None
    original = protocol_for("llff", [f"image{i:03d}.png" for i in range(42)], 3, "fortress")
    stored = load_protocol(SPLITS / "llff/fortress_3.json")
    assert [int(n[-3:]) for n in original.train] == [int(n[-3:]) - 1 for n in stored.train], "the same photos under the names of another release"
    room = protocol_for("mipnerf360", [f"DSC{i:04d}.JPG" for i in range(100)], 12, "room")
    assert len(room.train) == 12 and len(room.test) == 13 and room.downscale == 4


def test_names_in_natural_order_decide_not_the_order_given():
    names = [f"img{i}.png" for i in range(20)]
    assert protocol_for("llff", names[::-1], 3, "x") == protocol_for("llff", names, 3, "x")


def test_asking_for_what_is_not_defined_says_what_is():
    with pytest.raises(ConfigError, match="no benchmark 'lff'; choose one of llff, dtu, mipnerf360, blender"):
        protocol_for("lff", [], 3)
    with pytest.raises(ConfigError, match="defined for 3, 6, 9, 12 training views, not 4"):
        protocol_for("llff", ["a"], 4)
    with pytest.raises(ConfigError, match="defined at 1/8, 1/4, not at 1/2"):
        protocol_for("llff", ["a"], 3, downscale=2)
    with pytest.raises(CaptureError, match="needs 9 training photos, but the capture has only 6"):
        protocol_for("llff", [f"{i}.png" for i in range(7)], 9)
    with pytest.raises(CaptureError, match="counts 49 photos"):
        protocol_for("dtu", [f"{i}.png" for i in range(48)], 3)


def test_files_are_read_strictly(tmp_path):
    p = STORED[0]
    path = tmp_path / "p.json"
    save_protocol(path, p)
    assert load_protocol(path) == p
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "quantise_8bit": True}))
    with pytest.raises(ConfigError, match="no setting 'quantise_8bit'; did you mean 'quantize_8bit'"):
        load_protocol(path)
    path.write_text(json.dumps({k: v for k, v in data.items() if k != "train"}))
    with pytest.raises(ConfigError, match="'train' of EvalProtocol is missing"):
        load_protocol(path)
    path.write_text(json.dumps({**data, "poses": "guessed"}))
    with pytest.raises(ConfigError, match="'guessed' is not one of given, sim3_aligned, test_time_optimized"):
        load_protocol(path)
    path.write_text("{not json")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        load_protocol(path)


def test_a_test_photo_that_trains_is_refused():
    with pytest.raises(ConfigError, match="'b' is in train and in test"):
        EvalProtocol("x", "llff", "", ("a", "b"), ("b",))
    with pytest.raises(ConfigError, match="each named once; got 2 names"):
        EvalProtocol("x", "llff", "", ("a", "a"), ("b",))
    with pytest.raises(ConfigError, match="at least one"):
        EvalProtocol("x", "llff", "", ("a",), ())


def test_metrics_are_spelt_out_or_refused():
    for bad in (("ssim", {}), ("ssim", {"window": 11, "sigma": 1.5}), ("lpips", {}), ("psnr", {"net": "vgg"}), ("ssim", {"region": "mask", "window": 11, "sigma": 1.5, "padding": "zero"})):
        with pytest.raises(ConfigError, match="is not spelt out"):
            MetricSpec(bad[0], **bad[1])  # pyright: ignore


def test_names_resolve_by_stem_but_never_ambiguously():
    assert resolve(["image001", "train/r_2"], ["image001.jpg", "train/r_2.png", "test/r_2.png"]) == ("image001.jpg", "train/r_2.png")
    assert resolve(["v1.0"], ["v1.0.png", "v1.1.png"]) == ("v1.0.png",)
    with pytest.raises(CaptureError, match="no photo 'image009' that the protocol names; it has 1 photos, the first is 'image001.jpg'"):
        resolve(["image009"], ["image001.jpg"])
    with pytest.raises(CaptureError, match="has 2 photos 'a'"):
        resolve(["a"], ["a.jpg", "a.png"])


def test_pose_free_variants_have_their_own_id():
    p = STORED[0]
    assert {pose_free(p, "sim3_aligned").id, pose_free(p, "test_time_optimized").id} == {f"{p.id}-posefree", f"{p.id}-posefree-tto"}
    assert pose_free(p, "sim3_aligned").poses == "sim3_aligned"


def test_scene_names():
    assert scene_name("llff", Path("/data/llff_fern")) == "fern" and scene_name("llff", Path("nerf_llff_data/fern")) == "fern"


def test_every_dataset_spells_out_its_metrics():
    for d in DATASETS.values():
        assert [m.key for m in d.metrics] == ["psnr", "ssim", "lpips_vgg", "lpips_alex"]


@pytest.mark.parametrize(("dataset", "folder", "views", "downscale"), [("llff", "llff_fern", 3, None), ("llff", "llff_flower", 3, 4), ("dtu", "dtu_scan24", 3, None), ("blender", "synthetic_lego", 8, None), ("blender", "synthetic_lego", 6, None)])
def test_real_captures_fit_their_protocol(shared_data, dataset, folder, views, downscale):
    capture, protocol = load_benchmark(dataset, shared_data / folder, views, downscale)
    assert protocol.size == capture.views[0].image.size
    assert set(resolve((*protocol.train, *protocol.test), capture.names)) <= set(capture.names)
    assert protocol.size == {"llff_fern": (504, 378), "llff_flower": (1008, 756), "dtu_scan24": (400, 300), "synthetic_lego": (400, 400)}[folder]


def test_photos_missing_at_a_scale_are_named(shared_data):
    with pytest.raises(CaptureError, match="has no photo 'image...' that the protocol names"):
        load_benchmark("llff", shared_data / "llff_flower", 6, 4)


@pytest.mark.slow
def test_the_stored_files_are_those_of_the_captures_at_hand(shared_data):
    assert sorted(make(shared_data), key=lambda p: (p.dataset, p.scene, p.id)) == sorted(STORED, key=lambda p: (p.dataset, p.scene, p.id))


def test_settings_are_chosen_without_test_photos():
    nine = next(p for p in STORED if p.scene == "horns" and p.id == "llff-9")
    v = validation(nine, 3)
    assert v.train == (nine.train[0], nine.train[4], nine.train[8]) and not set(v.test) & set(nine.test)
    assert set(v.train) | set(v.test) == set(nine.train) and v.id == "llff-3-validation-of-9"
    dtu = next(p for p in STORED if p.scene == "scan24" and p.id == "dtu-9")
    assert validation(dtu, 3).train == dtu.train[:3], "as the benchmark adds them"
    with pytest.raises(ConfigError, match="2 to 8"):
        validation(nine, 9)
