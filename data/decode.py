"""One photo file to pixels: JPEG, PNG, TIFF, WebP, HEIC, AVIF; 8 and 16 bit; grey, colour, palette, CMYK; alpha; colour profiles.

Everything that can be wrong with a file ends as one CaptureError that names it.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..recon.errors import CaptureError
from .exif import exif_focal_px, exif_orientation

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_PIXELS", "PHOTO_SUFFIXES", "PhotoHeader", "Pixels", "decode_photo", "decode_mask", "is_photo", "probe_photo", "stored_size"]

PHOTO_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .tif .tiff .webp .heic .heif .hif .avif .bmp .ppm .pgm".split()
)
# Pillow's own limit for what it calls a decompression bomb; the largest phone sensors have 200 million pixels binned to 50
MAX_PIXELS = 178_956_970
MIN_SIDE = 16


@dataclass(frozen=True)
class PhotoHeader:
    """What is known of a photo that was found to be readable.

    Attributes:
        width, height: as stored, before EXIF orientation.
        orientation: EXIF, 1 to 8.
        has_alpha: it carries transparency.
        focal_px: from EXIF, in pixels of the stored size; None when nothing is known.
        sha256: of the file's bytes.
    """

    width: int
    height: int
    orientation: int
    has_alpha: bool
    focal_px: float | None
    sha256: str

    @property
    def upright_size(self) -> tuple[int, int]:
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


@dataclass(frozen=True)
class Pixels:
    """rgb: H,W,3 uint8 or uint16, sRGB; alpha: H,W of the same type, or None."""

    rgb: np.ndarray
    alpha: np.ndarray | None


def is_photo(path: Path) -> bool:
    """By its name alone. Hidden files (`._x.jpg` of macOS) are none."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def _read(file: Path, content: bytes | None) -> bytes:
    if content is not None:
        return content
    try:
        data = file.read_bytes()
    except FileNotFoundError as e:
        raise CaptureError(f"The photo {file} is not there.") from e
    except OSError as e:
        raise CaptureError(f"The photo {file} cannot be read ({e.strerror or e}).") from e
    if not data:
        raise CaptureError(f"The photo {file} is empty (0 bytes); replace or remove it.")
    return data


def _bomb(file: Path, size: str) -> CaptureError:
    return CaptureError(f"The photo {file} claims {size} pixels, more than the limit of {MAX_PIXELS // 10**6} million; reduce it first.")


def _open(data: bytes, file: Path) -> Image:
    """Header only. Raises CaptureError for what is no photo."""
    from PIL import Image, UnidentifiedImageError

    if file.suffix.lower() in (".heic", ".heif", ".hif") or data[4:8] == b"ftyp":
        _register_heif()
    try:
        im = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as e:
        raise _bomb(file, "too many") from e
    except UnidentifiedImageError as e:
        what = "it holds text" if _looks_like_text(data) else "its content is of no known kind or broken from the start"
        raise CaptureError(f"{file} is named like a photo but is none ({what}); replace or remove it.") from e
    except Exception as e:  # decoders raise all kinds of errors on broken headers
        raise CaptureError(f"The photo {file} is broken ({_short(e)}); replace or remove it.") from e
    if im.width * im.height > MAX_PIXELS:
        raise _bomb(file, f"{im.width} x {im.height}")
    if min(im.size) < MIN_SIDE:
        raise CaptureError(f"The photo {file} is too small ({im.width} x {im.height}); at least {MIN_SIDE} pixels a side are needed.")
    return im


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def _looks_like_text(data: bytes) -> bool:
    head = data[:512]
    return all(b in (9, 10, 13) or 32 <= b < 127 for b in head)


def _short(e: BaseException) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:120].rstrip(". ") or type(e).__name__


def _has_alpha(im: Image) -> bool:
    return im.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in im.info


