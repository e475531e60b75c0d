"""One size for all, masks, duplicates, broken photos: what every adapter shares."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from handful.data.assemble import GivenCamera, Shot, assemble, fit_sizes, require_photos, subset_indices
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.data.undistort import Lens
from handful.recon.errors import CaptureError, ConfigError
from PIL import Image


def test_order_is_natural_and_the_subset_even(photo_folder):
    root = photo_folder(12)
    capture = load_capture(root)
    assert capture.names == tuple(f"p{i}.jpg" for i in range(12)) and capture.source == "photos" and capture.cameras is None
    assert load_capture(root, LoadOptions(max_photos=5)).names == ("p0.jpg", "p2.jpg", "p4.jpg", "p7.jpg", "p9.jpg")
    assert subset_indices(3, 5) == [0, 1, 2] == subset_indices(3, None)


def test_max_side_and_downscale(photo_folder):
    root = photo_folder(3, size=(96, 64))
    assert load_capture(root, LoadOptions(max_side=48)).views[0].image.size == (48, 32)
    assert load_capture(root, LoadOptions(max_side=500)).views[0].image.size == (96, 64)
    capture = load_capture(root, LoadOptions(downscale=4))
    assert capture.images().shape == (3, 16, 24, 3) and capture.masks() is None
    for bad in (LoadOptions(max_side=3), LoadOptions(downscale=0), LoadOptions(max_photos=0)):
        with pytest.raises(ConfigError, match="must be at least"):
            load_capture(root, bad)


def test_mixed_sizes_share_a_canvas_with_masked_padding(photo_folder, make_texture):
    root = photo_folder(3, size=(96, 64))
    Image.fromarray(make_texture(64, 96, seed=9)).save(root / "q_portrait.png")
    Image.fromarray(make_texture(192, 128, seed=0)).save(root / "r_double.png")
    capture = load_capture(root)
    assert {v.image.size for v in capture.views} == {(96, 96)} and len(capture.warnings) == 1 and "sizes" in capture.warnings[0]
    masks = capture.masks()
    assert masks is not None
    landscape, portrait = masks[0], masks[capture.names.index("q_portrait.png")]
    assert landscape[16:80].min() == 1 and landscape[:16].max() == 0 and landscape[80:].max() == 0
    assert portrait[:, 16:80].min() == 1 and portrait[:, :16].max() == 0
    double = capture.views[capture.names.index("r_double.png")].image
    assert (double.load()[16:80] - capture.views[0].image.load()[16:80]).abs().mean() < 0.02  # the same texture, reduced to the common side


def test_fit_sizes():
    assert fit_sizes([(400, 300), (400, 300)], LoadOptions()) == [(400, 300)] * 2
    assert fit_sizes([(400, 300), (800, 600), (4000, 3000)], LoadOptions()) == [(800, 600)] * 3
    assert fit_sizes([(403, 301)], LoadOptions(max_side=200)) == [(200, 149)]


def test_camera_follows_resizing_and_padding(tmp_path, make_texture):
    """A point that projects to the same relative place before and after: K is scaled per axis and moved with the photo."""
    T = np.eye(4)
    for i, size in enumerate([(96, 64), (64, 96)]):
        Image.fromarray(make_texture(*size, seed=i)).save(tmp_path / f"{i}.png")
    cams = [GivenCamera(T, 80.0, 82.0, 50.0, 30.0, (96, 64)), GivenCamera(T, 80.0, 82.0, 30.0, 50.0, (64, 96))]
    shots = [Shot(f"{i}.png", tmp_path / f"{i}.png", c) for i, c in enumerate(cams)]
    capture = assemble(shots, LoadOptions(max_side=48), "test")
    assert capture.cameras is not None and (capture.cameras.width, capture.cameras.height) == (48, 48)
    want = [[[40, 0, 25], [0, 41, 15 + 8], [0, 0, 1]], [[40, 0, 15 + 8], [0, 41, 25], [0, 0, 1]]]
    assert torch.allclose(capture.cameras.K, torch.tensor(want, dtype=torch.float32))


def test_camera_of_another_shape_is_refused(photo_folder):
    root = photo_folder(2)
    camera = GivenCamera(np.eye(4), 80.0, 80.0, 32.0, 48.0, (64, 96))
    with pytest.raises(CaptureError, match=r"p0.jpg is for a 64 x 96 photo.*96 x 64"):
        assemble([Shot("p0.jpg", root / "p0.jpg", camera), Shot("p1.jpg", root / "p1.jpg", camera)], LoadOptions(), "test")


def test_exif_orientation_and_given_cameras(tmp_path, make_texture):
    """Cameras come from pixels as stored, unless their size says otherwise; photos without cameras are always turned upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(2):
        Image.fromarray(make_texture(96, 64, seed=i)).save(tmp_path / f"{i}.jpg", exif=exif)
    files = [tmp_path / f"{i}.jpg" for i in range(2)]

    def size(camera_size):
        camera = GivenCamera(np.eye(4), 80.0, 80.0, size=camera_size)
        return assemble([Shot(f.name, f, camera) for f in files], LoadOptions(), "test").views[0].image.size

    assert size((96, 64)) == (96, 64) and size((64, 96)) == (64, 96) and size(None) == (96, 64)
    assert load_capture(tmp_path).views[0].image.size == (64, 96)


