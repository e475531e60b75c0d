"""All files of splats by one registry: round trips, any to any, files that lie, and files that other programs wrote (tests/golden)."""

from __future__ import annotations

import base64
import json
import struct
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data import codebook, sog, splat_rows
from handful.data.codebook import cluster, levels, nearest_level
from handful.data.glb import read_glb
from handful.data.ply import read_gaussians
from handful.data.sog import read_sog, write_sog
from handful.data.splat_rows import FiniteRows, half_turn, morton_order
from handful.data.splats import SPLAT_FORMATS, is_splat_file, read_splats, splat_format_of, write_splats
from handful.data.spz import write_spz
from handful.recon.errors import CaptureError, ConfigError, HandfulError
from handful.recon.gaussians import Gaussians
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..splat_scenes import loss, poisoned, some_gaussians

GOLDEN = Path(__file__).parent.parent / "golden" / "splat_transform.json"
# largest differences that a round trip may make of a scene 6 wide with log scales from -8 to 2 (see `loss`)
KEPT = {
    "ply": {"place": 0, "scale": 0, "opacity": 0, "color": 0, "sh": 0, "shape": 1e-5},
    "glb": {"place": 0, "scale": 1e-5, "opacity": 1e-6, "color": 0, "sh": 0, "shape": 1e-5},
    "usd": {"place": 0, "scale": 1e-5, "opacity": 1e-6, "color": 0, "sh": 0, "shape": 1e-5},
    "compressed-ply": {"place": 6 / 1023, "scale": 10 / 1023, "opacity": 0.5 / 255, "color": 0.01, "sh": 0.017, "shape": 0.03},
    "splat": {"place": 0, "scale": 1e-5, "opacity": 0.5 / 255, "color": 0.5 / 255 / 0.282, "shape": 0.06},
    "spz": {"place": 1e-5, "scale": 1 / 32, "opacity": 0.5 / 255, "color": 0.5 / (255 * 0.15), "sh": 9 / 128, "shape": 0.1},
    "sog": {"place": 1e-4, "scale": 0.03, "opacity": 0.5 / 255, "color": 0.03, "sh": 0.03, "shape": 0.1},
}
HERE = [name for name in SPLAT_FORMATS if name != "usd" or find_spec("pxr")]
FORMATS = [name if name in HERE else pytest.param(name, marks=pytest.mark.skip(reason="needs usd-core")) for name in SPLAT_FORMATS]


def file_of(folder: Path, format: str) -> Path:
    return folder / f"scene{SPLAT_FORMATS[format].suffixes[0]}"


def check(found: Gaussians, wanted: Gaussians, format: str) -> None:
    lost = loss(found, wanted)
    for what, most in KEPT[format].items():
        assert lost[what] <= most * 1.01 + 2e-6, f"{format}: {what} differs by {lost[what]:.6g}, at most {most:.6g} was expected; all: {lost}"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip(tmp_path, format, degree):
    g, path, told = some_gaussians(300, degree), file_of(tmp_path, format), []
    write_splats(path, g, format, lambda done, total: told.append((done, total)))
    assert told and told[-1][0] == told[-1][1] and all(a[0] < b[0] for a, b in zip(told, told[1:], strict=False))
    told.clear()
    back = read_splats(path, lambda done, total: told.append((done, total)))
    assert told and told[-1][0] == told[-1][1]
    assert back.sh_degree == (0 if format == "splat" else degree)
    check(back.validate(), g, format)
    if format == "compressed-ply":
        with pytest.raises(CaptureError, match="handful export"):
            read_gaussians(path)


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_drawn_is_left_out(tmp_path, format):
    bad, good = poisoned(some_gaussians(200, 1))
    write_splats(file_of(tmp_path, format), bad, format)
    check(read_splats(file_of(tmp_path, format)), good, format)


@pytest.mark.parametrize("format", FORMATS)
def test_one_splat_and_none(tmp_path, format):
    path, one = file_of(tmp_path, format), some_gaussians(1, 3)
    write_splats(path, one, format)
    check(read_splats(path), one, format)
    none = one[torch.zeros(1, dtype=torch.bool)]
    if format == "glb":
        with pytest.raises(HandfulError, match="no splat"):
            write_splats(path, none, format)
        check(read_splats(path), one, format)  # what was there stays
    else:
        write_splats(path, none, format)
        assert len(read_splats(path)) == 0


