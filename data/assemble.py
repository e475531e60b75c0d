"""From what an adapter found (files, cameras as the source says them) to a Capture of one common size.

Every adapter ends here, so that sizes, masks, distortion, broken and duplicate photos are treated the same everywhere.
"""

from __future__ import annotations

import os
import warnings as python_warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..recon.camera import Cameras
from ..recon.capture import Capture, Unplaced, View
from ..recon.depth import DepthMap
from ..recon.errors import CaptureError, ConfigError
from ..recon.points import PointCloud
from .decode import PhotoHeader, probe_photo
from .files import readable
from .image_io import FileImage, resize_depth
from .protocol import LoadOptions
from .undistort import Lens, LensWarp

__all__ = ["GivenCamera", "Shot", "assemble", "require_photos", "subset_indices"]


FOCAL_RANGE = 1000.0  # focal length over longer side, and its inverse: from the widest lens to a telescope
CENTRE_RANGE = 10.0  # principal point from the middle, in longer sides: a crop may lie beside it
LARGEST = 1e12  # world units; its square still fits into float32
FINEST = 1e-5  # spread of the cameras over their distance from the origin: 100 steps of float32


@dataclass(frozen=True)
class GivenCamera:
    """One camera as its source says it, in our axes and pixel rule.

    Attributes:
        cam_from_world: 4x4 float64, rigid.
        fx, fy, cx, cy: pixels of a `size` photo; cx, cy None = the centre.
        size: (width, height) these refer to; None = the photo's own.
        lens: distortion, removed here.
    """

    cam_from_world: np.ndarray
    fx: float
    fy: float
    cx: float | None = None
    cy: float | None = None
    size: tuple[int, int] | None = None
    lens: Lens = Lens()


@dataclass(frozen=True)
class Shot:
    """One photo an adapter found.

    Attributes:
        extent_file: a mask of where the file is a photo, not padding.
        depth: z-depth of a sensor, h,w in world units, 0 = none; of the photo's field of view, mostly at a smaller size.
        trust: h,w in [0, 1], how far the sensor trusts each of these; None = everywhere. 0 is as good as no depth.
    """

    name: str
    file: Path
    camera: GivenCamera | None = None
    mask_file: Path | None = None
    content: bytes | None = None
    depth: np.ndarray | None = None
    extent_file: Path | None = None
    trust: np.ndarray | None = None


