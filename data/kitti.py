"""KITTI-like folders: photos of a car's camera, scans of its laser scanner, one calibration, perhaps poses.

Geiger et al., Vision meets Robotics: The KITTI Dataset, IJRR 2013, section IV (frames, calibration): a point X of the scanner falls on
the pixel P2 * R0_rect * Tr_velo_to_cam * X. P2 = K [I | b]: the camera stands beside camera 0, which the fourth column says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..recon.capture import Capture
from ..recon.errors import BackendUnavailable, CaptureError
from .assemble import GivenCamera, Shot, assemble, subset_indices
from .axes import cam_from_world_of_projection, centers_at_half, rigid_inverse, rigid_of_scanner
from .files import MASK_FOLDERS, find_mask, list_photos, load_npy, natural_key, read_json, read_text
from .odometry_kiss import odometry
from .protocol import LoadOptions
from .scans.paired import PairedScan, read_paired
from .scans.registry import is_scan

__all__ = ["Calibration", "Kitti", "read_calibration"]

PHOTOS = ("image_02", "image_2")
SCANS = ("velodyne_points", "velodyne")
CALIBRATION = "calib.txt"
MOST_FOLLOWED = 500  # scans: odometry over more takes minutes, which belong into `handful align --odometry`


@dataclass(frozen=True)
class Calibration:
    """K: 3x3 of the photos as stored, pixel centres at +0.5; cam_from_velodyne and cam0_from_velodyne: 4x4 rigid, camera 0 rectified; float64."""

    K: np.ndarray
    cam_from_velodyne: np.ndarray
    cam0_from_velodyne: np.ndarray

    def camera(self, world_from_velodyne: np.ndarray) -> GivenCamera:
        """The camera of a photo taken when the scanner was there."""
        return GivenCamera(self.cam_from_velodyne @ rigid_inverse(world_from_velodyne), self.K[0, 0], self.K[1, 1], self.K[0, 2], self.K[1, 2])


class Kitti:
    """Photos and scans are paired by their stem. The world is that of the poses; the scan of a photo that is left out is left out, too."""

    name = "kitti"

    def recognises(self, path: Path) -> bool:
        path = path.parent if path.name == CALIBRATION and path.is_file() else path
        return path.is_dir() and ((_folder(path, PHOTOS) is not None and _folder(path, SCANS) is not None) or _single(path) is not None)

    def load(self, path: Path, options: LoadOptions) -> Capture:
        path = path if path.is_dir() else path.parent
        single = _single(path)
        if single is not None:
            calibration, poses = _single_calibration(single), {single.stem: np.eye(4)}  # the world is the frame of the one scan
            photos, scans = [p for p in list_photos(path) if p.stem == single.stem], {single.stem: single}
        else:
            photos, scans = _photos(path), _scans(path)
            calibration = read_calibration(path)
            poses = _poses(path, calibration, photos, scans)
        lonely = len(scans.keys() - {p.stem for p in photos})
        photos = [photos[i] for i in subset_indices(len(photos), options.max_photos)]
        notes = [f"{lonely} scans in {path} have no photo and are left out."] if lonely else []
        if not poses:
            poses, said = _followed(path, photos, scans)
            notes.append(said)
            photos = [p for p in photos if p.stem in poses] if poses else photos
        masks = [path / m for m in MASK_FOLDERS]
        shots = [Shot(p.name, p, calibration.camera(poses.get(p.stem, np.eye(4))), find_mask(masks, p.name)) for p in photos]
        capture = assemble(shots, replace(options, max_photos=None), self.name, warnings=notes)
        assert capture.cameras is not None
        focals = capture.cameras.K[:, 0, 0].tolist()
        views = tuple(replace(v, focal_prior_px=f) for v, f in zip(capture.views, focals, strict=True))  # known without poses, too
        return _with_sweeps(replace(capture, views=views, cameras=capture.cameras if poses else None), path, scans, poses)


def _followed(path: Path, photos: list[Path], scans: dict[str, Path]) -> tuple[dict[str, np.ndarray], str]:
    """Poses of the photos that have scans, by odometry over those, and what to tell; no poses where it cannot be had or loses its way."""
    lacks = f"{path} has no poses (poses.txt or poses*.npy)"
    unknown = "the cameras are not known, and each scan stays in its own frame."
    paired = {p.stem: PairedScan(scans[p.stem], p.stem, np.eye(4)) for p in photos if p.stem in scans}
    if not 2 <= len(paired) <= MOST_FOLLOWED:
        return {}, f"{lacks}: {unknown}"
    try:
        followed = odometry(read_paired(list(paired.values()))[0])
    except (BackendUnavailable, CaptureError) as e:
        return {}, f"{lacks}: {unknown} {e}"
    poses = {s.name: s.world_from_sensor.double().numpy() for s in followed}
    left = len(photos) - len(poses)
    note = f" {left} photo{'s' if left > 1 else ''} without a scan that can be read {'are' if left > 1 else 'is'} left out." if left else ""
    return poses, f"{lacks}; they were found by odometry over {len(poses)} scans (KISS-ICP), in the frame of the first.{note}"


def _with_sweeps(capture: Capture, path: Path, scans: dict[str, Path], poses: dict[str, np.ndarray]) -> Capture:
    """Raises CaptureError when there are scans, but none of a photo that can be read: a folder of this format is given for their sake."""
    notes: list[str] = []
    paired: list[PairedScan] = []
    for view in capture.views:
        stem = Path(view.name).stem
        if stem in scans:
            paired.append(PairedScan(scans[stem], scans[stem].relative_to(path).as_posix(), poses[stem] if poses else np.eye(4)))
        else:
            notes.append(f"{view.name} has no scan.")
    sweeps, faults = read_paired(paired)
    if scans and not sweeps:
        raise CaptureError(f"None of the scans in {path} can be used: {faults[-1] if faults else 'no scan has the name of a photo.'}")
    return replace(capture, sweeps=sweeps, warnings=(*capture.warnings, *notes, *faults))


def _folder(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder of that name, or its data/ (KITTI's raw recordings)."""
    return next((f for n in names for f in (root / n, root / n / "data") if f.is_dir() and (list_photos(f) or any(map(is_scan, f.iterdir())))), None)