@pytest.mark.parametrize("format", FORMATS)
def test_values_beyond_reason_are_written_and_read(tmp_path, format):
    g = some_gaussians(50, 1)
    g.log_scales[0], g.log_scales[1], g.means[2], g.means[3], g.logit_opacities[4], g.logit_opacities[5] = 200.0, -200.0, 1e9, -1e9, 90.0, -90.0
    write_splats(file_of(tmp_path, format), g, format)
    back = read_splats(file_of(tmp_path, format))
    assert len(back) == 50 and all(bool(torch.isfinite(t).all()) for t in (back.means, back.quats_wxyz, back.logit_opacities, back.sh))


def same(a: Gaussians, b: Gaussians) -> bool:
    return all(torch.equal(getattr(a, field), getattr(b, field)) for field in ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh"))


@pytest.mark.parametrize("format", FORMATS)
def test_pieces_are_as_the_whole(tmp_path, monkeypatch, format):
    """More rows than a piece, and a rest: what is written and read piece by piece is what would be at once."""
    monkeypatch.setattr(sog, "_PALETTE", 300)  # fewer than the rows: they are clustered, in storeys
    g = some_gaussians(1000, 2)
    whole, pieces = file_of(tmp_path, format), file_of(tmp_path / "again", format)
    pieces.parent.mkdir()
    write_splats(whole, g, format)
    at_once = read_splats(whole)
    monkeypatch.setattr(splat_rows, "ROWS", 256)
    write_splats(pieces, g, format)
    for rows in (256, 37, 1):  # 37: pieces that begin within a chunk of compressed PLY
        monkeypatch.setattr(splat_rows, "ROWS", rows)
        told = []
        assert same(read_splats(pieces, lambda done, total, told=told: told.append((done, total))), at_once), rows
        assert told[-1][0] == told[-1][1] and (len(told) > 3 or format in ("sog", "usd")), "told after each piece"


@pytest.mark.parametrize("name", ["scene.ply", "scene.compressed.ply", "scene3.spz", "scene4.spz", "scene.sog", "scene.glb", "big endian", "spz of version 2"])
def test_files_of_others_are_read_in_pieces(tmp_path, monkeypatch, name):
    if name == "big endian":
        path = golden(tmp_path, "scene.ply")
        head, _, body = path.read_bytes().partition(b"end_header\n")
        path.write_bytes(head.replace(b"little", b"big") + b"end_header\n" + np.frombuffer(body, "<f4").astype(">f4").tobytes())
    elif name == "spz of version 2":
        path = tmp_path / "two.spz"
        write_spz(path, read_splats(golden(tmp_path, "scene.ply")), version=2)
    else:
        path = golden(tmp_path, name)
    at_once = read_splats(path)
    monkeypatch.setattr(splat_rows, "ROWS", 7)
    assert len(at_once) == 20 and same(read_splats(path), at_once)


def test_told_by_what_is_inside(tmp_path):
    g = some_gaussians(5, 0)
    for format in HERE:
        path = tmp_path / f"{format}.dat"
        write_splats(file_of(tmp_path, format), g, format)
        file_of(tmp_path, format).rename(path)
        assert is_splat_file(path)
        if format == "splat":
            with pytest.raises(CaptureError, match="no file of splats"):
                read_splats(path)
        else:
            assert len(read_splats(path)) == 5
    assert not is_splat_file(tmp_path / "nothing.dat") and not is_splat_file(tmp_path)
    assert splat_format_of("a/B.Compressed.PLY") == "compressed-ply" and splat_format_of("b.ply") == "ply" and splat_format_of("c.jpg") is None
    with pytest.raises(CaptureError, match="cannot be read"):
        read_splats(tmp_path / "nowhere.sog")


def test_sog_in_a_folder(tmp_path):
    g = some_gaussians(100, 2)
    write_splats(tmp_path / "web", g, "sog")
    assert sorted(p.suffix for p in (tmp_path / "web").iterdir()) == [".json"] + [".webp"] * 7
    for path in (tmp_path / "web", tmp_path / "web" / "meta.json"):
        assert is_splat_file(path)
        check(read_splats(path), g, "sog")
    with pytest.raises(ConfigError, match="not empty"):
        write_sog(tmp_path / "web", g)
    (tmp_path / "web" / "quats.webp").unlink()
    with pytest.raises(CaptureError, match="quats.webp"):
        read_sog(tmp_path / "web")


def golden(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.write_bytes(base64.b64decode(json.loads(GOLDEN.read_text())[name]))
    return path


@pytest.mark.parametrize("name", ["scene.compressed.ply", "scene3.spz", "scene4.spz", "scene.sog", "scene.glb"])
def test_files_that_splat_transform_wrote(tmp_path, name):
    wanted, found = read_splats(golden(tmp_path, "scene.ply")), read_splats(golden(tmp_path, name))
    if name.endswith(".spz"):  # it writes a PLY's axes into them, where the format says y up
        found = half_turn(found, 0)
    lost = loss(found, wanted)
    assert len(found) == 20 and found.sh_degree == 2 and lost["place"] < 0.01 and lost["shape"] < 0.1 and lost["color"] < 0.02 and lost["opacity"] < 0.005, lost
    assert lost["sh_rms"] < (0.2 if name.endswith(".sog") else 0.04)


def test_usd_of_other_programs(tmp_path):
    """As text, with a transform, and broken."""
    pytest.importorskip("pxr", reason="needs usd-core")
    g, path = some_gaussians(4, 1), tmp_path / "g.usda"
    write_splats(path, g, "usd")
    text = path.read_text()
    assert 'upAxis = "Y"' in text and "def ParticleField3DGaussianSplat" in text
    first = half_turn(g, 2)
    assert f"point3f[] positions = [({float(first.means[0, 0]):.4g}"[:-2] in text
    w, x = first.quats_wxyz[0, :2].tolist()
    assert f"quatf[] orientations = [({w:.4g}"[:-2] in text and f", {x:.4g}"[:-2] in text, "w first, as USD writes them"
    path.write_text(text.replace("    point3f[] positions", "    double3 xformOp:translate = (1, 0, 0)\n    uniform token[] xformOpOrder = [\"xformOp:translate\"]\n    point3f[] positions"))
    refuse(path, "by a transform")
    path.write_text(text.replace("sphericalHarmonicsDegree = 1", "sphericalHarmonicsDegree = 2"))
    refuse(path, "do not fit together")
    path.write_text(text.replace("ParticleField3DGaussianSplat", "Points"))
    refuse(path, "no Gaussian splats")
    path.write_text("#usda 1.0\n(")
    refuse(path, "cannot be read")
    with pytest.raises(ConfigError, match="usdz"):
        write_splats(tmp_path / "g.usdz", g, "usd")


@pytest.mark.parametrize("ending", [".usda", ".usdc", ".usdz"])
def test_usd_is_told_by_what_is_inside(tmp_path, ending):
    """Text, binary and zip, under a name that says nothing; and under the name of another format."""
    pxr = pytest.importorskip("pxr", reason="needs usd-core")
    from pxr import UsdUtils  # noqa: F401

    g, made = some_gaussians(4, 1), tmp_path / f"made{ending.replace('z', 'c')}"
    write_splats(made, g, "usd")
    if ending == ".usdz":
        assert pxr.UsdUtils.CreateNewUsdzPackage(str(made), str(tmp_path / "made.usdz"))
    for name in ("found", "found.sog", "found.usd", "found.usda", "found.USDC", "found.usdz"):
        found = (tmp_path / f"made{ending}").rename(tmp_path / name)
        assert is_splat_file(found)
        check(read_splats(found), g, "usd")
        found.rename(tmp_path / f"made{ending}")
    write_splats(tmp_path / "g.sog", g, "sog")
    assert len(read_splats((tmp_path / "g.sog").rename(tmp_path / "g.usdz"))) == 4, "a SOG under the name of a .usdz"
    (tmp_path / "half").write_bytes((tmp_path / f"made{ending}").read_bytes()[:60])
    refuse(tmp_path / "half", "cannot be read")


# -- broken files ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_fuzz_never_another_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    name = data.draw(st.sampled_from(["scene.compressed.ply", "scene3.spz", "scene4.spz", "scene.sog", "scene.glb", "meta.json"]))
    if name == "meta.json":
        with zipfile.ZipFile(golden(folder, "scene.sog")) as z:
            z.extractall(folder)
        path = folder / name
    else:
        path = golden(folder, name)
    content = bytearray(path.read_bytes())
    most = len(content) - 1 if data.draw(st.booleans()) else min(len(content) - 1, 600)  # the beginning says most
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, most))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    try:
        read_splats(path)
    except CaptureError as e:
        assert str(path.parent) in str(e) and "\n" not in str(e)


