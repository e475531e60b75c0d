"""A field from splats: the scene is one of these photos, or is refused; its pictures are the splats', are kept to the bit, and teach the field what no photo shows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.data.atomic import write_bytes
from handful.data.image_io import encode_png
from handful.data.registry import load_capture
from handful.data.synthetic import arc_cameras, capture_of, make_scene, render_truth
from handful.pipelines.catalog import all_settings, any_method_config, start_run
from handful.pipelines.cli.main import _run
from handful.pipelines.config import override
from handful.pipelines.events import StageProgress, StepDone
from handful.pipelines.init.protocol import CameraReport, InitState
from handful.pipelines.job import Reconstruction, ReconstructJob, train_capture
from handful.pipelines.measure import measure
from handful.pipelines.methods import METHODS, method_config
from handful.pipelines.nerf.config import FieldTermsConfig, first_splats
from handful.pipelines.nerf.field_file import FIELD
from handful.pipelines.nerf.from_splats import after_splats, placed_as, with_splats
from handful.pipelines.nerf.run import FieldRun
from handful.pipelines.nerf.terms.pictures import Pictures
from handful.pipelines.nerf.terms.protocol import FieldContext, Shown
from handful.pipelines.protocol import Start
from handful.pipelines.scene_folder import load_scene
from handful.pipelines.start_file import load_start, save_start
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.depth import DepthMap
from handful.recon.errors import CaptureError, ConfigError
from handful.recon.field.scene import FieldScene
from handful.recon.field.volume import RayColors
from handful.recon.metrics import psnr
from handful.recon.points import PointCloud

from ..bench_captures import write_capture

SPLATS = ["--set", "optim.steps=40", "seed.budget=3000"]
TINY = ["optim.steps=24", "optim.rays=256", "grid.side=32", "grid.hidden=16", "sampling.steps=64", "sampling.cells=24", "sampling.warm_up=4"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("captures") / "table", count=4)


@pytest.fixture(scope="module")
def splats(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splats") / "out"
    assert _run(["reconstruct", str(photos), "-o", str(folder), *SPLATS, "--quiet"]) == 0
    return folder


@pytest.fixture(scope="module")
def table() -> tuple[Start, Capture]:
    """Two photos of a tabletop with their true depth, and the truth at four places between them."""
    scene = make_scene(3, "tabletop")
    cameras = arc_cameras(scene, [-12.0, 12.0, -7.0, -2.0, 2.0, 7.0], 64, 48)
    truth = render_truth(scene, cameras, supersample=1)
    whole = capture_of(truth, "p", cameras, white=False)
    maps = tuple(DepthMap(d, (d > 0).float(), d > 0) for d in truth.depth[:2])
    report = CameraReport("given", 2, 2, None, 70.0, "given", None, 0)
    return Start(InitState(whole.select(whole.names[:2]), PointCloud(torch.zeros(0, 3)), report), maps), whole.select(whole.names[2:])


def learned(start: Start, *settings: str) -> FieldRun:
    run = start_run(override(any_method_config("vm"), [*TINY, *settings]), start)
    assert isinstance(run, FieldRun)
    for _ in run.events():
        pass
    return run


def test_pictures_teach_what_no_photo_shows(table: tuple[Start, Capture]) -> None:
    start, between = table
    assert between.cameras is not None
    taught = replace(start, pictures=between.select([between.names[k] for k in (0, 2, 3)]))
    settings = ("optim.steps=250", "optim.rays=1024", "grid.hidden=32", "optim.lr_grid=4e-2", "optim.lr_decoder=4e-3", "terms.pictures=1", "terms.pictures_final=1")
    fields = (learned(s, *settings).snapshot() for s in (start, taught))
    values = [float(psnr(f.render(between.cameras[1]).color.clamp(0, 1), between.images()[1:2])[0]) for f in fields]
    assert values[1] > values[0] + 2, values


def test_what_is_not_opaque_teaches_nothing(table: tuple[Start, Capture]) -> None:
    start, between = table
    fields = []
    for value in (0.0, 1.0):
        views = tuple(replace(v, image=ArrayImage(torch.full_like(v.image.load(), value), mask=torch.zeros(48, 64))) for v in between.views)
        fields.append(learned(replace(start, pictures=replace(between, views=views))).field.state_dict())
    assert all(torch.equal(fields[0][k], fields[1][k]) for k in fields[0])


def test_the_loss_is_a_weighted_mean_that_fades(table: tuple[Start, Capture]) -> None:
    start, between = table
    grey = ArrayImage(torch.full((48, 64, 3), 0.5), mask=torch.full((48, 64), 0.25))
    shown = Shown.of(replace(between, views=tuple(replace(v, image=grey) for v in between.views)), torch.device("cpu"))
    run = start_run(override(any_method_config("vm"), TINY), start)
    assert isinstance(run, FieldRun) and shown is not None
    config = FieldTermsConfig(pictures=0.8, pictures_final=0.25)
    context = FieldContext(run.photos, None, torch.tensor([0.1, 0.1, 0.1]), 0.5, True, torch.Generator().manual_seed(0), 64, shown)
    request = Pictures().draw(context, config)
    assert request is not None and request.cameras is shown.cameras and len(request.index) == 32
    zero = torch.zeros(32)
    blank = RayColors(torch.zeros(32, 3), zero, zero, zero)
    loss = Pictures().loss(context, config, request, blank, run._segments(request))
    assert float(loss) == pytest.approx(0.8 * 0.25**0.5 * 0.4**2, rel=1e-5)
    assert Pictures().draw(context, FieldTermsConfig(pictures=0.0)) is None and Pictures().draw(replace(context, pictures=None), config) is None


def test_the_scenes_own_photos_are_known_and_take_its_cameras(photos: Path, splats: Path) -> None:
    folder, capture = load_scene(splats), load_capture(photos)
    for known in (capture, replace(capture, cameras=None), load_capture(splats)):
        placed = placed_as(known, folder)
        assert placed.names == known.names and placed.cameras is not None
        torch.testing.assert_close(placed.cameras.cam_from_world, folder.cameras.cam_from_world.float())
        torch.testing.assert_close(placed.cameras.K, folder.cameras.K.float())
    extra = View("new.png", ArrayImage(torch.rand(48, 64, 3)))
    more = replace(capture, views=(extra, *capture.views), cameras=None)
    placed = placed_as(more, folder)
    assert placed.names == capture.names and [u.name for u in placed.unplaced] == ["new.png"], "without a camera it is left out"
    assert capture.cameras is not None
    own = Cameras(torch.cat([capture.cameras.cam_from_world[:1], capture.cameras.cam_from_world]), torch.cat([capture.cameras.K[:1], capture.cameras.K]), 64, 48)
    assert placed_as(replace(more, cameras=own), folder).names == more.names, "with one it stays"


def test_a_scene_of_something_else_is_refused(photos: Path, splats: Path) -> None:
    folder, capture = load_scene(splats), load_capture(photos)
    assert capture.cameras is not None
    with pytest.raises(CaptureError, match="scene of other photos .it knows 0 of these 4"):
        placed_as(replace(capture, views=tuple(replace(v, name=f"x{v.name}") for v in capture.views)), folder)
    inverted = tuple(replace(v, image=ArrayImage(1 - v.image.load())) for v in capture.views)
    with pytest.raises(CaptureError, match="shows something else"):
        placed_as(replace(capture, views=inverted, cameras=None), folder)
    T = capture.cameras.cam_from_world.clone()
    T[1, :3, 3] += 0.1
    for cameras in (replace(capture.cameras, cam_from_world=T), replace(capture.cameras, K=capture.cameras.K * torch.tensor([1.1, 1.1, 1.0])[:, None])):
        with pytest.raises(CaptureError, match="other cameras than these photos"):
            placed_as(replace(capture, cameras=cameras), folder)


def test_pictures_and_depth_are_the_splats_and_kept_to_the_bit(photos: Path, splats: Path, tmp_path: Path) -> None:
    folder = load_scene(splats)
    capture = placed_as(load_capture(photos), folder)
    unknown = DepthMap(torch.zeros(48, 64), torch.zeros(48, 64), torch.zeros(48, 64, dtype=torch.bool))
    start = Start(InitState(capture, PointCloud(torch.zeros(0, 3)), CameraReport("given", 4, 4, None, 70.0, "given", None, 0)), (unknown,) * 4)
    start = with_splats(start, replace(folder.scene, background=(0.0, 0.0, 0.0)), any_method_config("vm"))
    behind = learned(start, "optim.steps=1").background
    assert min(behind) > 0.1, "not black"
    assert start.pictures is not None and start.pictures.cameras is not None and capture.cameras is not None
    for k in (0, 11, 23):
        out = replace(folder.scene, background=behind).render(start.pictures.cameras[k])
        assert float((start.pictures.views[k].image.load() - out.color[0].clamp(0, 1)).abs().max()) < 0.502 / 255
        mask = start.pictures.views[k].image.load_mask()
        assert mask is not None and float((mask - out.alpha[0]).abs().max()) < 0.502 / 255
    out = folder.scene.render(capture.cameras[2])
    solid = out.alpha[0] > 0.5
    assert solid.float().mean() > 0.5 and torch.equal(start.depth[2].valid, solid)
    torch.testing.assert_close(start.depth[2].depth[solid], out.depth[0][solid])
    save_start(tmp_path / "s", start, "f")
    again = load_start(tmp_path / "s", capture).pictures
    assert again is not None and again.cameras is not None
    assert torch.equal(again.images(), start.pictures.images()) and torch.equal(again.cameras.cam_from_world, start.pictures.cameras.cam_from_world)
    masks, before = again.masks(), start.pictures.masks()
    assert masks is not None and before is not None and torch.equal(masks, before)


def test_on_the_command_line_and_again(photos: Path, splats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["reconstruct", str(photos), "--method", "vm", "--quiet", "--set", *TINY]
    assert _run([*command, "-o", str(out), "--from", str(splats)]) == 0
    first = (out / FIELD).read_bytes()
    assert _run([*command, "-o", str(out), "--from", str(splats)]) == 0 and (out / FIELD).read_bytes() == first, "done stays done"
    capsys.readouterr()
    other = tmp_path / "other"
    shutil.copytree(splats, other)
    write_bytes(other / "images" / "v1.png", encode_png(torch.zeros(48, 64, 3)))
    for args, says in (
        (["--from", str(other)], "scene of other photos (its v1.png shows something else)"),
        (["--from", str(tmp_path / "none")], "There is no folder"),
        (["--from", str(tmp_path / "new")], "which stays as it is"),
        (["--from", str(splats), "--method", "handful"], "Only a radiance field starts from splats"),
    ):
        base = ["reconstruct", str(photos), "-o", str(tmp_path / "new"), "--quiet"]
        assert _run([*base, *(["--method", "vm"] if "--method" not in args else []), *args]) == 2
        error = capsys.readouterr().err
        assert says in error and "Traceback" not in error and not (tmp_path / "new").exists()
    assert _run([*command, "-o", str(out)]) == 2, "without the splats it is another job"
    assert "--overwrite" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_exactly(photos: Path, splats: Path, tmp_path: Path) -> None:
    config = override(any_method_config("vm"), TINY)
    jobs = [ReconstructJob(photos, tmp_path / name, "vm", config, device="cpu", checkpoint_seconds=0, splats=splats) for name in ("a", "b")]

    def work(job: ReconstructJob, last: int) -> tuple[Reconstruction, list[int]]:
        """Up to that step; what comes after the field has learned is not looked at."""
        at, steps = Reconstruction(job), []
        for event in at.events():
            if isinstance(event, StepDone):
                steps.append(event.step)
                if event.step == last:
                    break
        at.close()
        return at, steps

    whole, _ = work(jobs[0], 24)
    work(jobs[1], 11)
    again, steps = work(jobs[1], 24)
    assert steps[0] in (11, 12) and whole.run is not None and again.run is not None
    a, b = whole.run.state()[0], again.run.state()[0]
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_splats_made_first(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`splats=METHOD` is that method and `--from` in one, in a reconstruction and in an evaluation, and works with photos alone."""
    few = override(method_config("handful"), ["optim.steps=40", "seed.budget=3000"])
    monkeypatch.setitem(METHODS, "handful", few)
    quick = ["optim.steps=120", "optim.rays=1024", "optim.lr_grid=4e-2", "optim.lr_decoder=4e-3", "grid.density=10"]
    config = override(any_method_config("vm"), [*TINY, *quick, "splats=handful"])
    made = Reconstruction(ReconstructJob(photos, tmp_path / "made", "vm", config, device="cpu", checkpoint_seconds=1e9))
    told = {event.what for event in made.events() if isinstance(event, StageProgress)}
    made.finish()
    assert {"making splats first", "taking pictures of the splats"} <= told

    capture = load_capture(photos)
    scene, start = train_capture(capture, config)
    assert isinstance(scene, FieldScene) and start.pictures is not None and len(start.pictures) == 24
    kept = load_scene(tmp_path / "made").field()
    camera = kept.cameras[1]
    assert float(scene.render(camera).alpha.mean()) > 0.2, "there is something to compare"
    torch.testing.assert_close(scene.render(camera).color, kept.render(camera).color, atol=1e-4, rtol=0)

    splats, _ = train_capture(capture, few)
    assert start.pictures.cameras is not None
    splats = replace(splats, background=scene.background)
    first = splats.render(start.pictures.cameras[3]).color[0].clamp(0, 1)
    assert float((start.pictures.views[3].image.load() - first).abs().max()) < 0.502 / 255, "the pictures are of those splats"

    before = ReconstructJob(photos, tmp_path / "x", "vm", config).fingerprint(capture)
    monkeypatch.setitem(METHODS, "handful", override(few, ["optim.steps=41"]))
    assert ReconstructJob(photos, tmp_path / "x", "vm", config).fingerprint(capture) != before, "other splats, another job"
    assert "first" not in all_settings(replace(config, splats=None)) and not first_splats(replace(config, scan=False)).scan
    assert _run(["reconstruct", str(photos), "-o", str(tmp_path / "x"), "--method", "vm", "--set", "splats=none-such", "--quiet"]) == 2
    assert "There is no method 'none-such'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="leave out the setting"):
        ReconstructJob(photos, tmp_path / "x", "vm", config, splats=tmp_path / "made")


