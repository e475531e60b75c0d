"""The run: learns, resumes exactly, stops when asked, fits a time limit."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.pipelines.checkpoint import load_checkpoint, save_checkpoint
from handful.pipelines.config import override
from handful.pipelines.events import Finished, StepDone
from handful.pipelines.methods import METHODS, method_config
from handful.pipelines.methods.photos import Photos, background_of
from handful.pipelines.methods.splat import SplatMethod, SplatRun
from handful.pipelines.methods.terms.photometric import photometric
from handful.pipelines.protocol import Start
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage
from handful.recon.depth import DepthMap
from handful.recon.errors import CheckpointError
from handful.recon.raster.protocol import RasterOptions
from torch import Tensor

from .terms_common import rendered, step_on

STATEFUL = ["fsgs", "coherentgs", "instantsplat", "ung-gs", "corgs"]
SMALL = ["optim.steps=30", "seed.budget=6000"]


def photos_of(images: Tensor, masks: Tensor | None, depth: DepthMap, cut_out: bool = False) -> Photos:
    h, w = images.shape[1:3]
    return Photos(Cameras(torch.eye(4)[None], torch.eye(3)[None], w, h), images, masks, None, cut_out, (depth,), (depth,), (0,), (0.0,), 1.0, {})


def psnr(run: SplatRun) -> float:
    scene = run.snapshot()
    color = scene.render(scene.cameras).color.clamp(0, 1)
    return -10 * torch.log10((color - run.images).square().mean()).item()


def finish(run: SplatRun) -> None:
    for _ in run.events():
        pass


@pytest.mark.parametrize("method", METHODS)
def test_learns(small_start, method: str) -> None:
    run = SplatMethod(override(method_config(method), SMALL)).start(small_start)
    before = psnr(run)
    events = list(run.events())
    assert psnr(run) > before + 0.5
    assert isinstance(events[-1], Finished) and not events[-1].early
    steps = [e.step for e in events if isinstance(e, StepDone)]
    assert steps == list(range(1, 31))


def test_densification_adds_where_the_photos_pull(small_start) -> None:
    run = SplatMethod(override(method_config("3dgs"), [*SMALL, "refine.densify_every=10"])).start(small_start)
    before = len(run.field)
    finish(run)
    assert before < len(run.field) <= before * 4  # two rounds (steps 10 and before half of 30)


@pytest.mark.parametrize("pace", [0.05, 1.0])
def test_higher_bands_learn_at_their_own_pace(small_start, pace: float) -> None:
    """Adam's first step is the rate, whatever the gradient."""
    run = SplatMethod(override(method_config("handful"), [*SMALL, "seed.sh_degree=1", f"optim.sh_pace={pace}"])).start(small_start)
    before = run.field.rows["sh"].detach().clone()
    next(e for e in run.events() if isinstance(e, StepDone))
    moved = (run.field.rows["sh"].detach() - before).abs()
    moved = moved[(moved > 0).all(-1).all(-1)]
    assert len(moved) > 100
    rate = run.config.optim.lr_sh
    torch.testing.assert_close(moved[:, 0], torch.full_like(moved[:, 0], rate), rtol=1e-3, atol=0)
    torch.testing.assert_close(moved[:, 1:], torch.full_like(moved[:, 1:], rate * pace), rtol=1e-3, atol=0)


@pytest.mark.parametrize("estimated", [False, True])
@pytest.mark.parametrize("parts", [["terms.virtual=0.1", "terms.virtual_from=0.0"], ["refine.densify_pull=1e-5", "refine.densify_every=10"]])
def test_continues_exactly(small_start, tmp_path: Path, estimated: bool, parts: list[str]) -> None:
    start = replace(small_start, estimated_cameras=estimated)
    continues_exactly(SplatMethod(override(method_config("handful"), [*SMALL, *parts])), start, tmp_path)


@pytest.mark.parametrize("method", STATEFUL)
def test_methods_with_a_state_of_their_own_continue_exactly(small_start, tmp_path: Path, method: str) -> None:
    parts = ["refine.densify_every=10", "refine.prune_opacity=0.08", "terms.pseudo_from=0.0"]
    continues_exactly(SplatMethod(override(method_config(method), [*SMALL, *parts])), replace(small_start, estimated_cameras=True), tmp_path)