def test_distortion_masks_what_the_lens_did_not_see(photo_folder):
    root = photo_folder(2)
    camera = GivenCamera(np.eye(4), 60.0, 60.0, 48.0, 32.0, (96, 64), Lens("opencv", (0.3,)))
    capture = assemble([Shot(f"p{i}.jpg", root / f"p{i}.jpg", camera) for i in range(2)], LoadOptions(), "test")
    masks = capture.masks()
    assert masks is not None and masks[0, 0, 0] == 0 and masks[0, 32, 48] == 1
    assert capture.views[0].image.load()[0, 0].abs().max() == 0
    assert capture.cameras is not None and capture.cameras.K[0, 0, 0] == 60


@pytest.mark.parametrize("naming", ["p{i}.jpg", "p{i}.png", "p{i}.jpg.png"])
@pytest.mark.parametrize("beside", [True, False])
def test_mask_files_travel(photo_folder, naming, beside):
    root = photo_folder(3, folder="c/images")
    folder = (root.parent if beside else root) / "masks"
    folder.mkdir()
    m = np.zeros((64, 96), np.uint8)
    m[:, :48] = 255
    for i in range(2):
        Image.fromarray(m).save(folder / naming.format(i=i), quality=95)
    for path in (root.parent, root):
        capture = load_capture(path, LoadOptions(max_side=48))
        masks = capture.masks()
        assert masks is not None and masks.shape == (3, 32, 48)
        assert masks[0, :, :23].min() > 0.98 and masks[0, :, 25:].max() < 0.02 and masks[2].min() == 1


def test_a_mask_of_another_shape_is_refused(photo_folder):
    root = photo_folder(2)
    (root / "masks").mkdir()
    Image.new("L", (64, 96), 255).save(root / "masks" / "p0.png")
    with pytest.raises(CaptureError, match=r"mask .*p0.png .*64 x 96"):
        load_capture(root).masks()


def test_one_broken_photo_of_many_is_left_out(photo_folder):
    root = photo_folder(4)
    (root / "p1.jpg").write_text("no photo")
    capture = load_capture(root)
    assert capture.names == ("p0.jpg", "p2.jpg", "p3.jpg")
    assert [u.name for u in capture.unplaced] == ["p1.jpg"] and "holds text" in capture.unplaced[0].reason
    assert len(capture.warnings) == 1 and "p1.jpg" in capture.warnings[0] and "left out" in capture.warnings[0]


def test_too_few_left_names_the_broken_photo(photo_folder):
    root = photo_folder(2)
    (root / "p1.jpg").write_bytes((root / "p1.jpg").read_bytes()[:900])
    with pytest.raises(CaptureError, match="p1.jpg is (truncated|broken)"):
        load_capture(root)


def test_the_same_photo_twice_is_used_once(photo_folder):
    root = photo_folder(3)
    shutil.copy(root / "p0.jpg", root / "p9_copy.jpg")
    capture = load_capture(root)
    assert capture.names == ("p0.jpg", "p1.jpg", "p2.jpg")
    assert capture.unplaced[0].name == "p9_copy.jpg" and "same photo as p0.jpg" in capture.unplaced[0].reason
    assert "p9_copy.jpg" in capture.warnings[0]


def test_require_photos(photo_folder):
    root = photo_folder(2)
    shutil.copy(root / "p0.jpg", root / "p1.jpg")
    capture = load_capture(root)
    assert len(capture) == 1
    with pytest.raises(CaptureError, match=r"At least 2 photos.*only one photo \(p0.jpg\).*p1.jpg"):
        require_photos(capture, 2)
    assert require_photos(capture, 1) is capture