def test_cameras_that_splats_refine_are_the_fields(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "handful", override(method_config("handful"), ["optim.steps=60", "seed.budget=3000"]))
    capture = load_capture(photos)
    T = capture.cameras.cam_from_world.clone() if capture.cameras is not None else torch.zeros(0)
    T[1, :3, 3] += 0.01
    assert capture.cameras is not None
    wrong = replace(capture, cameras=replace(capture.cameras, cam_from_world=T))
    init = InitState(wrong, PointCloud(torch.zeros(0, 3)), CameraReport("estimated", 4, 4, None, 70.0, "estimated", None, 0))
    for estimated in (True, False):
        start = measure(init, any_method_config("vm"), estimated, 0, torch.device("cpu"))
        after = after_splats(start, init, replace(any_method_config("vm"), splats="handful")).init.capture.cameras
        assert after is not None and torch.equal(after.cam_from_world, T) != estimated


def test_splats_made_in_a_hurry_are_no_start_to_go_on_from(photos: Path, tmp_path: Path) -> None:
    config = override(any_method_config("vm"), [*TINY, "splats=handful"])
    work = Reconstruction(ReconstructJob(photos, tmp_path / "out", "vm", config, device="cpu"))
    for event in work.events():
        if isinstance(event, StageProgress) and event.what == "making splats first":
            work.stop()
    assert work.run is not None and work.run.step <= 1 and not work.start_path.exists() and not work.state_path.exists()
    work.close()
