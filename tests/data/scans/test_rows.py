"""Bare rows (KITTI, nuScenes), numpy files, our own layout, and what all formats share."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.scans.npz_files import write_sweep
from handful.data.scans.registry import NEEDS, SCAN_FORMATS, load_sweeps, read_scan, scan_status
from handful.recon.errors import CaptureError
from handful.recon.sweeps import Sweep

from .writers import pcd_bytes, ply_bytes, write_e57, write_las

N = 500


def spinning(n: int = N, beams: int = 8, seed: int = 0) -> np.ndarray:
    """n,5: x, y, z, intensity, ring of a scanner whose ring 0 looks down the most."""
    rng = np.random.default_rng(seed)
    ring, around, reach = np.arange(n) % beams, rng.uniform(-np.pi, np.pi, n), rng.uniform(3, 40, n)
    up = np.linspace(-0.4, 0.1, beams)[ring]
    return np.c_[reach * np.cos(up) * np.cos(around), reach * np.cos(up) * np.sin(around), reach * np.sin(up), rng.uniform(size=n), ring].astype("<f4")


def everything() -> Sweep:
    """A sweep with all it can carry."""
    g = torch.Generator().manual_seed(0)
    T = torch.eye(4)
    T[:3, 3] = torch.tensor([1.25, -3.0, 0.1])
    return Sweep(
        torch.randn(N, 3, generator=g), T, "velodyne/ünïcode 1.bin", torch.randn(N, 3, generator=g), torch.rand(N, 3, generator=g), torch.rand(N, generator=g) * 4000,
        torch.rand(N, generator=g), torch.arange(N) % 64, torch.rand(N, generator=g) / 10, torch.nn.functional.normalize(torch.randn(9, 3, generator=g), dim=1), False, "1532402927647951",
    )  # fmt: skip


def same(a: Sweep, b: Sweep) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Sweep)]
    return all(torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y for x, y in pairs)


def test_our_own_layout_is_exact(tmp_path: Path):
    whole = everything()
    assert all(getattr(whole, f.name) is not None for f in fields(Sweep)), "a new field of Sweep must be written, too"
    bare = Sweep(whole.xyz, whole.world_from_sensor)
    odd = replace(bare, xyz=torch.cat([whole.xyz, torch.zeros(1, 3)]))  # a return at the sensor: ours to keep
    for i, sweep in enumerate((whole, bare, odd)):
        write_sweep(tmp_path / f"{i}.npz", sweep)
        (back,) = load_sweeps(tmp_path / f"{i}.npz")
        assert same(sweep, back)
        write_sweep(tmp_path / "again.npz", back)
        assert same(sweep, load_sweeps(tmp_path / "again.npz")[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.npz", "1.npz", "2.npz", "again.npz"]


@pytest.mark.parametrize("name", ["", "  ", "two\nlines", "bell\a", "x" * 5000])
def test_names_that_are_none(tmp_path: Path, name: str):
    write_sweep(tmp_path / "a.npz", Sweep(torch.ones(3, 3), torch.eye(4), name))
    assert load_sweeps(tmp_path / "a.npz")[0].name == "a.npz"


@pytest.mark.parametrize("version", [2, 1.5, np.nan, np.inf])
def test_a_later_layout_is_refused(tmp_path: Path, version: float):
    np.savez(tmp_path / "a.npz", xyz=np.ones((3, 3), "f4"), sweep_version=version)
    with pytest.raises(CaptureError, match="another version"):
        load_sweeps(tmp_path / "a.npz")


def test_what_is_written_can_be_read(tmp_path: Path, monkeypatch):
    """Both sides have one limit, and the writer is never the more generous."""
    sweep, refusals = everything(), 0
    for limit in range(27_000, 33_000, 200):
        monkeypatch.setattr("handful.data.scans.npz_files.MOST_ARRAYS", limit)
        monkeypatch.setattr("handful.data.files.MOST_ARRAYS", limit)
        (tmp_path / "a.npz").unlink(missing_ok=True)
        try:
            write_sweep(tmp_path / "a.npz", sweep)
        except CaptureError as e:
            refusals += 1
            assert "500 returns" in str(e) and "keep fewer" in str(e) and not (tmp_path / "a.npz").exists()
        else:
            assert same(load_sweeps(tmp_path / "a.npz")[0], sweep)
    assert 0 < refusals < 30
    write_sweep(tmp_path / "a.npz", sweep)  # the last limits were wide enough
    monkeypatch.setattr("handful.data.files.MOST_ARRAYS", 27_000)
    refused(tmp_path / "a.npz", "fewer photos or points")


def test_arrays_of_anybody(tmp_path: Path):
    xyz = spinning()[:, :3].copy()
    xyz[4] = np.nan
    T = np.eye(4)
    T[:3, 3] = [5, 6, 7]
    np.savez(tmp_path / "a.npz", xyz=xyz, rgb=np.full((N, 3), 0.5), world_from_sensor=T)
    found = read_scan(tmp_path / "a.npz")
    (sweep,) = found.sweeps
    assert found.dropped == 1 and len(sweep) == N - 1 and sweep.origin_known and sweep.name == "a.npz"
    assert np.allclose(sweep.world_origins[0].numpy(), [5, 6, 7]) and sweep.rgb.shape == (N - 1, 3)
    np.savez(tmp_path / "b.npz", xyz=xyz[:3])
    assert not load_sweeps(tmp_path / "b.npz")[0].origin_known


def test_rows_of_an_array(tmp_path: Path):
    rows = spinning()
    for width in (3, 4, 5):
        np.save(tmp_path / "a.npy", rows[:, :width])
        (sweep,) = load_sweeps(tmp_path / "a.npy")
        assert np.array_equal(sweep.xyz.numpy(), rows[:, :3]) and (sweep.intensity is None, sweep.ring is None) == (width < 4, width < 5)
    np.save(tmp_path / "a.npy", rows[:, :2])
    with pytest.raises(CaptureError, match="shape"):
        load_sweeps(tmp_path / "a.npy")


def test_kitti_and_nuscenes_rows(tmp_path: Path):
    rows = spinning()
    rows[7, :3] = 0
    (tmp_path / "k.bin").write_bytes(rows[:, :4].tobytes())
    (tmp_path / "n.pcd.bin").write_bytes(rows.tobytes())
    kept = np.delete(rows, 7, axis=0)
    for name, ring in (("k.bin", None), ("n.pcd.bin", kept[:, 4])):
        found = read_scan(tmp_path / name)
        (sweep,) = found.sweeps
        assert found.dropped == 1 and sweep.origin_known and sweep.name == name
        assert np.array_equal(sweep.xyz.numpy(), kept[:, :3]) and np.array_equal(sweep.intensity.numpy(), kept[:, 3])
        assert (sweep.ring is None) if ring is None else np.array_equal(sweep.ring.numpy(), ring)


def test_rings_count_from_the_lowest(tmp_path: Path):
    rows = spinning()
    turned = rows.copy()
    turned[:, 4] = 7 - rows[:, 4]  # as Ouster numbers them
    (tmp_path / "a.pcd.bin").write_bytes(turned.tobytes())
    assert np.array_equal(load_sweeps(tmp_path / "a.pcd.bin")[0].ring.numpy(), rows[:, 4])
    mixed = rows.copy()
    mixed[:, 4] = rows[:, 4] * 3 % 8  # no order at all: the numbers stay
    (tmp_path / "b.pcd.bin").write_bytes(mixed.tobytes())
    assert np.array_equal(load_sweeps(tmp_path / "b.pcd.bin")[0].ring.numpy(), mixed[:, 4])


@pytest.mark.parametrize(("name", "width"), [("a.bin", 3), ("a.bin", 5), ("a.bin", 6), ("a.pcd.bin", 3), ("a.pcd.bin", 4), ("a.pcd.bin", 6)])
def test_rows_of_another_width_are_refused(tmp_path: Path, name: str, width: int):
    """Their bytes divide evenly, and all their numbers are metres."""
    rows = np.c_[spinning(600), np.random.default_rng(1).uniform(size=600).astype("f4")]
    (tmp_path / name).write_bytes(np.ascontiguousarray(rows[:, :width]).tobytes())
    refused(tmp_path / name, "another width")


def test_a_few_odd_rows_are_no_other_width(tmp_path: Path):
    rows = spinning()
    rows[:20, 3], rows[20:40, 4] = -0.01, 0.5
    for name, width in (("a.bin", 4), ("a.pcd.bin", 5)):
        (tmp_path / name).write_bytes(np.ascontiguousarray(rows[:, :width]).tobytes())
        assert len(load_sweeps(tmp_path / name)[0]) == N


def test_kitti_in_millimetres(shared_data: Path):
    """The layout of the real sequence: the values of the .bin it was made from."""
    file = shared_data / "lidar_kitti_seq" / "velodyne_points" / "0000000000.npz"
    (sweep,) = load_sweeps(file)
    with np.load(file) as z:
        xyz = np.stack([(z[k] / 1000).astype(np.float32) for k in ("x_mm", "y_mm", "z_mm")], axis=1)
        reflectance = (z["reflectance_pct"] / 100).astype(np.float32)
    kept = (xyz != 0).any(1)
    assert np.array_equal(sweep.xyz.numpy(), xyz[kept]) and np.array_equal(sweep.intensity.numpy(), reflectance[kept])


def test_a_real_scan_goes_round_in_every_format(shared_data: Path, tmp_path: Path):
    (scan,) = load_sweeps(shared_data / "lidar_kitti_000008" / "000008.bin")
    xyz = scan.xyz.numpy()
    columns = {k: xyz[:, i].copy() for i, k in enumerate("xyz")} | {"intensity": scan.intensity.numpy()}
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns))
    (tmp_path / "a.pcd").write_bytes(pcd_bytes(columns, "binary_compressed"))
    write_sweep(tmp_path / "a.npz", scan)
    for name in ("a.ply", "a.pcd", "a.npz"):
        (back,) = load_sweeps(tmp_path / name)
        assert torch.equal(back.xyz, scan.xyz) and torch.equal(back.intensity, scan.intensity), name


def write_valid(file: Path) -> None:
    """A file of N points with the ending of `file`."""
    rows = spinning()
    columns = {k: rows[:, i].copy() for i, k in enumerate(("x", "y", "z", "intensity"))}
    ending = file.name.split(".", 1)[1]
    match ending:
        case "ply":
            file.write_bytes(ply_bytes(columns))
        case "pcd":
            file.write_bytes(pcd_bytes(columns, "binary_compressed"))
        case "las" | "laz":
            pytest.importorskip("laspy", reason="needs laspy")
            write_las(file, rows[:, :3].astype(float), np.zeros(3))
        case "e57":
            pytest.importorskip("pye57", reason="needs pye57")
            write_e57(file, [(rows[:, :3].astype(float), np.array([1.0, 0, 0, 0]), np.zeros(3), {})])
        case "npz":
            np.savez(file, xyz=rows[:, :3])
        case "npy":
            np.save(file, rows[:, :3])
        case "bin":
            file.write_bytes(rows[:, :4].tobytes())
        case "pcd.bin":
            file.write_bytes(rows.tobytes())
        case _:
            raise AssertionError(f"a format without a writer in the tests: {ending}")


def refused(file: Path, words: str = "") -> None:
    with pytest.raises(CaptureError) as e:
        load_sweeps(file)
    assert file.name in str(e.value) and words in str(e.value) and "\n" not in str(e.value)


def lying_array(file: Path, shape: tuple[int, int]) -> None:
    """A .npy whose header says more than follows."""
    with file.open("wb") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "<f4", "fortran_order": False, "shape": shape})
        f.write(spinning()[:, :3].tobytes())


@pytest.mark.parametrize("ending", SCAN_FORMATS)
def test_broken_files_are_one_sentence(tmp_path: Path, ending: str):
    whole = tmp_path / f"whole{ending}"
    write_valid(whole)
    assert sum(len(s) for s in load_sweeps(whole)) == N
    data = whole.read_bytes()
    broken = tmp_path / f"broken{ending}"
    for content in (data[: len(data) // 2 - 3], data[:19], data[:-1] if ending not in (".e57",) else data[:-700], b"", b"x, y, z\n" * 700, bytes(4000)):
        broken.write_bytes(content)
        refused(broken)
        assert broken.read_bytes() == content  # some libraries clear away what they cannot open
    refused(tmp_path / f"absent{ending}", "There is no file")


@pytest.mark.parametrize("ending", SCAN_FORMATS)
def test_bent_files_never_end_in_another_error(tmp_path: Path, ending: str):
    whole = tmp_path / f"whole{ending}"
    write_valid(whole)
    data = whole.read_bytes()
    rng = np.random.default_rng(1)
    for i in range(25):
        bent = bytearray(data)
        for at in rng.integers(0, min(len(data), 700), 3):
            bent[at] = int(rng.integers(256))
        file = tmp_path / f"{i}{ending}"
        file.write_bytes(bytes(bent))
        try:
            for sweep in load_sweeps(file):
                sweep.validate()
        except CaptureError as e:
            assert "\n" not in str(e)


def lying(count: int) -> dict[str, Callable[[], bytes]]:
    columns = {k: spinning()[:, i].copy() for i, k in enumerate("xyz")}
    return {
        "a.ply": lambda: ply_bytes(columns, count=count),
        "b.ply": lambda: ply_bytes(columns, "ascii", count=count),
        "a.pcd": lambda: pcd_bytes(columns, "ascii", points=count),
        "b.pcd": lambda: pcd_bytes(columns, "binary", points=count),
        "c.pcd": lambda: pcd_bytes(columns, "binary_compressed", points=count),
    }


@pytest.mark.parametrize("name", lying(1))
def test_no_memory_by_a_headers_word(tmp_path: Path, name: str):
    file = tmp_path / name
    file.write_bytes(lying(10**12)[name]())
    tracemalloc.start()
    refused(file, "promises")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_arrays_that_lie(tmp_path: Path):
    for count in (N + 1, 10**12):
        lying_array(tmp_path / "a.npy", (count, 3))
        refused(tmp_path / "a.npy")
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as z:
            z.write(tmp_path / "a.npy", "xyz.npy")
        refused(tmp_path / "a.npz")


def test_no_memory_by_the_word_of_las(tmp_path: Path):
    pytest.importorskip("laspy", reason="needs laspy")
    for ending in ("las", "laz"):
        whole = tmp_path / f"whole.{ending}"
        write_las(whole, spinning()[:, :3].astype(float), np.zeros(3))
        data = bytearray(whole.read_bytes())
        data[107:111] = (4_000_000_000).to_bytes(4, "little")  # LAS 1.2: number of point records
        (tmp_path / f"lie.{ending}").write_bytes(bytes(data))
        tracemalloc.start()
        refused(tmp_path / f"lie.{ending}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150_000_000  # a piece of a million compressed points is made before the end is met


def test_texts_headers_and_names_that_are_none(tmp_path: Path):
    for name, data, words in (
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4\nTYPE F F F\nWIDTH 1\nPOINTS 1\nDATA ascii\n1 2 3\n", "header makes no sense"),
        ("b.pcd", b"FIELDS x y z\nSIZE 4 4 3\nTYPE F F F\nWIDTH 1\nPOINTS 1\nDATA ascii\n1 2 3\n", "header makes no sense"),
        ("c.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 1\nPOINTS 1\nDATA ascii\n1 2 q\n", "does not hold 3 numbers"),
        ("m.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2\nPOINTS 2\nDATA ascii\n1 2 3 4 5 6\n", "does not hold 3 numbers"),
        ("n.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2\nPOINTS 2\nDATA ascii\n", "holds 0"),
        ("o.pcd", b"FIELDS\nSIZE\nTYPE\nCOUNT\nWIDTH 1\nPOINTS 1\nDATA binary\n1234", "header makes no sense"),
        ("p.pcd", b"FIELDS _\nSIZE 4\nTYPE F\nCOUNT 1\nWIDTH 1\nPOINTS 1\nDATA binary_compressed\n" + bytes(40), "header makes no sense"),
        ("d.pcd", b"FIELDS x y\nSIZE 4 4\nTYPE F F\nWIDTH 1\nPOINTS 1\nDATA ascii\n1 2\n", "without x, y, z"),
        ("e.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 1\nPOINTS 1\nVIEWPOINT 0 0 0 0 0 0 0\nDATA ascii\n1 2 3\n", "not finite"),
        ("f.ply", ply_bytes({"x": np.ones(2, "f4"), "y": np.ones(2, "f4")}), "without x, y, z"),
        ("g.ply", ply_bytes({k: np.zeros(0, "f4") for k in "xyz"}), "no point"),
        ("h.xyz", b"1 2 3\n", "no scan that can be read"),
        ("i.bin", b"1.0 2.0 3.0 0.5\n" * 20, "no distances"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, words)
    np.savez(tmp_path / "j.npz", xyz=np.ones((3, 3)), rgb=np.ones((2, 3)))
    refused(tmp_path / "j.npz", "(3, 3) is expected")
    np.savez(tmp_path / "k.npz", depth=np.ones((3, 3)))
    refused(tmp_path / "k.npz", "needs an array xyz")
    np.savez(tmp_path / "l.npz", xyz=np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "l.npz")


@pytest.mark.parametrize(("scale", "away", "words"), [(1.0, 5.0, ""), (1.02, 5.0, ""), (0.5, 5.0, "scales by 0.5"), (1.04, 0.0, "scales by 1.04"), (1.0, 2e9, "too far")])
@pytest.mark.parametrize("own", [False, True])
def test_a_pose_that_is_none(tmp_path: Path, own: bool, scale: float, away: float, words: str):
    T = np.diag([scale, scale, scale, 1.0])
    T[0, 3] = away
    np.savez(tmp_path / "a.npz", xyz=spinning()[:, :3], world_from_sensor=T, **({"sweep_version": np.array(1)} if own else {}))
    if words:
        refused(tmp_path / "a.npz", words)
    else:
        assert float(load_sweeps(tmp_path / "a.npz")[0].world_from_sensor[0, 3]) == away
    (tmp_path / "a.pcd").write_bytes(pcd_bytes({k: spinning()[:, i].copy() for i, k in enumerate("xyz")}, viewpoint=f"0 {away} 0 1 0 0 0"))
    if away > 1e9:
        refused(tmp_path / "a.pcd", "too far")


def test_what_can_be_read_here(monkeypatch):
    assert scan_status().keys() == SCAN_FORMATS.keys()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = scan_status()
    assert {e for e, s in missing.items() if s != "reads"} == NEEDS.keys()
    assert missing[".laz"] == "missing laspy and lazrs: pip install 'handful[las]'"
