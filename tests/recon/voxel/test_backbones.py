"""What every backbone must do: same coordinates, scenes apart, any number of voxels, parameters as asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.recon.errors import ConfigError
from handful.recon.voxel import Rulebooks, SparseVoxels, build_backbone, voxelize, width_for
from handful.recon.voxel.registry import BACKBONES, parameters
from torch import nn

from .made import some_voxels


@pytest.fixture(params=list(BACKBONES))
def net(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(request.param, 4, 5, 0.34).double()


def test_same_voxels_and_every_weight_matters(net: nn.Module) -> None:
    x = some_voxels((20, 18, 22), 2, 4, 0.1)
    x = x.with_feats(x.feats.requires_grad_())
    out = net(x)
    assert out.coords is x.coords and out.stride == 1 and out.feats.shape == (len(x), 5) and bool(out.feats.isfinite().all())
    out.feats.square().mean().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not idle
    assert x.feats.grad is not None and bool(x.feats.grad.any(1).all())


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_voxels(net: nn.Module, count: int) -> None:
    x = some_voxels((9, 9, 9), 1, 4, 0.1)
    x = replace(x, coords=x.coords[:count], feats=x.feats[:count])
    out = net(x)
    assert out.feats.shape == (count, 5) and bool(out.feats.isfinite().all())
    out.feats.sum().backward()


def test_scenes_do_not_see_each_other(net: nn.Module) -> None:
    """A scene beside another one gives what it gives alone, and so does its twin; small beside large."""
    one = some_voxels((20, 18, 22), 1, 4, 0.05)
    alone = net(one).feats
    both = replace(
        one, coords=torch.cat([one.coords, one.coords + torch.tensor([1, 0, 0, 0])]), feats=torch.cat([one.feats, one.feats])
    ).validate()
    torch.testing.assert_close(net(both).feats, torch.cat([alone, alone]), rtol=1e-9, atol=1e-9)


def test_what_another_scene_holds_changes_nothing(net: nn.Module) -> None:
    x = some_voxels((20, 18, 22), 2, 4, 0.05)
    first = x.coords[:, 0] == 0
    changed = net(x.with_feats(torch.where(first[:, None], x.feats, -x.feats))).feats
    same = net(x).feats
    assert torch.allclose(changed[first], same[first], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(changed[~first], same[~first])


def test_order_of_points_changes_nothing(net: nn.Module) -> None:
    xyz, feats = torch.rand(300, 3, dtype=torch.float64) * 20, torch.randn(300, 4, dtype=torch.float64)
    turn = torch.randperm(300)
    a, at = voxelize(xyz, feats, 1.0)
    b, bt = voxelize(xyz[turn], feats[turn], 1.0)
    torch.testing.assert_close(net(b).feats[bt], net(a).feats[at][turn], rtol=1e-8, atol=1e-9)


def test_rulebooks_are_shared_between_passes_and_networks(net: nn.Module) -> None:
    x = some_voxels((20, 18, 22), 1, 4, 0.1)
    books = Rulebooks(x)
    first = net(x, books).feats
    assert torch.equal(net(x, books).feats, first)
    build_backbone("unet", 4, 5, 0.3).double()(x, books)
    assert torch.equal(net(x, books).feats, first)


@pytest.mark.parametrize("name", list(BACKBONES))
@pytest.mark.parametrize("count", [150_000, 1_440_000])
def test_widths_of_equal_size(name: str, count: int) -> None:
    made = parameters(build_backbone(name, 8, 16, width_for(name, 8, 16, count)))
    assert abs(made / count - 1) < (0.15 if count < 1_000_000 else 0.05)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no backbone 'vnet'; choose one of unet, focal, sets, patches"):
        build_backbone("vnet", 1, 1)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_learns_what_needs_a_wide_view(name: str) -> None:
    """In two scenes that differ in one corner, every voxel tells which scene it is: only coarse levels carry that so far."""
    edge = 16
    coords = torch.cartesian_prod(torch.arange(2), torch.arange(edge), torch.arange(edge), torch.tensor([0]))
    sign = 1.0 - 2 * coords[:, :1]
    feats = torch.cat([torch.ones(len(coords), 1), sign * (coords[:, 1:3] < 4).all(1, keepdim=True)], 1)
    x = SparseVoxels(coords, feats, torch.zeros(3), torch.ones(3), (edge, edge, 1))
    torch.manual_seed(0)
    net = build_backbone(name, 2, 1, 0.34)
    optimiser, books = torch.optim.Adam(net.parameters(), 1e-3), Rulebooks(x)
    for _ in range(80):
        loss = (net(x, books).feats - sign).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1  # one that cannot tell is at 1
