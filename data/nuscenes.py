"""nuScenes-like folders: the tables of v1.0-*/, photos in samples/CAM_*/, scans in samples/LIDAR_TOP/.

Caesar et al., nuScenes, CVPR 2020; nuScenes devkit, docs/schema_nuscenes.md: calibrated_sensor is ego_from_sensor, ego_pose is
global_from_ego at the time of that one record, rotations are quaternions w x y z, cameras have OpenCV's axes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble, subset_indices
from .axes import centers_at_half, rigid_inverse, rigid_of_scanner, rotation_of_quat_wxyz
from .files import MASK_FOLDERS, find_mask, inside, natural_key, read_text
from .protocol import LoadOptions
from .scans.paired import PairedScan, read_paired

__all__ = ["NuScenes"]

SCANNER = "LIDAR_TOP"
TABLES = "v1.0-*"
_MOST = 600_000_000  # bytes of one table: the whole set's fill ten times as much memory
_Row = dict[str, Any]


@dataclass(frozen=True)
class _Record:
    """One file of a sample, of the sensor `channel`. world_from_sensor: 4x4; K: 3x3 of a camera (pixel centres at +0.5), None for a scanner."""

    sample: str
    channel: str
    filename: str
    size: tuple[int, int] | None
    world_from_sensor: np.ndarray
    K: np.ndarray | None

    def photo_name(self, moments: dict[str, str]) -> str:
        return f"samples/{self.channel}/{moments[self.sample]}{Path(self.filename).suffix}"


class NuScenes:
    """The folder with samples/ and v1.0-*/ (or the latter itself); one scene: `LoadOptions.split` names it where there are several.

    All cameras of a key frame are read. Photos are named by their camera and the sample's time (samples/CAM_FRONT/1532402927647951.jpg), which
    is the moment of the sample's scan: the files have a time each. The world is the map's.
    """

    name = "nuscenes"

    def recognises(self, path: Path) -> bool:
        return bool(_tables(path))

    def load(self, path: Path, options: LoadOptions) -> Capture:
        found = _tables(path)
        if not found:
            raise CaptureError(f"{path} holds no {TABLES}/ with sample_data.json beside samples/.")
        if len(found) > 1:
            raise CaptureError(f"{path} has the tables of {len(found)} releases; give the one that is meant: {' or '.join(map(str, found))}.")
        tables, root = found[0], found[0].parent
        moments = _scene_samples(tables, options.split)
        cameras, scans = _records(tables, moments)
        masks = [root / m for m in MASK_FOLDERS]
        unplaced = []
        shots, samples = [], {}
        for record in sorted(cameras, key=lambda r: natural_key(r.photo_name(moments))):
            photo = inside(root, record.filename, tables / "sample_data.json")
            if not photo.is_file():
                unplaced.append(Unplaced(record.filename, "sample_data.json names it, but there is no such file"))
                continue
            K = record.K
            assert K is not None
            camera = GivenCamera(rigid_inverse(record.world_from_sensor), K[0, 0], K[1, 1], K[0, 2], K[1, 2], record.size)
            name = record.photo_name(moments)
            shots.append(Shot(name, photo, camera, find_mask(masks, name) or find_mask(masks, record.filename)))
            samples[name] = record.sample
        shots = [shots[i] for i in subset_indices(len(shots), options.max_photos)]
        capture = assemble(shots, replace(options, max_photos=None), self.name, unplaced=unplaced)
        wanted = {samples[n] for n in capture.names}
        files = {r.filename: inside(root, r.filename, tables / "sample_data.json") for r in scans if r.sample in wanted}
        ordered = sorted((r for r in scans if r.sample in wanted), key=lambda r: natural_key(r.filename))
        sweeps, faults = read_paired(PairedScan(files[r.filename], r.filename, r.world_from_sensor, moments[r.sample]) for r in ordered)
        return replace(capture, sweeps=sweeps, warnings=(*capture.warnings, *faults))


def _tables(path: Path) -> list[Path]:
    """Folders of tables: `path` itself, or its v1.0-*/."""
    if not path.is_dir():
        return []
    found = [path, *sorted(path.glob(TABLES))]
    found = [f for f in found if f.match(TABLES) and (f / "sample_data.json").is_file() and (f.parent / "samples").is_dir()]
    return [path] if path in found else found


def _table(folder: Path, name: str) -> list[_Row]:
    file = folder / f"{name}.json"
    if file.is_file() and file.stat().st_size > _MOST:
        raise CaptureError(f"{file} has {file.stat().st_size / 1e9:.1f} GB, more than the {_MOST / 1e9:g} GB that are read; take v1.0-mini, or write tables of one scene.")
    try:
        rows = json.loads(read_text(file))
    except (ValueError, RecursionError) as e:
        raise CaptureError(f"{file} is not valid JSON ({str(e)[:100]}).") from e
    if not isinstance(rows, list) or not all(isinstance(r, dict) and isinstance(r.get("token"), str) for r in rows):
        raise CaptureError(f"{file} is no table of nuScenes (a list of records, each with its token).")
    return rows


def _scene_samples(tables: Path, scene: str | None) -> dict[str, str]:
    """The samples of the scene that is meant: token -> moment, which is the sample's time, or the token where times are missing or met twice."""
    samples = _table(tables, "sample")
    scenes = _table(tables, "scene") if (tables / "scene.json").is_file() else []
    names = {s["token"]: str(s.get("name", s["token"])) for s in scenes}
    there = dict.fromkeys(str(s.get("scene_token", "")) for s in samples)
    chosen = [t for t in there if scene in (None, names.get(t, t), t)]
    if len(chosen) != 1:
        known = ", ".join(names.get(t, t) for t in list(there)[:5])
        what = f"no scene {scene!r}" if scene is not None else f"{len(there)} scenes"
        raise CaptureError(f"{tables} has {what} ({known}{', ..' if len(there) > 5 else ''}); name the one that is meant (--part NAME of reconstruct and align), or keep one only.")
    meant = [s for s in samples if str(s.get("scene_token", "")) == chosen[0]]
    times = [s.get("timestamp") for s in meant]
    timed = all(isinstance(t, int) for t in times) and len(set(times)) == len(times)
    return {s["token"]: str(s["timestamp"]) if timed else re.sub("[^0-9A-Za-z_-]", "_", s["token"]) for s in meant}