def refuse(path: Path, words: str) -> None:
    with pytest.raises(CaptureError, match=words):
        read_splats(path)


def rewritten_glb(path: Path, change) -> None:
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    document, block = json.loads(data[20 : 20 + length]), bytearray(data[28 + length :])
    block = change(document, block) or block
    text = json.dumps(document).encode()
    path.write_bytes(data[:12] + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(block), b"BIN\0") + block)


def test_glb_of_other_programs(tmp_path):
    """Normalised integers, interleaved numbers, and the logarithms of a draft."""
    g, path = some_gaussians(7, 0), tmp_path / "g.glb"

    def packed(document, block):
        accessors, views = document["accessors"], document["bufferViews"]
        names = document["meshes"][0]["primitives"][0]["attributes"]
        rotation, opacity, scale = (names[f"KHR_gaussian_splatting:{n}"] for n in ("ROTATION", "OPACITY", "SCALE"))
        turned = half_turn(g, 2)
        rows = np.zeros(7, [("q", "<i2", 4), ("o", "u1"), ("_", "u1", 3)])
        rows["q"], rows["o"] = (turned.quats_wxyz[:, [1, 2, 3, 0]] * 32767).round().numpy(), (g.opacities * 255).round().numpy()
        views.append({"buffer": 0, "byteOffset": len(block), "byteLength": rows.nbytes, "byteStride": 12})
        accessors[rotation] = {"bufferView": len(views) - 1, "componentType": 5122, "normalized": True, "type": "VEC4", "count": 7}
        accessors[opacity] = {"bufferView": len(views) - 1, "byteOffset": 8, "componentType": 5121, "normalized": True, "type": "SCALAR", "count": 7}
        at = views[accessors[scale]["bufferView"]]["byteOffset"]
        block[at : at + 84] = g.log_scales.numpy().tobytes()
        return block + rows.tobytes()

    write_splats(path, g, "glb")
    rewritten_glb(path, packed)
    lost = loss(read_glb(path), g)
    assert lost["place"] == lost["color"] == 0 and lost["shape"] < 1e-3 and lost["opacity"] <= 0.5 / 255 + 1e-6 and lost["scale"] < 1e-6


