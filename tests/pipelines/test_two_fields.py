"""Two fields that watch each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.config import override
from handful.pipelines.methods import method_config
from handful.pipelines.methods.config import RefineConfig, TermsConfig
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.refine import RefineContext
from handful.pipelines.methods.refine.co_prune import co_prune
from handful.pipelines.methods.splat import SplatMethod
from handful.pipelines.methods.terms.field_agreement import field_agreement
from handful.recon.gaussians import Gaussians

from .terms_common import rendered, step_on

CONFIG = override(method_config("corgs"), ["optim.steps=30", "seed.budget=6000", "refine.densify_every=5"])
PRUNE = RefineConfig(co_prune=0.1, co_prune_every=2, densify_every=5)
AGREE = TermsConfig(agreement=2.0, ssim=0.0)


def points(x: list[float]) -> Gaussians:
    means = torch.tensor([[v, 0.0, 0.0] for v in x])
    n = len(x)
    return Gaussians(means, torch.zeros(n, 4), torch.zeros(n, 3), torch.zeros(n), torch.zeros(n, 1, 3))


def between_steps(mine: list[float], *others: list[float], step: int = 10) -> RefineContext:
    n = len(mine)
    rng = torch.Generator().manual_seed(0)
    return RefineContext(points(mine), torch.zeros(n), torch.zeros(n), step, 100, 2.0, rng, tuple(points(o) for o in others))


def test_what_the_other_has_nothing_near_is_dropped() -> None:
    edit = co_prune(between_steps([0.0, 1.0, 2.0], [0.15, 2.25]), PRUNE)  # near is 0.1 median depths of 2
    assert edit is not None and edit.new is None and edit.keep.tolist() == [True, False, False]
    assert co_prune(between_steps([0.0, 1.0], [0.1, 1.1]), PRUNE) is None


def test_only_at_its_rounds_and_with_another_field() -> None:
    assert co_prune(between_steps([0.0], [9.0], step=5), PRUNE) is None
    assert co_prune(between_steps([0.0], [9.0], step=50), PRUNE) is None
    assert co_prune(between_steps([0.0]), PRUNE) is None and co_prune(between_steps([0.0], []), PRUNE) is None
    assert co_prune(between_steps([0.0], [9.0]), replace(PRUNE, co_prune=0.0)) is None


def test_agreement_is_the_difference_and_pulls_only_the_field_itself(small_start) -> None:
    photos = Photos.of(small_start)
    mine, theirs = torch.full((90, 120, 3), 0.5, requires_grad=True), torch.full((90, 120, 3), 0.3, requires_grad=True)
    seen = []

    def draw(color, camera):
        seen.append(camera.cam_from_world)
        return rendered(torch.ones(90, 120), color)

    def other(camera):
        with torch.no_grad():
            return draw(theirs, camera)

    context = step_on(photos, rendered(torch.ones(90, 120)), render=lambda c: draw(mine, c), rivals=(other,))
    loss = field_agreement(context, AGREE)
    assert loss is not None and loss.item() == pytest.approx(2.0 * 0.2, rel=1e-4)
    loss.backward()
    assert mine.grad is not None and (mine.grad > 0).all() and theirs.grad is None
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], photos.cameras[0].cam_from_world)  # one and the same camera
    assert field_agreement(replace(context, rivals=()), AGREE) is None and field_agreement(replace(context, step=1), AGREE) is None


def test_fields_start_apart_learn_apart_and_the_first_is_the_scene(small_start) -> None:
    run = SplatMethod(CONFIG).start(small_start)
    first, second = run.fields
    offset = second.rows["means"].detach() - first.rows["means"].detach()
    sigma = first.rows["log_scales"].detach().exp()
    assert torch.allclose((offset / sigma).std(0), torch.ones(3), atol=0.05)
    again = SplatMethod(CONFIG).start(small_start)
    assert torch.equal(again.fields[1].rows["means"], second.rows["means"])
    for _ in run.events():
        pass
    assert torch.equal(run.snapshot().gaussians.means, run.fields[0].rows["means"])
    assert len(run.fields[0]) != len(run.fields[1])


def test_agreement_brings_the_fields_together(small_start) -> None:
    apart = {}
    for weight in (0.0, 5.0):
        config = override(CONFIG, [f"terms.agreement={weight}", "terms.pseudo_every=1", "terms.pseudo_from=0.0", "refine.co_prune=0.0"])
        run = SplatMethod(config).start(small_start)
        for _ in run.events():
            pass
        camera = small_start.init.capture.cameras[0]
        middle = replace(camera, cam_from_world=camera.cam_from_world + torch.tensor([[0, 0, 0, 0.05], *[[0.0] * 4] * 3]))
        with torch.no_grad():
            a, b = (run.rasterizer.render(f.gaussians(), middle).color for f in run.fields)
        apart[weight] = (a - b).abs().mean().item()
    assert apart[5.0] < 0.8 * apart[0.0]


def test_a_second_field_that_nobody_watches_changes_nothing(small_start) -> None:
    """With nothing random in a step, the first field learns as if it were alone."""
    parts = ["refine.densify_pull=0", "refine.co_prune=0", "terms.agreement=0", "optim.steps=8"]
    alone, watched = (SplatMethod(override(CONFIG, [*parts, f"fields={k}"])).start(small_start) for k in (1, 2))
    for run in (alone, watched):
        for _ in run.events():
            pass
    assert torch.equal(alone.snapshot().gaussians.means, watched.snapshot().gaussians.means)


def test_what_only_the_camera_between_shows_learns_too(small_start) -> None:
    """A Gaussian outside the photo of the step moves by what a render from elsewhere says of it; its opacity decays for the photo's own only."""
    run = SplatMethod(override(CONFIG, ["fields=1", "optim.opacity_decay=0.9"])).start(small_start)
    field = run.fields[0]
    before = {name: t.detach().clone() for name, t in field.rows.items()}
    for t in field.rows.values():
        t.grad = torch.ones_like(t)
    drawn = torch.zeros(len(field), dtype=torch.bool)
    drawn[:2] = True
    visible = drawn.clone()
    visible[1] = False
    field.step(drawn, visible, 1e-3, 1.0, 0.0)
    moved = (field.rows["means"] != before["means"]).any(1)
    assert moved[:2].all() and not moved[2:].any()
    opacity = [torch.sigmoid(field.rows["logit_opacities"].detach())]
    field.step(torch.zeros_like(drawn), visible, 1e-3, 0.9, 0.0)
    opacity.append(torch.sigmoid(field.rows["logit_opacities"].detach()))
    assert torch.allclose(opacity[1][0], 0.9 * opacity[0][0]) and torch.equal(opacity[1][1:], opacity[0][1:])


def test_a_step_passes_on_what_every_render_drew(small_start, monkeypatch) -> None:
    from handful.pipelines.methods.field import Field

    told = []
    plain = Field.step
    monkeypatch.setattr(Field, "step", lambda self, drawn, visible, *rest: (told.append((drawn.clone(), visible.clone())), plain(self, drawn, visible, *rest)))
    run = SplatMethod(override(CONFIG, ["optim.steps=4", "terms.pseudo_every=1", "terms.pseudo_from=0.0"])).start(small_start)
    for _ in run.events():
        pass
    assert all(bool((drawn | ~visible).all()) for drawn, visible in told), "what the photo shows is drawn"
    assert any(bool((drawn & ~visible).any()) for drawn, visible in told), "cameras between photos show more"