def _records(tables: Path, samples: dict[str, str]) -> tuple[list[_Record], list[_Record]]:
    """Key frames of cameras, and of the scanner on the roof."""
    sensors = {s["token"]: s for s in _table(tables, "sensor")} if (tables / "sensor.json").is_file() else {}
    calibrated = {c["token"]: c for c in _table(tables, "calibrated_sensor")}
    wanted = [d for d in _table(tables, "sample_data") if d.get("sample_token") in samples and d.get("is_key_frame", True)]
    needed = {d.get("ego_pose_token") for d in wanted}
    poses = {p["token"]: p for p in _table(tables, "ego_pose") if p["token"] in needed}
    cameras: list[_Record] = []
    scans: list[_Record] = []
    for d in wanted:
        try:
            sensor = calibrated[d["calibrated_sensor_token"]]
            filename = str(d["filename"])
            channel = str(sensors.get(sensor.get("sensor_token"), {}).get("channel") or Path(filename).parent.name)
            if not channel.startswith("CAM_") and channel != SCANNER:
                continue
            T = _pose(poses[d["ego_pose_token"]], filename) @ _pose(sensor, filename)
            K = centers_at_half(np.array(sensor["camera_intrinsic"], np.float64).reshape(3, 3)) if channel != SCANNER else None
            size = (int(d["width"]), int(d["height"])) if K is not None and d.get("width") and d.get("height") else None
            (scans if K is None else cameras).append(_Record(d["sample_token"], channel, filename, size, T, K))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise CaptureError(f"The record {d['token']} of {tables / 'sample_data.json'} lacks {e}, or what it names does; take the tables of one release.") from e
    if not cameras:
        raise CaptureError(f"{tables} names no photo of a camera in the scene.")
    return cameras, scans


def _pose(row: _Row, what: str) -> np.ndarray:
    values: Iterable[Any] = row["rotation"]
    q = np.array([float(v) for v in values])
    if q.shape != (4,) or not q.any():
        raise ValueError("a rotation of four numbers")
    return rigid_of_scanner(rotation_of_quat_wxyz(q), np.array(row["translation"], np.float64), what)
