"""SEA-RAFT: names and number of the published tensors, correlations where they belong, and the same numbers as ptlflow's network where that is installed."""

from __future__ import annotations

import pytest
import torch
from handful.data.synthetic import demo_capture
from handful.priors.flow_sea_raft import SeaRaft
from handful.priors.registry import get_prior
from handful.priors.sea_raft_net import SeaRaftNet, _Correlation
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import BackendUnavailable
from torch import nn


def lively(net: nn.Module) -> nn.Module:
    """Random weights of which every part matters, and a flow of some pixels."""
    g = torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        if "bn" in name and name.endswith("weight"):
            p.data.uniform_(0.7, 1.2, generator=g)
        if "gamma" in name:
            p.data.normal_(0, 0.3, generator=g)
        if name.startswith("flow_head.2"):
            p.data.mul_(0.002)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=g)
            module.running_var.uniform_(0.5, 1.5, generator=g)
    return net.eval()


def test_missing_weights_are_told(no_weights):
    with pytest.raises(
        BackendUnavailable,
        match=r"sea-raft-m weights are not on this machine: run `handful doctor --fetch sea-raft-m --unverified` \(79 MB",
    ):
        get_prior("flow", "sea-raft")


def test_number_and_names_of_the_published_tensors():
    net = SeaRaftNet()
    assert sum(p.numel() for p in net.parameters()) == 19663876  # 78.7 MB in float32; the published file has 78.8
    state = net.state_dict()
    assert {
        "cnet.layer2.0.downsample.0.weight",
        "fnet.layer3.5.bn2.running_var",
        "update_block.refine.1.gamma",
        "upsample_weight.2.bias",
    } <= set(state)
    assert state["cnet.conv1.weight"].shape == (64, 6, 7, 7) and state["flow_head.2.weight"].shape == (6, 256, 3, 3)


def test_correlations_are_read_around_the_place():
    f0, f1 = torch.randn(1, 8, 16, 20), torch.randn(1, 8, 16, 20)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(20.0), indexing="ij")
    seen = _Correlation(f0, f1).around(torch.stack([x + 2, y - 1])[None]).reshape(4, 9, 9, 16, 20)
    product = torch.einsum("cyx,cvu->yxvu", f0[0], f1[0]) / 8**0.5
    assert torch.allclose(seen[0, 4, 4, 5, 6], product[5, 6, 4, 8], atol=1e-4)
    assert torch.allclose(seen[0, 7, 2, 5, 6], product[5, 6, 2, 11], atol=1e-4)  # first axis x + 3, second y - 2
    assert float(seen[0, 8, 4, 5, 19].abs()) < 1e-4, "beyond the edge"
    half = torch.nn.functional.avg_pool2d(f1, 2)
    assert torch.allclose(seen[1, 4, 4, 5, 6], (f0[0, :, 5, 6] * half[0, :, 2, 4]).sum() / 8**0.5, atol=1e-4)


def test_the_prior_answers_at_the_photos_size():
    images = demo_capture(n=2, held_out=1, width=160, height=128, supersample=1).photos.images()
    a, b = (View(f"{k}.png", ArrayImage(im)) for k, im in enumerate(images))
    net = lively(SeaRaftNet(steps=2))
    assert isinstance(net, SeaRaftNet)
    field = SeaRaft(side=200, _net=net).predict([(a, b)])[0]
    assert field.flow.shape == (128, 160, 2) and field.flow.isfinite().all() and field.confidence.shape == (128, 160)


def test_the_same_numbers_as_ptlflow():
    try:
        from ptlflow.models.sea_raft.sea_raft import SEARAFT_M
    except (ImportError, RuntimeError):
        pytest.skip("needs ptlflow")
    theirs = lively(SEARAFT_M(block_dims=[64, 128, 256])).double()
    ours = SeaRaftNet().double().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 2, 3, 128, 192, dtype=torch.float64)
    with torch.inference_mode():
        expected = theirs({"images": x.flip(2)})["flows"][:, 0]  # BGR
        found = ours(x[:, 0], x[:, 1])
    assert float(expected.abs().max()) > 5 and torch.allclose(found, expected, atol=1e-6)
