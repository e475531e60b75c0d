"""Cameras and Gaussians together: steps by confidence, corrections that mend a wrong camera and stay small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.config import override
from handful.pipelines.methods import method_config
from handful.pipelines.methods.config import TermsConfig
from handful.pipelines.methods.field import PACE
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.splat import SplatMethod
from handful.pipelines.methods.terms.camera_prior import camera_prior
from handful.pipelines.methods.trust import pace_of, trust
from handful.recon.se3 import se3_exp

from .terms_common import rendered, step_on

CONFIG = override(method_config("instantsplat"), ["optim.steps=60", "seed.budget=6000"])


def finish(run) -> None:
    for _ in run.events():
        pass


def test_trust_is_the_confidence_of_the_pixel_that_shows_it(small_start) -> None:
    photos = Photos.of(small_start)
    first = replace(photos.depth[0], confidence=torch.linspace(0.1, 1.0, 120).expand(90, 120))
    alone = replace(photos, depth=(first, *(replace(d, valid=torch.zeros_like(d.valid)) for d in photos.depth[1:])))
    xyz = photos.cameras[0].unproject_depth(photos.depth[0].depth[None])[0]
    known = first.valid
    assert torch.allclose(trust(xyz[known], alone), first.confidence[known])
    center = photos.cameras.centers[0]
    assert (trust(center + 1.1 * (xyz[known] - center), alone) == 0).float().mean() > 0.9
    assert trust(torch.full((1, 3), float("nan")), alone).item() == 0


def test_pace() -> None:
    assert torch.allclose(pace_of(torch.tensor([0.0, 0.5, 1.0]), 4.0), torch.tensor([4.0, 1.0, 0.25]))


def test_what_is_certain_moves_less(small_start) -> None:
    half = tuple(replace(d, confidence=torch.where(torch.arange(120) < 60, 1.0, 0.02).expand(90, 120)) for d in small_start.depth)
    moved = {}
    for pace in (1.0, 3.0):
        run = SplatMethod(override(CONFIG, [f"optim.pace={pace}", "optim.steps=20", "refine.prune_opacity=0.0"])).start(
            replace(small_start, depth=half)
        )
        before, sure = run.field.rows["means"].detach().clone(), trust(run.field.rows["means"].detach(), run.photos) > 0.5
        finish(run)
        step = (run.field.rows["means"].detach() - before).norm(dim=-1)
        moved[pace] = (step[sure].mean() / step[~sure].mean()).item()
    assert moved[3.0] < 0.3 * moved[1.0]


def test_new_rows_get_a_pace_of_their_own(small_start) -> None:
    parts = ["refine.densify_pull=1e-5", "refine.densify_every=5", "optim.steps=15"]
    run = SplatMethod(override(CONFIG, parts)).start(small_start)
    before = len(run.field)
    finish(run)
    assert len(run.field) > before and len(run.field.rows[PACE]) == len(run.field)
    paces = run.field.rows[PACE]
    assert paces.min() >= 1 / 3 - 1e-6 and paces.max() <= 3 + 1e-6


def test_a_wrong_camera_is_mended(small_start) -> None:
    capture = small_start.init.capture
    gaussians = SplatMethod(CONFIG).seed(small_start)
    twist = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.004, 0.0])
    true = capture.cameras.cam_from_world
    wrong = torch.stack([true[0], se3_exp(twist) @ true[1], true[2]])
    init = replace(small_start.init, capture=replace(capture, cameras=replace(capture.cameras, cam_from_world=wrong)))
    run = SplatMethod(override(CONFIG, ["optim.lr_means=1e-6"])).start(replace(small_start, init=init, estimated_cameras=True), gaussians)
    finish(run)
    found = run.snapshot().cameras.cam_from_world

    def pixels(cam_from_world: torch.Tensor) -> float:
        """How far the surface is from where the photo shows it."""
        xyz = capture.cameras[1].unproject_depth(small_start.depth[1].depth[None])[0][small_start.depth[1].valid]
        here, _ = capture.cameras[1].project(xyz)
        there, _ = replace(capture.cameras[1], cam_from_world=cam_from_world[1:2]).project(xyz)
        return (here - there).norm(dim=-1).mean().item()

    assert pixels(wrong) > 0.4 and pixels(found) < 0.6 * pixels(wrong)


def test_given_cameras_move_only_when_told_to(small_start) -> None:
    short = override(CONFIG, ["optim.steps=5"])
    for config, moves in ((short, False), (override(short, ["optim.move_given_cameras=true"]), True)):
        run = SplatMethod(config).start(small_start)
        finish(run)
        assert torch.equal(run.snapshot().cameras.cam_from_world, small_start.init.capture.cameras.cam_from_world) != moves


def test_corrections_are_held_near_their_start(small_start) -> None:
    photos, out = Photos.of(small_start), rendered(torch.ones(90, 120))
    delta = torch.tensor([0.1, 0.0, 0.0, 0.0, 0.2, 0.0], requires_grad=True)
    loss = camera_prior(step_on(photos, out, correction=delta), TermsConfig(camera=2.0))
    assert loss is not None and loss.item() == pytest.approx(0.1)
    loss.backward()
    assert torch.allclose(delta.grad, 4 * delta.detach())  # pyright: ignore[reportArgumentType]
    assert camera_prior(step_on(photos, out), TermsConfig(camera=2.0)) is None
    assert camera_prior(step_on(photos, out, correction=delta), TermsConfig()) is None
