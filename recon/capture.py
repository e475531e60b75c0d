"""What a user hands in: photos, perhaps with masks, cameras and points. No pixels are held, only ways to load them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .camera import Cameras
from .depth import DepthMap
from .errors import CaptureError
from .points import PointCloud
from .scan.moments import moment_of
from .sweeps import Sweep

__all__ = ["ArrayImage", "Capture", "ImageSource", "KeptImage", "Unplaced", "View"]


class ImageSource(Protocol):
    """A lazy reference to one photo, already upright, undistorted and of the capture's common size."""

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, known without decoding."""
        ...

    def load(self) -> Float[Tensor, "H W 3"]:
        """Decodes: float32 sRGB in [0, 1]. Raises CaptureError naming the file when it is broken."""
        ...

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        """1 where the pixel counts, 0 where it must be ignored (alpha, mask file, and what load_extent leaves out); None = all count."""
        ...

    def load_extent(self) -> Float[Tensor, "H W"] | None:
        """1 where the camera took a picture, 0 beyond it (padding to the common size, corners that the lens left out); None = everywhere."""
        ...

    def digest(self) -> str:
        """sha256 over content and every option that changes the pixels; the key of caches."""
        ...


CUT_SIDE = 0.25  # share of a side of a photo from which its mask leaves that side out


@dataclass(frozen=True)
class ArrayImage:
    """An ImageSource held in memory (synthetic scenes, tests); `mask` covers the extent, too."""

    rgb: Float[Tensor, "H W 3"]
    mask: Float[Tensor, "H W"] | None = None
    extent: Float[Tensor, "H W"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.rgb.shape[1], self.rgb.shape[0]

    def load(self) -> Float[Tensor, "H W 3"]:
        return self.rgb

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        return self.extent if self.mask is None else self.mask

    def load_extent(self) -> Float[Tensor, "H W"] | None:
        return self.extent

    def digest(self) -> str:
        import hashlib

        h = hashlib.sha256(self.rgb.contiguous().numpy().tobytes())
        for more in (self.mask, self.extent):
            if more is not None:
                h.update(more.contiguous().numpy().tobytes())
        return h.hexdigest()


@dataclass(frozen=True, eq=False)
class KeptImage:
    """An ImageSource that decodes once. What it gives is shared: not to be written to."""

    source: ImageSource
    _kept: dict[str, Tensor | None] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        return self.source.size

    def load(self) -> Float[Tensor, "H W 3"]:
        image = self._once("image", self.source.load)
        assert image is not None, "a photo has pixels"
        return image

    def load_mask(self) -> Float[Tensor, "H W"] | None:
        return self._once("mask", self.source.load_mask)

    def load_extent(self) -> Float[Tensor, "H W"] | None:
        return self._once("extent", self.source.load_extent)

    def digest(self) -> str:
        return self.source.digest()

    def _once(self, what: str, load: Callable[[], Tensor | None]) -> Tensor | None:
        if what not in self._kept:
            self._kept[what] = load()
        return self._kept[what]


@dataclass(frozen=True)
class View:
    """One photo.

    Attributes:
        name: stable relative posix path inside the capture; what splits and reports refer to.
        image: the lazy pixels.
        focal_prior_px: focal length in pixels of `image`, from EXIF or a file; None when nothing is known.
    """

    name: str
    image: ImageSource
    focal_prior_px: float | None = None


@dataclass(frozen=True)
class Unplaced:
    """A photo that is not used, and why (one short sentence for the user)."""

    name: str
    reason: str


@dataclass(frozen=True)
class Capture:
    """A set of photos of one static scene.

    Attributes:
        views: the photos in stable (natural name) order.
        cameras: one per view in the same order, or None when nothing is known. Their frame and scale are the user's and are kept.
        unplaced: photos that were named but have no camera or could not be read, each with its reason.
        points: points that came with the capture (COLMAP points); None when there are none.
        sweeps: scans of a range sensor in the cameras' world, or in a world of their own where there are no cameras.
        depth: sensor depth per view, aligned with `views`; empty when there is none.
        white_background: the photos were composited on white (objects); renders use the same background.
        source: name of the adapter that made it.
        warnings: one sentence each, shown to the user once.
    """

    views: tuple[View, ...]
    cameras: Cameras | None = None
    unplaced: tuple[Unplaced, ...] = ()
    points: PointCloud | None = None
    depth: tuple[DepthMap | None, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    white_background: bool = False
    source: str = "memory"
    warnings: tuple[str, ...] = field(default_factory=tuple)

    def __len__(self) -> int:
        return len(self.views)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.views)

    def images(self) -> Float[Tensor, "V H W 3"]:
        """Decodes every photo. They share one size by the adapters' contract."""
        return torch.stack([v.image.load() for v in self.views])

    def masks(self) -> Float[Tensor, "V H W"] | None:
        """Masks of every photo, ones where a photo has none; None when no photo has one."""
        return self._stack([v.image.load_mask() for v in self.views])

    def extents(self) -> Float[Tensor, "V H W"] | None:
        """Where each photo shows anything at all, ones where it fills its picture; None when every photo does."""
        return self._stack([v.image.load_extent() for v in self.views])

    def is_cut_out(self) -> bool:
        """Whether masks cut an object out of its surroundings: then those are not wanted, and nothing should be drawn there. Told by the photos' borders: most
        photos' masks leave out CUT_SIDE or more of at least three of their sides. A mask over a passer-by, or over the car that the camera sits on, only says
        that a part does not count."""
        masks, extents = self.masks(), self.extents()
        if masks is None:
            return False
        cut = [_sides_cut(m > 0.5, None if extents is None else extents[i] > 0.5) >= 3 for i, m in enumerate(masks)]
        return sum(cut) * 2 >= len(cut)

    def _stack(self, maps: list[Float[Tensor, "H W"] | None]) -> Float[Tensor, "V H W"] | None:
        if all(m is None for m in maps):
            return None
        w, h = self.views[0].image.size
        return torch.stack([torch.ones(h, w) if m is None else m for m in maps])

    def kept(self, most_bytes: float = 1e9) -> Capture:
        """The same, decoding each photo once from now on: work looks at every photo a dozen times. As it is where that would take too much memory."""
        w, h = self.views[0].image.size if self.views else (0, 0)
        if 12 * w * h * len(self) > most_bytes:
            return self
        return replace(self, views=tuple(replace(v, image=KeptImage(v.image)) for v in self.views))

    def select(self, names: tuple[str, ...] | list[str]) -> Capture:
        """The sub-capture of the named views in the given order. Points that came with the capture are dropped:
        they may have been made from views that are not selected (evaluation must not see them). Scans stay, but those of the moments (scan/moments.py)
        of left-out views."""
        index = {v.name: i for i, v in enumerate(self.views)}
        missing = [n for n in names if n not in index]
        if missing:
            raise CaptureError(f"The capture has no photo named {missing[0]!r}; it has {len(index)}, the first is {next(iter(index), '-')!r}.")
        picks = [index[n] for n in names]
        left_out = {moment_of(n) for n in index.keys() - set(names)} - {moment_of(n) for n in names}
        return replace(
            self,
            views=tuple(self.views[i] for i in picks),
            cameras=None if self.cameras is None else self.cameras[picks],
            depth=tuple(self.depth[i] for i in picks) if self.depth else (),
            points=None,
            sweeps=tuple(s for s in self.sweeps if not s.origin_known or (s.moment or moment_of(s.name)) not in left_out),
        )


def _sides_cut(counts: Bool[Tensor, "H W"], shown: Bool[Tensor, "H W"] | None) -> int:
    """How many sides of a photo its mask leaves out; of a photo that does not fill its picture, the sides of the box around it."""
    left_out = ~counts
    if shown is not None:
        rows, columns = shown.any(1).nonzero(), shown.any(0).nonzero()
        if not len(rows):
            return 0
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        left_out, shown = (left_out & shown)[box], shown[box]
    else:
        shown = torch.ones_like(left_out)
    strip = max(1, min(left_out.shape) // 50)  # a circle touches the sides of its box in a few pixels
    sides = [(m[:strip], m[-strip:], m[:, :strip], m[:, -strip:]) for m in (left_out, shown)]
    return sum(float(out.sum()) >= CUT_SIDE * max(1.0, float(all_of.sum())) for out, all_of in zip(*sides, strict=True))
