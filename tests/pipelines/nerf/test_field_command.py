"""Fields on the command line: reconstructed, kept, drawn, scored; splats from a field go wherever splats go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from handful.data.edits_file import EDITS, write_edits
from handful.data.ply import read_gaussians, read_points
from handful.pipelines.cli.main import _run
from handful.pipelines.nerf.field_file import FIELD, save_field
from handful.pipelines.results import check_results
from handful.pipelines.scene_folder import load_scene
from handful.recon.edits import CropBox
from handful.recon.metrics import psnr

from ..bench_captures import write_capture

TINY = ["optim.steps=60", "optim.rays=512", "grid.side=32", "grid.hidden=16", "sampling.steps=64", "sampling.cells=24", "sampling.first_look=20"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("captures") / "table", count=4)


@pytest.fixture(scope="module")
def out(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "out"
    assert _run(["reconstruct", str(table), "-o", str(folder), "--method", "vm", "--set", *TINY, "--json", str(folder.parent / "s.json"), "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def solid(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a field e^2 times as dense: after so few steps it is fog, which has no surface."""
    folder = tmp_path_factory.mktemp("solid") / "out"
    shutil.copytree(out, folder)
    scene = load_scene(folder).field()
    with torch.no_grad():
        scene.field.decoder.b2[0] += 2
    save_field(folder / FIELD, scene)
    return folder


def test_a_field_is_kept_with_the_splats_made_from_it(out: Path) -> None:
    summary, metrics = json.loads((out.parent / "s.json").read_text()), json.loads((out / "metrics.json").read_text())
    folder = load_scene(out)
    assert summary["gaussians"] == len(folder.gaussians) == len(read_gaussians(out / "scene.ply")) > 500
    assert metrics["method"] == "vm" and metrics["parameters"] > 10_000 and metrics["finished"] and metrics["train_psnr"] > 14
    field = folder.field()
    camera = folder.cameras[1]
    assert float(psnr(field.render(camera).color.clamp(0, 1), folder.scene.render(camera).color.clamp(0, 1))[0]) > 18, "the splats look as the field does"
    assert float(psnr(field.render(camera).color.clamp(0, 1), folder.images()[1:2])[0]) > 14


def test_the_same_command_again_changes_nothing(table: Path, out: Path) -> None:
    before = (out / FIELD).read_bytes()
    assert _run(["reconstruct", str(table), "-o", str(out), "--method", "vm", "--set", *TINY, "--quiet"]) == 0
    assert (out / FIELD).read_bytes() == before


