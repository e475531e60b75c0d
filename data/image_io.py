"""The lazy photo: a file that becomes pixels when asked, always upright, undistorted and on the capture's common canvas."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.errors import CaptureError
from .decode import decode_mask, decode_photo
from .undistort import LensWarp, warp_image, warp_mask

__all__ = ["FileImage", "encode_jpeg", "encode_png", "resize", "resize_depth"]


@dataclass(frozen=True)
class FileImage:
    """An `ImageSource` backed by a file.

    Steps: decode -> upright -> reduce to `fit` (by area) -> undistort -> place on the canvas `size` at `offset`.

    Attributes:
        file: where it is; also its name in messages when `content` is given.
        size: (width, height) of the canvas, the same for all photos of a capture.
        fit: (width, height) of the photo on it; what is around it is masked out.
        offset: (x, y) of the photo's top left corner on the canvas.
        upright: whether EXIF orientation is applied (given cameras mostly refer to the pixels as stored).
        has_alpha: it carries transparency, which becomes the mask, or with `background="white"` a white background.
        mask_file: grey image, white where pixels count; extent_file: white where the file shows a photo, not padding of an earlier common canvas.
        warp: lens distortion to remove, in pixels of `fit`.
        content: the encoded file itself when it is not on disk (video frames).
    """

    file: Path
    size: tuple[int, int]
    fit: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    upright: bool = True
    has_alpha: bool = False
    background: Literal["mask", "white"] = "mask"
    mask_file: Path | None = None
    warp: LensWarp | None = None
    content: bytes | None = None
    extent_file: Path | None = None

    def load(self) -> Float[Tensor, "H W 3"]:
        """Decodes: float32 sRGB in [0, 1]. Raises CaptureError naming the file when it is broken."""
        pixels = decode_photo(self.file, self.content, self.upright)
        top = float(np.iinfo(pixels.rgb.dtype).max)
        if pixels.alpha is None:
            rgb = resize(pixels.rgb, self.fit)
        else:
            # averages weighted by alpha: what is hidden behind transparency must not bleed in
            alpha = pixels.alpha.astype(np.float32) / top
            rgb, weight = resize(pixels.rgb * (alpha / top)[..., None], self.fit), resize(alpha, self.fit)[..., None]
            rgb = rgb + (1 - weight) if self.background == "white" else rgb / np.maximum(weight, 1e-6)
            rgb = np.clip(rgb, 0.0, 1.0)
        if self.warp is not None:
            rgb = warp_image(rgb, self.warp)
        return torch.from_numpy(self._on_canvas(rgb))

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        """1 where the pixel counts, 0 where it must be ignored (alpha, mask file, outside the lens, padding); None = all count."""
        mask: np.ndarray | None = None
        if self.has_alpha and self.background == "mask":
            alpha = decode_photo(self.file, self.content, self.upright).alpha
            if alpha is not None and alpha.min() < np.iinfo(alpha.dtype).max:
                mask = resize(alpha, self.fit)
        for file in (self.mask_file, self.extent_file):
            if file is not None:
                given = self._mask_of(file)
                mask = given if mask is None else np.minimum(mask, given)  # no product: the files may tell the same border twice
        return self._placed(mask)

    def load_alpha(self) -> Float[Tensor, "H W"] | None:
        """The file's transparency as a mask, whatever was put behind it; None where nothing is transparent."""
        return replace(self, background="mask").load_mask() if self.has_alpha else None

    def _mask_of(self, file: Path) -> np.ndarray:
        given = decode_mask(file)
        h, w = given.shape
        if abs(w / h / (self.fit[0] / self.fit[1]) - 1) > 0.03:
            raise CaptureError(f"The mask {file} ({w} x {h}) does not have the shape of its photo {self.file}; make it the same size.")
        return resize(given, self.fit)

    def load_extent(self) -> Float[Tensor, "H W"] | None:
        """1 where the lens drew a picture, 0 in padding and where undistortion found nothing; None = everywhere."""
        return self._placed(None if self.extent_file is None else self._mask_of(self.extent_file))

    def _placed(self, mask: np.ndarray | None) -> Float[Tensor, "H W"] | None:
        """A mask of the photo as stored (None: ones), undistorted and on the canvas; None when it leaves nothing out."""
        if self.warp is not None:
            mask = warp_mask(mask, self.warp)
        if mask is None and self.fit != self.size:
            mask = np.ones((self.fit[1], self.fit[0]), np.float32)
        if mask is None:
            return None
        placed = self._on_canvas(mask)
        return None if placed.min() >= 1 else torch.from_numpy(placed)

    def _on_canvas(self, a: np.ndarray) -> np.ndarray:
        if self.fit == self.size:
            return np.ascontiguousarray(a, dtype=np.float32)
        out = np.zeros((self.size[1], self.size[0], *a.shape[2:]), np.float32)
        x, y = self.offset
        out[y : y + a.shape[0], x : x + a.shape[1]] = a
        return out

    def digest(self) -> str:
        """sha256 over the file, its mask and every option that changes the pixels. Raises CaptureError when a file is gone."""
        own = hashlib.sha256(self.content).hexdigest() if self.content is not None else _file_sha256(self.file)
        mask = None if self.mask_file is None else _file_sha256(self.mask_file)
        extent = () if self.extent_file is None else (_file_sha256(self.extent_file),)
        options = (self.size, self.fit, self.offset, self.upright, self.background, self.warp, *extent)
        return hashlib.sha256(repr((own, mask, options)).encode()).hexdigest()


