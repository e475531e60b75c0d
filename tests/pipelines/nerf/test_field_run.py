"""NeRF methods on small made-up captures: they learn, go on exactly, are kept, become splats; each term does what it says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.data.synthetic import arc_cameras, capture_of, make_scene, render_truth
from handful.pipelines.catalog import all_methods, any_method_config, check_any, config_from_json, said_of, start_run
from handful.pipelines.checkpoint import load_checkpoint, save_checkpoint
from handful.pipelines.config import override, to_jsonable
from handful.pipelines.events import Finished, StageProgress, StepDone
from handful.pipelines.init.protocol import CameraReport, InitState
from handful.pipelines.mesh import MeshOptions
from handful.pipelines.nerf import FIELD_METHODS
from handful.pipelines.nerf import run as running
from handful.pipelines.nerf.config import FieldConfig
from handful.pipelines.nerf.convert import splats_of_field, views_around
from handful.pipelines.nerf.field_file import load_field, save_field
from handful.pipelines.nerf.layout import choose_space
from handful.pipelines.nerf.points import field_points
from handful.pipelines.nerf.run import FieldRun
from handful.pipelines.protocol import Start
from handful.recon.capture import Capture
from handful.recon.depth import DepthMap
from handful.recon.errors import CheckpointError, ConfigError
from handful.recon.field.occupancy import march
from handful.recon.field.space import BoxSpace, FrustumSpace
from handful.recon.metrics import psnr
from handful.recon.points import PointCloud

SMALL = ["grid.side=32", "grid.hidden=16", "optim.rays=512", "sampling.steps=64", "sampling.cells=24", "sampling.warm_up=20"]


def start_of(kind: str, azimuths: list[float], width: int = 64, height: int = 48) -> tuple[Start, Capture]:
    """Photos of a made-up scene with their true depth, and a view between them."""
    scene = make_scene(3, kind)
    cameras = arc_cameras(scene, [*azimuths, (azimuths[0] + azimuths[1]) / 2], width, height)
    truth = render_truth(scene, cameras)
    whole = capture_of(truth, "p", cameras, white=kind == "object")
    train, test = whole.select(whole.names[:-1]), whole.select(whole.names[-1:])
    maps = tuple(DepthMap(d, (d > 0).float(), d > 0) for d in truth.depth[:-1])
    report = CameraReport("given", len(azimuths), len(azimuths), None, 70.0, "given", None, 0)
    return Start(InitState(train, PointCloud(torch.zeros(0, 3)), report), maps), test


@pytest.fixture(scope="module")
def thing() -> tuple[Start, Capture]:
    """An object from all sides, on white."""
    return start_of("object", [0.0, 40.0, 90.0, 140.0, 190.0, 240.0, 290.0, 330.0])


@pytest.fixture(scope="module")
def table() -> tuple[Start, Capture]:
    """Photos that look one way."""
    return start_of("tabletop", [-12.0, 0.0, 12.0])


def run_of(method: str, start: Start, *settings: str) -> FieldRun:
    run = start_run(override(any_method_config(method), [*SMALL, *settings]), start)
    assert isinstance(run, FieldRun)
    return run


def finish(run: FieldRun) -> FieldRun:
    for _ in run.events():
        pass
    return run


def quality(run: FieldRun, capture: Capture) -> float:
    assert capture.cameras is not None
    return float(psnr(run.snapshot().render(capture.cameras).color.clamp(0, 1), capture.images()).mean())


@pytest.fixture(scope="module")
def learned(thing: tuple[Start, Capture]) -> FieldRun:
    return finish(run_of("vm", thing[0], "optim.steps=300", "optim.rays=1024"))


def test_an_object_is_learned_and_seen_from_elsewhere(thing: tuple[Start, Capture], learned: FieldRun) -> None:
    start, test = thing
    blank = float(psnr(torch.ones_like(test.images()), test.images()).mean())
    assert quality(learned, start.init.capture) > 24 and quality(learned, test) > blank + 6
    assert isinstance(learned.space, BoxSpace) and float(learned.occupancy.cells.float().mean()) < 0.6
    scene, depth = learned.snapshot(), start.depth[0]
    out = scene.render(scene.cameras[0], normal=True)
    solid = depth.valid & (out.alpha[0] > 0.9)
    assert float(((out.depth[0] - depth.depth).abs() / depth.depth)[solid].median()) < 0.03, "depth is z-depth of the photo's camera"
    assert out.normal is not None
    away = scene.cameras[0].unproject_depth(out.depth)[0] - scene.cameras.centers[0]
    toward = -(out.normal[0] * (away @ scene.cameras.cam_from_world[0, :3, :3].T)).sum(-1)[solid]
    assert float(toward.min()) > -1e-3, "normals look towards the camera"


def test_photos_that_look_one_way_live_in_a_frustum(table: tuple[Start, Capture]) -> None:
    start, test = table
    run = finish(run_of("vm", start, "optim.steps=300", "optim.rays=1024", "grid.hidden=32"))
    assert isinstance(run.space, FrustumSpace)
    assert quality(run, start.init.capture) > 20 and quality(run, test) > 17
    near = min(float(d.depth[d.valid].min()) for d in start.depth)
    assert run.space.near < near, "nothing that was measured lies before the near plane"


@pytest.mark.parametrize("method", FIELD_METHODS)
def test_every_method_learns_and_goes_on_exactly(method: str, table: tuple[Start, Capture], tmp_path: Path) -> None:
    settings = ["optim.steps=24", "grid.side=32", "grid.widths=[8,8,8,8]", "sampling.warm_up=4", "sampling.first_look=4"]
    whole = run_of(method, table[0], *settings)
    before = quality(whole, table[0].init.capture)
    events = list(whole.events())
    assert isinstance(events[-1], Finished) and [e.step for e in events if isinstance(e, StepDone)] == list(range(1, 25))
    assert quality(whole, table[0].init.capture) > before + 0.3
    half = run_of(method, table[0], *settings)
    for event in half.events():
        if isinstance(event, StepDone) and event.step == 10:
            break
    save_checkpoint(tmp_path / "c", *half.state())
    again = run_of(method, table[0], *settings)
    again.restore(*load_checkpoint(tmp_path / "c"))
    finish(again)
    for (name, a), b in zip(whole.field.named_parameters(), again.field.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_an_object_goes_on_in_the_box_it_began_in(thing: tuple[Start, Capture], tmp_path: Path) -> None:
    """The first look is not taken again: another machine would see a slightly other box."""
    settings = ["optim.steps=24", "sampling.first_look=30", "sampling.warm_up=4"]
    whole = finish(run_of("vm", thing[0], *settings))
    half = run_of("vm", thing[0], *settings)
    looks = []
    for event in half.events():
        looks.append(event) if isinstance(event, StageProgress) else None
        if isinstance(event, StepDone) and event.step == 10:
            break
    assert len(looks) == 30 and looks[-1].done == 1.0
    save_checkpoint(tmp_path / "c", *half.state())
    again = run_of("vm", thing[0], *settings)
    again.restore(*load_checkpoint(tmp_path / "c"))
    assert not any(isinstance(e, StageProgress) for e in again.events())
    assert again.space.size == half.space.size <= choose_space(half.photos, "box", True).size  # pyright: ignore[reportAttributeAccessIssue]
    for (name, a), b in zip(whole.field.named_parameters(), again.field.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_stopped_while_it_takes_its_first_look(thing: tuple[Start, Capture]) -> None:
    run = run_of("vm", thing[0], "optim.steps=24")
    for event in run.events():
        if isinstance(event, StageProgress):
            run.stop()
    assert run.step == 0 and run.snapshot().render(run.photos.cameras[0]).color.shape[-1] == 3


def test_what_a_field_makes_nothing_of_is_said(table: tuple[Start, Capture]) -> None:
    start = replace(table[0], estimated_cameras=True, scan=torch.zeros(3, 48, 64))
    assert len(said_of(any_method_config("vm"), start)) == 2 and said_of(any_method_config("handful"), start) == () == said_of(any_method_config("vm"), table[0])


def test_a_checkpoint_of_another_field_is_refused(table: tuple[Start, Capture], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", *run_of("vm", table[0], "grid.side=16").state())
    with pytest.raises(CheckpointError, match="does not fit this field"):
        run_of("vm", table[0]).restore(*load_checkpoint(tmp_path / "c"))


def test_kept_and_read_again(learned: FieldRun, tmp_path: Path) -> None:
    scene = learned.snapshot()
    save_field(tmp_path / "f", scene)
    again = load_field(tmp_path / "f", scene.cameras, scene.names, scene.background)
    torch.testing.assert_close(again.render(scene.cameras[1], True).color, scene.render(scene.cameras[1], True).color, rtol=0, atol=1e-5)
    tensors, meta = load_checkpoint(tmp_path / "f")
    for broken in ({**tensors, "lines": tensors["lines"][:, :-1]}, {k: v for k, v in tensors.items() if k != "box"}, {**tensors, "decoder.w1": torch.zeros(3, 4)}):
        save_checkpoint(tmp_path / "g", broken, meta)
        with pytest.raises(CheckpointError, match="does not hold a whole field"):
            load_field(tmp_path / "g", scene.cameras, scene.names, scene.background)


@pytest.mark.parametrize("kind", ["cp", "hash", "frequency", "trivec"])
def test_whatever_it_is_made_of_goes_on_exactly_and_is_kept(kind: str, table: tuple[Start, Capture], tmp_path: Path) -> None:
    settings = [f"grid.kind={kind}", "grid.side=33", "grid.levels=5", "grid.entries=4096", "optim.steps=24", "optim.fine_from=0.5", "sampling.warm_up=4", "sampling.first_look=4"]
    half, whole = run_of("vm", table[0], *settings), run_of("vm", table[0], *settings)
    before = quality(whole, table[0].init.capture)
    finish(whole)
    assert quality(whole, table[0].init.capture) > before + 0.3
    for event in half.events():
        if isinstance(event, StepDone) and event.step == 10:
            break
    save_checkpoint(tmp_path / "c", *half.state())
    again = run_of("vm", table[0], *settings)
    again.restore(*load_checkpoint(tmp_path / "c"))
    camera, scene = table[0].init.capture.cameras, half.snapshot()
    assert camera is not None
    view = scene.render(camera[0]).color
    torch.testing.assert_close(again.snapshot().render(camera[0]).color, view, rtol=0, atol=0)
    finish(again)
    for (name, a), b in zip(whole.field.state_dict().items(), again.field.state_dict().values(), strict=True):
        assert torch.equal(a, b), name

    save_field(tmp_path / "f", scene)
    torch.testing.assert_close(load_field(tmp_path / "f", scene.cameras, scene.names, scene.background).render(camera[0]).color, view, rtol=0, atol=0)
    tensors, meta = load_checkpoint(tmp_path / "f")
    name = next(k for k in tensors if k.startswith("grid."))
    for broken, told in (
        ({k: v for k, v in tensors.items() if k != name}, meta), ({**tensors, name: tensors[name][None, None]}, meta), ({**tensors, name: tensors[name] * torch.nan}, meta),
        (tensors, {**meta, "grid": {"kind": "none"}}), (tensors, {**meta, "grid": {**meta["grid"], "channels": 7, "levels": 99}}), (tensors, {**meta, "grid": 3}),
        (tensors, {k: v for k, v in meta.items() if k != "grid"}),
    ):  # fmt: skip
        save_checkpoint(tmp_path / "g", broken, told)
        with pytest.raises(CheckpointError, match="does not hold a whole field"):
            load_field(tmp_path / "g", scene.cameras, scene.names, scene.background)


@pytest.mark.parametrize("kind", ["vm", "vm-prior", "cp", "hash", "frequency", "trivec"])
def test_whatever_it_is_made_of_has_a_surface_and_points(kind: str, table: tuple[Start, Capture]) -> None:
    """On the surface its density is that of the level, to the error of straight lines between grid points."""
    pytest.importorskip("open3d", reason="needs open3d")
    from handful.pipelines.nerf.mesh import mesh_field

    settings = ["grid.widths=[8,8,8,8]", f"grid.kind={kind}", "grid.side=24", "grid.levels=3", "grid.entries=32768", "grid.frequencies=4", "optim.steps=12", "optim.rays=256", "sampling.first_look=4"]
    scene = finish(run_of("vm", table[0], *settings)).snapshot()
    scene = replace(scene, cells=torch.ones_like(scene.cells))
    places = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scene.field.decoder.b2[0] += 5 - scene.field.raw(places)[:, 0].median()  # after so few steps it is fog
        density = scene.field.density(places)
    level = 1 - math.exp(-math.exp(5) / scene.steps)
    mesh = mesh_field(scene, MeshOptions(resolution=32, smallest=0, reach=100.0), level=level)
    with torch.no_grad():
        there = scene.field.density(scene.space.to_cube(torch.from_numpy(mesh.vertices).float()).clamp(0, 1))
    assert len(mesh) > 200
    if kind == "trivec":  # most of its surface is where tensors end
        assert 0.8 < float((there > 0).float().mean()) < 1
    else:
        assert float((there.log() - 5).abs().median()) < 0.1 * float(density.log().std())
    points = field_points(scene)
    assert len(points) > 500 and points.normals is not None and bool(torch.isfinite(points.normals).all())


def test_learned_occupancy_goes_on_exactly_and_only_its_cells_are_kept(table: tuple[Start, Capture], tmp_path: Path) -> None:
    settings = ["optim.steps=60", "sampling.warm_up=4", "sampling.occupancy=learned"]
    whole, half = run_of("vm", table[0], *settings), run_of("vm", table[0], *settings)
    finish(whole)
    for event in half.events():
        if isinstance(event, StepDone) and event.step == 45:  # between two bakes
            break
    save_checkpoint(tmp_path / "c", *half.state())
    again = run_of("vm", table[0], *settings)
    again.restore(*load_checkpoint(tmp_path / "c"))
    assert torch.equal(again.occupancy.cells, half.occupancy.cells) and not bool(half.occupancy.cells.all())
    finish(again)
    for (name, a), b in zip([*whole.field.named_parameters(), *whole.occupancy.named_parameters()], [*again.field.parameters(), *dict(again.occupancy.named_parameters()).values()], strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(whole.occupancy.cells, again.occupancy.cells)
    save_field(tmp_path / "f", whole.snapshot())
    kept, _ = load_checkpoint(tmp_path / "f")
    assert torch.equal(kept["cells"].bool(), whole.occupancy.cells) and not any("weights" in k for k in kept)
    with pytest.raises(CheckpointError, match="does not fit this field"):
        run_of("vm", table[0], "sampling.warm_up=4").restore(*load_checkpoint(tmp_path / "c"))


def test_an_object_is_learned_with_its_occupancy(thing: tuple[Start, Capture], learned: FieldRun) -> None:
    start, test = thing
    run = finish(run_of("vm", start, "optim.steps=150", "optim.rays=1024", "sampling.occupancy=learned"))
    assert quality(run, test) > quality(learned, test) - 3  # in half the steps
    assert 0.01 < float(run.occupancy.cells.float().mean()) < 0.7


def test_tensors_lie_where_depth_was_measured(thing: tuple[Start, Capture]) -> None:
    start = thing[0]
    run = run_of("strivec", start, "sampling.first_look=0", "grid.boxes=[0.2,0.1]")
    measured = torch.cat([start.init.capture.cameras[k].unproject_depth(d.depth[None])[0][d.valid] for k, d in enumerate(start.depth)])  # pyright: ignore[reportOptionalSubscript]
    features = run.field.encoding(run.space.to_cube(measured))
    assert float((features != 0).all(1).float().mean()) > 0.99
    assert float((run.field.encoding(torch.rand(1000, 3)) == 0).all(1).float().mean()) > 0.5
    unknown = tuple(replace(d, valid=torch.zeros_like(d.valid)) for d in start.depth)
    with pytest.raises(ConfigError, match="lays its tensors on a surface .* and none was found"):
        run_of("strivec", replace(start, depth=unknown), "sampling.first_look=0")


def test_frequencies_open_over_the_run(table: tuple[Start, Capture]) -> None:
    run = run_of("freenerf", table[0], "grid.kind=frequency", "optim.steps=8")
    opened = []
    for event in run.events():
        if isinstance(event, StepDone):
            opened.append(float(run.field.state_dict()["encoding.share"]))
    assert opened == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]


def test_a_snapshot_stays_as_it_is(table: tuple[Start, Capture]) -> None:
    run = run_of("vm", table[0], "optim.steps=6")
    scenes = []
    for event in run.events():
        if isinstance(event, StepDone) and event.step == 2:
            scenes.append((run.snapshot(), run.snapshot().render(run.photos.cameras[0]).color))
    torch.testing.assert_close(scenes[0][0].render(run.photos.cameras[0]).color, scenes[0][1])
    assert not torch.allclose(run.snapshot().render(run.photos.cameras[0]).color, scenes[0][1])


def test_in_a_hurry_what_is_there_has_to_do(thing: tuple[Start, Capture], learned: FieldRun) -> None:
    told: list[str] = []
    splats = splats_of_field(learned.snapshot(), thing[0].init.capture, progress=lambda what, share: told.append(what), hurry=lambda: True)
    assert len(splats.gaussians) > 200 and told.count("turning the field into splats") == 1 and told.count("taking pictures of the field") == len(learned.names)


def test_splats_look_as_the_field_does(thing: tuple[Start, Capture], learned: FieldRun) -> None:
    field, told = learned.snapshot(), []
    splats = splats_of_field(field, thing[0].init.capture, progress=lambda what, share: told.append(share))
    assert splats.names == field.names and len(splats.cameras) == len(field.cameras) and told[-1] == 1.0
    cameras = thing[1].cameras
    assert cameras is not None
    for view in (field.cameras[2], cameras, views_around(field.cameras, 5, around=True)[2]):
        assert float(psnr(splats.render(view).color.clamp(0, 1), field.render(view).color.clamp(0, 1))[0]) > 24
    assert len(learned.shown().gaussians) > 200


def test_settings_that_no_run_can_have_are_refused() -> None:
    for text, said in (
        ("grid.side=8", "grid.side must be from 16"), ("grid.channels=20", "grid.channels must be a multiple of 16"), ("optim.rays=0", "optim.rays must be"),
        ("grid.kind=vm-prior,grid.side=100", "multiple of 8"), ("grid.kind=hash,grid.coarsest=200", "grid.coarsest must not be more"), ("grid.boxes=[]", "grid.boxes"), ("grid.boxes=[0.2,2]", "grid.boxes"),
        ("grid.nearest=0", "grid.nearest"), ("grid.levels=0", "grid.levels"), ("terms.occlusion_reach=0", "occlusion_reach"), ("optim.lr_grid=-1", "optim.lr_grid must be from"), ("sampling.occupied=1", "sampling.occupied must be from"), ("terms.rank=-1", "terms.rank must be"),
        ("optim.lr_final=2", "lr_final"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            check_any(override(FieldConfig(), text.split(",")))
    with pytest.raises(ConfigError, match="four multiples of 8"):
        check_any(override(FieldConfig(), ["grid.kind=vm-prior", "grid.widths=[8,8,8]"]))
    with pytest.raises(ConfigError, match="no method 'nerf'; choose one of handful, 3dgs.* zerorf"):
        any_method_config("nerf")
    for name in all_methods():
        check_any(any_method_config(name))
        assert config_from_json(json.loads(json.dumps(to_jsonable(any_method_config(name)))), name) == any_method_config(name)


# -- terms -------------------------------------------------------------------------------------------------------------


def wrong_order(run: FieldRun) -> float:
    """Share of pixel pairs, well apart in true depth, that are rendered the wrong way round."""
    scene, guide = run.snapshot(), run.photos.guide[0]
    depth = scene.render(scene.cameras[0]).depth[0]
    a, b = (t[:, :-6][(guide.valid[:, :-6] & guide.valid[:, 6:])] - t[:, 6:][(guide.valid[:, :-6] & guide.valid[:, 6:])] for t in (guide.depth, depth))
    clear = a.abs() > 0.02 * run.photos.scene_depth
    return float((a[clear] * b[clear] <= 0).float().mean())


def test_ranking_brings_depth_into_order(table: tuple[Start, Capture]) -> None:
    plain, ranked = (finish(run_of("vm", table[0], "optim.steps=120", f"terms.rank={w}")) for w in (0.0, 5.0))
    assert wrong_order(ranked) < 0.8 * wrong_order(plain)
    # a guide that grows towards the camera says the same, when it is told to be of that kind
    inverse = tuple(replace(d, depth=torch.where(d.valid, 1 / d.depth.clamp_min(1e-3), 0.0), kind="affine_inverse") for d in table[0].depth)
    turned = finish(run_of("vm", replace(table[0], guide=inverse), "optim.steps=120", "terms.rank=5.0"))
    ranked_by_truth = replace(turned.photos, guide=plain.photos.guide)
    turned.photos = ranked_by_truth
    assert wrong_order(turned) < 0.8 * wrong_order(plain)


def test_smooth_patches_and_continuity_flatten_depth(table: tuple[Start, Capture]) -> None:
    def roughness(run: FieldRun) -> float:
        scene = run.snapshot()
        inverse = 1 / scene.render(scene.cameras[1]).depth[0].clamp_min(0.1)
        return float((inverse[1:] - inverse[:-1]).abs().mean())

    plain, smooth, continuous = (finish(run_of("vm", table[0], "optim.steps=120", s)) for s in ("terms.rank=0.0", "terms.smooth_patches=10.0", "terms.continuity=5.0"))
    assert roughness(smooth) < 0.8 * roughness(plain) and roughness(continuous) < 0.9 * roughness(plain)


def test_occlusion_clears_the_space_before_the_cameras(table: tuple[Start, Capture]) -> None:
    def before(run: FieldRun) -> float:
        scene = run.snapshot()
        xyz = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1.0, 0.1])
        with torch.no_grad():
            return float(scene.field.density(xyz).mean())

    plain, clear = (finish(run_of("vm", table[0], "optim.steps=80", f"terms.occlusion={w}", "sampling.threshold=0.0")) for w in (0.0, 1.0))
    assert before(clear) < 0.3 * before(plain)


def test_coarse_to_fine_begins_blurred(table: tuple[Start, Capture]) -> None:
    run = run_of("freenerf", table[0], "optim.steps=10")
    planes = run.snapshot().field.grids[0]  # pyright: ignore[reportOptionalSubscript]
    assert planes.shape[1] == 8, "what is shown is what it has learned so far"
    assert [run._side(p) for p in (0.0, 0.25, 0.5, 0.9)] == [8, 11, None, None]


def test_decay_pulls_by_its_share_of_the_rate(thing: tuple[Start, Capture]) -> None:
    """After one step, whose gradients are the same: AdamW is Adam less rate times decay times what was there."""
    settings = ("optim.steps=10", "sampling.first_look=0")
    runs = [run_of("zerorf", thing[0], *settings, f"optim.weight_decay={d}") for d in (0, 5)]
    before = {n: p.detach().clone() for n, p in runs[0].field.named_parameters()}
    for run in runs:
        events = run.events()
        next(e for e in events if isinstance(e, StepDone))
        run.stop()
    plain, pulled = (dict(run.field.named_parameters()) for run in runs)
    assert {run.step for run in runs} == {1}
    for name, p in before.items():
        rate = runs[0].rates[name]
        torch.testing.assert_close(pulled[name], plain[name] - 5 * rate * p, rtol=1e-5, atol=1e-7)


def test_an_object_s_box_asks_no_depth(table: tuple[Start, Capture], monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of stereo would be for nothing."""
    from handful.pipelines import measure as measuring

    asked: list[str] = []

    def predict(prior, views, cameras, points, anew=False):
        asked.append(prior.name)
        return [measuring._unknown(v) for v in views]

    monkeypatch.setattr(measuring, "predict_depth", predict)
    for method, alone, wanted in (("vm", True, 0), ("zerorf", True, 0), ("sparsenerf", True, 1), ("strivec", True, 1), ("vm", False, 1)):
        asked.clear()
        capture = replace(table[0].init.capture, white_background=alone)
        init = replace(table[0].init, capture=capture)
        measured = measuring.measure(init, any_method_config(method), False, 0, torch.device("cpu"))
        assert len(asked) == wanted and len(measured.depth) == len(capture.views), (method, alone)
        assert all(d.depth.shape == (v.image.size[1], v.image.size[0]) for d, v in zip(measured.depth, capture.views, strict=True))


def test_a_hull_keeps_a_field_within_the_outlines(thing: tuple[Start, Capture], table: tuple[Start, Capture], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, and only of an object that masks cut out."""
    cut = thing[0]
    run = run_of("vm", cut, "optim.steps=3", "sampling.hull=true", "sampling.first_look=0")
    assert run.hull is not None and 0.01 < float(run.hull.float().mean()) < 0.6
    assert torch.equal(finish(run).snapshot().cells, run.occupancy.cells & run.hull)
    marched: list[torch.Tensor] = []
    monkeypatch.setattr(running, "march", lambda segments, cells, *rest: marched.append(cells.clone()) or march(segments, cells, *rest))
    finish(again := run_of("vm", cut, "optim.steps=3", "sampling.hull=true", "sampling.first_look=0"))
    assert len(marched) >= 3 and again.hull is not None and not any(bool((cells & ~again.hull).any()) for cells in marched), "no step looks beyond it"
    assert run_of("vm", cut, "optim.steps=3", "sampling.first_look=0").hull is None
    assert run_of("vm", table[0], "sampling.hull=true", "sampling.first_look=0").hull is None, "nothing is cut out"
