"""LAS, LAZ and E57, written by laspy and pye57."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.scans.las import read_las
from handful.data.scans.registry import load_sweeps, read_scan
from handful.recon.errors import BackendUnavailable, CaptureError

from .writers import write_bare_e57, write_e57, write_las

AWAY = np.array([691_000.25, 5_334_000.5, 520.125])
N = 400


def survey(n: int = N) -> np.ndarray:
    return AWAY + np.random.default_rng(0).uniform(-60, 60, (n, 3)).round(3)


@pytest.mark.parametrize("ending", ["las", "laz"])
def test_las_round_trip(tmp_path: Path, ending):
    pytest.importorskip("laspy", reason="needs laspy")
    rng = np.random.default_rng(1)
    xyz, rgb = survey(), rng.integers(0, 65536, (N, 3)).astype(np.uint16)
    rgb[0] = 65535
    more = dict(zip(("red", "green", "blue"), rgb.T, strict=True)) | {"intensity": rng.integers(0, 60000, N).astype(np.uint16), "gps_time": 3e8 + np.arange(N) / 1000}
    write_las(tmp_path / f"a.{ending}", xyz, AWAY.round(), **more)
    found = read_scan(tmp_path / f"a.{ending}")
    (sweep,) = found.sweeps
    assert not sweep.origin_known and found.dropped == 0 and not found.notes
    world = sweep.xyz.double().numpy() + sweep.world_from_sensor[:3, 3].double().numpy()
    assert np.abs(world - xyz).max() < 1e-4  # a millimetre grid, at five million metres
    assert np.array_equal(np.round(sweep.rgb.numpy() * 65535), rgb) and np.array_equal(sweep.intensity.numpy(), more["intensity"])
    assert np.abs(sweep.seconds.numpy() - np.arange(N) / 1000).max() < 1e-4


def test_las_colours_of_eight_bits_and_none(tmp_path: Path):
    pytest.importorskip("laspy", reason="needs laspy")
    dim = np.full(N, 200, np.uint16)
    write_las(tmp_path / "dim.las", survey(), AWAY, red=dim, green=dim, blue=dim)
    assert torch.allclose(load_sweeps(tmp_path / "dim.las")[0].rgb, torch.tensor(200 / 255))
    write_las(tmp_path / "black.las", survey(), AWAY)
    assert load_sweeps(tmp_path / "black.las")[0].rgb is None


def test_las_noise_and_withheld_points_are_dropped(tmp_path: Path):
    pytest.importorskip("laspy", reason="needs laspy")
    classes, withheld = np.full(N, 2, np.uint8), np.zeros(N, np.uint8)
    classes[:5], classes[5:7], withheld[20:30] = 7, 18, 1
    write_las(tmp_path / "a.las", survey(), AWAY, point_format=7, classification=classes, withheld=withheld)
    found = read_scan(tmp_path / "a.las")
    assert len(found.sweeps[0]) == N - 17 and found.dropped == 17


def test_las_of_too_many_points_is_taken_evenly(tmp_path: Path):
    pytest.importorskip("laspy", reason="needs laspy")
    write_las(tmp_path / "a.las", survey(), AWAY, intensity=np.arange(N, dtype=np.uint16))
    found = read_las(tmp_path / "a.las", most=150)
    assert found.sweeps[0].intensity.tolist() == list(range(0, N, 3)) and "one in 3" in found.notes[0]


def test_las_pieces_keep_the_step(tmp_path: Path, monkeypatch):
    pytest.importorskip("laspy", reason="needs laspy")
    from handful.data.scans import las

    monkeypatch.setattr(las, "_PIECE", 64)
    write_las(tmp_path / "a.las", survey(), AWAY, intensity=np.arange(N, dtype=np.uint16))
    assert read_las(tmp_path / "a.las", most=150).sweeps[0].intensity.tolist() == list(range(0, N, 3))
    assert read_las(tmp_path / "a.las").sweeps[0].intensity.tolist() == list(range(N))


def test_las_takes_no_more_memory_than_it_says(tmp_path: Path, monkeypatch):
    """MOST_POINTS is chosen by what a point takes: 32 bytes that stay, and at most 120 at any time."""
    pytest.importorskip("laspy", reason="needs laspy")
    import tracemalloc

    from handful.data.scans import las

    n = 400_000
    monkeypatch.setattr(las, "_PIECE", 10_000)
    more = {c: np.full(n, 40_000, np.uint16) for c in ("red", "green", "blue")} | {"gps_time": np.linspace(3e8, 3e8 + 60, n)}
    write_las(tmp_path / "a.las", survey(n), AWAY.round(), **more)
    tracemalloc.start()
    (sweep,) = load_sweeps(tmp_path / "a.las")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(sweep) == n and peak / n < 130


def test_what_to_install(tmp_path: Path, monkeypatch):
    for ending, package, extra in (("las", "laspy", "las"), ("e57", "pye57", "e57")):
        monkeypatch.setitem(__import__("sys").modules, package, None)
        (tmp_path / f"a.{ending}").write_bytes(b"LASF" + bytes(400))
        with pytest.raises(BackendUnavailable, match=rf"handful\[{extra}\]"):
            load_sweeps(tmp_path / f"a.{ending}")


def test_e57_stations(tmp_path: Path):
    pytest.importorskip("pye57", reason="needs pye57")
    rng = np.random.default_rng(2)
    world = rng.uniform(-8, 8, (N, 3))
    turn = np.array([np.cos(0.4), 0, 0, np.sin(0.4)])  # 0.8 radians about z
    R = np.array([[np.cos(0.8), -np.sin(0.8), 0], [np.sin(0.8), np.cos(0.8), 0], [0, 0, 1.0]])
    stations = [(np.array([1.0, 0, 0, 0]), np.array([1.0, 2, 3])), (turn, np.array([-4.0, 0.5, 1.5]))]
    rgb, intensity = rng.integers(0, 256, (N, 3)).astype(np.uint8), rng.uniform(0, 1, N).astype(np.float32)
    more = {f"color{c}": rgb[:, i].copy() for i, c in enumerate(("Red", "Green", "Blue"))} | {"intensity": intensity}
    write_e57(tmp_path / "a.e57", [((world - t) @ M, q, t, more) for (q, t), M in zip(stations, (np.eye(3), R), strict=True)])
    sweeps = load_sweeps(tmp_path / "a.e57")
    assert len(sweeps) == 2 and len({s.name for s in sweeps}) == 2
    for sweep, (_, t) in zip(sweeps, stations, strict=True):
        assert sweep.origin_known and np.abs(sweep.world_xyz.numpy() - world).max() < 1e-4  # both stations saw the same room
        assert np.abs(sweep.world_origins[7].numpy() - t).max() < 1e-6
        assert np.array_equal(np.round(sweep.rgb.numpy() * 255), rgb) and np.abs(sweep.intensity.numpy() - intensity).max() < 1e-6


def test_e57_far_from_the_origin(tmp_path: Path):
    """float32 steps by half a metre there; the geometry must not."""
    pytest.importorskip("pye57", reason="needs pye57")
    local = np.random.default_rng(3).uniform(-8, 8, (N, 3))
    place = np.array([691_000.123, 5_334_000.456, 520.789])
    write_e57(tmp_path / "a.e57", [(local, np.array([1.0, 0, 0, 0]), place, {})])
    (sweep,) = load_sweeps(tmp_path / "a.e57")
    t = sweep.world_from_sensor[:3, 3].double().numpy()
    assert np.abs(sweep.xyz.double().numpy() + t - local - place).max() < 1e-5
    assert sweep.origins is not None and np.abs(sweep.origins[0].double().numpy() + t - place).max() < 1e-5


def test_e57_rows_without_a_return(tmp_path: Path):
    pytest.importorskip("pye57", reason="needs pye57")
    xyz = np.random.default_rng(4).uniform(1, 5, (N, 3))
    state = np.zeros(N, np.int8)
    state[:6], state[6:10] = 1, 2  # 1: only the direction counts, 2: nothing does
    write_e57(tmp_path / "a.e57", [(xyz, np.array([1.0, 0, 0, 0]), np.zeros(3), {"cartesianInvalidState": state})])
    found = read_scan(tmp_path / "a.e57")
    (sweep,) = found.sweeps
    assert found.dropped == 10 and np.abs(sweep.xyz.numpy() - xyz[10:]).max() < 1e-5
    assert sweep.empty is not None and np.abs(sweep.empty.numpy() - xyz[:6] / np.linalg.norm(xyz[:6], axis=1, keepdims=True)).max() < 1e-5


def test_e57_without_a_scan_that_can_be_used(tmp_path: Path):
    pytest.importorskip("pye57", reason="needs pye57")
    write_e57(tmp_path / "zero.e57", [(np.zeros((3, 3)), np.array([1.0, 0, 0, 0]), np.zeros(3), {})])
    with pytest.raises(CaptureError, match="no point that can be used"):
        load_sweeps(tmp_path / "zero.e57")


def cartesian(seed: int = 5) -> dict[str, np.ndarray]:
    xyz = np.random.default_rng(seed).uniform(1, 9, (N, 3))
    return {f"cartesian{a}": xyz[:, i].copy() for i, a in enumerate("XYZ")}


@pytest.mark.parametrize("limit", [None, 255, 65535])
def test_e57_colours_of_sixteen_bits(tmp_path: Path, limit: int | None):
    """Also where the limits are those of bytes, or not there."""
    pytest.importorskip("pye57", reason="needs pye57")
    rgb = np.random.default_rng(6).integers(0, 65536, (N, 3)).astype(np.uint16)
    rgb[0] = 65535
    write_bare_e57(tmp_path / "a.e57", [cartesian() | {f"color{c}": rgb[:, i].copy() for i, c in enumerate(("Red", "Green", "Blue"))}], limit)
    found = read_scan(tmp_path / "a.e57")
    assert not found.notes and found.sweeps[0].rgb is not None
    assert np.array_equal(np.round(found.sweeps[0].rgb.numpy() * 65535), rgb)


def test_e57_colours_that_cannot_be_read_leave_the_points(tmp_path: Path, monkeypatch):
    pytest.importorskip("pye57", reason="needs pye57")
    from handful.data.scans import e57

    rgb = np.full(N, 40_000, np.uint16)
    write_bare_e57(tmp_path / "a.e57", [cartesian() | {f"color{c}": rgb for c in ("Red", "Green", "Blue")}])
    monkeypatch.setattr(e57, "_TYPES", {k: "u1" if "color" in k else t for k, t in e57._TYPES.items()})
    found = read_scan(tmp_path / "a.e57")
    assert len(found.sweeps[0]) == N and found.sweeps[0].rgb is None and "they are left out" in found.notes[0]


def test_e57_stations_that_are_none(tmp_path: Path):
    """Programs write the identity as the pose of a merged cloud; rows, angles, directions without a return or a second station say that it is a scanner's."""
    pytest.importorskip("pye57", reason="needs pye57")
    whole = cartesian()
    xyz, unit = np.stack(list(whole.values()), 1), np.array([1.0, 0, 0, 0])
    state = np.zeros(N, np.int8)
    state[:3] = 1
    for scans, known in (
        ([(xyz, unit, np.zeros(3), {})], [False]),
        ([(xyz, unit, np.zeros(3), {})] * 2, [False, False]),
        ([(xyz, unit, np.zeros(3), {}), (xyz, unit, np.ones(3), {})], [True, True]),
        ([(xyz, unit, np.zeros(3), {"cartesianInvalidState": state})], [True]),
        ([(xyz, unit, np.zeros(3), {"rowIndex": np.arange(N, dtype=np.uint16), "columnIndex": np.zeros(N, np.uint16)})], [True]),
    ):
        write_e57(tmp_path / "a.e57", scans)
        assert [s.origin_known for s in load_sweeps(tmp_path / "a.e57")] == known
    angles = {"sphericalRange": np.full(N, 3.0) + np.arange(N), "sphericalAzimuth": np.linspace(-3, 3, N), "sphericalElevation": np.linspace(-1, 1, N)}
    for columns, known in ((whole, False), (angles, True)):
        write_bare_e57(tmp_path / "a.e57", [columns])
        assert load_sweeps(tmp_path / "a.e57")[0].origin_known is known
