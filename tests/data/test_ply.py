"""PLY and the compact splat formats: round trips, other people's decoders, and headers that lie."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.export import EXPORTERS, export_scene
from handful.data.ply import read_gaussians, read_points, write_gaussians, write_points
from handful.data.ply_file import read_vertices
from handful.data.splat_file import read_splat, write_splat
from handful.data.spz import read_spz, write_spz
from handful.recon.camera import Cameras
from handful.recon.errors import CaptureError, ConfigError
from handful.recon.gaussians import Gaussians
from handful.recon.points import PointCloud
from handful.recon.sh import sh_dc_from_rgb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOLDEN = Path(__file__).parent.parent / "golden" / "spz_niantic.json"


def some_gaussians(n: int = 50, degree: int = 3) -> Gaussians:
    g = torch.Generator().manual_seed(degree)
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=1)
    sh = (torch.randn(n, (degree + 1) ** 2, 3, generator=g) * 0.3).clamp(-0.9, 0.9)
    return Gaussians(torch.randn(n, 3, generator=g) * 3, quats, torch.randn(n, 3, generator=g) - 3, torch.randn(n, generator=g), sh)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_gaussians_round_trip_exactly(tmp_path, degree):
    g = some_gaussians(degree=degree)
    write_gaussians(tmp_path / "g.ply", g)
    back = read_gaussians(tmp_path / "g.ply")
    for field in ("means", "log_scales", "logit_opacities", "sh"):
        assert torch.equal(getattr(back, field), getattr(g, field)), field
    assert torch.allclose(back.quats_wxyz, g.quats_wxyz, atol=1e-6) and back.sh_degree == degree


def test_layout_is_that_of_3dgs(tmp_path):
    """Read by hand: property order, channel-major f_rest, logit, log, wxyz."""
    g = some_gaussians(3)
    write_gaussians(tmp_path / "g.ply", g)
    data = (tmp_path / "g.ply").read_bytes()
    header, body = data.split(b"end_header\n", 1)
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"] and "element vertex 3" in lines
    names = [line.split()[2] for line in lines if line.startswith("property float ")]
    want = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(45))]
    assert names == [*want, "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    row = np.frombuffer(body, "<f4").reshape(3, 62)[1]
    assert np.array_equal(row[:6], [*g.means[1].tolist(), 0, 0, 0]) and np.array_equal(row[6:9], g.sh[1, 0].numpy())
    assert np.array_equal(row[9:24], g.sh[1, 1:, 0].numpy()) and np.array_equal(row[24:39], g.sh[1, 1:, 1].numpy())
    assert row[54] == g.logit_opacities[1] and np.array_equal(row[55:58], g.log_scales[1].numpy())
    assert np.allclose(row[58:], g.quats_wxyz[1].numpy(), atol=1e-6)


def test_what_viewers_cannot_take_is_left_out(tmp_path):
    g = some_gaussians(4, 0)
    means, quats = g.means.clone(), g.quats_wxyz.clone()
    means[1, 0], quats[2] = float("inf"), 0.0
    write_gaussians(tmp_path / "g.ply", Gaussians(means, quats * 7, g.log_scales, g.logit_opacities, g.sh))
    back = read_gaussians(tmp_path / "g.ply")
    assert len(back) == 3 and torch.equal(back.means, means[[0, 2, 3]])
    assert torch.allclose(back.quats_wxyz.norm(dim=1), torch.ones(3)) and back.quats_wxyz[1].tolist() == [1, 0, 0, 0]


def test_no_gaussians_at_all(tmp_path):
    empty = some_gaussians(3)[torch.zeros(3, dtype=torch.bool)]
    for name, read in (("g.ply", read_gaussians), ("g.splat", read_splat), ("g.spz", read_spz)):
        export_scene(tmp_path / name, empty)
        assert len(read(tmp_path / name)) == 0


def test_points_round_trip(tmp_path):
    torch.manual_seed(0)
    points = PointCloud(torch.randn(30, 3), torch.rand(30, 3))
    write_points(tmp_path / "p.ply", points)
    back = read_points(tmp_path / "p.ply")
    assert points.rgb is not None and back.rgb is not None
    assert torch.equal(back.xyz, points.xyz) and (back.rgb - points.rgb).abs().max() <= 0.5 / 255 + 1e-6
    write_points(tmp_path / "q.ply", PointCloud(points.xyz))
    assert read_points(tmp_path / "q.ply").rgb is None and read_points(tmp_path / "q.ply").normals is None
    normals = torch.nn.functional.normalize(torch.randn(30, 3), dim=1)
    write_points(tmp_path / "n.ply", PointCloud(points.xyz, points.rgb, normals=normals))
    back = read_points(tmp_path / "n.ply")
    assert back.normals is not None and back.rgb is not None and torch.equal(back.normals, normals) and torch.equal(back.xyz, points.xyz)
    assert (back.rgb - points.rgb).abs().max() <= 0.5 / 255 + 1e-6
    with pytest.raises(CaptureError, match="no Gaussian splats"):
        read_gaussians(tmp_path / "p.ply")


HEADER = "ply\nformat {f} 1.0\ncomment x\nelement vertex 2\nproperty double x\nproperty float y\nproperty short z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n"


def test_other_layouts_of_points(tmp_path):
    rows = [(1.5, -2.0, 3, 255, 0, 51), (0.25, 1e3, -7, 0, 255, 102)]
    for name, mark, order in (("binary_little_endian", "<", "<dfhBBB"), ("binary_big_endian", ">", ">dfhBBB")):
        path = tmp_path / f"{name}.ply"
        path.write_bytes(HEADER.format(f=name).encode() + b"".join(struct.pack(order, *r) for r in rows) + struct.pack(mark + "B3i", 3, 0, 1, 0))
        p = read_points(path)
        assert p.xyz.tolist() == [[1.5, -2, 3], [0.25, 1000, -7]] and p.rgb is not None and torch.allclose(p.rgb[0], torch.tensor([1, 0, 0.2]))
    path = tmp_path / "ascii.ply"
    path.write_text(HEADER.format(f="ascii") + "\n".join(" ".join(map(str, r)) for r in rows) + "\n3 0 1 0\n")
    assert read_points(path).xyz.tolist() == [[1.5, -2, 3], [0.25, 1000, -7]]
    windows = tmp_path / "crlf.ply"
    windows.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_points(windows).xyz.tolist() == [[1.5, -2, 3], [0.25, 1000, -7]]


def ply(header: str, body: bytes = b"") -> bytes:
    return ("ply\n" + header + "end_header\n").encode() + body


XYZ = "property float x\nproperty float y\nproperty float z\n"
LIES = {
    "not a ply": b"hello",
    "empty": b"",
    "no end": b"ply\nformat ascii 1.0\n" + b"comment x\n" * 10,
    "endless header": b"ply\n" + b"comment " + b"x" * 100_000,
    "more than there is": ply("format binary_little_endian 1.0\nelement vertex 1000000\n" + XYZ, b"\0" * 24),
    "a count beyond reason": ply("format binary_little_endian 1.0\nelement vertex 99999999999999999999\n" + XYZ),
    "negative count": ply("format binary_little_endian 1.0\nelement vertex -1\n" + XYZ),
    "no format": ply("element vertex 1\n" + XYZ, b"\0" * 12),
    "unknown format": ply("format morse 1.0\nelement vertex 1\n" + XYZ),
    "unknown type": ply("format ascii 1.0\nelement vertex 1\nproperty banana x\n"),
    "property of nothing": ply("format ascii 1.0\nproperty float x\n"),
    "twice the same": ply("format ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\n"),
    "no vertices": ply("format ascii 1.0\nelement face 0\nproperty float x\n"),
    "no properties": ply("format binary_little_endian 1.0\nelement vertex 5\n", b"12345"),
    "lists": ply("format ascii 1.0\nelement vertex 1\nproperty list uchar int x\n", b"1 1\n"),
    "short ascii": ply("format ascii 1.0\nelement vertex 3\n" + XYZ, b"1 2 3\n4 5 6\n"),
    "words in ascii": ply("format ascii 1.0\nelement vertex 1\n" + XYZ, b"one two three\n"),
    "ragged ascii": ply("format ascii 1.0\nelement vertex 2\n" + XYZ, b"1 2 3\n4 5\n"),
    "no z": ply("format ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n", b"1 2\n"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers(tmp_path, lie):
    path = tmp_path / "x.ply"
    path.write_bytes(LIES[lie])
    for read in (read_points, read_gaussians):
        with pytest.raises(CaptureError) as e:
            read(path)
        assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_odd_gaussian_files(tmp_path):
    g = some_gaussians(2, 1)
    write_gaussians(tmp_path / "g.ply", g)
    data = (tmp_path / "g.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"f_rest_8", b"f_rest_9"))
    with pytest.raises(CaptureError, match="f_rest"):
        read_gaussians(tmp_path / "a.ply")
    (tmp_path / "b.ply").write_bytes(ply("format binary_little_endian 1.0\nelement vertex 1\nproperty uint packed_position\n", b"\0" * 4))
    with pytest.raises(CaptureError, match="compressed PLY"):
        read_gaussians(tmp_path / "b.ply")
    with pytest.raises(CaptureError, match="cannot be read"):
        read_gaussians(tmp_path / "nowhere.ply")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_never_another_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    kind = data.draw(st.sampled_from(["g.ply", "a.ply", "g.spz", "g.splat"]))
    path = folder / kind
    if kind == "a.ply":
        content = bytearray(HEADER.format(f="ascii").encode() + b"1 2 3 4 5 6\n7 8 9 10 11 12\n3 0 1 0\n")
    else:
        export_scene(path, some_gaussians(4, 1))
        content = bytearray(gzip.decompress(path.read_bytes()) if kind == "g.spz" else path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    path.write_bytes(gzip.compress(content) if kind == "g.spz" else content)
    read = {"g.ply": read_gaussians, "a.ply": read_points, "g.spz": read_spz, "g.splat": read_splat}[kind]
    try:
        read(path)
    except CaptureError as e:
        assert str(path) in str(e)


# -- spz and splat ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spz_round_trip_within_its_precision(tmp_path, version, degree):
    g = some_gaussians(200, degree)
    write_spz(tmp_path / "g.spz", g, version=version)
    back = read_spz(tmp_path / "g.spz")
    assert len(back) == 200 and back.sh_degree == degree
    assert (back.means - g.means).abs().max() < 2e-6
    assert (back.log_scales - g.log_scales).abs().max() <= 1 / 32 + 1e-6
    assert (back.opacities - g.opacities).abs().max() <= 0.5 / 255 + 1e-6
    assert (back.sh[:, 0] - g.sh[:, 0]).abs().max() <= 0.5 / (255 * 0.15) + 1e-6
    turn = (torch.nn.functional.normalize(back.quats_wxyz, dim=1) * g.quats_wxyz).sum(1).abs().clamp(max=1).arccos().mul(2).rad2deg()
    assert turn.max() < (12.0 if version == 2 else 0.4) and turn.median() < (2.0 if version == 2 else 0.2)
    if degree:
        assert (back.sh[:, 1:] - g.sh[:, 1:]).abs().max() <= 9 / 128


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_spz_as_niantics_decoder_reads_it(tmp_path, version):
    golden = json.loads(GOLDEN.read_text())[version]
    (tmp_path / "g.spz").write_bytes(base64.b64decode(golden["file_base64"]))
    g = read_spz(tmp_path / "g.spz")
    theirs = {k: torch.tensor(v) for k, v in golden.items() if k != "file_base64"}
    assert torch.allclose(g.means, theirs["positions"].reshape(-1, 3), atol=1e-5)
    assert torch.allclose(g.scales, theirs["scales"].reshape(-1, 3), atol=1e-5)
    assert torch.allclose(g.opacities, theirs["alphas"], atol=1e-5)
    assert torch.allclose(g.sh[:, 0] + 0.5, theirs["colors"].reshape(-1, 3), atol=1e-5)
    assert torch.allclose(g.sh[:, 1:], theirs["sh"].reshape(-1, 15, 3), atol=1e-5)
    xyzw = theirs["rotations"].reshape(-1, 4)
    assert ((g.quats_wxyz * xyzw[:, [3, 0, 1, 2]]).sum(1).abs() - 1).abs().max() < 1e-4


def test_spz_turns_the_scene_and_nothing_else(tmp_path):
    """Its axes differ by 180 degrees about x: a colour seen along d in our scene is seen along (x, -y, -z) in the file's."""
    from handful.data.splat_rows import half_turn
    from handful.recon.sh import sh_basis

    g = some_gaussians(20)
    torch.manual_seed(0)
    d = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    for axis, turn in ((0, [1.0, -1, -1]), (2, [-1.0, -1, 1])):  # of spz, of glTF
        ours = (sh_basis(d, 3)[:, :, None] * g.sh).sum(1)
        theirs = (sh_basis(d * torch.tensor(turn), 3)[:, :, None] * half_turn(g, axis).sh).sum(1)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_spz_that_lies(tmp_path):
    path = tmp_path / "g.spz"

    def refuse(data: bytes, words: str) -> None:
        path.write_bytes(data)
        with pytest.raises(CaptureError, match=words):
            read_spz(path)

    write_spz(path, some_gaussians(10, 0))
    raw = gzip.decompress(path.read_bytes())
    refuse(b"hello", "no .spz file")
    refuse(gzip.compress(b"short"), "truncated in its header")
    refuse(gzip.compress(b"NOPE" + raw[4:]), "no .spz file that can be read")
    refuse(gzip.compress(raw[:8] + struct.pack("<I", 100_000_000) + raw[12:]), "header promises")
    refuse(gzip.compress(raw[:-3]), "header promises")
    refuse(gzip.compress(raw)[:60], "broken|header promises|truncated")
    refuse(gzip.compress(raw[:4] + struct.pack("<I", 9) + raw[8:]), "version 9")
    with pytest.raises(ConfigError):
        write_spz(path, some_gaussians(2), version=1)


