"""COLMAP models: cameras, images and points3D as .bin or .txt, read and written with our own small code.

Format: COLMAP documentation, "Output Format". Poses are cam_from_world (quaternion wxyz, translation) and pixel centres lie at +0.5,
both as ours. Lens distortion of every documented model is removed when the photos are loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..recon.camera import Cameras
from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError, ShapeError
from ..recon.points import PointCloud
from .assemble import GivenCamera, Shot, assemble
from .atomic import atomic_folder
from .axes import quat_wxyz_of_rotation, rigid, rotation_of_quat_wxyz
from .files import MASK_FOLDERS, find_mask, inside, list_photos, natural_key, read_text
from .protocol import LoadOptions
from .scene_mark import EXTENTS, is_scene_folder
from .undistort import Lens

__all__ = ["COLMAP_MODELS", "Colmap", "ColmapCamera", "ColmapImage", "ColmapModel", "read_model", "write_model"]

# model -> (id, number of parameters, our lens, how many leading parameters are f or fx, fy before cx, cy)
COLMAP_MODELS: dict[str, tuple[int, int, str, int]] = {
    "SIMPLE_PINHOLE": (0, 3, "pinhole", 1),
    "PINHOLE": (1, 4, "pinhole", 2),
    "SIMPLE_RADIAL": (2, 4, "opencv", 1),
    "RADIAL": (3, 5, "opencv", 1),
    "OPENCV": (4, 8, "opencv", 2),
    "OPENCV_FISHEYE": (5, 8, "fisheye", 2),
    "FULL_OPENCV": (6, 12, "opencv", 2),
    "FOV": (7, 5, "fov", 2),
    "SIMPLE_RADIAL_FISHEYE": (8, 4, "fisheye", 1),
    "RADIAL_FISHEYE": (9, 5, "fisheye", 1),
    "THIN_PRISM_FISHEYE": (10, 12, "thin_prism_fisheye", 2),
}
_BY_ID = {m[0]: name for name, m in COLMAP_MODELS.items()}


@dataclass(frozen=True)
class ColmapCamera:
    model: str
    width: int
    height: int
    params: tuple[float, ...]

    def pinhole_and_lens(self) -> tuple[float, float, float, float, Lens]:
        """fx, fy, cx, cy in pixels, and the distortion."""
        _, _, lens, n = COLMAP_MODELS[self.model]
        p = self.params
        return p[0], p[n - 1], p[n], p[n + 1], Lens(lens, p[n + 2 :])


@dataclass(frozen=True)
class ColmapImage:
    name: str
    camera_id: int
    quat_wxyz: tuple[float, float, float, float]
    t: tuple[float, float, float]


@dataclass(frozen=True)
class ColmapModel:
    cameras: dict[int, ColmapCamera]
    images: tuple[ColmapImage, ...]
    points: PointCloud | None


class Colmap:
    """sparse/0 (or sparse/) beside images/. With `downscale` d the folder images_d is taken where it exists."""

    name = "colmap"

    def recognises(self, path: Path) -> bool:
        return find_model(path) is not None

    def load(self, path: Path, options: LoadOptions) -> Capture:
        found = find_model(path)
        if found is None:
            raise CaptureError(f"{path} holds no COLMAP model (cameras and images as .bin or .txt, in sparse/0/).")
        folder, root = found
        model = read_model(folder)
        photos, options = _photo_folder(root, options)
        masks, ours = [root / m for m in MASK_FOLDERS], is_scene_folder(root)
        shots, unplaced = [], []
        for image in sorted(model.images, key=lambda i: natural_key(i.name)):
            file = inside(photos, image.name, folder)
            if not file.is_file():
                unplaced.append(Unplaced(image.name, f"there is no such photo in {photos.name}/"))
                continue
            camera = _given(image, model, folder)
            extent = find_mask([root / EXTENTS], image.name) if ours else None
            shots.append(Shot(image.name, file, camera, find_mask(masks, image.name), extent_file=extent))
        if not shots:
            raise CaptureError(f"None of the {len(model.images)} photos of {folder} is in {photos}; the first is {model.images[0].name}.")
        placed = {i.name for i in model.images}
        unplaced += [Unplaced(p.name, "COLMAP has not placed it") for p in list_photos(photos) if p.name not in placed]
        return assemble(shots, options, self.name, unplaced=unplaced, points=model.points)


def find_model(path: Path) -> tuple[Path, Path] | None:
    """(folder of the model, root of the capture), or None."""

    def has_model(folder: Path) -> bool:
        return any((folder / f"cameras{s}").is_file() and (folder / f"images{s}").is_file() for s in (".bin", ".txt"))

    for sub in ("sparse/0", "sparse", "0", "."):
        if has_model(path / sub):
            inner = sub in ("0", ".")  # the model's own folder was given: the photos are beside sparse/
            root = next((p.parent for p in (path, *path.parents) if inner and p.name == "sparse"), path)
            return path / sub, root
    return None


def _photo_folder(root: Path, options: LoadOptions) -> tuple[Path, LoadOptions]:
    from dataclasses import replace

    if options.downscale:
        reduced = root / f"images_{options.downscale}"
        if reduced.is_dir():
            return reduced, replace(options, downscale=None)
    return next((root / n for n in ("images", "input", "photos") if (root / n).is_dir()), root), options


def _given(image: ColmapImage, model: ColmapModel, folder: Path) -> GivenCamera:
    camera = model.cameras.get(image.camera_id)
    if camera is None:
        raise CaptureError(f"{folder}: the photo {image.name} has camera {image.camera_id}, which is not among the {len(model.cameras)} cameras.")
    what = f"{image.name} in {folder}"
    q = np.array(image.quat_wxyz)
    if not np.isfinite(q).all() or np.linalg.norm(q) < 1e-6:
        raise CaptureError(f"The camera of {what} holds a number that is not finite or a zero quaternion; remove it or calibrate again.")
    fx, fy, cx, cy, lens = camera.pinhole_and_lens()
    return GivenCamera(rigid(rotation_of_quat_wxyz(q), np.array(image.t), what), fx, fy, cx, cy, (camera.width, camera.height), lens)


# -- reading ---------------------------------------------------------------------------------------------------------------------------


def read_model(folder: str | Path) -> ColmapModel:
    """The model in `folder`, binary where there is one. Points without a file are None.

    Raises CaptureError when a file is truncated, promises more than it holds, or names a camera model that is not known.
    """
    folder = Path(folder)
    binary = (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file()
    cameras = _cameras_bin(folder / "cameras.bin") if binary else _cameras_txt(folder / "cameras.txt")
    images = _images_bin(folder / "images.bin") if binary else _images_txt(folder / "images.txt")
    if not images:
        raise CaptureError(f"{folder} holds no placed photo; run COLMAP's mapper again.")
    if len({i.name for i in images}) != len(images):
        raise CaptureError(f"{folder} names a photo twice; each needs a name of its own.")
    points = None
    if (folder / "points3D.bin").is_file():
        points = read_points_bin(folder / "points3D.bin")
    elif (folder / "points3D.txt").is_file():
        points = _points_txt(folder / "points3D.txt")
    return ColmapModel(cameras, tuple(images), points)


class _Cursor:
    """Reads a file front to back and never past its end, whatever its counts claim."""

    def __init__(self, file: Path) -> None:
        self.file, self.at = file, 0
        try:
            self.data = file.read_bytes()
        except OSError as e:
            raise CaptureError(f"{file} cannot be read ({e.strerror or e}).") from e

    def take(self, fmt: str) -> tuple:
        size = struct.calcsize("<" + fmt)
        self.need(size)
        values = struct.unpack_from("<" + fmt, self.data, self.at)
        self.at += size
        return values

    def need(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise CaptureError(f"{self.file} ends in the middle of its data (truncated, or its counts are wrong); get it again.")

    def count(self, least_bytes: int) -> int:
        """A count of records that take at least so many bytes each."""
        (n,) = self.take("Q")
        self.need(n * least_bytes)
        return n

    def skip(self, size: int) -> None:
        self.need(size)
        self.at += size

    def name(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            self.need(len(self.data))
            raise CaptureError(f"{self.file} holds a name without an end; get it again.")
        raw, self.at = self.data[self.at : end], end + 1
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as e:
            raise CaptureError(f"{self.file} holds a name that is no text (broken?); get it again.") from e


def _camera(model: str | None, width: int, height: int, params: Sequence[float], file: Path) -> ColmapCamera:
    if model not in COLMAP_MODELS:
        raise CaptureError(f"{file} has a camera of the unknown model {model}; known are {', '.join(COLMAP_MODELS)}.")
    if not (0 < width < 1 << 20 and 0 < height < 1 << 20):
        raise CaptureError(f"{file} has a camera of {width} x {height} pixels, which cannot be; get it again.")
    if len(params) != COLMAP_MODELS[model][1]:
        raise CaptureError(f"{file} has a {model} camera with {len(params)} parameters; expected {COLMAP_MODELS[model][1]}.")
    if not np.isfinite(params).all():
        raise CaptureError(f"{file} has a {model} camera with a number that is not finite; calibrate again.")
    return ColmapCamera(model, width, height, tuple(params))


def _cameras_bin(file: Path) -> dict[int, ColmapCamera]:
    c, out = _Cursor(file), {}
    for _ in range(c.count(24)):
        number, model_id, width, height = c.take("iiQQ")
        model = _BY_ID.get(model_id)
        params = c.take(f"{COLMAP_MODELS[model][1]}d") if model else ()
        out[number] = _camera(model or f"number {model_id}", width, height, params, file)
    return out


def _images_bin(file: Path) -> list[ColmapImage]:
    c, out = _Cursor(file), []
    for _ in range(c.count(73)):
        _, qw, qx, qy, qz, tx, ty, tz, camera_id = c.take("i7di")
        name = c.name()
        c.skip(24 * c.take("Q")[0])
        out.append(ColmapImage(name, camera_id, (qw, qx, qy, qz), (tx, ty, tz)))
    return out


def read_points_bin(file: Path) -> PointCloud:
    """points3D.bin alone: positions and colours, what is not finite left out. Raises CaptureError."""
    c = _Cursor(file)
    n = c.count(51)
    xyz, rgb = np.zeros((n, 3)), np.zeros((n, 3), np.uint8)
    for i in range(n):
        _, *p, r, g, b, _, track = c.take("Q3d3BdQ")
        xyz[i], rgb[i] = p, (r, g, b)
        c.skip(8 * track)
    return _cloud(xyz, rgb)


def _cloud(xyz: np.ndarray, rgb: np.ndarray) -> PointCloud:
    ok = np.isfinite(xyz).all(axis=1)
    return PointCloud(torch.from_numpy(xyz[ok].astype(np.float32)), torch.from_numpy(rgb[ok].astype(np.float32) / 255))


def _rows(file: Path) -> list[list[str]]:
    """Lines without comments; empty ones are kept, since a photo without points has an empty second line."""
    return [line.split() for line in read_text(file).splitlines() if not line.lstrip().startswith("#")]


def _cameras_txt(file: Path) -> dict[int, ColmapCamera]:
    out = {}
    for row in filter(None, _rows(file)):
        try:
            number, width, height, params = int(row[0]), int(row[2]), int(row[3]), [float(x) for x in row[4:]]
        except (IndexError, ValueError) as e:
            raise CaptureError(f"{file} has a line that is no camera: {' '.join(row)[:60]!r}.") from e
        out[number] = _camera(row[1], width, height, params, file)
    return out


def _images_txt(file: Path) -> list[ColmapImage]:
    out, rows = [], _rows(file)
    at = 0
    while at < len(rows):
        row = rows[at]
        if not row:
            at += 1
            continue
        try:
            q, t, camera_id = [float(x) for x in row[1:5]], [float(x) for x in row[5:8]], int(row[8])
            name = " ".join(row[9:])
            if not name:
                raise ValueError
        except (IndexError, ValueError) as e:
            raise CaptureError(f"{file} has a line that is no photo: {' '.join(row)[:60]!r}.") from e
        out.append(ColmapImage(name, camera_id, (q[0], q[1], q[2], q[3]), (t[0], t[1], t[2])))
        at += 2  # the second line holds the photo's 2D points
    return out


def _points_txt(file: Path) -> PointCloud:
    rows = list(filter(None, _rows(file)))
    try:
        table = np.array([[float(x) for x in row[1:7]] for row in rows], np.float64).reshape(len(rows), 6)
    except ValueError as e:
        raise CaptureError(f"{file} has a line that is no point.") from e
    return _cloud(table[:, :3], np.nan_to_num(table[:, 3:]).clip(0, 255).astype(np.uint8))


# -- writing ---------------------------------------------------------------------------------------------------------------------------


def write_model(folder: str | Path, cameras: Cameras, names: Sequence[str], points: PointCloud | None = None, text: bool = False) -> None:
    """Writes cameras, images and points3D as .bin (or .txt) into `folder`, all or nothing; what was in it is replaced.

    Cameras become PINHOLE, one for all photos when their K agree. Points have no tracks. Raises HandfulError for a disk that cannot
    be written, ShapeError when names and cameras do not fit.
    """
    if len(names) != len(cameras):
        raise ShapeError(f"write_model: {len(names)} names for {len(cameras)} cameras.")
    K = cameras.K.detach().cpu().double().numpy()
    shared = len(K) > 0 and bool((K == K[:1]).all())
    intrinsics = [(k[0, 0], k[1, 1], k[0, 2], k[1, 2]) for k in (K[:1] if shared else K)]
    T = cameras.cam_from_world.detach().cpu().double().numpy()
    poses = [(*quat_wxyz_of_rotation(t[:3, :3]), *t[:3, 3]) for t in T]
    camera_ids = [1 if shared else i + 1 for i in range(len(names))]
    xyz, rgb = _finite_points(points)
    with atomic_folder(folder) as out:
        if text:
            _write_txt(out, cameras, intrinsics, poses, camera_ids, names, xyz, rgb)
        else:
            _write_bin(out, cameras, intrinsics, poses, camera_ids, names, xyz, rgb)


def _finite_points(points: PointCloud | None) -> tuple[np.ndarray, np.ndarray]:
    if points is None:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    xyz = points.xyz.detach().cpu().double().numpy()
    rgb = np.full(xyz.shape, 128, np.uint8)
    if points.rgb is not None:
        rgb = (points.rgb.detach().cpu().nan_to_num().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    ok = np.isfinite(xyz).all(axis=1)
    return xyz[ok], rgb[ok]


def _write_bin(out: Path, cameras: Cameras, intrinsics, poses, camera_ids, names: Sequence[str], xyz: np.ndarray, rgb: np.ndarray) -> None:
    parts = [struct.pack("<Q", len(intrinsics))]
    parts += [struct.pack("<iiQQ4d", i + 1, 1, cameras.width, cameras.height, *k) for i, k in enumerate(intrinsics)]
    (out / "cameras.bin").write_bytes(b"".join(parts))
    parts = [struct.pack("<Q", len(names))]
    for i, (pose, camera_id, name) in enumerate(zip(poses, camera_ids, names, strict=True)):
        parts.append(struct.pack("<i7di", i + 1, *pose, camera_id) + name.encode() + b"\0" + struct.pack("<Q", 0))
    (out / "images.bin").write_bytes(b"".join(parts))
    record = np.dtype([("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
    table = np.zeros(len(xyz), record)
    table["id"], table["xyz"], table["rgb"] = np.arange(1, len(xyz) + 1), xyz, rgb
    (out / "points3D.bin").write_bytes(struct.pack("<Q", len(xyz)) + table.tobytes())


def _write_txt(out: Path, cameras: Cameras, intrinsics, poses, camera_ids, names: Sequence[str], xyz: np.ndarray, rgb: np.ndarray) -> None:
    def numbers(values) -> str:
        return " ".join(repr(float(v)) for v in values)

    lines = [f"{i + 1} PINHOLE {cameras.width} {cameras.height} {numbers(k)}\n" for i, k in enumerate(intrinsics)]
    (out / "cameras.txt").write_text("# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]\n" + "".join(lines))
    rows = zip(poses, camera_ids, names, strict=True)
    lines = [f"{i + 1} {numbers(pose)} {camera_id} {name}\n\n" for i, (pose, camera_id, name) in enumerate(rows)]
    (out / "images.txt").write_text("# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME\n# POINTS2D[]\n" + "".join(lines))
    lines = [f"{i + 1} {numbers(p)} {c[0]} {c[1]} {c[2]} 0\n" for i, (p, c) in enumerate(zip(xyz, rgb, strict=True))]
    (out / "points3D.txt").write_text("# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[]\n" + "".join(lines))
