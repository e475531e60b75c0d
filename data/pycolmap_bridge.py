"""COLMAP's estimators (Schoenberger and Frahm, CVPR 2016) for arrays in memory, and its cameras to compare with. The only file that imports pycolmap.

COLMAP's pixels are ours: centres at +0.5. Everything runs on one thread with the given seed, so that the same photos give the same cameras.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from ..recon.errors import BackendUnavailable

__all__ = ["absolute_pose", "homography", "reference_cameras", "relative_pose", "verify_pair"]


@lru_cache(maxsize=1)
def _pycolmap() -> Any:
    with _signal_handlers_kept():
        try:
            import pycolmap
        except ImportError as e:
            raise BackendUnavailable(f"Finding cameras needs pycolmap ({e}); run `pip install pycolmap`, or give a capture with cameras.") from e
    pycolmap.logging.minloglevel = 3  # it narrates every try on stderr
    return pycolmap


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """pycolmap's import takes over SIGTERM and the crash signals of the whole process, to print stack traces; they are given back."""
    import ctypes
    import signal

    numbers = [getattr(signal, n) for n in ("SIGTERM", "SIGABRT", "SIGSEGV", "SIGILL", "SIGFPE", "SIGBUS") if hasattr(signal, n)]
    try:
        libc = ctypes.CDLL(None)
        libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p]
    except (OSError, AttributeError, TypeError):  # no C library to ask: leave things as they are
        yield
        return
    before = [libc.signal(int(n), None) for n in numbers]
    for n, handler in zip(numbers, before, strict=True):
        libc.signal(int(n), handler)
    try:
        yield
    finally:
        for n, handler in zip(numbers, before, strict=True):
            libc.signal(int(n), handler)


def _camera(size: tuple[int, int], focal: float, number: int = 1) -> Any:
    w, h = size
    camera = _pycolmap().Camera(model="SIMPLE_PINHOLE", width=w, height=h, params=[float(focal), w / 2, h / 2], camera_id=number)
    camera.has_prior_focal_length = True
    return camera


def _ransac(options: Any, error_px: float, seed: int) -> Any:
    options.max_error = error_px
    options.random_seed = seed
    return options


def verify_pair(
    uv0: Float[np.ndarray, "M 2"],
    uv1: Float[np.ndarray, "M 2"],
    size: tuple[int, int],
    focals: tuple[float, float],
    error_px: float,
    seed: int = 0,
) -> Bool[np.ndarray, "M"]:
    """Which matches agree with one epipolar geometry or homography, whatever the focal length may be."""
    c = _pycolmap()
    mask = np.zeros(len(uv0), dtype=bool)
    if len(uv0) < 8:
        return mask
    options = c.TwoViewGeometryOptions()
    options.min_num_inliers = 8
    _ransac(options.ransac, error_px, seed)
    index = np.repeat(np.arange(len(uv0), dtype=np.uint32)[:, None], 2, axis=1)
    args = (_camera(size, focals[0]), np.ascontiguousarray(uv0), _camera(size, focals[1], 2), np.ascontiguousarray(uv1), index, options)
    mask[c.estimate_calibrated_two_view_geometry(*args).inlier_matches[:, 0]] = True
    return mask


def relative_pose(
    uv0: Float[np.ndarray, "M 2"],
    uv1: Float[np.ndarray, "M 2"],
    size: tuple[int, int],
    focals: tuple[float, float],
    error_px: float,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"], Bool[np.ndarray, "M"]] | None:
    """Rotation, unit translation (second camera from first) and inliers; None when there is no solution."""
    c = _pycolmap()
    if len(uv0) < 8:
        return None
    options = _ransac(c.RANSACOptions(), error_px, seed)
    options.max_num_trials = 10000
    found = c.estimate_essential_matrix(np.ascontiguousarray(uv0), np.ascontiguousarray(uv1), _camera(size, focals[0]), _camera(size, focals[1], 2), options)
    if found is None:
        return None
    pose = found["cam2_from_cam1"].matrix()
    return pose[:, :3], pose[:, 3], np.asarray(found["inlier_mask"], dtype=bool)


def homography(
    uv0: Float[np.ndarray, "M 2"], uv1: Float[np.ndarray, "M 2"], error_px: float, seed: int = 0
) -> tuple[Float[np.ndarray, "3 3"], Bool[np.ndarray, "M"]] | None:
    """Homography (second from first, pixels) and inliers; None when there is no solution."""
    c = _pycolmap()
    if len(uv0) < 6:
        return None
    options = _ransac(c.RANSACOptions(), error_px, seed)
    options.max_num_trials = 5000
    found = c.estimate_homography_matrix(np.ascontiguousarray(uv0), np.ascontiguousarray(uv1), options)
    return None if found is None else (np.asarray(found["H"]), np.asarray(found["inlier_mask"], dtype=bool))


def absolute_pose(
    uv: Float[np.ndarray, "M 2"],
    xyz: Float[np.ndarray, "M 3"],
    size: tuple[int, int],
    focal: float,
    error_px: float,
    seed: int = 0,
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"], Bool[np.ndarray, "M"]] | None:
    """World-to-camera rotation and translation with inliers; None when there is no solution."""
    c = _pycolmap()
    if len(uv) < 6:
        return None
    options, refine = c.AbsolutePoseEstimationOptions(), c.AbsolutePoseRefinementOptions()
    _ransac(options.ransac, error_px, seed)
    options.ransac.max_num_trials = 10000
    refine.refine_focal_length = refine.refine_extra_params = False
    found = c.estimate_and_refine_absolute_pose(np.ascontiguousarray(uv), np.ascontiguousarray(xyz), _camera(size, focal), options, refine)
    if found is None:
        return None
    pose = found["cam_from_world"].matrix()
    return pose[:, :3], pose[:, 3], np.asarray(found["inlier_mask"], dtype=bool)


def reference_cameras(
    photos: str | Path, seed: int = 0
) -> dict[str, tuple[Float[np.ndarray, "3 4"], float]]:
    """COLMAP's own cameras of a folder of photos, by SIFT and its default settings: per placed photo cam_from_world and the focal length as a share of the
    longer side. An outside judge for captures that come without cameras; it wants dozens of photos."""
    c = _pycolmap()
    with tempfile.TemporaryDirectory() as work:
        database = Path(work) / "database.db"
        reader = c.ImageReaderOptions()
        reader.camera_model = "SIMPLE_RADIAL"
        c.extract_features(database, photos, camera_mode=c.CameraMode.SINGLE, reader_options=reader)
        c.match_exhaustive(database)
        options = c.IncrementalPipelineOptions()
        options.random_seed = seed
        models = c.incremental_mapping(database, photos, work, options)
    best = max(models.values(), key=lambda m: m.num_reg_images(), default=None)
    found: dict[str, tuple[np.ndarray, float]] = {}
    if best is None:
        return found
    for number in best.reg_image_ids():
        image = best.image(number)
        camera = best.cameras[image.camera_id]
        found[image.name] = (image.cam_from_world().matrix(), camera.params[0] / max(camera.width, camera.height))
    return found