def test_splat_round_trip(tmp_path):
    g = some_gaussians(40)
    write_splat(tmp_path / "g.splat", g)
    assert (tmp_path / "g.splat").stat().st_size == 40 * 32
    back = read_splat(tmp_path / "g.splat")
    seen = back.log_scales.sum(1).exp() * back.opacities
    assert (seen[:-1] >= seen[1:] * 0.98).all()  # the most visible first
    order = torch.cdist(back.means, g.means).argmin(1)
    assert sorted(order.tolist()) == list(range(40)) and torch.equal(back.means, g.means[order])
    assert torch.allclose(back.scales, g.scales[order], rtol=1e-5) and (back.opacities - g.opacities[order]).abs().max() < 0.003
    (tmp_path / "bad.splat").write_bytes(b"x" * 33)
    one = Gaussians(
        torch.tensor([[1.0, 2, 3]]), torch.tensor([[1.0, 0.5, -0.5, -1.0]]) / 2.5**0.5, torch.tensor([[0.1, 0.2, 0.3]]).log(), torch.zeros(1), torch.zeros(1, 1, 3)
    )
    one.sh[0, 0] = sh_dc_from_rgb(torch.tensor([1.0, 0.5, 0.0]))
    write_splat(tmp_path / "one.splat", one)
    record = struct.unpack("<6f8B", (tmp_path / "one.splat").read_bytes())
    assert record[:6] == pytest.approx((1, 2, 3, 0.1, 0.2, 0.3)) and record[6:10] == (255, 128, 0, 128), "place, sizes, red, green, blue, opacity"
    assert record[10:] == pytest.approx([128 + 128 * q / 2.5**0.5 for q in (1, 0.5, -0.5, -1)], abs=0.5), "w first"
    with pytest.raises(CaptureError, match="multiple of 32"):
        read_splat(tmp_path / "bad.splat")