def _photos(path: Path) -> list[Path]:
    folder = _folder(path, PHOTOS)
    photos = list_photos(folder) if folder is not None else []
    if not photos:
        raise CaptureError(f"{path} holds no photos in {' or '.join(PHOTOS)}.")
    stems = [p.stem for p in photos]
    twin = next((s for s in stems if stems.count(s) > 1), None) if len(set(stems)) < len(stems) else None
    if twin is not None:
        raise CaptureError(f"Two photos in {folder} have the stem {twin}, which names a scan; remove one of them.")
    return photos


def _scans(path: Path) -> dict[str, Path]:
    folder = _folder(path, SCANS)
    if folder is None:
        raise CaptureError(f"{path} holds no scans in {' or '.join(SCANS)}.")
    return {_stem(f): f for f in sorted((f for f in folder.iterdir() if is_scan(f)), key=lambda f: natural_key(f.name))}


def _stem(scan: Path) -> str:
    return scan.name.removesuffix(".pcd.bin") if scan.name.endswith(".pcd.bin") else scan.stem


def read_calibration(path: Path) -> Calibration:
    """From calib.txt (object and odometry data), or calib_cam_to_cam.txt and calib_velo_to_cam.txt in the folder or the one above (raw data).

    Raises CaptureError.
    """
    if (path / CALIBRATION).is_file():
        return _calibration(_numbers(path / CALIBRATION), path / CALIBRATION)
    for folder in (path, path.resolve().parent):
        camera, scanner = folder / "calib_cam_to_cam.txt", folder / "calib_velo_to_cam.txt"
        if camera.is_file() and scanner.is_file():
            table = _numbers(camera)
            R, t = (_matrix(_numbers(scanner), k, shape, scanner) for k, shape in ((("R",), (3, 3)), (("T",), (3, 1))))
            return _calibration({**table, "Tr": np.hstack([R, t]).ravel()}, camera)
    raise CaptureError(f"{path} has no {CALIBRATION} with P2, R0_rect and Tr_velo_to_cam; put it beside the photos.")


def _calibration(table: dict[str, np.ndarray], file: Path) -> Calibration:
    P2 = _matrix(table, ("P2", "P_rect_02"), (3, 4), file)
    rectify = _matrix(table, ("R0_rect", "R_rect", "R_rect_00"), (3, 3), file) if table.keys() & {"R0_rect", "R_rect", "R_rect_00"} else np.eye(3)
    Tr = _matrix(table, ("Tr_velo_to_cam", "Tr_velo_cam", "Tr"), (3, 4), file)
    cam0 = rigid_of_scanner(rectify, np.zeros(3), f"R0_rect in {file}") @ rigid_of_scanner(Tr[:, :3], Tr[:, 3], f"Tr_velo_to_cam in {file}")
    K, cam_from_cam0 = cam_from_world_of_projection(P2, f"P2 in {file}")
    # KITTI's pixels count from 0 at the middle of the first one, as OpenCV's do
    return Calibration(centers_at_half(K), cam_from_cam0 @ cam0, cam0)


def _numbers(file: Path) -> dict[str, np.ndarray]:
    """Lines `key: numbers`; lines of anything else (dates) are left out."""
    table: dict[str, np.ndarray] = {}
    for line in read_text(file).splitlines():
        key, _, values = line.partition(":")
        try:
            table[key.strip()] = np.array([float(v) for v in values.split()])
        except ValueError:
            continue
    return table