GLB_LIES = {
    "no Gaussian splats": lambda d: d["meshes"][0]["primitives"][0].pop("extensions"),
    "compresses its splats": lambda d: d["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"].update(extensions={"KHR_gaussian_splatting_compression_spz_2": {}}),
    "colours in": lambda d: d["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"].update(colorSpace="lin_rec709_display"),
    "by a node": lambda d: d["nodes"][0].update(scale=[2, 2, 2]),
    "promises": lambda d: [a.update(count=10**9) for a in d["accessors"]],
    "not read": lambda d: d["accessors"][2].update(componentType=5125),
    "is not that of glTF": lambda d: d["meshes"][0]["primitives"][0]["attributes"].pop("POSITION"),
}


@pytest.mark.parametrize("words", GLB_LIES)
def test_glb_that_lies(tmp_path, words):
    write_splats(tmp_path / "g.glb", some_gaussians(3, 1), "glb")
    rewritten_glb(tmp_path / "g.glb", lambda document, block: (GLB_LIES[words](document), block)[1])
    refuse(tmp_path / "g.glb", words)


SOG_LIES = {
    "version 2": {"version": 1},
    "cannot be": {"count": -1},
    "does not fit": {"count": 500},
    "not that of a SOG": {"means": {"files": ["means_l.webp", "means_u.webp"], "mins": [0], "maxs": [1]}},
    "lacks ../../x": {"quats": {"files": ["../../x"]}},
    "degree 7": {"shN": {"bands": 7}},
}


@pytest.mark.parametrize("words", SOG_LIES)
def test_sog_that_lies(tmp_path, words):
    write_splats(tmp_path / "g.sog", some_gaussians(30, 1), "sog")
    with zipfile.ZipFile(tmp_path / "g.sog") as z, zipfile.ZipFile(tmp_path / "h.sog", "w") as out:
        for name in z.namelist():
            data = z.read(name)
            out.writestr(name, json.dumps(json.loads(data) | SOG_LIES[words]) if name == "meta.json" else data)
    refuse(tmp_path / "h.sog", words)


