"""Adapters of networks that come by extras: what they hand the package and what they make of its answer, on a stand-in; and, where installed, on the real one."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from handful.priors.depth_anything_v2 import DepthAnythingV2, small_network
from handful.priors.flow_raft import Raft, _network
from handful.priors.match_roma import RomaMatches
from handful.priors.registry import get_prior
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import BackendUnavailable


def blank(w: int, h: int, value: float = 0.5) -> View:
    return View(f"{w}x{h}.png", ArrayImage(torch.full((h, w, 3), value)))


@pytest.fixture
def nothing_installed(monkeypatch):
    for name in ("transformers", "torchvision", "romatch"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [("depth", "depth-anything-v2", r"pip install 'handful\[depth\]'"), ("flow", "raft", r"pip install 'handful\[flow\]'")],
)
def test_a_missing_package_is_told(nothing_installed, kind, name, said):
    args = ([blank(32, 32)] * 2, None, None) if kind == "depth" else ([(blank(32, 32), blank(32, 32))],)
    with pytest.raises(BackendUnavailable, match=said):
        get_prior(kind, name).predict(*args)


def test_missing_roma_is_told(nothing_installed):
    with pytest.raises(BackendUnavailable, match="match prior roma needs the package romatch; run `pip install --no-deps romatch==0.1.2"):
        get_prior("match", "roma")


class Warper:
    """RoMa's answer for a second photo shifted by a tenth of its width and a fifth of its height; sure in the left half, less so below."""

    def match(self, a, b, device):
        assert a.size == (160, 80) and b.size == (80, 160) and device == "cpu"
        y, x = torch.meshgrid((torch.arange(28) + 0.5) / 14 - 1, (torch.arange(28) + 0.5) / 14 - 1, indexing="ij")
        certainty = (x < 0).float() * torch.where(y < 0, 0.9, 0.5)
        return torch.stack([x, y, x + 0.2, y + 0.4], -1)[None], certainty[None]


def test_romas_warp_becomes_matches_in_both_photos_pixels():
    mask = torch.ones(80, 160)
    mask[:, :20] = 0.0
    views = [View("a", ArrayImage(torch.zeros(80, 160, 3), mask)), View("b", ArrayImage(torch.zeros(160, 80, 3)))]
    found = RomaMatches(spacing=4, _net=Warper()).predict(views, [(0, 1)])[0]
    assert len(found) > 100 and (found.uv0[:, 0] > 20).all() and (found.uv0[:, 0] < 83).all() and (found.score.diff() <= 0).all()
    inner = ((found.uv0 > 4) & (found.uv0 < torch.tensor([156.0, 60.0]))).all(1)  # farther down the warp leaves the second photo
    expected = found.uv0 / torch.tensor([160.0, 80.0]) * torch.tensor([80.0, 160.0]) + torch.tensor([8.0, 32.0])
    assert torch.allclose(found.uv1[inner], expected[inner], atol=1e-3)
    assert ((found.uv0 % 4) == 2.5).all(), "the same grid in every pair"
    few = RomaMatches(spacing=4, top_k=30, min_score=0.6, _net=Warper()).predict(views, [(0, 1)])[0]
    assert len(few) == 30 and (few.score > 0.6).all() and (few.uv0[:, 1] < 44).all()


def test_depth_anything_sees_normalised_multiples_of_14_and_answers_at_the_photos_size():
    seen = []

    def net(pixel_values: torch.Tensor):
        seen.append(pixel_values)
        b, _, h, w = pixel_values.shape
        return SimpleNamespace(predicted_depth=torch.linspace(0, 1, w).expand(b, h, w))

    prior = DepthAnythingV2(side=56, _net=net)
    out = prior.predict([blank(64, 48, 0.485)], None, None)[0]
    assert seen[0].shape == (1, 3, 56, 70) and float(seen[0][0, 0].abs().max()) < 1e-5
    assert seen[0][0, 2].mean() == pytest.approx((0.485 - 0.406) / 0.225, abs=1e-5)
    assert out.depth.shape == (48, 64) and out.kind == "affine_inverse" and (out.depth.diff(dim=1) >= 0).all() and out.valid.all()


def test_raft_sees_minus_one_to_one_and_its_flow_is_scaled_to_the_photo():
    def net(x: torch.Tensor, y: torch.Tensor, num_flow_updates: int):
        assert x.shape == (2, 3, 160, 320) and num_flow_updates == 5 and float(x.min()) == -1.0 and float(y[0].min()) == 1.0
        forward = torch.tensor([6.0, -2.0]).reshape(1, 2, 1, 1).expand(1, 2, 160, 320)
        return [torch.zeros(2, 2, 160, 320), torch.cat([forward, -forward])]

    field = Raft(side=320, steps=5, _net=net).predict([(blank(640, 320, 0.0), blank(640, 320, 1.0))])[0]
    assert torch.allclose(field.flow, torch.tensor([12.0, -4.0]).expand(320, 640, 2), atol=1e-4)
    inside = field.confidence[10:, :-20]
    assert (inside > 0.99).all() and (field.confidence[:, -11:] == 0).all() and (field.confidence[:3] == 0).all()


def test_the_real_depth_anything_with_small_random_weights():
    try:
        net = small_network(hidden_size=24, num_attention_heads=2)
    except BackendUnavailable:
        pytest.skip("needs transformers")
    out = DepthAnythingV2(side=56, _net=net.eval()).predict([blank(64, 48)], None, None)[0]
    assert out.depth.shape == (48, 64) and out.depth.isfinite().all() and (out.depth >= 0).all()
    full = small_network()
    assert sum(p.numel() for p in full.parameters()) == 24785089  # as published
    assert "backbone.encoder.layer.11.norm2.weight" in full.state_dict()


def test_the_real_raft_with_random_weights():
    try:
        net = _network().eval()
    except BackendUnavailable:
        pytest.skip("needs torchvision")
    assert sum(p.numel() for p in net.parameters()) == 5257536  # as published
    field = Raft(side=128, steps=2, _net=net).predict([(blank(160, 128), blank(160, 128))])[0]
    assert field.flow.shape == (128, 160, 2) and field.flow.isfinite().all()
