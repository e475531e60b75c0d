"""The judge of surfaces against closed forms: what is off by a known amount scores that amount."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from handful.benchmarks import surface
from handful.benchmarks.surface_table import table
from handful.recon.camera import Cameras
from handful.recon.framing import look_at
from handful.recon.mesh import Mesh

pytest.importorskip("open3d", reason="needs open3d")

from handful.benchmarks.surface_judges import SyntheticCase, rendered_depth  # noqa: E402
from handful.benchmarks.surface_pictures import sheet  # noqa: E402
from handful.benchmarks.surface_reference import agreed_points, thinned  # noqa: E402
from handful.benchmarks.surface_scores import (  # noqa: E402
    Surface,
    angles,
    area_samples,
    depth_scores,
    finer,
    mesh_depth,
    outside_hull,
    score_distances,
    seen_by,
    seen_part,
    silhouette_scores,
)
from handful.data.synthetic import demo_capture, true_mesh  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def plane(x0: float, x1: float, z: float = 0.0) -> Surface:
    """[x0, x1] x [-1, 1] at height z."""
    v = np.array([[x0, -1, z], [x1, -1, z], [x1, 1, z], [x0, 1, z]], float)
    return Surface(v, np.array([[0, 1, 2], [0, 2, 3]], np.int32))


def sphere(radius: float, rows: int = 120) -> Surface:
    a, b = np.meshgrid(np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, 2 * rows), indexing="ij")
    v = radius * np.stack([np.sin(a) * np.cos(b), np.sin(a) * np.sin(b), np.cos(a)], -1).reshape(-1, 3)
    i = (np.arange(rows - 1)[:, None] * 2 * rows + np.arange(2 * rows - 1)).reshape(-1)
    return Surface(v, np.concatenate([np.stack([i, i + 2 * rows, i + 1], 1), np.stack([i + 1, i + 2 * rows, i + 2 * rows + 1], 1)]))


def box(low: tuple[float, float, float], high: tuple[float, float, float]) -> Surface:
    c = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Surface(c, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32))


def camera(eye: tuple[float, float, float] = (0, 0, 0), target: tuple[float, float, float] = (0, 0, 1), size: int = 100, f: float = 100.0) -> Cameras:
    T = look_at(torch.tensor([eye], dtype=torch.float64), torch.tensor([target], dtype=torch.float64), torch.tensor([0.0, -1.0, 0.0]))
    return Cameras(T, torch.tensor([[[f, 0, size / 2], [0, f, size / 2], [0, 0, 1]]], dtype=torch.float64), size, size)


def both_ways(truth: Surface, mesh: Surface, threshold: float) -> dict[str, float]:
    return score_distances(truth.rays.nearest(area_samples(mesh, 20_000, 0)[0])[0], mesh.rays.nearest(area_samples(truth, 20_000, 1)[0])[0], threshold)


# -- distances and normals ---------------------------------------------------------------------------------------------


def test_a_plane_that_is_off_by_a_known_distance() -> None:
    low = both_ways(plane(-1, 1), plane(-1, 1, 0.03), 0.02)
    assert [low[k] for k in ("accuracy", "completeness", "chamfer")] == pytest.approx([0.03] * 3, rel=1e-4) and low["fscore"] == 0
    assert both_ways(plane(-1, 1), plane(-1, 1, 0.03), 0.04)["fscore"] == 1


def test_a_sphere_that_is_too_large() -> None:
    out = both_ways(sphere(1.0), sphere(1.02), 0.03)
    assert out["chamfer"] == pytest.approx(0.02, rel=0.02) and out["accuracy_median"] == pytest.approx(0.02, rel=0.02)
    points, at = area_samples(sphere(1.02), 5000, 0)
    ball = sphere(1.0)
    assert angles(ball.normals[ball.rays.nearest(points)[1]], sphere(1.02).normals[at]).max() < 3  # facets of 1.5 degrees
    assert angles(ball.normals[at], points / np.linalg.norm(points, axis=1, keepdims=True)).max() < 1.5


def test_a_missing_half_costs_completeness_alone() -> None:
    out = both_ways(plane(-1, 1), plane(-1, 0), 0.01)
    assert out["accuracy"] == pytest.approx(0, abs=1e-6) and out["completeness"] == pytest.approx(0.25, rel=0.02)  # half of it 0.5 away on average
    assert out["precision"] == 1 and out["recall"] == pytest.approx(0.505, abs=0.01) and out["fscore"] == pytest.approx(0.671, abs=0.01)


def test_what_is_far_is_left_out_and_counted() -> None:
    d = np.array([1.0, 3.0, 50.0, 20.0])
    out = score_distances(d, d[:2], 2.0, far=20.0)
    assert out["accuracy"] == 2 and out["accuracy_far"] == 0.5 and out["completeness_far"] == 0 and out["precision"] == 0.25
    assert score_distances(d, d[:2], 2.0, unit=2.0)["completeness"] == 1


def test_normals_off_by_a_known_angle() -> None:
    n = np.array([[0.0, 0, 1]]), np.array([[0, np.sin(0.3), -np.cos(0.3)]])  # the side does not matter
    assert angles(*n)[0] == pytest.approx(np.rad2deg(0.3))


def test_samples_are_alike_in_number_per_area() -> None:
    both = Surface(np.concatenate([plane(0, 1).vertices, plane(2, 5).vertices]), np.concatenate([plane(0, 1).triangles, plane(2, 5).triangles + 4]))
    points, at = area_samples(both, 40_000, 3)
    assert (points[:, 0] < 1.5).mean() == pytest.approx(0.25, abs=1e-3) and ((points[:, 0] < 1.5) == (at < 2)).all()
    right = points[at >= 2]
    assert np.histogram(right[:, 0], 6, (2, 5))[0] / len(right) == pytest.approx(np.full(6, 1 / 6), abs=0.01)
    np.testing.assert_array_equal(points, area_samples(both, 40_000, 3)[0])


# -- what cameras see --------------------------------------------------------------------------------------------------


def test_depth_and_silhouette_of_a_box() -> None:
    depth, triangle = mesh_depth(box((-0.5, -0.5, 4), (0.5, 0.5, 5)), camera())
    face = torch.zeros(1, 100, 100, dtype=torch.bool)
    face[:, 38:62, 38:62] = True  # 25 pixels wide: half of the two on either side
    assert bool((triangle >= 0)[face].all()) and depth[face].max() == pytest.approx(4, abs=1e-5)
    shown = triangle >= 0
    assert 24**2 <= int(shown.sum()) <= 26**2
    assert {k: float(v) for k, v in silhouette_scores(shown, shown).items()} == {"iou": 1, "inside": 1, "filled": 1}
    moved = silhouette_scores(face, face.roll(6, 2))
    assert float(moved["iou"]) == pytest.approx(18 / 30) and float(moved["inside"]) == pytest.approx(18 / 24)
    assert float(silhouette_scores(shown & False, shown)["inside"]) == 1 and float(silhouette_scores(shown & False, shown)["iou"]) == 0


def test_depth_scores_count_what_they_say() -> None:
    truth = torch.tensor([[[1.0, 2.0, 4.0, 0.0, 5.0, 1.0]]])
    depth = torch.tensor([[[1.005, 2.06, 0.0, 3.0, 7.0, 9.0]]])
    out = depth_scores(depth, truth, torch.tensor([[[True] * 5 + [False]]]))
    assert out == {"cover": 0.75, "median": pytest.approx(0.03, rel=1e-3), "within_1": pytest.approx(1 / 3), "within_5": pytest.approx(2 / 3)}


def test_what_is_hidden_is_not_seen() -> None:
    wall = plane(-1, 1, 4)
    points = np.array([[0, 0, 3.0], [0, 0, 4.02], [0, 0, 5.0], [1.5, 0, 5.0], [9.0, 0, 5.0], [0, 0, -1.0]])
    assert seen_by(points, camera(), wall)[0].tolist() == [True, True, False, True, False, False]
    assert seen_by(points, camera(), wall, plane(-1, 1, 6))[0].tolist() == [True, True, True, True, False, False]  # one of the two does not hide it


def test_the_seen_part_of_a_surface() -> None:
    far = plane(-4, 4, 8)  # behind a wall that covers |x| < 2 of it; |x| up to 4 is in the picture
    scene = Surface(np.concatenate([plane(-1, 1, 4).vertices, far.vertices]), np.concatenate([plane(-1, 1).triangles, far.triangles + 4]))
    fine = finer(scene, 0.1)
    assert _area(fine) == pytest.approx(_area(scene)) and np.linalg.norm(fine.vertices[1::3] - fine.vertices[::3], axis=1).max() <= 0.1
    assert _area(seen_part(scene, camera(), 0.1)) == pytest.approx(4 + 8, rel=0.05)


def _area(s: Surface) -> float:
    a, b, c = (s.vertices[s.triangles[:, i]] for i in range(3))
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def test_the_hull_of_two_masks() -> None:
    front, side = camera((0, 0, -5), (0, 0, 0)), camera((-5, 0, 0), (0, 0, 0))
    both = Cameras(torch.cat([front.cam_from_world, side.cam_from_world]), torch.cat([front.K, side.K]), 100, 100)
    masks = mesh_depth(box((-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)), both)[1] >= 0
    points = np.array([[0, 0, 0], [0.49, 0.49, 0.49], [0.62, 0, 0], [0, 0, 0.62], [0, 0, 2.0], [0, 40, 0], [0, 0.64, 0]])
    assert outside_hull(points, both, masks).tolist() == [False, False, True, True, True, False, True]  # the sixth is in no picture
    assert outside_hull(points[-1:], both, masks, slack=2).tolist() == [False]


# -- pseudo truth ------------------------------------------------------------------------------------------------------


def test_only_what_photos_agree_on_is_kept() -> None:
    """A plane at z = 4 seen by six cameras side by side; one errs in a corner, one knows nothing of its lower rows."""
    eyes = torch.tensor([[0.1 * i, 0.0, 0.0] for i in range(6)])
    cameras = Cameras(look_at(eyes, eyes + torch.tensor([0, 0, 1.0]), torch.tensor([0.0, -1, 0])), camera(size=40, f=40).K.float().expand(6, 3, 3), 40, 40)
    depth = torch.full((6, 40, 40), 4.0)
    depth[2, :10, :10], depth[3, 30:] = 4.3, 0.0
    points = agreed_points(depth, cameras)
    assert points[:, 2].min() == pytest.approx(4, abs=1e-4) and points[:, 2].max() == pytest.approx(4, abs=1e-4)
    assert 6 * 1600 - 100 - 400 - 6 * 4 * 40 < len(points) <= 6 * 1600 - 100 - 400  # less the columns at the rims that too few see
    assert len(agreed_points(depth[:3], cameras[[0, 1, 2]])) == 0  # three photos cannot agree with three others


def test_thinning_keeps_one_point_a_cell() -> None:
    xyz = np.array([[0.1, 0, 0], [0.3, 0, 0], [1.2, 0, 0], [-0.1, 0, 0]])
    assert sorted(thinned(xyz, 1.0)[:, 0].tolist()) == pytest.approx([-0.1, 0.2, 1.2])


# -- a whole case ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """Renders a mesh as a SplatScene renders splats."""

    surface: Surface

    def render(self, cameras: Cameras) -> Any:
        depth = mesh_depth(self.surface, cameras)[0]
        return SimpleNamespace(depth=depth, alpha=(depth > 0).float(), color=(depth > 0).float()[..., None].expand(-1, -1, -1, 3))


@pytest.fixture(scope="module")
def case() -> SyntheticCase:
    return SyntheticCase(demo_capture(width=96, height=72, kind="object", supersample=1), 20_000, 0.01)


def test_the_truth_scores_nothing_off(case: SyntheticCase) -> None:
    mesh = true_mesh(case.demo.scene)
    out = case.judge(Drawn(Surface.of(mesh)), mesh)  # pyright: ignore[reportArgumentType]
    assert out["accuracy"] < 0.02 and out["completeness"] < 1e-3 and out["completeness_twice"] < 1e-3 and out["fscore"] > 0.999
    assert out["normal_degrees"] < 0.5 and out["mesh_train_median"] < 1e-5 and out["render_held_out_within_1"] > 0.999
    assert 0.4 < out["left_out"] < 0.8 and 0.5 < out["seen_twice"] < 1  # the back of things is not judged


def test_half_as_near_again_is_found_by_every_score(case: SyntheticCase) -> None:
    """Everything moved by 2 % of the depth towards the middle camera."""
    mesh, back = true_mesh(case.demo.scene), 2 * case.unit
    axis = case.demo.photo_cameras.cam_from_world[1, 2, :3].double().numpy()
    moved = Mesh(mesh.vertices - back * axis, mesh.triangles, mesh.colors)
    out = case.judge(Drawn(Surface.of(moved)), moved)  # pyright: ignore[reportArgumentType]
    assert 0.7 < out["accuracy"] <= 2.001 and 0.7 < out["completeness"] <= 2.001 and out["fscore"] < 0.8
    assert out["mesh_train_median"] == pytest.approx(0.02, rel=0.25) and out["mesh_train_median"] == out["render_train_median"]
    assert out["mesh_train_distance"] == pytest.approx(out["render_train_distance"]) and out["mesh_train_distance"] > 0.7


def test_a_floater_costs_accuracy_and_the_hidden_nothing(case: SyntheticCase) -> None:
    mesh, eye = true_mesh(case.demo.scene), case.demo.photo_cameras.centers[1].double().numpy()
    scores = []
    for share in (0.5, 1.6):  # on the way to the target, and in its shadow
        at = eye + share * (np.array(case.demo.scene.stage.target) - eye)
        extra = Mesh(np.concatenate([mesh.vertices, box(tuple(at - 0.05), tuple(at + 0.05)).vertices]),
                     np.concatenate([mesh.triangles, box((0, 0, 0), (1, 1, 1)).triangles + len(mesh.vertices)]), np.zeros((len(mesh.vertices) + 8, 3)))  # fmt: skip
        scores.append(case.judge(Drawn(Surface.of(extra)), extra)["accuracy"])  # pyright: ignore[reportArgumentType]
    assert scores[0] > 0.1 and scores[1] < scores[0] / 3


def test_depth_is_where_the_scene_is_opaque() -> None:
    out = SimpleNamespace(depth=torch.tensor([[[2.0, 3.0, float("nan")]]]), alpha=torch.tensor([[[0.9, 0.2, 0.9]]]))
    assert rendered_depth(SimpleNamespace(render=lambda c: out), camera()).tolist() == [[[2.0, 0.0, 0.0]]]  # pyright: ignore[reportArgumentType]


def test_a_sheet_has_a_row_per_look(case: SyntheticCase) -> None:
    picture = sheet(case.looks, Drawn(case.truth), true_mesh(case.demo.scene))  # pyright: ignore[reportArgumentType]
    assert tuple(picture.shape) == (2 * (72 + 16), 5 * 96, 3)
    exact, empty = picture[16:88, 4 * 96 :], case.looks[0].depth == 0  # pyright: ignore[reportOptionalOperand]
    assert float(exact[empty].max()) == 0 and float(exact[~empty][:, 2].mean()) > 0.3 > float(exact[~empty][:, 0].mean())  # blue: exact


# -- the command -------------------------------------------------------------------------------------------------------


def test_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "r.json")]
    assert surface.main([*out, "--captures", "moon"]) == 2 and surface.main([*out, "--methods", "magic"]) == 2
    assert surface.main([*out, "--captures", "room", "--data", str(tmp_path)]) == 2 and surface.main([*out, "--table"]) == 2
    err = capsys.readouterr().err
    assert "no capture 'moon'" in err and "no method 'magic'" in err and "holds none of the captures" in err


def test_the_table_has_means_and_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"capture": "tabletop", "method": "handful", "steps": None, "reconstruct_s": 60.0, "mesh_s": 3.0, "triangles": 5000, "gaussians": 9}
    keys = {"accuracy": 1.0, "completeness": 2.0, "chamfer": 1.5, "fscore": 0.5, "normal_degrees": 12.0}
    rows = [row | {"seed": s, "scores": {k: v + s for k, v in keys.items()}} for s in (0, 1)]
    (tmp_path / "r.json").write_text(json.dumps({"rows": rows, "summary": surface.summary(rows)}))
    assert surface.main(["-o", str(tmp_path / "r.json"), "--table"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("| tabletop"))
    assert line.startswith("| tabletop | `handful` | 1.50 ± 0.71 | 2.50 ± 0.71 | 2.00 ± 0.71 | 1.000 ± 0.707 | 12.5 ± 0.7 | 5 ± 0 | 60 ± 0 / 3 ± 0 |")
    assert surface.summary(rows[:1])[0]["chamfer"] == {"mean": 1.5, "std": None}

def test_the_page_says_what_is_stored() -> None:
    stored = json.loads((ROOT / "benchmarks/results/surface.json").read_text())
    assert table(stored["summary"]) in (ROOT / "docs/meshes.md").read_text()