def test_the_field_itself_is_drawn(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ([], ["--field"]):
        assert _run(["render", str(out), "-o", str(tmp_path / f"{len(flag)}.png"), "--frames", "1", "--size", "48x36", "--what", "color+depth", "--quiet", *flag]) == 0
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()
    (out / FIELD).rename(tmp_path / FIELD)
    try:
        for command in (["render", str(out), "-o", str(tmp_path / "x.png"), "--frames", "1"], ["export", str(out), "-o", str(tmp_path / "x.ply")]):
            assert _run([*command, "--field"]) == 2
            error = capsys.readouterr().err
            assert "holds no field.safetensors" in error and "Traceback" not in error and not Path(command[3]).exists()
        (out / FIELD).write_bytes(b"no field")
        assert _run(["render", str(out), "-o", str(tmp_path / "x.png"), "--frames", "1", "--field"]) == 2
        error = capsys.readouterr().err
        assert "field.safetensors is not a checkpoint" in error and "Traceback" not in error
    finally:
        (tmp_path / FIELD).replace(out / FIELD)


def test_its_surface_is_taken_along_as_a_mesh(solid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open3d = pytest.importorskip("open3d", reason="needs open3d")
    common = ["mesh", str(solid), "-o", str(tmp_path / "m.ply"), "--resolution", "48", "--smallest", "0"]
    assert _run([*common, "--field", "--json", str(tmp_path / "m.json"), "--quiet"]) == 0
    mesh = open3d.io.read_triangle_mesh(str(tmp_path / "m.ply"))
    assert json.loads((tmp_path / "m.json").read_text())["triangles"] == len(mesh.triangles) > 500
    low, high = np.asarray(mesh.vertices).min(0), np.asarray(mesh.vertices).max(0)
    middle = (low + high) / 2
    corners = [f"{v:.4f}" for v in (*low, *middle)]
    assert _run([*common, "--field", "--quiet", "--bounds", *corners]) == 0
    cut = np.asarray(open3d.io.read_triangle_mesh(str(tmp_path / "m.ply")).vertices)
    assert (cut >= low - 1e-3).all() and (cut <= middle + 1e-3).all()
    assert _run([*common[:2], "-o", str(tmp_path / "m.glb"), "--resolution", "48", "--field", "--quiet"]) == 0
    capsys.readouterr()
    for options, says in (
        (["--level", "0.1"], "add --field"),
        (["--bounds", *corners], "add --field"),
        (["--field", "--no-between"], "--no-between"),
        (["--field", "--level", "1.5"], "--level is an opacity"),
        (["--field", "--bounds", "0", "0", "0", "-1", "1", "1"], "--bounds takes"),
        (["--field", "--bounds", "900", "900", "900", "901", "901", "901"], "Nothing in these bounds"),
        (["--field", "--resolution", "3"], "--resolution"),
    ):
        assert _run([*common, *options]) == 2
        error = capsys.readouterr().err
        assert says in error and "Traceback" not in error
    (solid / FIELD).rename(tmp_path / FIELD)
    try:
        assert _run([*common, "--field"]) == 2
        error = capsys.readouterr().err
        assert "holds no field.safetensors" in error and "Traceback" not in error
    finally:
        (tmp_path / FIELD).rename(solid / FIELD)


def test_its_surface_is_taken_along_as_points(solid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["export", str(solid), "--field", "-o", str(tmp_path / "p.ply"), "--json", str(tmp_path / "p.json"), "--quiet"]) == 0
    points = read_points(tmp_path / "p.ply")
    assert json.loads((tmp_path / "p.json").read_text())["points"] == len(points) > 500 and points.normals is not None
    for options, says in (
        (["-o", str(tmp_path / "p.spz")], "Points are written as"),
        (["-o", str(tmp_path / "p.ply"), "--format", "nerfstudio"], "Points are written as"),
    ):
        assert _run(["export", str(solid), "--field", *options]) == 2
        assert says in capsys.readouterr().err
    assert _run(["export", str(solid / "scene.ply"), "--field", "-o", str(tmp_path / "p.ply")]) == 2
    assert "holds no field" in capsys.readouterr().err


def test_edits_are_not_lost_unsaid(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_edits(out / EDITS, [CropBox((0.0, 0.0, 0.0), (0.7, 0.7, 0.7))])
    try:
        for command in (
            ["export", str(out), "-o", str(tmp_path / "e.ply")],
            ["render", str(out), "-o", str(tmp_path / "e.png"), "--frames", "1", "--size", "48x36"],
        ):
            assert _run([*command, "--field"]) == 2
            assert "add --unedited" in capsys.readouterr().err
            assert _run([*command, "--field", "--unedited", "--quiet"]) == 0
    finally:
        (out / EDITS).unlink()


def test_scored_like_everything_else(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["evaluate", "holdout", str(table), "--every", "4", "--method", "vm", "--set", *TINY, "-o", str(tmp_path / "e"), "--json", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())["psnr"] > 12
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    check_results(results)
    assert results["method"] == "vm" and results["settings"]["grid"]["side"] == 32
    capsys.readouterr()
    assert _run(["evaluate", "holdout", str(table), "--method", "vm", "--set", "grid.sides=3"]) == 2
    assert "no setting 'grid.sides'; did you mean 'side'" in capsys.readouterr().err


@pytest.mark.slow  # pytest -m slow tests/pipelines/nerf
def test_a_benchmark_compares_both_kinds(table: Path, tmp_path: Path) -> None:
    settings = ", ".join(f'"{s}"' for s in TINY)
    methods = f'methods = [{{method = "vm", set = [{settings}]}}, {{method = "3dgs", set = ["optim.steps=10", "seed.budget=4000"]}}]'
    (tmp_path / "b.toml").write_text(f'{methods}\nseeds = [0]\n[[benchmarks]]\ndataset = "holdout"\nscenes = ["{table.name}"]\nviews = [0]\nevery = 4\n')
    assert _run(["benchmark", "run", str(tmp_path / "b.toml"), "--data", str(table.parent), "-o", str(tmp_path / "o"), "--quiet"]) == 0
    rows = json.loads((tmp_path / "o" / "results.json").read_text())["rows"]
    assert len(rows) == 2 and all(r["psnr"]["mean"] > 8 for r in rows)


def test_refining_says_what_it_needs(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["refine", str(out), "-o", str(tmp_path / "r")]) == 2
    assert "was made from a radiance field" in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_splats_that_take_a_field_s_place_leave_none(table: Path, out: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    assert _run(["reconstruct", str(table), "-o", str(copy), "--set", "optim.steps=5", "seed.budget=2000", "--overwrite", "--quiet"]) == 0
    assert not (copy / FIELD).exists() and (copy / "scene.ply").exists()
