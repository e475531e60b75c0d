"""Phones with range sensors: a wall, seen by each format's own files, must come out where it stands."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from handful.data.axes import quat_wxyz_of_rotation
from handful.data.ffmpeg import ffmpeg_exe
from handful.data.phone_depth import trust_of_levels
from handful.data.protocol import LoadOptions
from handful.data.registry import load_capture
from handful.recon.capture import Capture
from handful.recon.errors import CaptureError
from PIL import Image

from ...golden.make_lzfse import FILE, depth_frame

W, H = 128, 96
FX, FY, CX, CY = 100.0, 101.0, 63.0, 49.0  # of the photo, from the corner of its first pixel
STEP = 4  # depth has a quarter of the photo's pixels a side
WALL = -3.0  # the world's z of the wall; y is up
N = 5


@dataclass(frozen=True)
class Phone:
    """world_from_cam: ARKit's (x right, y up, z backwards); depth in metres and levels 0, 1, 2 of each frame, h,w."""

    world_from_cam: list[np.ndarray]
    depth: list[np.ndarray]
    levels: np.ndarray

    def photo(self, i: int) -> Image.Image:
        """Each frame has a colour of its own, and stripes, so that it is sharp."""
        a = np.full((H, W, 3), 40 * i + 20, np.uint8)
        a[:, ::8] = 255 - 40 * i
        return Image.fromarray(a)