def test_focal_prior_from_exif(tmp_path, make_texture):
    """iPhone-like: 28 mm equivalent at 4032x3024 is 3261 px; bundle adjustment of fern's photos gave 3260.5."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 28
    for i in range(2):
        Image.fromarray(make_texture(160, 120, seed=i)).save(tmp_path / f"{i}.jpg", exif=exif)
    prior = load_capture(tmp_path).views[0].focal_prior_px
    assert prior == pytest.approx(3260.5 * 160 / 4032, rel=1e-3)
    assert load_capture(tmp_path, LoadOptions(max_side=80)).views[0].focal_prior_px == pytest.approx(prior / 2)


def test_focal_prior_from_the_sensor(tmp_path, make_texture):
    exif = Image.Exif()
    ifd = exif.get_ifd(0x8769)
    ifd[0x920A], ifd[0xA20E], ifd[0xA210], ifd[0xA002] = 50.0, 1000.0, 3, 4000  # 50 mm, 1000 px per cm, taken 4000 wide: 5000 px
    path = tmp_path / "a.jpg"
    Image.fromarray(make_texture(160, 120)).save(path, exif=exif)
    Image.fromarray(make_texture(160, 120, seed=1)).save(tmp_path / "b.jpg")
    capture = load_capture(tmp_path)
    assert capture.views[0].focal_prior_px == pytest.approx(5000 * 160 / 4000) and capture.views[1].focal_prior_px is None
    for upright in (True, False):  # a camera's portrait photo, turned by a program that wrote both sides, or by one that left them
        ifd[0xA002], ifd[0xA003] = (3000, 4000) if upright else (4000, 3000)
        Image.fromarray(make_texture(120, 160)).save(path, exif=exif)
        assert load_capture(tmp_path).views[0].focal_prior_px == pytest.approx(5000 * 160 / 4000)


def test_what_was_photographed_and_what_counts(tmp_path, make_texture, photo_folder):
    """Padding and the lens bound the photo; alpha and mask files say what of it counts."""
    root = photo_folder(2, size=(96, 64))
    Image.fromarray(make_texture(64, 96, seed=9)).save(root / "q_portrait.png")
    plain = load_capture(root)
    extents, masks = plain.extents(), plain.masks()
    assert extents is not None and masks is not None and torch.equal(extents, masks) and not plain.is_cut_out()
    (root / "masks").mkdir()
    hole = np.full((64, 96), 255, np.uint8)
    Image.fromarray(hole).save(root / "masks" / "p0.png")
    assert not load_capture(root).is_cut_out(), "a mask that leaves nothing out"
    hole[10:30, 10:30] = 0
    Image.fromarray(hole).save(root / "masks" / "p0.png")
    cut = load_capture(root)
    assert torch.equal(cut.extents(), extents) and not torch.equal(cut.masks(), masks) and not cut.is_cut_out(), "a hole only does not count"
    hole[:], hole[16:48, 24:72] = 0, 255
    for name in ("p0", "p1"):
        Image.fromarray(hole).save(root / "masks" / f"{name}.png")
    assert load_capture(root).is_cut_out(), "an object"
    alone = load_capture(photo_folder(2, folder="same"))
    assert alone.extents() is None and alone.masks() is None and not alone.is_cut_out()


def test_kept_photos_are_decoded_once(photo_folder, monkeypatch):
    root = photo_folder(2)
    capture = load_capture(root)
    kept, plain = capture.kept(), capture.images()
    assert torch.equal(kept.images(), plain) and [v.image.digest() for v in kept.views] == [v.image.digest() for v in capture.views]
    kept.masks(), kept.extents()
    for photo in root.iterdir():
        photo.unlink()
    assert torch.equal(kept.images(), plain) and kept.masks() is None and kept.extents() is None
    assert capture.kept(most_bytes=1000) is capture, "too large to be kept"


def test_two_photos_of_one_name_are_refused(photo_folder):
    root = photo_folder(2)
    shots = [Shot("p.jpg", root / f"p{i}.jpg") for i in range(2)]
    with pytest.raises(CaptureError, match="Two photos of the made capture are named p.jpg"):
        assemble(shots, LoadOptions(), "made")


@pytest.mark.parametrize("size", [(0, 0), (96, 0), (-3, 4)])
def test_a_camera_for_no_pixels_is_refused(photo_folder, size):
    root = photo_folder(2)
    shots = [Shot(f"p{i}.jpg", root / f"p{i}.jpg", GivenCamera(np.eye(4), 80.0, 80.0, size=size)) for i in range(2)]
    with pytest.raises(CaptureError, match="which there is none of"):
        assemble(shots, LoadOptions(), "made")
