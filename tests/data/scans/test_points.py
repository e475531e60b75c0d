"""PLY and PCD: every encoding and type, what the columns mean, and Open3D's files as an outside judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handful.data.scans.lzf import decompress
from handful.data.scans.registry import load_sweeps, read_scan
from handful.recon.errors import CaptureError

from .writers import lzf_compress, pcd_bytes, ply_bytes

N = 200


def table(kind: str = "f4", seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    xyz = rng.normal(size=(N, 3)) * 20
    return {k: xyz[:, i].astype(kind) for i, k in enumerate("xyz")}


@pytest.mark.parametrize("encoding", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_ply_round_trip(tmp_path: Path, encoding, kind):
    rng = np.random.default_rng(1)
    columns = table(kind) | {
        "nx": rng.normal(size=N).astype("f4"),
        "red": rng.integers(0, 256, N).astype("u1"), "green": rng.integers(0, 256, N).astype("u1"), "blue": rng.integers(0, 256, N).astype("u1"),
        "scalar_Intensity": rng.uniform(0, 4000, N).astype("f4"), "confidence": rng.uniform(size=N).astype("f4"),
    }  # fmt: skip
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns, encoding))
    found = read_scan(tmp_path / "a.ply")
    (sweep,) = found.sweeps
    assert found.dropped == 0 and sweep.name == "a.ply" and not sweep.origin_known
    assert np.array_equal(sweep.xyz.numpy(), np.stack([columns[k] for k in "xyz"], 1).astype("f4"))
    assert sweep.rgb is not None and np.allclose(sweep.rgb.numpy() * 255, np.stack([columns[k] for k in ("red", "green", "blue")], 1), atol=1e-4)
    assert np.array_equal(sweep.intensity.numpy(), columns["scalar_Intensity"]) and np.array_equal(sweep.confidence.numpy(), columns["confidence"])
    assert sweep.ring is None and sweep.seconds is None and torch.equal(sweep.world_from_sensor, torch.eye(4))


def test_ply_in_map_coordinates_keeps_millimetres(tmp_path: Path):
    near = np.random.default_rng(0).uniform(-40, 40, (N, 3))
    away = np.array([3_451_234.5, 5_412_345.25, 712.0])
    columns = {k: (near + away)[:, i] for i, k in enumerate("xyz")}
    (tmp_path / "map.ply").write_bytes(ply_bytes(columns))
    (sweep,) = load_sweeps(tmp_path / "map.ply")
    T = sweep.world_from_sensor.double().numpy()
    assert np.array_equal(T[:3, 3], [3_451_000, 5_412_000, 0])
    assert np.abs(sweep.xyz.double().numpy() + T[:3, 3] - near - away).max() < 1e-4  # 0.25 in plain float32
    back = sweep.moved(torch.tensor(np.block([[np.eye(3), -away.round()[:, None]], [np.zeros(3), 1]]), dtype=torch.float32))
    assert np.abs(back.world_xyz.double().numpy() - (near + away - away.round())).max() < 1e-4


def test_ply_viewpoints(tmp_path: Path):
    columns = table()
    each = {f"vp_{a}": np.full(N, v, "f4") for a, v in zip("xyz", (1.0, 2.0, 3.0), strict=True)}
    (tmp_path / "each.ply").write_bytes(ply_bytes(columns | each))
    (sweep,) = load_sweeps(tmp_path / "each.ply")
    assert sweep.origin_known and torch.equal(sweep.world_origins, torch.tensor([[1.0, 2.0, 3.0]]).expand(N, 3))

    fields = [f"view_p{a}" for a in "xyz"] + [f"{a}_axis{b}" for a in "xyz" for b in "xyz"]
    R = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    tail = "element camera 1\n" + "".join(f"property float {f}\n" for f in fields)
    camera = np.r_[4, 5, 6, R.ravel()].astype("<f4").tobytes()
    (tmp_path / "pcl.ply").write_bytes(ply_bytes(columns, tail=tail, body=camera))
    (sweep,) = load_sweeps(tmp_path / "pcl.ply")
    xyz = np.stack([columns[k] for k in "xyz"], 1)
    assert sweep.origin_known and np.allclose(sweep.world_xyz.numpy(), xyz @ R.T + [4, 5, 6], atol=1e-4)
    same = np.r_[0, 0, 0, np.eye(3).ravel()].astype("<f4").tobytes()
    (tmp_path / "plain.ply").write_bytes(ply_bytes(columns, tail=tail, body=same))
    assert not load_sweeps(tmp_path / "plain.ply")[0].origin_known


def test_rows_that_are_no_return_are_dropped_and_counted(tmp_path: Path):
    columns = table() | {"intensity": np.arange(N, dtype="f4")}
    columns["x"][3], columns["y"][5], columns["z"][7] = np.nan, np.inf, 1e30
    for k in "xyz":
        columns[k][10:14] = 0
    for name, data in (("a.ply", ply_bytes(columns)), ("a.pcd", pcd_bytes(columns)), ("b.pcd", pcd_bytes(columns, "ascii"))):
        (tmp_path / name).write_bytes(data)
        found = read_scan(tmp_path / name)
        kept = [i for i in range(N) if i not in (3, 5, 7, 10, 11, 12, 13)]
        assert found.dropped == 7 and found.sweeps[0].intensity.tolist() == kept


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_round_trip(tmp_path: Path, encoding):
    rng = np.random.default_rng(2)
    rgb = rng.integers(0, 256, (N, 3))
    packed = (255 << 24 | rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]).astype("u4")
    columns = table() | {"intensity": np.repeat(rng.uniform(size=N // 4), 4).astype("f4"), "ring": (np.arange(N) % 16).astype("u2"), "rgb": packed, "t": np.arange(N, dtype="u4") * 1000}
    (tmp_path / "a.pcd").write_bytes(pcd_bytes(columns, encoding, "1 2 3 0.7071067811865476 0 0 0.7071067811865476"))
    (sweep,) = load_sweeps(tmp_path / "a.pcd")
    xyz = np.stack([columns[k] for k in "xyz"], 1)
    assert np.array_equal(sweep.xyz.numpy(), xyz) and sweep.origin_known
    assert np.allclose(sweep.world_xyz.numpy(), np.c_[-xyz[:, 1], xyz[:, 0], xyz[:, 2]] + [1, 2, 3], atol=1e-4)  # a quarter turn about z
    assert np.array_equal(np.round(sweep.rgb.numpy() * 255), rgb)
    assert np.array_equal(sweep.intensity.numpy(), columns["intensity"])
    assert np.allclose(sweep.seconds.numpy(), np.arange(N) * 1e-6)  # whole numbers are nanoseconds
    assert sweep.ring.tolist() == (np.arange(N) % 16).tolist()


def test_pcd_colours_in_the_bits_of_a_float(tmp_path: Path):
    rgb = np.array([[255, 128, 1]] * N)
    packed = (rgb[:, 0] << 16 | rgb[:, 1] << 8 | rgb[:, 2]).astype("u4")
    for name, data in (("b.pcd", pcd_bytes(table() | {"rgb": packed.view("f4")})), ("a.pcd", pcd_bytes(table() | {"rgb": packed.view("f4")}, "ascii"))):
        (tmp_path / name).write_bytes(data)
        assert np.array_equal(np.round(load_sweeps(tmp_path / name)[0].rgb.numpy() * 255), rgb), name


def test_what_columns_mean(tmp_path: Path):
    """Levels of ARKit, bytes, and scales of their own; texture coordinates are no times."""
    ones = np.ones(N, "f4")
    for values, largest, smallest in (
        (np.arange(N, dtype="u1") % 3, 1, 0), (np.array([255, 51] * (N // 2), "u1"), 1, 0.2), (np.array([40, 10] * (N // 2), "f4"), 1, 0.25), (ones * 0.5, 0.5, 0.5),
    ):  # fmt: skip
        (tmp_path / "a.ply").write_bytes(ply_bytes(table() | {"confidence": values, "s": ones, "t": ones}))
        (sweep,) = load_sweeps(tmp_path / "a.ply")
        assert sweep.seconds is None and sweep.confidence is not None
        assert (float(sweep.confidence.max()), float(sweep.confidence.min())) == pytest.approx((largest, smallest))
    for rgb, value in ((ones * 0.25, 0.25), (ones * 51, 0.2), (np.full(N, 65535, "u2"), 1), (np.full(N, 51, "u2"), 0.2)):
        (tmp_path / "a.ply").write_bytes(ply_bytes(table() | {"r": rgb, "g": rgb, "b": rgb}))
        assert torch.allclose(load_sweeps(tmp_path / "a.ply")[0].rgb, torch.tensor(float(value)))


def test_rows_without_a_return_have_no_say_in_the_scale(tmp_path: Path):
    columns = table() | {c: np.full(N, 51, "f4") for c in "rgb"} | {"confidence": np.full(N, 10, "f4")}
    columns["confidence"][1] = 40
    for k in ("x", *"rgb", "confidence"):
        columns[k][5], columns[k][6] = np.nan, np.inf
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns))
    (sweep,) = load_sweeps(tmp_path / "a.ply")
    assert len(sweep) == N - 2 and torch.allclose(sweep.rgb, torch.tensor(0.2))
    assert sweep.confidence[:3].tolist() == [0.25, 1, 0.25]


@pytest.mark.parametrize("encoding", ["binary_big_endian", "binary_little_endian"])
@pytest.mark.parametrize("kind", ["f4", "u4"])
def test_packed_colours_of_either_byte_order(tmp_path: Path, encoding: str, kind: str):
    packed = np.full(N, 10 << 16 | 20 << 8 | 30, "u4").view(kind)
    (tmp_path / "a.ply").write_bytes(ply_bytes(table() | {"rgb": packed}, encoding))
    assert torch.allclose(load_sweeps(tmp_path / "a.ply")[0].rgb * 255, torch.tensor([10.0, 20, 30]))


def test_whose_place_is_known(tmp_path: Path):
    for name, data, known in (
        ("merged.pcd", pcd_bytes(table()), False),
        ("rows.pcd", pcd_bytes(table(), size=(N // 4, 4)), True),
        ("rings.pcd", pcd_bytes(table() | {"ring": np.zeros(N, "u1")}), True),
        ("placed.pcd", pcd_bytes(table(), viewpoint="0 0 1 1 0 0 0"), True),
    ):
        (tmp_path / name).write_bytes(data)
        assert load_sweeps(tmp_path / name)[0].origin_known is known, name


def test_splats_are_no_scan(tmp_path: Path):
    columns = table() | {k: np.zeros(N, "f4") for k in ("f_dc_0", "f_dc_1", "f_dc_2", "opacity")}
    (tmp_path / "splats.ply").write_bytes(ply_bytes(columns))
    with pytest.raises(CaptureError, match="Gaussian splats"):
        load_sweeps(tmp_path / "splats.ply")


def test_lzf():
    rng = np.random.default_rng(0)
    for data in (b"", b"a", b"abc" * 400, bytes(5000), rng.integers(0, 256, 3000, dtype=np.uint8).tobytes(), rng.integers(0, 3, 20000, dtype=np.uint8).tobytes()):
        packed = lzf_compress(data)
        assert decompress(packed, len(data)) == data
        for wrong in (len(data) + 1, len(data) + 10**12):
            with pytest.raises(ValueError):
                decompress(packed, wrong)
    assert decompress(bytes([0, 65, 0xE0, 3, 0]), 13) == b"A" * 13  # one literal, then twelve from one byte before
    for broken in (bytes([0x20, 5]), bytes([0xE0, 1]), bytes([0x20]), bytes([4, 1, 2])):
        with pytest.raises(ValueError):
            decompress(broken, 5)


@pytest.mark.parametrize("options", [{"write_ascii": True}, {}, {"compressed": True}])
@pytest.mark.parametrize("ending", ["ply", "pcd"])
def test_reads_what_open3d_writes(tmp_path: Path, options: dict[str, Any], ending: str):
    o3d = pytest.importorskip("open3d", reason="needs open3d")
    rng = np.random.default_rng(3)
    xyz, rgb, intensity = rng.normal(size=(3000, 3)).astype("f4"), rng.integers(0, 256, (3000, 3)).astype("u1"), rng.uniform(size=(3000, 1)).astype("f4")
    cloud = o3d.t.geometry.PointCloud(o3d.core.Tensor(xyz))
    cloud.point.colors, cloud.point.intensity = o3d.core.Tensor(rgb), o3d.core.Tensor(intensity)
    file = tmp_path / f"a.{ending}"
    assert o3d.t.io.write_point_cloud(str(file), cloud, **options)
    (sweep,) = load_sweeps(file)
    assert np.abs(sweep.xyz.numpy() - xyz).max() < 1e-4  # Open3D's ascii PLY keeps six digits
    assert np.array_equal(np.round(sweep.rgb.numpy() * 255), rgb) and np.abs(sweep.intensity.numpy() - intensity[:, 0]).max() < 1e-5


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_open3d_reads_what_the_tests_write(tmp_path: Path, encoding: str):
    """So that the round trips above are no agreement between two mistakes."""
    o3d = pytest.importorskip("open3d", reason="needs open3d")
    columns = table()
    (tmp_path / "a.pcd").write_bytes(pcd_bytes(columns, encoding))
    xyz = o3d.t.io.read_point_cloud(str(tmp_path / "a.pcd")).point.positions.numpy()
    assert np.array_equal(xyz, np.stack([columns[k] for k in "xyz"], 1))
