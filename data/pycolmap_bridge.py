"""COLMAP's estimators and its incremental mapper (Schoenberger and Frahm, CVPR 2016) for arrays in memory. The only file that imports pycolmap.

COLMAP's pixels are ours: centres at +0.5. Everything runs on one thread with the given seed, so that the same photos give the same cameras.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from ..recon.errors import BackendUnavailable

__all__ = ["MappedPhotos", "MapperOptions", "absolute_pose", "homography", "map_photos", "relative_pose", "verify_pair"]


@dataclass(frozen=True)
class MapperOptions:
    """Thresholds for few photos; pixels are those of the photos.

    COLMAP's own defaults (16 degrees, 100 and 30 inliers, model size 10) assume hundreds of photos taken for the purpose.
    """

    min_matches: int = 15
    init_min_angle_deg: float = 1.5
    init_min_inliers: int = 30
    init_trials: int = 500
    pose_min_inliers: int = 12
    pose_min_inlier_ratio: float = 0.1
    model_size: int = 2
    error_px: float = 4.0


@dataclass(frozen=True)
class MappedPhotos:
    """One connected model: which photos are placed and their world-to-camera poses (those of other photos mean nothing)."""

    placed: Bool[np.ndarray, "V"]
    R: Float[np.ndarray, "V 3 3"]
    t: Float[np.ndarray, "V 3"]
    points: int


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


def map_photos(
    uv: Sequence[Float[np.ndarray, "N 2"]],
    pairs: Sequence[tuple[int, int]],
    links: Sequence[Int[np.ndarray, "M 2"]],
    size: tuple[int, int],
    focals: Sequence[float],
    options: MapperOptions,
    seed: int = 0,
) -> list[MappedPhotos]:
    """Incremental mapping of verified matches with held focal lengths; models by photos, then points, the best first.

    Args:
        uv: keypoints per photo, continuous pixels.
        pairs, links: photo pairs and the keypoint indices of their verified matches.
        focals: pixels, per photo; photos of equal focal length share a camera.
    """
    c = _pycolmap()
    with c.Database.open(":memory:") as database:
        _fill(database, uv, pairs, links, size, focals, options)
        choice = c.DatabaseCacheOptions()
        choice.min_num_matches = options.min_matches
        cache = c.DatabaseCache.create(database, choice)
    manager = c.ReconstructionManager()
    c.IncrementalPipeline(_pipeline_options(options, seed), cache, manager).run()
    models = [_read(manager.get(i), len(uv)) for i in range(manager.size())]
    return sorted(models, key=lambda m: (-int(m.placed.sum()), -m.points))


def _fill(database: Any, uv: Sequence[np.ndarray], pairs: Any, links: Any, size: tuple[int, int], focals: Sequence[float], o: MapperOptions) -> None:
    c = _pycolmap()
    numbers = {f: n + 1 for n, f in enumerate(sorted(set(focals)))}
    cameras = {f: _camera(size, f, n) for f, n in numbers.items()}
    for camera in cameras.values():
        database.write_camera(camera, use_camera_id=True)
        rig = c.Rig(rig_id=camera.camera_id)
        rig.add_ref_sensor(camera.sensor_id)
        database.write_rig(rig, use_rig_id=True)
    for i, points in enumerate(uv):
        image = c.Image(name=f"{i:06d}", camera_id=numbers[focals[i]], image_id=i + 1)
        frame = c.Frame(frame_id=i + 1, rig_id=numbers[focals[i]])
        frame.add_data_id(image.data_id)
        database.write_image(image, use_image_id=True)
        database.write_frame(frame, use_frame_id=True)
        database.write_keypoints(i + 1, np.ascontiguousarray(points, dtype=np.float32))
    for (i, j), link in zip(pairs, links, strict=True):
        if len(link) < o.min_matches:
            continue
        geometry = c.TwoViewGeometry()
        geometry.config = c.TwoViewGeometryConfiguration.CALIBRATED
        geometry.inlier_matches = np.ascontiguousarray(link, dtype=np.uint32)
        database.write_matches(i + 1, j + 1, geometry.inlier_matches)
        database.write_two_view_geometry(i + 1, j + 1, geometry)


def _pipeline_options(o: MapperOptions, seed: int) -> Any:
    p = _pycolmap().IncrementalPipelineOptions()
    p.min_num_matches, p.min_model_size, p.init_num_trials = o.min_matches, o.model_size, o.init_trials
    p.ba_refine_focal_length = p.ba_refine_principal_point = p.ba_refine_extra_params = False
    p.extract_colors = False
    p.random_seed, p.num_threads = seed, 1
    m, t = p.mapper, p.triangulation
    m.init_min_num_inliers, m.init_min_tri_angle, m.init_max_error = o.init_min_inliers, o.init_min_angle_deg, o.error_px
    m.abs_pose_min_num_inliers, m.abs_pose_min_inlier_ratio, m.abs_pose_max_error = o.pose_min_inliers, o.pose_min_inlier_ratio, 3 * o.error_px
    m.abs_pose_refine_focal_length = m.abs_pose_refine_extra_params = False
    m.filter_max_reproj_error, m.random_seed, m.num_threads = o.error_px, seed, 1
    t.ignore_two_view_tracks, t.random_seed = False, seed
    t.merge_max_reproj_error = t.complete_max_reproj_error = o.error_px
    return p


def _read(model: Any, views: int) -> MappedPhotos:
    placed, R, t = np.zeros(views, dtype=bool), np.tile(np.eye(3), (views, 1, 1)), np.zeros((views, 3))
    for number in model.reg_image_ids():
        pose = model.image(number).cam_from_world().matrix()
        placed[number - 1], R[number - 1], t[number - 1] = True, pose[:, :3], pose[:, 3]
    return MappedPhotos(placed, R, t, model.num_points3D())