def _file_sha256(file: Path) -> str:
    try:
        s = file.stat()
        return _sha256_of_state(file, s.st_size, s.st_mtime_ns)
    except OSError as e:
        raise CaptureError(f"The photo {file} cannot be read any more ({e.strerror or e}).") from e


@lru_cache(maxsize=1024)
def _sha256_of_state(file: Path, size: int, mtime_ns: int) -> str:
    h = hashlib.sha256()
    with open(file, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def resize(a: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """H,W[,3] of any type to float32 at (width, height): the exact mean over each pixel's area when reducing, Lanczos when enlarging.

    Integers are scaled to [0, 1]; floats stay as they are, but within [0, 1] after Lanczos, which overshoots.
    """
    import cv2

    h, w = a.shape[:2]
    if (w, h) != size:
        reduce = size[0] <= w and size[1] <= h
        if reduce and a.dtype == np.uint8:
            a = a.astype(np.uint16) * np.uint16(257)  # the mean keeps 16 bits, at half the memory and a fifth of the time of floats
        elif not reduce:
            a = _unit(a)
        a = cv2.resize(a, size, interpolation=cv2.INTER_AREA if reduce else cv2.INTER_LANCZOS4)
        if not reduce:
            a = np.clip(a, 0.0, 1.0)
    return _unit(a)


def _unit(a: np.ndarray) -> np.ndarray:
    out = a.astype(np.float32)
    if a.dtype.kind in "ui":
        out /= np.iinfo(a.dtype).max
    return out


def resize_depth(depth: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A depth image at another size by nearest pixel centre: depths across an edge must not be mixed."""
    h, w = depth.shape
    u = ((np.arange(size[0]) + 0.5) * w / size[0]).astype(int).clip(0, w - 1)
    v = ((np.arange(size[1]) + 0.5) * h / size[1]).astype(int).clip(0, h - 1)
    return np.ascontiguousarray(depth[np.ix_(v, u)])


def encode_png(rgb: Float[Tensor, "H W 3"], mask: Float[Tensor, "H W"] | None = None) -> bytes:
    """8-bit PNG of an image in [0, 1]; a mask becomes alpha."""
    import io

    from PIL import Image

    a = (rgb.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    if mask is not None:
        a = np.dstack([a, (mask.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()])
    buffer = io.BytesIO()
    Image.fromarray(a).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def encode_jpeg(rgb: Float[Tensor, "H W 3"]) -> bytes:
    """JPEG of quality 92 without chroma subsampling of an image in [0, 1]: to look at, never to score."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    pixels = (rgb.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()