def continues_exactly(method: SplatMethod, start: Start, tmp_path: Path) -> None:
    """Interrupted in the middle of a photo order, saved, restored in a fresh run: the same numbers to the last bit."""
    whole = method.start(start)
    finish(whole)
    first = method.start(start)
    for event in first.events():
        if isinstance(event, StepDone) and event.step == 16:
            break
    tensors, meta = first.state()
    save_checkpoint(tmp_path / "s.safetensors", tensors, meta)
    second = method.start(start)
    second.restore(*load_checkpoint(tmp_path / "s.safetensors"))
    finish(second)
    a, b = whole.snapshot(), second.snapshot()
    assert torch.equal(a.cameras.cam_from_world, b.cameras.cam_from_world)
    for name in ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh"):
        assert torch.equal(getattr(a.gaussians, name), getattr(b.gaussians, name)), name


def test_given_cameras_stay(small_start) -> None:
    run = SplatMethod(override(method_config("handful"), SMALL)).start(small_start)
    finish(run)
    assert torch.equal(run.snapshot().cameras.cam_from_world, small_start.init.capture.cameras.cam_from_world)


def test_estimated_cameras_move_a_little(small_start) -> None:
    run = SplatMethod(override(method_config("handful"), SMALL)).start(replace(small_start, estimated_cameras=True))
    finish(run)
    moved = (run.snapshot().cameras.cam_from_world - small_start.init.capture.cameras.cam_from_world).abs().max()
    assert 0 < moved < 0.05


def test_stop(small_start) -> None:
    run = SplatMethod(override(method_config("handful"), SMALL)).start(small_start)
    events = []
    for event in run.events():
        events.append(event)
        if isinstance(event, StepDone) and event.step == 3:
            run.stop()
    assert isinstance(events[-1], Finished) and events[-1].early and events[-1].step == 3


def test_time_limit_shortens_the_schedule(small_start) -> None:
    config = override(method_config("handful"), ["optim.steps=100000", "seed.budget=2000"])
    run = SplatMethod(config).start(small_start, max_seconds=2.0)
    last = list(run.events())[-1]
    assert 30 < run.step < 100000 and run.step == run.steps
    assert isinstance(last, Finished) and last.limited and not last.early
    tensors, meta = run.state()
    for limit, goes_on in ((2.0, False), (3.0, True), (None, True)):
        again = SplatMethod(config).start(small_start, max_seconds=limit)
        again.restore(tensors, meta)
        assert (again.step < again.steps) == goes_on, "the same limit is used up; more of it, or none, lets the run go on"


@pytest.mark.parametrize("slow", [1, 3])
def test_slow_first_steps_do_not_use_up_the_limit(small_start, monkeypatch, slow: int) -> None:
    """They load and warm up; were the rest planned by them, most of the time would be left over."""
    run = SplatMethod(override(method_config("handful"), ["optim.steps=100000", "seed.budget=500", "seed.extra=0"])).start(small_start, max_seconds=3.0)
    step = run._one_step
    monkeypatch.setattr(run, "_one_step", lambda: (time.sleep(0.4 if run.step < slow else 0), step()))
    finish(run)
    assert run.step > 20, "by the first steps alone there would be seven"


def test_a_slow_run_keeps_its_limit_from_the_first_steps_on(small_start, monkeypatch) -> None:
    """Without compiled kernels a step takes seconds: the end must not wait for thirty of them to be timed."""
    run = SplatMethod(override(method_config("handful"), ["optim.steps=1000", "seed.budget=500", "seed.extra=0"])).start(small_start, max_seconds=1.0)
    step = run._one_step
    monkeypatch.setattr(run, "_one_step", lambda: (time.sleep(0.2), step()))
    finish(run)
    assert run.step <= 10


