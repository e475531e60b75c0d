"""PlayCanvas' splat-transform as judge: it reads our files of splats, and we read its, to within what each format keeps.

Needs HANDFUL_SPLAT_TRANSFORM, the program that `tests/outside/splat_transform.sh` installs. It does not read .glb, so of that format its
own file is compared with ours, and trimesh is the second judge.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from handful.data.ply import read_gaussians, write_gaussians
from handful.data.splat_rows import half_turn
from handful.data.splats import read_splats, write_splats
from handful.recon.gaussians import Gaussians

from ..splat_scenes import in_order_of, loss, poisoned, some_gaussians

Convert = Callable[..., Path]

# what each format keeps of a scene 6 wide: largest differences (see `loss`); opacity in bytes, with a rounding of its own on either side
KEPT = {
    "ply": {"place": 0, "scale": 0, "opacity": 0, "color": 0, "sh": 0, "shape": 1e-5},
    "glb": {"place": 0, "scale": 1e-5, "opacity": 1e-6, "color": 0, "sh": 0, "shape": 1e-5},
    "compressed": {"place": 6 / 1023, "scale": 10 / 1023, "opacity": 0.5 / 255, "color": 0.04, "sh": 0.017, "shape": 0.03},
    "splat": {"place": 0, "scale": 1e-5, "opacity": 0.5 / 255, "color": 0.5 / 255 / 0.282, "shape": 0.06},
    "spz": {"place": 1e-5, "scale": 1 / 32, "opacity": 0.5 / 255, "color": 0.5 / (255 * 0.15), "sh": 9 / 128, "shape": 0.1},
    "their spz": {"place": 0.5 / 4096, "scale": 1 / 32, "opacity": 0.5 / 255, "color": 0.5 / (255 * 0.15), "sh": 9 / 128, "shape": 0.1},
    "sog": {"place": 4e-4, "scale": 0.05, "opacity": 1 / 255, "color": 0.03, "sh_rms": 0.15, "shape": 0.1},
}


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """convert(source, ending, *options): what splat-transform writes with that ending."""
    program = os.environ.get("HANDFUL_SPLAT_TRANSFORM")
    if not program:
        pytest.skip("needs splat-transform: tests/outside/splat_transform.sh installs it")

    def run(source: Path, ending: str, *options: str) -> Path:
        target = tmp_path_factory.mktemp("theirs") / (ending if ending.endswith(".json") else f"theirs{ending}")
        done = subprocess.run([program, "-q", "-w", "-g", "cpu", *options, str(source), str(target)], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and target.is_file(), f"{source.name} to {ending}: {done.stdout[-500:]} {done.stderr[-1500:]}"
        return target

    return run


def check(found: Gaussians, wanted: Gaussians, format: str) -> None:
    kept, lost = KEPT[format], loss(found, wanted)
    for what, most in kept.items():
        assert lost[what] <= most * 1.01 + 2e-6, f"{format}: {what} differs by {lost[what]:.6g}, at most {most:.6g} was expected; all: {lost}"


OURS = {"ply": ".ply", "compressed": ".compressed.ply", "splat": ".splat", "spz": ".spz", "sog": ".sog"}


@pytest.mark.parametrize("format", OURS)
@pytest.mark.parametrize("scene", ["degree 0", "degree 1", "degree 2", "degree 3", "one splat", "poisoned", "10,000"])
def test_it_reads_ours(convert: Convert, tmp_path: Path, format: str, scene: str):
    given, wanted = SCENES[scene]()
    ours = tmp_path / f"ours{OURS[format]}"
    write_splats(ours, given, {"compressed": "compressed-ply"}.get(format, format))
    said = read_gaussians(convert(ours, ".ply"))
    assert said.sh_degree == (0 if format == "splat" else wanted.sh_degree)
    check(half_turn(said, 0) if format == "spz" else said, wanted, format)  # it takes a .spz to have a PLY's axes, the format says y up


@pytest.mark.parametrize(
    ("ending", "options"),
    [(".compressed.ply", ()), (".spz", ("--spz-version", "3")), (".spz", ()), (".sog", ("-i", "1")), ("meta.json", ("-i", "1")), (".glb", ())],
)  # one round of its k-means, which takes half a minute without a GPU
@pytest.mark.parametrize("scene", ["degree 0", "degree 1", "degree 2", "degree 3", "one splat", "10,000"])
def test_we_read_its(convert: Convert, tmp_path: Path, ending: str, options: tuple[str, ...], scene: str):
    _, wanted = SCENES[scene]()
    write_gaussians(tmp_path / "scene.ply", wanted)
    theirs = convert(tmp_path / "scene.ply", ending, *options)
    if ending == ".spz":
        assert theirs.read_bytes()[:2] == (b"\x1f\x8b" if options else b"NG"), "version 3 is gzip, version 4 is not"
    said = read_splats(theirs)
    format = {".compressed.ply": "compressed", "meta.json": "sog"}.get(ending, ending[1:])
    check(half_turn(said, 0) if format == "spz" else said, wanted, {"spz": "their spz"}.get(format, format))


@pytest.mark.parametrize("ending", [".compressed.ply", ".spz", ".glb"])
def test_we_read_what_it_makes_of_a_poisoned_file(convert: Convert, tmp_path: Path, ending: str):
    """It copies a NaN where the format can hold one; whatever comes, the other splats are there."""
    _, wanted = SCENES["degree 1"]()
    write_gaussians(tmp_path / "scene.ply", wanted)
    data = bytearray((tmp_path / "scene.ply").read_bytes())
    row = 4 * 26
    start = len(data) - row * len(wanted)
    data[start + 3 * row : start + 3 * row + 4] = struct.pack("<f", float("nan"))
    (tmp_path / "nan.ply").write_bytes(data)
    said = read_splats(convert(tmp_path / "nan.ply", ending))
    assert len(said) == len(wanted)


def test_our_glb_says_what_its_says(convert: Convert, tmp_path: Path):
    """Name by name, type by type, and number by number (the rotation apart, of which both are true)."""
    _, wanted = SCENES["degree 3"]()
    write_gaussians(tmp_path / "scene.ply", wanted)
    write_splats(tmp_path / "ours.glb", wanted, "glb")
    theirs, ours = attributes(convert(tmp_path / "scene.ply", ".glb")), attributes(tmp_path / "ours.glb")
    assert theirs.keys() == ours.keys() and len(ours) == 5 + 16
    for name, (said, values) in theirs.items():
        assert said == ours[name][0], name
        if name == "COLOR_0":  # linear in ours, as glTF says; theirs are sRGB
            srgb = (values.view(-1, 4)[:, :3] / 255).double()
            linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
            assert ((ours[name][1].view(-1, 4)[:, :3] / 255 - linear).abs() <= 2.6 / 255).all()  # a byte of sRGB is up to 2.3 of linear
        elif not name.endswith("ROTATION"):
            assert torch.allclose(values, ours[name][1], rtol=1e-5, atol=1e-6), name


def attributes(path: Path) -> dict[str, tuple[dict, torch.Tensor]]:
    """Read by hand: what the JSON says of each attribute, and its numbers."""
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    document, block = json.loads(data[20 : 20 + length]), data[28 + length :]
    primitive = document["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0 and document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    found = {}
    for name, index in primitive["attributes"].items():
        a = document["accessors"][index]
        view = document["bufferViews"][a["bufferView"]]
        raw = block[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        values = torch.frombuffer(bytearray(raw), dtype=torch.float32 if a["componentType"] == 5126 else torch.uint8).float()
        found[name] = ({k: a.get(k) for k in ("componentType", "type", "count", "normalized")} | primitive["extensions"], values)
    return found


def test_trimesh_reads_our_glb_as_points(tmp_path: Path):
    trimesh = pytest.importorskip("trimesh", reason="needs an installed package: trimesh")
    wanted = some_gaussians(50, 2)
    write_splats(tmp_path / "ours.glb", wanted, "glb")
    cloud = next(iter(trimesh.load(tmp_path / "ours.glb").geometry.values()))
    turned = half_turn(wanted, 2)
    assert torch.equal(torch.tensor(cloud.vertices).float(), turned.means)
    alpha = torch.tensor(cloud.colors[:, 3]).float() / 255
    assert (alpha - wanted.opacities).abs().max() <= 0.5 / 255 + 1e-6


SCENES: dict[str, Callable[[], tuple[Gaussians, Gaussians]]] = {
    **{f"degree {d}": (lambda d=d: (some_gaussians(200, d),) * 2) for d in range(4)},
    "one splat": lambda: (some_gaussians(1, 3),) * 2,
    "10,000": lambda: (some_gaussians(10_000, 3),) * 2,
    "poisoned": lambda: poisoned(some_gaussians(200, 1)),
}


def test_the_scenes_are_told_apart_by_place():
    given, wanted = SCENES["poisoned"]()
    assert len(given) == 200 and len(wanted) == 195 and in_order_of(wanted, wanted).means.equal(wanted.means)