@pytest.fixture
def phone() -> Phone:
    poses, depths = [], []
    v, u = (np.mgrid[: H // STEP, : W // STEP] + 0.5) * STEP
    rays = np.stack([(u - CX) / FX, -(v - CY) / FY, -np.ones_like(u)], axis=-1)  # y up, z backwards
    for i in range(N):
        R = cv2.Rodrigues(np.array([0.05 * i - 0.1, 0.2 - 0.07 * i, 0.03 * i]))[0]
        c = np.array([0.3 * i - 0.5, 0.1 * i, 2.4 if i == N - 1 else 0.1 * i])  # the last stands more than five metres away
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, c
        poses.append(T)
        depths.append((WALL - c[2]) / (rays @ R.T)[..., 2])
    levels = np.repeat(np.arange(3, dtype=np.uint8), [10, 10, 12])[None].repeat(H // STEP, axis=0)
    return Phone(poses, depths, levels)


def millimetres(depth: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(depth * 1000).astype(np.uint16))


def polycam(phone: Phone, root: Path, kind: str = "corrected_") -> Path:
    for name in (f"{kind}images", f"{kind}cameras", "depth", "confidence"):
        (root / "keyframes" / name).mkdir(parents=True, exist_ok=True)
    for i, T in enumerate(phone.world_from_cam):
        stem = str(1_000_000 + i)
        phone.photo(i).save(root / "keyframes" / f"{kind}images" / f"{stem}.jpg", quality=95)
        camera = {f"t_{r}{c}": T[r, c] for r in range(3) for c in range(4)} | {"fx": FX, "fy": FY, "cx": CX, "cy": CY, "width": W, "height": H, "blur_score": 100.0}
        (root / "keyframes" / f"{kind}cameras" / f"{stem}.json").write_text(json.dumps(camera))
        millimetres(phone.depth[i]).save(root / "keyframes" / "depth" / f"{stem}.png")
        Image.fromarray(np.array([0, 127, 255], np.uint8)[phone.levels]).save(root / "keyframes" / "confidence" / f"{stem}.png")
    return root


def metadata(phone: Phone) -> dict[str, object]:
    quaternions = [np.roll(quat_wxyz_of_rotation(T[:3, :3]), -1) for T in phone.world_from_cam]
    poses = [[*q.tolist(), *T[:3, 3].tolist()] for q, T in zip(quaternions, phone.world_from_cam, strict=True)]
    return {"w": W, "h": H, "dw": W // STEP, "dh": H // STEP, "K": [FX, 0, 0, 0, FY, 0, CX, CY, 1], "fps": 60, "poses": poses}


def raw_lzfse(data: bytes) -> bytes:
    return b"bvx-" + len(data).to_bytes(4, "little") + data + b"bvx$"


def record3d_files(phone: Phone) -> dict[str, bytes]:
    files = {"metadata": json.dumps(metadata(phone)).encode(), "icon": b"", "sound.m4a": b""}
    for i in range(N):
        buffer = io.BytesIO()
        phone.photo(i).save(buffer, "JPEG", quality=95)
        files[f"rgbd/{i}.jpg"] = buffer.getvalue()
        files[f"rgbd/{i}.depth"] = raw_lzfse(phone.depth[i].astype("<f4").tobytes())
        files[f"rgbd/{i}.conf"] = raw_lzfse(phone.levels.tobytes()) if i else phone.levels.tobytes()  # bare bytes are read, too
    return files


def record3d(phone: Phone, root: Path, change: dict[str, bytes | None] | None = None) -> Path:
    with zipfile.ZipFile(root / "room.r3d", "w") as z:
        for name, data in (record3d_files(phone) | (change or {})).items():
            if data is not None:
                z.writestr(name, data)
    return root / "room.r3d"


def record3d_folder(phone: Phone, root: Path) -> Path:
    (root / "room" / "rgbd").mkdir(parents=True)
    for name, data in record3d_files(phone).items():
        (root / "room" / name).write_bytes(data)
    return root / "room"


def stray(phone: Phone, root: Path, own: bool = False) -> Path:
    for name in ("depth", "confidence"):
        (root / name).mkdir(parents=True)
    stream = b"".join(np.asarray(phone.photo(i)).tobytes() for i in range(N))
    arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{W}x{H}", "-r", "10", "-i", "-", "-c:v", "libx264", "-qp", "4", "-pix_fmt", "yuv444p"]
    subprocess.run([ffmpeg_exe(), "-v", "error", *arguments, str(root / "rgb.mp4")], input=stream, check=True)
    lines = ["timestamp, frame, x, y, z, qx, qy, qz, qw" + (", fx, fy, cx, cy" if own else "")]
    for i, T in enumerate(phone.world_from_cam):
        w, x, y, z = quat_wxyz_of_rotation(T[:3, :3] @ np.diag([1.0, -1, -1]))  # the app's half turn about x
        K = f", {FX}, {FY}, {CX}, {CY}" if own else ""
        lines.append(f"{i / 10}, {i:06d}, {', '.join(map(str, T[:3, 3]))}, {x}, {y}, {z}, {w}{K}")
        millimetres(phone.depth[i]).save(root / "depth" / f"{i:06d}.png")
        Image.fromarray(phone.levels).save(root / "confidence" / f"{i:06d}.png")
    (root / "odometry.csv").write_text("\n".join(lines) + "\n")
    if not own:
        (root / "camera_matrix.csv").write_text(f"{FX}, 0.0, {CX}\n0.0, {FY}, {CY}\n0.0, 0.0, 1.0\n")
    return root


def scanner_app(phone: Phone, root: Path) -> Path:
    for i, T in enumerate(phone.world_from_cam):
        phone.photo(i).save(root / f"frame_{i:05d}.jpg", quality=95)
        frame = {"cameraPoseARFrame": T.ravel().tolist(), "intrinsics": [FX, 0, CX, 0, FY, CY, 0, 0, 1], "frame_index": i}
        (root / f"frame_{i:05d}.json").write_text(json.dumps(frame))
        millimetres(phone.depth[i]).save(root / f"depth_{i:05d}.png")
        Image.fromarray(phone.levels).save(root / f"conf_{i:05d}.png")
    (root / "frame_99999.json").write_text("{}")  # the app keeps more poses than photos
    return root


def arkitscenes(phone: Phone, root: Path) -> Path:
    frames = root / "41069021_frames"
    lines = []
    for i, T in enumerate(phone.world_from_cam):
        stem = f"41069021_{100 + i / 10:.3f}"
        for name, image in (("lowres_wide", phone.photo(i)), ("lowres_depth", millimetres(phone.depth[i])), ("confidence", Image.fromarray(phone.levels))):
            (frames / name).mkdir(parents=True, exist_ok=True)
            image.save(frames / name / f"{stem}.png")
        (frames / "lowres_wide_intrinsics").mkdir(exist_ok=True)
        late = 0.001 if i == 1 else 0
        (frames / "lowres_wide_intrinsics" / f"41069021_{100 + i / 10 + late:.3f}.pincam").write_text(f"{W} {H} {FX} {FY} {CX} {CY}")
        for late in (-0.02, 0.03):  # the phone moves through its pose at two metres and one radian a second, and no pose is of a photo's time
            moved = T.copy()
            moved[:3, :3] = T[:3, :3] @ cv2.Rodrigues(late * np.array([0.6, 0.0, 0.8]))[0]
            moved[:3, 3] += late * np.array([1.2, 1.6, 0])
            cam_from_world = np.linalg.inv(moved @ np.diag([1.0, -1, -1, 1]))
            turn = cv2.Rodrigues(cam_from_world[:3, :3])[0].ravel()
            lines.append(" ".join(map(str, [100 + i / 10 + late, *turn, *cam_from_world[:3, 3]])))
    (frames / "lowres_wide.traj").write_text("\n".join(lines) + "\n")
    target = root.parent / "41069021"
    root.rename(target)
    return target


MAKERS: dict[str, Callable[[Phone, Path], Path]] = {
    "polycam": polycam, "record3d": record3d, "record3d/": record3d_folder, "stray": stray, "stray/own": lambda p, r: stray(p, r, own=True),
    "scannerapp": scanner_app, "arkitscenes": arkitscenes,
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "capture").mkdir()
    return tmp_path / "capture"


def wall(capture: Capture, i: int) -> np.ndarray:
    """World points of view i's sensor depth where it is valid."""
    assert capture.cameras is not None
    d = capture.depth[i]
    assert d is not None and d.kind == "metric"
    K, T = capture.cameras.K[i].double(), capture.cameras.cam_from_world[i].double()
    v, u = torch.meshgrid(torch.arange(d.depth.shape[0]) + 0.5, torch.arange(d.depth.shape[1]) + 0.5, indexing="ij")
    z = d.depth.double()
    cam = torch.stack([(u - K[0, 2]) / K[0, 0] * z, (v - K[1, 2]) / K[1, 1] * z, z], dim=-1)
    return ((cam - T[:3, 3]) @ T[:3, :3])[d.valid].numpy()


@pytest.mark.parametrize("name", MAKERS)
def test_the_wall_stands_where_it_stands(phone: Phone, place: Path, name: str):
    capture = load_capture(MAKERS[name](phone, place), LoadOptions(max_side=W // STEP))  # photos of the depth's size
    assert capture.source == name.split("/")[0] and len(capture) == len(capture.depth) == N and not capture.warnings
    assert capture.cameras is not None
    for i in range(N):
        centre = np.linalg.inv(capture.cameras.cam_from_world[i].numpy())[:3, 3]
        assert np.abs(centre - phone.world_from_cam[i][:3, 3]).max() < 1e-5
        d = capture.depth[i]
        assert d is not None and d.depth.shape == (H // STEP, W // STEP)
        assert np.abs(d.depth.numpy() - phone.depth[i]).max() < 6e-4
        if i == N - 1:  # beyond five metres: what the sensor wrote is kept, and not trusted
            assert float(d.confidence.max()) == 0 and not bool(d.valid.any())
            continue
        assert np.abs(wall(capture, i)[:, 2] - WALL).max() < 2e-3
        assert np.array_equal(d.confidence.numpy(), phone.levels / 2) and np.array_equal(d.valid.numpy(), phone.levels > 0)
    assert bool((capture.images().mean(dim=(1, 2, 3)).diff() > 0.08).all())  # each photo is brighter than the one before: they keep their poses


@pytest.mark.parametrize("name", MAKERS)
def test_fewer_photos(phone: Phone, place: Path, name: str):
    capture = load_capture(MAKERS[name](phone, place), LoadOptions(max_photos=2))
    assert len(capture) == len(capture.depth) == 2 and capture.cameras is not None and len(capture.cameras) == 2
    assert capture.images().shape[1:3] == (H, W)
    d = capture.depth[0]
    assert d is not None and d.depth.shape == (H, W)
    assert set(np.unique(d.depth.numpy())) <= {x for a in phone.depth for x in np.unique(np.float32(np.round(a * 1000) / np.float32(1000)))} | set(np.float32(phone.depth).ravel())  # nearest, never a blend


@pytest.mark.parametrize("name", [m for m in MAKERS if m not in ("record3d", "stray/own")])
def test_masks_beside_the_photos(phone: Phone, place: Path, name: str):
    root = MAKERS[name](phone, place)
    second = load_capture(root).names[1]
    file = root / "masks" / f"{second}.png"
    file.parent.mkdir(parents=True)
    half = np.zeros((H, W), np.uint8)
    half[:, W // 2 :] = 255
    Image.fromarray(half).save(file)
    masks = load_capture(root).masks()
    assert masks is not None and np.array_equal(masks[1].numpy(), half / 255) and bool((masks[[0, 2]] == 1).all())


def test_levels():
    depth = np.array([[1.0, 4.9, 5.1, 0.0]])
    for levels in ([[2, 1, 2, 2]], [[255, 127, 255, 255]], [[255, 128, 255, 255]]):
        assert trust_of_levels(np.array(levels, np.uint8), depth).tolist() == [[1, 0.5, 0, 0]]
    assert trust_of_levels(np.zeros((1, 4), np.uint8), depth).max() == 0
    assert trust_of_levels(None, depth).tolist() == [[1, 1, 0, 0]]
    with pytest.raises(ValueError, match="4 x 1"):
        trust_of_levels(np.zeros((2, 2), np.uint8), depth)


@pytest.mark.parametrize("without", [("dw", "dh"), ("dw", "dh", "w", "h")])
@pytest.mark.parametrize("upright", [False, True])
def test_a_real_encoders_depth(phone: Phone, place: Path, without, upright):
    """A frame as Apple's encoder packs it, in the size of a phone, where the metadata do not say it: the rows are those of the photo's way up."""
    with np.load(FILE) as z:
        packed = z["depth"].tobytes()
    bare = {k: v for k, v in metadata(phone).items() if k not in without}
    frames: dict[str, bytes | None] = {f"rgbd/{i}.depth": packed for i in range(N)} | {f"rgbd/{i}.conf": None for i in range(N)}
    if upright:
        bare |= {"w": H, "h": W} if "w" in bare else {}
        for i in range(N):
            buffer = io.BytesIO()
            phone.photo(i).transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95)
            frames[f"rgbd/{i}.jpg"] = buffer.getvalue()
    capture = load_capture(record3d(phone, place, {"metadata": json.dumps(bare).encode()} | frames), LoadOptions(max_side=64))
    d = capture.depth[0]
    assert d is not None and not capture.warnings and bool(d.valid.all())
    rows = depth_frame().reshape((256, 192) if upright else (192, 256))[2::4, 2::4]
    assert d.depth.shape == rows.shape and np.isin(d.depth.numpy(), depth_frame()).all()
    assert float((d.depth - torch.from_numpy(rows.copy())).abs().median()) < 0.02  # of the other way up, rows are of a picture that is none


def test_depth_of_another_shape_is_left_out(phone: Phone, place: Path):
    """Stretched over the photo it would lie beside what it measured."""
    root = polycam(phone, place)
    depth = root / "keyframes" / "depth"
    shutil.rmtree(root / "keyframes" / "confidence")
    with Image.open(depth / "1000001.png") as im:
        im.rotate(90, expand=True).save(depth / "1000001.png")
    capture = load_capture(root)
    assert [d is None for d in capture.depth] == [False, True, False, False, False]
    assert [w for w in capture.warnings if "24 x 32 pixels" in w and "128 x 96" in w] == list(capture.warnings)


def test_intrinsics_of_each_frame(phone: Phone, place: Path):
    m = metadata(phone) | {"perFrameIntrinsicCoeffs": [[FX + i, FY, CX, CY] for i in range(N)]}
    capture = load_capture(record3d(phone, place, {"metadata": json.dumps(m).encode()}))
    assert capture.cameras is not None and capture.cameras.K[:, 0, 0].tolist() == pytest.approx([FX + i for i in range(N)])


def test_an_archive_that_climbs_out_and_one_that_swells(phone: Phone, place: Path, monkeypatch):
    from handful.data import record3d as room

    evil: dict[str, bytes | None] = {"../../rgbd/9.jpg": b"x", "/rgbd/8.jpg": b"x", "rgbd/../../7.jpg": b"x"}
    capture = load_capture(record3d(phone, place, evil))
    assert len(capture) == N and sorted(p.name for p in place.parent.rglob("*") if p.is_file()) == ["room.r3d"]
    monkeypatch.setattr(room, "_MOST", 20_000)
    with pytest.raises(CaptureError, match="unpacks to more"):
        load_capture(record3d(phone, place, {"metadata": b" " * 30_000 + b"{}"}))


def test_broken_depth_is_left_out_by_name(phone: Phone, place: Path):
    capture = load_capture(record3d(phone, place, {"rgbd/1.depth": b"bvx2" + bytes(50), "rgbd/2.conf": raw_lzfse(bytes(7)), "rgbd/3.depth": None}))
    assert [d is None for d in capture.depth] == [False, True, True, True, False] and len(capture.warnings) == 2


def test_broken_depth_pictures(phone: Phone, place: Path):
    root = polycam(phone, place)
    depth = root / "keyframes" / "depth"
    (depth / "1000001.png").write_bytes(b"no picture")
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(depth / "1000002.png")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / "keyframes" / "confidence" / "1000003.png")
    capture = load_capture(root)
    assert [d is None for d in capture.depth] == [False, True, True, True, False] and len(capture.warnings) == 3
    assert any("8 bits" in w for w in capture.warnings) and any("10 x 10" in w for w in capture.warnings)


def test_polycam_without_corrected_cameras(phone: Phone, place: Path):
    capture = load_capture(polycam(phone, place, kind=""))
    assert len(capture) == N and any("no corrected cameras" in w for w in capture.warnings)
    polycam(phone, place)  # both are there: the corrected ones count
    assert not load_capture(place / "keyframes").warnings


def write(path: Path, text: str | bytes) -> None:
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def edit_polycam(p: Path) -> None:
    write(p / "keyframes/corrected_cameras/1000001.json", '{"t_00": 1}')


def edit_polycam_pose(p: Path) -> None:
    file = p / "keyframes/corrected_cameras/1000001.json"
    write(file, json.dumps(json.loads(file.read_text()) | {"t_00": 9.0}))


def huge(file: Path, *keys: str) -> None:
    """Numbers that overflow: 1e999, which JSON reads as infinite, and a whole number that no float holds."""
    data = json.loads(file.read_text())
    data |= {k: float("inf") if k in ("width", "w", "dw") else [10**400] * 16 for k in keys}
    write(file, json.dumps(data).replace("Infinity", "1e999"))


@pytest.mark.parametrize(
    ("maker", "harm", "words"),
    [
        ("polycam", lambda p: huge(p / "keyframes/corrected_cameras/1000001.json", "width"), "no Polycam camera"),
        ("record3d/", lambda p: huge(p / "metadata", "w"), "not Record3D's"),
        ("record3d/", lambda p: huge(p / "metadata", "dw"), "not Record3D's"),
        ("record3d/", lambda p: write(p / "metadata", json.dumps(json.loads((p / "metadata").read_text()) | {"perFrameIntrinsicCoeffs": [[10**400] * 4] * N})), "no four numbers"),
        ("scannerapp", lambda p: huge(p / "frame_00001.json", "cameraPoseARFrame"), "cameraPoseARFrame"),
        ("polycam", edit_polycam, "no Polycam camera"),
        ("polycam", edit_polycam_pose, "not a rotation"),
        ("record3d", lambda p: write(p, p.read_bytes()[:200]), "no .r3d file"),
        ("record3d", lambda p: write(p, b"text"), "no .r3d file"),
        ("record3d/", lambda p: write(p / "metadata", "{"), "not Record3D's"),
        ("record3d/", lambda p: write(p / "metadata", '{"K": [1], "poses": []}'), "not Record3D's"),
        ("record3d/", lambda p: write(p / "metadata", json.dumps(json.loads((p / "metadata").read_text()) | {"poses": []})), "not Record3D's"),
        ("stray", lambda p: write(p / "odometry.csv", "a, b\n1, 2\n"), "no odometry of Stray Scanner"),
        ("stray", lambda p: write(p / "odometry.csv", "timestamp, frame, x, y, z, qx, qy, qz, qw\n0, 0, 0, 0, 0, 0, 0, 0, 0\n"), "not finite"),
        ("stray", lambda p: write(p / "odometry.csv", "timestamp, frame, x, y, z, qx, qy, qz, qw\n0, 77, 0, 0, 0, 0, 0, 0, 1\n"), "no pose for any"),
        ("stray", lambda p: (p / "camera_matrix.csv").unlink(), "no camera_matrix.csv"),
        ("stray", lambda p: write(p / "camera_matrix.csv", "1, 2\n"), "3 x 3"),
        ("stray", lambda p: write(p / "rgb.mp4", b"no video"), "no video"),
        ("scannerapp", lambda p: write(p / "frame_00001.json", "{}"), "cameraPoseARFrame"),
        ("arkitscenes", lambda p: write(p / "41069021_frames/lowres_wide.traj", "1 2 3\n"), "7 numbers"),
        ("arkitscenes", lambda p: write(next((p / "41069021_frames/lowres_wide_intrinsics").iterdir()), "1 2\n"), "6 numbers"),
    ],
)
def test_broken_captures_are_one_sentence(phone: Phone, place: Path, maker, harm, words):
    path = MAKERS[maker](phone, place)
    harm(path)
    with pytest.raises(CaptureError, match=words) as e:
        load_capture(path)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(("kept", "placed"), [(range(6), (0, 1, 2)), ((0, 1, 2, 6, 7, 8, 9), (0, 3, 4)), ((9, 8, 7, 6, 5, 4, 3, 2, 1, 0), range(5)), ((0, 0, 1, 1), (0,))])
def test_photos_without_a_pose_are_named(phone: Phone, place: Path, kept, placed):
    """Before and after all poses, and in a gap of 0.2 s, nobody knows where the phone was."""
    root = arkitscenes(phone, place)
    traj = root / "41069021_frames" / "lowres_wide.traj"
    lines = traj.read_text().splitlines()
    traj.write_text("\n".join(lines[i] for i in kept))
    capture = load_capture(root)
    assert list(capture.names) == [f"41069021_{100 + i / 10:.3f}.png" for i in placed]
    assert [u.name for u in capture.unplaced] == [f"41069021_{100 + i / 10:.3f}.png" for i in range(N) if i not in placed]


def test_a_pose_of_the_photos_own_time_needs_no_neighbour(phone: Phone, place: Path):
    root = arkitscenes(phone, place)
    traj = root / "41069021_frames" / "lowres_wide.traj"
    first, *_ = traj.read_text().splitlines()
    at = [" ".join([f"{t}", *first.split()[1:]]) for t in (100.004, 100.196, 100.406)]  # the last is of no photo's time
    traj.write_text("\n".join(at))
    assert load_capture(root).names == ("41069021_100.000.png", "41069021_100.200.png")