def probe_photo(file: Path, content: bytes | None = None) -> PhotoHeader:
    """Reads the whole file once and proves that it decodes to its end (JPEG at an eighth of its size, which is quick).

    Raises CaptureError in one sentence for what is missing, empty, no photo, truncated, broken or a decompression bomb.
    """
    data = _read(file, content)
    im = _open(data, file)
    (width, height), alpha = _stored_size(im), _has_alpha(im)
    _kind(im, file)
    about = _exif(im, width, height) if im.format != "PNG" else None  # Pillow loads a PNG to find its EXIF; of a TIFF it drops it on loading
    im.draft(im.mode, (max(1, width // 8), max(1, height // 8)))
    _load(im, file)
    orientation, focal = about or _exif(im, width, height)
    return PhotoHeader(width, height, orientation, alpha, focal, hashlib.sha256(data).hexdigest())


def _stored_size(im: Image) -> tuple[int, int]:
    """Pillow turns TIFF files (alone) by itself, and newer releases already tell the turned size."""
    tags = getattr(im, "tag_v2", {})
    return (int(tags[256]), int(tags[257])) if im.format == "TIFF" and 256 in tags and 257 in tags else im.size


def _exif(im: Image, width: int, height: int) -> tuple[int, float | None]:
    """Orientation and focal length in pixels."""
    try:
        exif = im.getexif()
        return exif_orientation(exif), exif_focal_px(exif, width, height)
    except Exception:  # a broken EXIF block does not make the pixels bad
        return 1, None


def stored_size(file: Path) -> tuple[int, int] | None:
    """(width, height) as stored, from the header alone; None when there is none (`probe_photo` says why)."""
    try:
        return _stored_size(_open(_read(file, None), file))
    except CaptureError:
        return None


def _load(im: Image, file: Path) -> None:
    try:
        im.load()
    except MemoryError as e:
        raise CaptureError(f"The photo {file} ({im.width} x {im.height}) does not fit into memory; reduce it first.") from e
    except Exception as e:  # decoders raise all kinds of errors on broken data
        raise CaptureError(f"The photo {file} is truncated or corrupt ({_short(e)}); replace or remove it.") from e


def _kind(im: Image, file: Path) -> None:
    if im.mode == "F":
        raise CaptureError(f"The photo {file} has floating-point pixels, whose range is not defined; save it with 8 or 16 bits per channel.")


def decode_photo(file: Path, content: bytes | None = None, upright: bool = True) -> Pixels:
    """Decodes to sRGB. `upright` applies the EXIF orientation. Raises CaptureError naming the file."""
    data = _read(file, content)
    im = _open(data, file)
    _kind(im, file)
    stored = _stored_size(im)
    about = _exif(im, *stored) if im.format != "PNG" else None
    pixels = _decode_16bit(im, data, stored) if _is_16bit(im, data) else None
    turned = pixels is None and im.format == "TIFF"
    if pixels is None:
        _load(im, file)
        pixels = _decode_8bit(im, file)
    orientation, _ = about or _exif(im, *stored)
    if turned:
        orientation = 1 if upright else {6: 8, 8: 6}.get(orientation, orientation)  # already upright: nothing, or back again
    elif not upright:
        orientation = 1
    alpha = None if pixels.alpha is None else _orient(pixels.alpha, orientation)
    return Pixels(_orient(pixels.rgb, orientation), alpha)


def decode_mask(file: Path) -> np.ndarray:
    """A mask file as H,W float32 in [0, 1], upright: its brightness; its alpha where it is the object itself, cut out, or has one and no grey."""
    pixels = decode_photo(file)
    top = float(np.iinfo(pixels.rgb.dtype).max)
    grey = pixels.rgb.max(axis=2).astype(np.float32) / top
    if pixels.alpha is not None:
        alpha = pixels.alpha.astype(np.float32) / top
        grey = alpha if grey.max() == 0.0 or grey.min() == 1.0 or _is_picture(pixels.rgb[alpha > 0.5] / top) and alpha.min() < 0.5 else grey * alpha
    return grey


def _is_picture(shown: np.ndarray) -> bool:
    """Whether visible pixels (N,3 in [0, 1]) are those of a photo: a mask is black and white, but for its edges and what compression does."""
    if len(shown) == 0:
        return False
    darkest, brightest = shown.min(axis=1), shown.max(axis=1)
    colored, between, white = brightest - darkest > 0.1, (brightest > 0.1) & (brightest < 0.9), darkest >= 0.9
    return float(colored.mean()) > 0.02 or float(between.mean()) > 0.2 or float(white.mean()) < 0.002


def _is_16bit(im: Image, data: bytes) -> bool:
    if im.format == "PNG":
        return data[24:25] == b"\x10"  # bit depth in the IHDR chunk
    if im.format == "TIFF":
        return max(getattr(im, "tag_v2", {}).get(258, (8,))) == 16
    return False


def _decode_16bit(im: Image, data: bytes, size: tuple[int, int]) -> Pixels | None:
    """Pillow cuts 16-bit colour to 8 bits, OpenCV keeps them. None when OpenCV cannot, or when a profile needs Pillow."""
    import cv2

    if _needs_profile(im):
        return None
    try:
        a = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if a is None or a.dtype != np.uint16 or a.shape[:2] != size[::-1]:
        return None
    if a.ndim == 2 or a.shape[2] == 1:
        return Pixels(np.repeat(a.reshape(*a.shape[:2], 1), 3, axis=2), None)
    if a.shape[2] not in (3, 4):
        return None
    rgb = np.ascontiguousarray(a[:, :, 2::-1])
    return Pixels(rgb, np.ascontiguousarray(a[:, :, 3]) if a.shape[2] == 4 else None)


def _decode_8bit(im: Image, file: Path) -> Pixels:
    try:
        if im.mode.startswith("I"):  # integers of 16 or 32 bits: grey 16-bit files
            a = np.asarray(im).astype(np.int64).clip(0, 65535).astype(np.uint16)
            return Pixels(np.repeat(a[:, :, None], 3, axis=2), None)
        alpha = None
        if _has_alpha(im):
            im = im.convert("RGBA")
            alpha = np.array(im.getchannel("A"))
        elif im.mode in ("P", "1"):
            im = im.convert("RGB")
        rgb = np.array(_to_srgb(im))
    except MemoryError as e:
        raise CaptureError(f"The photo {file} does not fit into memory; reduce it first.") from e
    except Exception as e:  # as in _load
        raise CaptureError(f"The photo {file} cannot be converted to sRGB ({_short(e)}); save it again as an ordinary JPEG.") from e
    return Pixels(rgb, alpha)


def _needs_profile(im: Image) -> bool:
    profile = im.info.get("icc_profile")
    return bool(profile) and b"sRGB" not in profile[:4096] and b"s\0R\0G\0B" not in profile[:4096]


def _to_srgb(im: Image) -> Image:
    """Applies the embedded colour profile (phones write Display P3); without one the numbers are taken as sRGB."""
    if _needs_profile(im):
        from PIL import ImageCms

        source = im.convert("RGB") if im.mode == "RGBA" else im
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(im.info["icc_profile"]))
            made = ImageCms.profileToProfile(source, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if made is not None:
                return made
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a broken profile: the plain numbers are the best guess
    return im.convert("RGB")


def _orient(a: np.ndarray, orientation: int) -> np.ndarray:
    """EXIF orientation undone: what was stored to what should be seen."""
    match orientation:
        case 2:
            a = a[:, ::-1]
        case 3:
            a = a[::-1, ::-1]
        case 4:
            a = a[::-1]
        case 5:
            a = a.swapaxes(0, 1)
        case 6:
            a = np.rot90(a, -1)
        case 7:
            a = a[::-1, ::-1].swapaxes(0, 1)
        case 8:
            a = np.rot90(a, 1)
    return np.ascontiguousarray(a)