def test_exports_by_ending_and_name(tmp_path):
    g = some_gaussians(5)
    K = torch.tensor([[80.0, 0, 48], [0, 80, 32], [0, 0, 1]]).repeat(2, 1, 1)
    cameras = Cameras(torch.eye(4).repeat(2, 1, 1), K, 96, 64)
    for name in ("a.ply", "b.SPLAT", "c.spz", "d.json"):
        assert export_scene(tmp_path / name, g, cameras, ("x.jpg", "y.jpg")).is_file()
    export_scene(tmp_path / "model", g, cameras, ("x.jpg", "y.jpg"), "colmap")
    assert (tmp_path / "model" / "sparse" / "0" / "points3D.bin").is_file()
    assert json.loads((tmp_path / "d.json").read_text())["frames"][0]["file_path"] == "images/x.jpg"
    with pytest.raises(ConfigError, match="names no format"):
        export_scene(tmp_path / "e.xyz", g)
    with pytest.raises(ConfigError, match="choose one of"):
        export_scene(tmp_path / "e.ply", g, format="banana")
    with pytest.raises(ConfigError, match="no cameras"):
        export_scene(tmp_path / "f.json", g)
    assert all(EXPORTERS.values())
    assert read_vertices(tmp_path / "a.ply").shape == (5,)