def subset_indices(n: int, k: int | None) -> list[int]:
    """At most k of n indices, evenly: int(i * n / k)."""
    return list(range(n)) if k is None or k >= n else [i * n // k for i in range(k)]


def require_photos(capture: Capture, least: int) -> Capture:
    """Raises CaptureError when fewer than `least` photos can be used; the message says which were left out and why."""
    if len(capture) >= least:
        return capture
    found = "there is no photo" if len(capture) == 0 else f"there is only one photo ({capture.views[0].name})" if len(capture) == 1 else f"there are only {len(capture)} photos"
    why = f"; left out: {capture.unplaced[0].name} ({capture.unplaced[0].reason})" if capture.unplaced else ""
    raise CaptureError(f"At least {least} photos of the scene are needed, but {found}{why}. Take some more from a step to the side each.")


def assemble(
    shots: Sequence[Shot],
    options: LoadOptions,
    source: str,
    *,
    unplaced: Sequence[Unplaced] = (),
    points: PointCloud | None = None,
    warnings: Sequence[str] = (),
    white: bool = False,
    drop_duplicates: bool = False,
    exif_upright: bool = False,
) -> Capture:
    """Probes all photos, leaves out what is broken (an error when fewer than two remain), brings the rest to one size.

    Args:
        exif_upright: apply EXIF orientation (photos without cameras). Given cameras refer to pixels as stored; there it is only
            applied when the stored size contradicts the camera's and the upright size fits.
        white: alpha is composited on white instead of becoming a mask.
    """
    _check(options)
    shots = [replace(shots[i], name=readable(shots[i].name)) for i in subset_indices(len(shots), options.max_photos)]
    if not shots:
        raise CaptureError(f"The {source} capture has no photo that is there{_first_reason(unplaced)}.")
    _refuse_twins(shots, source)
    notes, left_out = list(warnings), list(unplaced)
    shots, headers = _readable(shots, left_out, notes)
    if drop_duplicates:
        shots, headers = _distinct(shots, headers, left_out, notes)
    upright = [_is_upright(s, h, exif_upright) for s, h in zip(shots, headers, strict=True)]
    sizes = [h.upright_size if u else (h.width, h.height) for h, u in zip(headers, upright, strict=True)]
    fits = fit_sizes(sizes, options)
    canvas = (max(w for w, _ in fits), max(h for _, h in fits))
    if len(set(sizes)) > 1:
        notes.append(f"The photos have {len(set(sizes))} different sizes; they are brought to one canvas of {canvas[0]} x {canvas[1]} and what is added is masked out.")
    views, Ts, Ks, depths = [], [], [], []
    for shot, header, up, size, fit in zip(shots, headers, upright, sizes, fits, strict=True):
        offset = ((canvas[0] - fit[0]) // 2, (canvas[1] - fit[1]) // 2)
        warp = None
        if shot.camera is not None:
            K = _intrinsics(shot, size, fit)
            if not shot.camera.lens.is_pinhole:
                warp = LensWarp(shot.camera.lens, *K, fit)
            Ks.append([[K[0], 0, K[2] + offset[0]], [0, K[1], K[3] + offset[1]], [0, 0, 1]])
            Ts.append(shot.camera.cam_from_world)
        background: Literal["white", "mask"] = "white" if white else "mask"
        image = FileImage(shot.file, canvas, fit, offset, up, header.has_alpha, background, shot.mask_file, warp, shot.content, shot.extent_file)
        focal = None if header.focal_px is None else header.focal_px * max(fit) / max(size)
        views.append(View(shot.name, image, focal))
        depth = _fitting(shot, size, notes)
        depths.append(None if depth is None else _depth_map(depth, shot.trust, fit, offset, canvas))
    cameras = None
    if Ts:
        f32 = torch.float32
        _check_world(np.stack(Ts), [s.name for s in shots])
        cameras = Cameras(torch.tensor(np.stack(Ts), dtype=f32), torch.tensor(np.array(Ks), dtype=f32), *canvas).validate()
    return Capture(
        views=tuple(views),
        cameras=cameras,
        unplaced=tuple(left_out),
        points=points,
        depth=tuple(depths) if any(d is not None for d in depths) else (),
        white_background=white,
        source=source,
        warnings=tuple(notes),
    )


def _refuse_twins(shots: Sequence[Shot], source: str) -> None:
    """A photo is known by its name from here on, and a size is divided by. Raises CaptureError."""
    seen: dict[str, Path] = {}
    for shot in shots:
        if shot.name in seen:
            raise CaptureError(f"Two photos of the {source} capture are named {shot.name} ({seen[shot.name]} and {shot.file}); rename one of them.")
        seen[shot.name] = shot.file
        if shot.camera is not None and shot.camera.size is not None and min(shot.camera.size) < 1:
            w, h = shot.camera.size
            raise CaptureError(f"The camera of {shot.name} is for a photo of {w} x {h} pixels, which there is none of; write the size of the photo.")


def _check(options: LoadOptions) -> None:
    for name, least in (("max_side", 16), ("downscale", 1), ("max_photos", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"{name} must be at least {least}, got {value}.")


def _first_reason(unplaced: Sequence[Unplaced]) -> str:
    return f" ({len(unplaced)} are left out, the first is {unplaced[0].name}: {unplaced[0].reason})" if unplaced else ""


def _readable(shots: list[Shot], left_out: list[Unplaced], notes: list[str]) -> tuple[list[Shot], list[PhotoHeader]]:
    """Decodes every photo once. Broken ones are left out with a warning as long as two remain."""

    def probe(shot: Shot) -> PhotoHeader | CaptureError:
        try:
            for file in (shot.mask_file, shot.extent_file):
                if file is not None:
                    probe_photo(file)
        except CaptureError as e:
            return CaptureError(str(e).replace("The photo", "The mask", 1))
        try:
            return probe_photo(shot.file, shot.content)
        except CaptureError as e:
            return e

    # Pillow's own remarks (large photo, odd EXIF) are not for the user; silenced here, outside the threads, whose filters are shared
    with python_warnings.catch_warnings(), ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        python_warnings.simplefilter("ignore")
        results = list(pool.map(probe, shots))
    good = [(s, r) for s, r in zip(shots, results, strict=True) if isinstance(r, PhotoHeader)]
    bad = [(s, r) for s, r in zip(shots, results, strict=True) if isinstance(r, CaptureError)]
    if bad and len(good) < 2:
        raise bad[0][1]
    for shot, error in bad:
        left_out.append(Unplaced(shot.name, str(error)))
        notes.append(f"{error} It is left out.")
    return [s for s, _ in good], [h for _, h in good]


def _distinct(shots: list[Shot], headers: list[PhotoHeader], left_out: list[Unplaced], notes: list[str]) -> tuple[list[Shot], list[PhotoHeader]]:
    first: dict[str, str] = {}
    keep: list[int] = []
    for i, (shot, header) in enumerate(zip(shots, headers, strict=True)):
        if header.sha256 in first:
            reason = f"it is the same photo as {first[header.sha256]}"
            left_out.append(Unplaced(shot.name, reason))
            notes.append(f"{shot.name} is left out: {reason}.")
        else:
            first[header.sha256] = shot.name
            keep.append(i)
    return [shots[i] for i in keep], [headers[i] for i in keep]


def _is_upright(shot: Shot, header: PhotoHeader, exif_upright: bool) -> bool:
    if exif_upright or header.orientation == 1:
        return True
    given = None if shot.camera is None else shot.camera.size
    if given is None:
        return False
    return not _same_shape((header.width, header.height), given) and _same_shape(header.upright_size, given)


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) < 0.02


def fit_sizes(sizes: Sequence[tuple[int, int]], options: LoadOptions) -> list[tuple[int, int]]:
    """The size of each photo on the common canvas: the same longer side for all (the lower median), reduced as the options say."""
    if options.downscale:
        sizes = [(max(1, round(w / options.downscale)), max(1, round(h / options.downscale))) for w, h in sizes]
    longer = sorted(max(s) for s in sizes)[(len(sizes) - 1) // 2]
    if options.max_side is not None:
        longer = min(longer, options.max_side)
    return [(max(1, round(w * longer / max(w, h))), max(1, round(h * longer / max(w, h)))) for w, h in sizes]


def _intrinsics(shot: Shot, size: tuple[int, int], fit: tuple[int, int]) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels of `fit`. Raises CaptureError when the camera is for a photo of another shape or nonsense."""
    camera = shot.camera
    assert camera is not None
    given = camera.size or size
    if not _same_shape(given, size):
        raise CaptureError(f"The camera of {shot.name} is for a {given[0]} x {given[1]} photo, but {shot.file} has {size[0]} x {size[1]} pixels; use the photos it was made for.")
    cx = given[0] / 2 if camera.cx is None else camera.cx
    cy = given[1] / 2 if camera.cy is None else camera.cy
    if not np.isfinite([camera.fx, camera.fy, cx, cy]).all() or min(camera.fx, camera.fy) <= 0:
        raise CaptureError(f"The camera of {shot.name} has no usable focal length or centre (fx {camera.fx:g}, fy {camera.fy:g}, cx {cx:g}, cy {cy:g}); calibrate again.")
    side = max(given)
    if not side / FOCAL_RANGE < min(camera.fx, camera.fy) <= max(camera.fx, camera.fy) < side * FOCAL_RANGE:
        raise CaptureError(f"The camera of {shot.name} has a focal length of {camera.fx:g} x {camera.fy:g} pixels, which no {given[0]} x {given[1]} photo has; calibrate again.")
    if max(abs(cx - given[0] / 2), abs(cy - given[1] / 2)) > CENTRE_RANGE * side:
        raise CaptureError(f"The camera of {shot.name} has its centre at ({cx:g}, {cy:g}), far outside its {given[0]} x {given[1]} photo; calibrate again.")
    sx, sy = fit[0] / given[0], fit[1] / given[1]
    return camera.fx * sx, camera.fy * sy, cx * sx, cy * sy


def _check_world(cam_from_world: np.ndarray, names: Sequence[str]) -> None:
    """The scene is computed in 32-bit numbers: the cameras' places must be told apart in them. Raises CaptureError when they are not."""
    centers = -np.einsum("nji,nj->ni", cam_from_world[:, :3, :3], cam_from_world[:, :3, 3])
    far = np.linalg.norm(centers, axis=1)
    spread = np.linalg.norm(centers - np.median(centers, axis=0), axis=1).max()
    if far.max() > LARGEST:
        raise CaptureError(f"The camera of {names[int(far.argmax())]} lies {far.max():.3g} units away from the origin, too far to compute with; calibrate again.")
    if 0 < spread < far.max() * FINEST:
        raise CaptureError(
            f"The cameras lie {far.max():.6g} units away from the origin but only {spread:.3g} around each other, which 32-bit numbers cannot "
            "hold apart; subtract a common offset from their positions (and the points')."
        )


def _fitting(shot: Shot, size: tuple[int, int], notes: list[str]) -> np.ndarray | None:
    """The shot's depth; None, and a note, where it has another shape than the photo (lying, cut): stretched, it would lie beside what it measured."""
    if shot.depth is None:
        return None
    h, w = shot.depth.shape
    if min(w, h) > 0 and abs(w * size[1] / (h * size[0]) - 1) < 0.02 + 1 / min(w, h):
        return shot.depth
    notes.append(f"The depth of {shot.name} has {w} x {h} pixels, which is not the shape of its photo of {size[0]} x {size[1]}; it is left out.")
    return None


def _depth_map(depth: np.ndarray, trust: np.ndarray | None, fit: tuple[int, int], offset: tuple[int, int], canvas: tuple[int, int]) -> DepthMap:
    known = np.isfinite(depth) & (depth > 0)
    placed = []
    for values in (np.where(known, depth, 0.0), known if trust is None else np.where(known, trust, 0.0)):
        out = np.zeros((canvas[1], canvas[0]), np.float32)
        out[offset[1] : offset[1] + fit[1], offset[0] : offset[0] + fit[0]] = resize_depth(values.astype(np.float32), fit)
        placed.append(torch.from_numpy(out))
    d, confidence = placed
    return DepthMap(d, confidence, (d > 0) & (confidence > 0))