def test_bombs_are_refused(tmp_path):
    write_splats(tmp_path / "g.sog", some_gaussians(30, 0), "sog")
    with zipfile.ZipFile(tmp_path / "g.sog") as z, zipfile.ZipFile(tmp_path / "h.sog", "w", zipfile.ZIP_DEFLATED) as out:
        for name in z.namelist():
            out.writestr(name, b"\0" * 50_000_000 if name == "quats.webp" else z.read(name))
    refuse(tmp_path / "h.sog", "no honest image")
    spz = golden(tmp_path, "scene4.spz")
    data = bytearray(spz.read_bytes())
    data[8:12] = struct.pack("<I", 100_000_000)
    spz.write_bytes(data)
    refuse(spz, "promises")


def test_compressed_ply_that_lies(tmp_path):
    path = golden(tmp_path, "scene.compressed.ply")
    data = path.read_bytes()
    for change, words in (
        (data.replace(b"element chunk 1\n", b"element chunk 0\n"), "not as many chunks"),
        (data.replace(b"min_x", b"min_q"), "lack 'min_x'"),
        (data.replace(b"packed_scale", b"packed_scalp"), "missing"),
        (data.replace(b"element sh 20", b"element sh 19"), "not as many"),
        (data[:-1], "promises"),
    ):
        assert change != data
        path.write_bytes(change)
        refuse(path, words)


# -- parts -------------------------------------------------------------------------------------------------------------------------------


def test_levels_are_near_to_everything():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.1, 100_000), rng.uniform(-8, 8, 50)]).astype(np.float32)  # a crowd, and few far away
    book = levels(x)
    error = np.abs(book[nearest_level(x, book)] - x)
    assert (np.diff(book) >= 0).all() and error.max() < 0.1 and np.sqrt((error**2).mean()) < 0.002
    few = np.array([3.0, -1.0, 3.0], np.float32)
    assert np.array_equal(levels(few)[nearest_level(few, levels(few))], few)
    assert len(levels(np.zeros(0, np.float32))) == 256


def test_clusters_are_near_to_their_rows():
    torch.manual_seed(0)
    hubs = torch.randn(2000, 9)
    x = hubs[torch.randint(2000, (20_000,))] + torch.randn(20_000, 9) * 0.01
    centres, labels = cluster(x, 2000)
    assert len(centres) <= 2000 and labels.max() < len(centres)
    assert (centres[labels] - x).square().mean().sqrt() < 0.35  # of 1: the hubs themselves are not all found by so few rounds
    for same in (torch.ones(5000, 3), torch.zeros(1, 3)):
        centres, labels = cluster(same, 1000)
        assert torch.equal(centres[labels], same)
    assert torch.equal(cluster(hubs, 2000)[0], hubs)


def test_rows_to_cluster_are_asked_for_in_pieces(monkeypatch):
    """A column of all harmonics would be as large as the scene; even where most rows are alike and fall into one group."""
    torch.manual_seed(0)
    x = torch.cat([torch.zeros(30_000, 4), torch.randn(20_000, 4)])
    asked = []

    class Rows:
        def __len__(self):
            return len(x)

        def __getitem__(self, which):
            asked.append(len(which))
            return x[which]

    monkeypatch.setattr(codebook, "_CHUNK", 1 << 12)
    centres, labels = cluster(Rows(), 2000)
    assert max(asked) <= 256 * 32 and (centres[labels] - x).square().mean() < 0.1
    again = cluster(x, 2000)
    assert torch.equal(again[0], centres) and torch.equal(again[1], labels)


def test_morton_order_keeps_neighbours_together():
    torch.manual_seed(0)
    means = torch.rand(4000, 3)
    means[0] = 1e3  # one far away does not put all others into one cell
    steps = (means[morton_order(means)][1:] - means[morton_order(means)][:-1]).norm(dim=1)
    assert steps.median() < 0.12 and sorted(morton_order(means).tolist()) == list(range(4000))


def test_rows_in_another_order():
    bad, good = poisoned(some_gaussians(30, 0))
    rows = FiniteRows.of(bad)
    back = rows.in_order(torch.arange(len(rows)).flip(0))
    assert torch.equal(back[:].means, good.means.flip(0)) and torch.equal(rows.column(lambda g: g.means), good.means)