def _matrix(table: dict[str, np.ndarray], keys: tuple[str, ...], shape: tuple[int, int], file: Path) -> np.ndarray:
    key = next((k for k in keys if k in table), None)
    if key is None or table[key].size != shape[0] * shape[1]:
        found = "it is not there" if key is None else f"it has {table[key].size}"
        raise CaptureError(f"{file} needs {' or '.join(keys)} with {shape[0] * shape[1]} numbers, but {found}; copy the calibration of this drive.")
    return table[key].reshape(shape)


def _poses(path: Path, calibration: Calibration, photos: list[Path], scans: dict[str, Path]) -> dict[str, np.ndarray]:
    """Stem -> world_from_velodyne; empty where the folder has no poses.

    Files: poses*.npy (N,4,4 world_from_velodyne), or KITTI odometry's text of 12 numbers a line, world_from_cam0 (rectified), as
    poses.txt or in the place the benchmark keeps it, ../../poses/SEQUENCE.txt.
    """
    arrays = sorted(path.glob("poses*.npy"))
    texts = [f for f in (path / "poses.txt", path.resolve().parent.parent / "poses" / f"{path.resolve().name}.txt") if f.is_file()]
    if len(arrays) > 1:
        raise CaptureError(f"{path} has {len(arrays)} files of poses ({arrays[0].name}, {arrays[1].name}); keep the one that is meant.")
    if arrays:
        file, raw = arrays[0], load_npy(arrays[0])
        if raw.ndim != 3 or raw.shape[1:] != (4, 4):
            raise CaptureError(f"{file} has shape {raw.shape}; poses are (N, 4, 4), world_from_velodyne.")
        matrices = list(raw)
    elif texts:
        file = texts[0]
        matrices = [cam @ calibration.cam0_from_velodyne for cam in _pose_lines(file)]
    else:
        return {}
    stems = _posed_stems([p.stem for p in photos], list(scans), len(matrices), file)
    return {stem: rigid_of_scanner(matrices[i][:3, :3], matrices[i][:3, 3], f"{stem} in {file}") for stem, i in stems.items()}


def _pose_lines(file: Path) -> list[np.ndarray]:
    out = []
    for i, line in enumerate(line for line in read_text(file).splitlines() if line.strip()):
        try:
            values = np.array([float(v) for v in line.split()])
        except ValueError as e:
            raise CaptureError(f"{file}: line {i + 1} holds something that is no number.") from e
        if values.size != 12:
            raise CaptureError(f"{file}: line {i + 1} has {values.size} numbers; a pose has 12.")
        out.append(np.vstack([values.reshape(3, 4), [0, 0, 0, 1]]))
    return out


def _posed_stems(photos: list[str], scans: list[str], count: int, file: Path) -> dict[str, int]:
    """Which pose belongs to which photo: one each in order, or one for each scan, or by the photos' numbers in a longer drive."""
    for stems in (photos, scans):
        if len(stems) == count and set(photos) <= set(stems):
            return {s: i for i, s in enumerate(stems)}
    if all(re.fullmatch("[0-9]{1,18}", s) and int(s) < count for s in photos):
        return {s: int(s) for s in photos}
    raise CaptureError(f"{file} has {count} poses for {len(photos)} photos and {len(scans)} scans; it needs one for each photo, or one for each scan.")


def _single(path: Path) -> Path | None:
    """The scan of a folder with one frame: STEM.bin, its photo, and STEM.json or STEM.txt with the calibration."""
    if not path.is_dir():
        return None
    bins = [f for f in path.glob("*.bin") if not f.name.endswith(".pcd.bin")]
    if len(bins) != 1 or not any(p.stem == bins[0].stem for p in list_photos(path)):
        return None
    return bins[0] if any(bins[0].with_suffix(s).is_file() for s in (".json", ".txt")) else None


def _single_calibration(scan: Path) -> Calibration:
    """STEM.json as MMDetection3D keeps the sample (matrices 4x4 under data_list[0]), or STEM.txt as KITTI's object data has it."""
    file = scan.with_suffix(".json")
    if not file.is_file():
        return _calibration(_numbers(scan.with_suffix(".txt")), scan.with_suffix(".txt"))
    try:
        frame = read_json(file)["data_list"][0]
        found = {"P2": frame["images"]["CAM2"]["cam2img"], "R0_rect": frame["images"]["R0_rect"], "Tr_velo_to_cam": frame["lidar_points"]["Tr_velo_to_cam"]}
        square = {k: np.array(v, np.float64).reshape(4, 4) for k, v in found.items()}
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as e:
        raise CaptureError(f"{file} holds no calibration (CAM2's cam2img, R0_rect, Tr_velo_to_cam); get it again.") from e
    return _calibration({k: (m[:3, :3] if k == "R0_rect" else m[:3]).ravel() for k, m in square.items()}, file)