def test_checkpoint_errors(tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x10\0\0\0\0\0\0\0not json at all")
    with pytest.raises(CheckpointError, match="bad.safetensors"):
        load_checkpoint(bad)
    save_checkpoint(tmp_path / "s.safetensors", {"x": torch.zeros(2)}, {})
    whole = (tmp_path / "s.safetensors").read_bytes()
    bad.write_bytes(whole[:-3])
    with pytest.raises(CheckpointError):
        load_checkpoint(bad)


def test_padding_teaches_nothing_and_what_lies_in_it_does_not_fade(small_start) -> None:
    """Padding is beyond the photo's border: black there is no colour, and splats that continue the photo must outlive the run as they do beside photos
    without padding."""
    extent = torch.ones(90, 120)
    extent[:, :30] = 0
    capture = small_start.init.capture
    views = tuple(replace(v, image=ArrayImage(v.image.load() * extent[..., None], extent=extent)) for v in capture.views)
    start = replace(small_start, init=replace(small_start.init, capture=replace(capture, views=views)))
    run = SplatMethod(override(method_config("handful"), SMALL)).start(start)
    out = run.rasterizer.render(run.field.gaussians(), run.photos.cameras[0], RasterOptions())
    (x, y), shown, visible = out.aux.means2d[0].unbind(-1), run._shown(out, 0), out.aux.visible[0]
    padding = (x >= 0) & (x < 30) & (y >= 0) & (y < 90)
    assert int((visible & padding).sum()) > 20 and not shown[padding].any() and torch.equal(shown[~padding], visible[~padding])
    color = torch.full((90, 120, 3), 0.5, requires_grad=True)
    made = step_on(run.photos, rendered(torch.ones(90, 120), color))
    loss = photometric(made, run.config.terms)
    assert loss is not None
    loss.backward()
    assert color.grad is not None and not color.grad[:, :30].any() and color.grad[:, 30:].abs().min() > 0, "D-SSIM's windows reach five pixels across"


def test_a_masked_passer_by_teaches_nothing(small_start) -> None:
    """Nor through D-SSIM's windows."""
    mask = torch.ones(90, 120)
    mask[30:60, 40:70] = 0
    capture = small_start.init.capture
    views = tuple(replace(v, image=ArrayImage(v.image.load(), mask)) for v in capture.views)
    start = replace(small_start, init=replace(small_start.init, capture=replace(capture, views=views)))
    run = SplatMethod(override(method_config("handful"), SMALL)).start(start)
    assert not run.photos.cut_out
    color = torch.full((90, 120, 3), 0.5, requires_grad=True)
    loss = photometric(step_on(run.photos, rendered(torch.ones(90, 120), color)), run.config.terms)
    assert loss is not None
    loss.backward()
    assert color.grad is not None and not color.grad[mask == 0].any() and color.grad[mask > 0].abs().min() > 0


def test_white_around_an_object_teaches_what_nothing_carves(small_start) -> None:
    """Methods without a silhouette term see the whole photo of an object on white; the others are told by it where nothing is."""
    mask = torch.zeros(90, 120)
    mask[30:60, 40:70] = 1
    capture = small_start.init.capture
    views = tuple(replace(v, image=ArrayImage(torch.where(mask[..., None] > 0, v.image.load(), 1.0), mask)) for v in capture.views)
    start = replace(small_start, init=replace(small_start.init, capture=replace(capture, views=views, white_background=True)))
    filling = torch.zeros(90, 120)
    filling[20:, 20:] = 1  # out of two sides: nothing carves then
    wide = replace(start, init=replace(start.init, capture=replace(start.init.capture, views=tuple(replace(v, image=ArrayImage(v.image.load(), filling)) for v in views))))
    for method, begin, taught in (("3dgs", start, True), ("handful", start, False), ("handful", wide, True)):
        run = SplatMethod(override(method_config(method), SMALL)).start(begin)
        assert run.photos.cut_out is (begin is start) and run.photos.white
        color = torch.full((90, 120, 3), 0.5, requires_grad=True)
        loss = photometric(step_on(run.photos, rendered(torch.ones(90, 120), color)), run.config.terms)
        assert loss is not None
        loss.backward()
        assert color.grad is not None and bool(color.grad[:20].any()) is taught


def test_what_masks_leave_out_has_no_part_in_the_background() -> None:
    images, masks = torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4)
    images[0, :2] = torch.tensor([0.2, 0.4, 0.6])
    masks[0, :2] = 1
    nothing = DepthMap(torch.zeros(4, 4), torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.bool))
    assert background_of(photos_of(images, masks, nothing, cut_out=True), False, "far") == pytest.approx((0.2, 0.4, 0.6))
    assert background_of(photos_of(images, None, nothing), False, "far") == pytest.approx((0.1, 0.2, 0.3))
    assert background_of(photos_of(images, masks, nothing, cut_out=True), False, "black") == (0.0, 0.0, 0.0)


def test_holes_show_the_colour_of_all_but_what_was_measured_near() -> None:
    images, z = torch.zeros(1, 4, 4, 3), torch.ones(4, 4)
    images[0, 3] = torch.tensor([0.2, 0.4, 0.6])
    z[2], z[3] = 2.0, 5.0
    measured = torch.ones(4, 4, dtype=torch.bool)
    measured[1] = False  # counts as far, whatever was guessed there
    depth, padded = DepthMap(z, z, measured), torch.ones(1, 4, 4)
    assert background_of(photos_of(images, None, depth), False, "far") == pytest.approx((0.2 / 3, 0.4 / 3, 0.6 / 3))
    assert background_of(photos_of(images, torch.ones(1, 4, 4), depth, cut_out=True), False, "far") == pytest.approx((0.05, 0.1, 0.15)), "an object's far side"
    padded[0, 1] = 0  # added to bring photos to one size: nobody's colour
    assert background_of(photos_of(images, padded, depth), False, "far") == pytest.approx((0.1, 0.2, 0.3))
