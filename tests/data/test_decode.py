"""Every kind of photo file becomes the same sRGB pixels; every broken one a sentence that names it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.decode import decode_mask, decode_photo, probe_photo
from handful.data.image_io import FileImage, encode_png, resize, resize_depth
from handful.recon.errors import CaptureError
from PIL import Image, ImageCms, ImageOps

SIZE = (60, 40)


def image_of(path: Path, **options) -> torch.Tensor:
    header = probe_photo(path)
    size = header.upright_size
    return FileImage(path, size, size, has_alpha=header.has_alpha, **options).load()


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        (".png", {}, 0.0),
        (".tif", {}, 0.0),
        (".bmp", {}, 0.0),
        (".webp", {"lossless": True}, 0.0),
        (".jpg", {"quality": 98, "subsampling": 0}, 0.03),
        (".JPG", {"quality": 98, "subsampling": 0}, 0.03),
        (".webp", {"quality": 98}, 0.08),
        (".heic", {"quality": 95}, 0.03),
    ],
)
def test_formats_give_the_same_pixels(tmp_path, make_texture, suffix, options, tolerance):
    a = make_texture(*SIZE)
    path = tmp_path / f"photo{suffix}"
    if suffix == ".heic":
        import pillow_heif

        pillow_heif.from_pillow(Image.fromarray(a)).save(path, **options)
    else:
        Image.fromarray(a).save(path, **options)
    out = image_of(path)
    assert out.dtype == torch.float32 and out.shape == (40, 60, 3)
    error = (out - torch.from_numpy(a / 255.0)).abs()
    assert (error.mean() if suffix == ".heic" else error.max()) <= tolerance + 1e-6  # HEIC halves the colour resolution


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation_as_pillow_understands_it(tmp_path, make_texture, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"o{suffix}"
    Image.fromarray(make_texture(*SIZE)).save(path, exif=exif)
    with Image.open(path) as im:
        want = np.asarray(ImageOps.exif_transpose(im).convert("RGB"))
    header = probe_photo(path)
    assert header.orientation == orientation and header.upright_size == (want.shape[1], want.shape[0])
    assert np.array_equal(decode_photo(path).rgb, want)
    with Image.open(path) as im:  # Pillow turns a TIFF by itself; as stored it is the texture
        stored = make_texture(*SIZE) if suffix == ".tif" else np.asarray(im.convert("RGB"))
    assert np.array_equal(decode_photo(path, upright=False).rgb, stored)


def test_grey_palette_bilevel_and_cmyk(tmp_path, make_texture):
    a = Image.fromarray(make_texture(*SIZE))
    a.convert("L").save(tmp_path / "grey.jpg", quality=98)
    a.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    a.convert("1").save(tmp_path / "bits.png")
    a.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98, subsampling=0)
    a.convert("CMYK").save(tmp_path / "cmyk.tif")
    grey = image_of(tmp_path / "grey.jpg")
    assert torch.equal(grey[..., 0], grey[..., 1]) and torch.equal(grey[..., 0], grey[..., 2])
    assert (image_of(tmp_path / "palette.png") - torch.from_numpy(np.array(a) / 255.0)).abs().mean() < 0.05
    assert set(image_of(tmp_path / "bits.png").unique().tolist()) <= {0.0, 1.0}
    for name in ("cmyk.jpg", "cmyk.tif"):
        assert (image_of(tmp_path / name) - torch.from_numpy(np.array(a) / 255.0)).abs().mean() < 0.03


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_kept(tmp_path, suffix, channels):
    import cv2

    ramp = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) * 7 + 1000
    a = ramp if channels == 1 else np.stack([ramp, ramp + 1, ramp + 2, np.full_like(ramp, 65535)][:channels], axis=-1)
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), a)
    out = image_of(path)
    want = a if channels == 1 else a[..., 2::-1][..., :1]  # OpenCV writes BGR
    assert (out[..., 0].double() * 65535 - torch.from_numpy(want.reshape(40, 60).astype(np.float64))).abs().max() < 0.01
    assert len(out.unique()) > 2000  # not cut to 256 levels


def test_alpha_becomes_the_mask_and_does_not_bleed(tmp_path):
    a = np.zeros((40, 60, 4), np.uint8)
    a[..., 0], a[:, :30, 3] = 255, 255  # red everywhere, visible on the left; green hidden on the right
    a[:, 30:, :3] = (0, 255, 0)
    path = tmp_path / "a.png"
    Image.fromarray(a).save(path)
    image = FileImage(path, (15, 10), (15, 10), has_alpha=True)
    mask = image.load_mask()
    assert mask is not None and mask[:, :7].min() == 1 and mask[:, 8:].max() == 0 and 0.4 < mask[0, 7] < 0.6
    rgb = image.load()
    assert (rgb[:, :8] - torch.tensor([1.0, 0, 0])).abs().max() < 1e-5  # the half covered column is red, not brown
    white = FileImage(path, (15, 10), (15, 10), has_alpha=True, background="white")
    assert white.load_mask() is None and (white.load()[:, 8:] - 1).abs().max() < 1e-6
    assert (white.load()[0, 7] - torch.tensor([1.0, 0.5, 0.5])).abs().max() < 0.01


def test_opaque_alpha_is_no_mask(tmp_path, make_texture):
    path = tmp_path / "a.png"
    Image.fromarray(make_texture(*SIZE)).convert("RGBA").save(path)
    assert FileImage(path, SIZE, SIZE, has_alpha=True).load_mask() is None


def test_embedded_profile_is_applied(tmp_path):
    """The same numbers mean another colour under another profile (here Lab's own), and a broken profile changes nothing."""
    path = tmp_path / "p.png"
    card = Image.new("RGB", SIZE, (128, 64, 32))
    card.save(path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert (image_of(path)[0, 0] * 255 - torch.tensor([128.0, 64, 32])).abs().max() < 1.01
    card.save(path, icc_profile=b"not a profile")
    assert (image_of(path)[0, 0] * 255 - torch.tensor([128.0, 64, 32])).abs().max() < 1e-3
    card.save(path, icc_profile=linear_profile())
    want = [255 * (1.055 * (v / 255) ** (1 / 2.4) - 0.055) for v in (128, 64, 32)]  # linear light to sRGB
    assert (image_of(path)[0, 0] * 255 - torch.tensor(want)).abs().max() < 2.5


def linear_profile() -> bytes:
    """sRGB's profile with its tone curves replaced by straight lines."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", data, 128)[0]
    for i in range(count):
        name, offset, _ = struct.unpack_from(">4sII", data, 132 + 12 * i)
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            assert data[offset : offset + 4] == b"para"
            struct.pack_into(">HH5i", data, offset + 8, 3, 0, 65536, 65536, 0, 65536, 0)  # y = (1 x + 0)^1
        if name == b"desc":  # its name says sRGB, by which it would be skipped
            at = data.find(b"s\0R\0G\0B", offset)
            if at >= 0:
                data[at : at + 7] = b"l\0i\0n\0e"
    return bytes(data)


def test_reduction_is_the_mean_over_area_and_keeps_geometry():
    a = np.zeros((8, 12, 3), np.uint8)
    a[:, 6:] = 255
    out = resize(a, (4, 2))
    assert out.shape == (2, 4, 3) and np.allclose(out[0, :, 0], [0, 0, 1, 1])
    assert np.allclose(resize(a, (3, 1))[0, :, 0], [0, 0.5, 1], atol=1e-5)
    assert resize(a, (24, 16)).min() >= 0 and resize(a, (24, 16)).max() <= 1
    depth = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(resize_depth(depth, (4, 3)), depth)
    assert set(np.unique(resize_depth(depth, (2, 2)))) <= set(depth.ravel())


def test_masks_from_grey_and_alpha(tmp_path):
    m = np.zeros((40, 60), np.uint8)
    m[:, :20] = 255
    Image.fromarray(m).convert("1").save(tmp_path / "m.png")
    assert np.array_equal(decode_mask(tmp_path / "m.png"), m / 255.0)
    rgba = np.dstack([np.zeros((40, 60, 3), np.uint8), m])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert np.array_equal(decode_mask(tmp_path / "a.png"), m / 255.0)


def test_a_cut_out_object_is_its_own_mask(tmp_path, make_texture):
    """What a program that removes backgrounds writes: the photo's colours with an alpha. Dark places of the object are the object."""
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, :30] = 255
    black = np.random.default_rng(0).integers(0, 20, (40, 60, 1)).repeat(3, -1)
    for rgb in (make_texture(60, 40), np.repeat(make_texture(60, 40).mean(-1, keepdims=True), 3, -1), black):  # black-and-white photos, too, and matte black things
        Image.fromarray(np.dstack([rgb.astype(np.uint8), alpha])).save(tmp_path / "cut.png")
        assert np.array_equal(decode_mask(tmp_path / "cut.png"), alpha / 255.0)
    mask = np.zeros((40, 60, 3), np.uint8)
    mask[:20] = 255
    Image.fromarray(np.dstack([mask, alpha])).save(tmp_path / "both.png")  # a mask proper: both count
    assert np.array_equal(decode_mask(tmp_path / "both.png"), mask[..., 0] / 255.0 * (alpha / 255.0))


def test_digest_changes_with_content_and_options(tmp_path, make_texture):
    path, mask = tmp_path / "a.png", tmp_path / "m.png"
    Image.fromarray(make_texture(*SIZE)).save(path)
    Image.new("L", SIZE, 255).save(mask)
    one = FileImage(path, SIZE, SIZE)
    digests = {one.digest(), FileImage(path, (30, 20), (30, 20)).digest(), FileImage(path, SIZE, SIZE, mask_file=mask).digest()}
    assert len(digests) == 3 and one.digest() == FileImage(path, SIZE, SIZE).digest() and len(one.digest()) == 64
    Image.fromarray(make_texture(*SIZE, seed=1)).save(path)
    assert one.digest() not in digests


def test_encode_png_round_trip(tmp_path):
    rgb = torch.rand(20, 30, 3)
    path = tmp_path / "x.png"
    path.write_bytes(encode_png(rgb, torch.ones(20, 30)))
    assert (image_of(path) - rgb).abs().max() <= 0.5 / 255 + 1e-6


# -- broken files ----------------------------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg(width: int = 64, height: int = 48) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"these are not the pixels you are looking for\n" * 20, "holds text"),
    "noise": (bytes(range(256)) * 8, "named like a photo"),
    "truncated": (jpeg()[:700], "truncated or corrupt"),
    "last byte gone": (jpeg(256, 256)[:-2000], "truncated or corrupt"),
    "bomb": (png_header(100_000, 100_000), "limit of 178 million"),
    "large bomb": (png_header(14_000, 14_000), "limit of 178 million"),
    "too small": (jpeg(8, 8), "too small"),
    "no pixels": (png_header(64, 64), "truncated or corrupt"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_photos_are_one_sentence_with_the_name(tmp_path, case):
    content, words = BROKEN[case]
    path = tmp_path / ("photo.png" if content[:4] == b"\x89PNG" else "photo.jpg")
    path.write_bytes(content)
    with pytest.raises(CaptureError) as e:
        probe_photo(path)
    text = str(e.value)
    assert str(path) in text and words in text and "\n" not in text and text.endswith(".")


def test_broken_while_in_use(tmp_path, make_texture):
    """A photo that was good when loaded and is not when used: the same kind of sentence."""
    path = tmp_path / "a.png"
    Image.fromarray(make_texture(*SIZE)).save(path)
    image = FileImage(path, SIZE, SIZE)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CaptureError, match="a.png"):
        image.load()
    path.unlink()
    with pytest.raises(CaptureError, match="not there"):
        image.load()
    with pytest.raises(CaptureError, match="a.png"):
        image.digest()


def test_float_tiff_is_refused(tmp_path):
    path = tmp_path / "f.tif"
    Image.fromarray(np.random.rand(40, 60).astype(np.float32)).save(path)
    with pytest.raises(CaptureError, match="floating-point"):
        probe_photo(path)


def test_any_corruption_is_a_capture_error(tmp_path, make_texture):
    """Flipped bytes anywhere: either pixels come out or a CaptureError, never another error."""
    rng = np.random.default_rng(0)
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        path = tmp_path / f"x{suffix}"
        Image.fromarray(make_texture(32, 24)).save(path)
        good = path.read_bytes()
        for _ in range(40):
            bad = bytearray(good)
            for at in rng.integers(0, len(bad), 3):
                bad[at] = rng.integers(256)
            path.write_bytes(bytes(bad[: rng.integers(1, len(bad) + 1)] if rng.random() < 0.5 else bad))
            try:
                probe_photo(path)
                decode_photo(path)
            except CaptureError as e:
                assert str(path) in str(e)
