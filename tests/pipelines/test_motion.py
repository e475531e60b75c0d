"""Gaussians that belong to pixels and move together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.config import override
from handful.pipelines.measure import measure
from handful.pipelines.methods import method_config
from handful.pipelines.methods.config import MotionConfig
from handful.pipelines.methods.field import Field
from handful.pipelines.methods.motion.bound import PIXEL, bound_pixels
from handful.pipelines.methods.motion.decoder import Decoder
from handful.pipelines.methods.photos import Photos
from handful.pipelines.methods.splat import SplatMethod, SplatRun
from handful.pipelines.methods.terms.coherence import coherent_motion, flow_agreement
from handful.pipelines.start_file import load_start, save_start

from .terms_common import rendered, step_on

CONFIG = override(method_config("coherentgs"), ["optim.steps=30", "seed.budget=60000"])


@pytest.fixture
def run(small_start) -> SplatRun:
    return SplatMethod(CONFIG).start(small_start)


def decoder_of(field: Field) -> Decoder:
    assert isinstance(field.motion, Decoder)
    return field.motion


def test_every_seed_knows_its_pixel(run: SplatRun) -> None:
    pixel = run.field.rows[PIXEL]
    assert len(pixel) == 3 * 90 * 120 == len(pixel.unique()) and (pixel >= 0).all()
    uv, _ = run.photos.cameras.project(run.field.rows["means"].detach())
    photo, at = pixel // 10800, pixel % 10800
    where = uv[photo, torch.arange(len(pixel))]
    assert torch.allclose(where, torch.stack([at % 120, at // 120], -1) + 0.5, atol=2e-3)


def test_points_beside_the_rays_are_free(run: SplatRun) -> None:
    rng = torch.Generator().manual_seed(0)
    points = torch.randn(20000, 3, generator=rng)
    assert (bound_pixels(points, run.photos.cameras) < 0).float().mean() > 0.999
    assert bound_pixels(torch.full((1, 3), float("nan")), run.photos.cameras).item() == -1


def test_nothing_moves_at_first_then_along_the_rays_only(run: SplatRun) -> None:
    field, decoder = run.field, decoder_of(run.field)
    stored = field.rows["means"].detach()
    assert torch.allclose(field.gaussians().means, stored, atol=1e-5)
    with torch.no_grad():
        decoder.weights["head"].normal_(generator=torch.Generator().manual_seed(0))
    moved = field.gaussians()
    center = run.photos.cameras.centers[field.rows[PIXEL] // 10800]
    before, after = stored - center, moved.means.detach() - center
    assert torch.nn.functional.cosine_similarity(before, after, dim=-1).min() > 0.99999
    change = -(after.norm(dim=-1) / before.norm(dim=-1)).log()
    assert torch.allclose(change, decoder.residual.detach().reshape(-1)[field.rows[PIXEL]], atol=1e-4)
    assert change.abs().max() < CONFIG.motion.reach + 1e-4 and change.std() > 0.01
    assert torch.allclose(moved.log_scales.detach(), field.rows["log_scales"].detach() - change[:, None], atol=1e-4)
    # neighbours go the same way: the change from pixel to pixel is a small part of the change over the photo
    r = decoder.residual.detach()
    assert (r[..., 1:] - r[..., :-1]).abs().mean() < 0.35 * r.std()


def test_free_ones_stay_and_their_rows_may_come_and_go(run: SplatRun) -> None:
    field = run.field
    with torch.no_grad():
        decoder_of(field).weights["head"].fill_(0.5)
        field.rows["means"][0] += 0.1
    field.rows[PIXEL][0] = -1
    assert torch.equal(field.gaussians().means[0], field.rows["means"][0])


def test_the_decoder_s_gradient_by_finite_differences(small_start) -> None:
    photos = Photos.of(small_start)
    decoder = Decoder(MotionConfig(kind="decoder", channels=4), photos, seed=0)
    decoder.cameras = decoder.cameras.to(dtype=torch.float64)
    decoder.noise = decoder.noise.double()
    decoder.weights = {k: t.detach().double().requires_grad_(True) for k, t in decoder.weights.items()}
    with torch.no_grad():
        decoder.weights["head"].fill_(0.1)
    gaussians = replace(SplatMethod(CONFIG).seed(small_start).to(dtype=torch.float64))
    rows = {PIXEL: bound_pixels(gaussians.means.float(), photos.cameras)}
    weight = torch.randn(gaussians.means.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss() -> torch.Tensor:
        return (decoder.move(gaussians, rows).means * weight).sum()

    loss().backward()
    for name in ("head", "weight1", "bias0"):
        t = decoder.weights[name]
        grad, h = t.grad, 1e-6
        assert grad is not None
        with torch.no_grad():
            t.view(-1)[0] += h
            up = loss()
            t.view(-1)[0] -= 2 * h
            down = loss()
            t.view(-1)[0] += h
        assert ((up - down) / (2 * h)).item() == pytest.approx(grad.reshape(-1)[0].item(), rel=1e-4)


def test_flow_agreement_is_zero_at_the_truth_and_pulls_what_was_moved_back(run: SplatRun) -> None:
    field, decoder = run.field, decoder_of(run.field)
    context = step_on(run.photos, rendered(torch.ones(90, 120)), field=field)
    field.gaussians()
    true = flow_agreement(context, CONFIG.terms)
    assert true is not None and true.item() < 2e-3  # the target's depth is that of the nearest pixel
    with torch.no_grad():
        decoder.weights["head"][0].fill_(0.1)  # photo 0 alone
    field.gaussians()
    moved = flow_agreement(context, CONFIG.terms)
    assert moved is not None and moved.item() > 5 * true.item()
    for _ in range(60):
        field.gaussians()
        loss = flow_agreement(context, CONFIG.terms)
        assert loss is not None
        loss.backward()
        decoder.step(0.0)
    field.gaussians()
    after = flow_agreement(context, CONFIG.terms)
    assert after is not None and after.item() < 0.7 * moved.item()


def test_total_variation_by_hand(run: SplatRun) -> None:
    decoder, context = decoder_of(run.field), step_on(run.photos, rendered(torch.ones(90, 120)), field=run.field)
    decoder.residual = torch.zeros(3, 90, 120)
    decoder.residual[0, :, 60:] = 0.1
    decoder.residual[1] = torch.rand(90, 120)  # of another photo
    loss = coherent_motion(context, CONFIG.terms)
    assert loss is not None and loss.item() == pytest.approx(CONFIG.terms.motion_variation * 0.1 / 119, rel=1e-4)


def test_the_flow_is_measured_when_asked_for(small_start, tmp_path) -> None:
    asked = measure(small_start.init, replace(CONFIG, depth_prior="stereo"), False, 0, torch.device("cpu"))
    assert set(asked.flow) == {(i, j) for i in range(3) for j in range(3) if i != j} and asked.flow[0, 1].flow.shape == (90, 120, 2)
    save_start(tmp_path / "start.safetensors", asked, "x")
    again = load_start(tmp_path / "start.safetensors", small_start.init.capture)
    assert set(again.flow) == set(asked.flow)
    assert torch.equal(again.flow[2, 0].flow, asked.flow[2, 0].flow) and torch.equal(
        again.flow[2, 0].confidence, asked.flow[2, 0].confidence
    )
    assert not measure(small_start.init, method_config("3dgs"), False, 0, torch.device("cpu")).flow
