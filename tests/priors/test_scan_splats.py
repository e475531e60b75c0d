"""The scan network: what must hold whatever it has learned, and that its weights are there and mean what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.priors.net_files import packed
from handful.priors.scan_net import CHILDREN, ScanNet, ScanNetConfig
from handful.priors.scan_splats import ScanSplats, load_scan_net, weights_digest
from handful.recon.errors import BackendUnavailable
from handful.recon.se3 import matrix_from_quat
from handful.recon.sweeps import Sweep


def cloud(n: int = 400, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    a, e = (torch.rand(n, generator=rng) - 0.5) * 2, (torch.rand(n, generator=rng) - 0.6) * 0.5
    r = 3 + 20 * torch.rand(n, generator=rng)
    return torch.stack([r * a.cos() * e.cos(), r * a.sin() * e.cos(), r * e.sin()], 1)


@pytest.fixture(scope="module")
def trained() -> ScanSplats:
    return ScanSplats()


def test_each_return_keeps_a_splat_on_it(trained: ScanSplats) -> None:
    xyz = cloud()
    made = trained.predict(Sweep(xyz, torch.eye(4)))
    assert len(made.gaussians) == CHILDREN * len(xyz) and made.source[::CHILDREN].tolist() == list(range(len(xyz)))
    assert torch.allclose(made.gaussians.means[::CHILDREN], xyz, atol=1e-4)
    assert len(made.label) == len(xyz) and bool(torch.isfinite(made.gaussians.log_scales).all())


def test_a_moved_scan_gives_moved_splats(trained: ScanSplats) -> None:
    xyz, T = cloud(), torch.eye(4)
    c, s = math.cos(0.7), math.sin(0.7)
    T[:3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ torch.tensor([[1.0, 0, 0], [0, c, -s], [0, s, c]])
    T[:3, 3] = torch.tensor([5.0, -3, 2])
    here, there = (trained.predict(Sweep(xyz, pose)).gaussians for pose in (torch.eye(4), T))
    assert torch.allclose(there.means, here.means @ T[:3, :3].T + T[:3, 3], atol=2e-3)
    turned = T[:3, :3] @ matrix_from_quat(here.quats_wxyz)
    assert torch.allclose(matrix_from_quat(there.quats_wxyz), turned, atol=2e-2)
    assert torch.allclose(there.log_scales, here.log_scales, atol=2e-2)


def test_the_order_of_returns_means_nothing(trained: ScanSplats) -> None:
    xyz = cloud()
    order = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(1))
    a, b = trained.predict(Sweep(xyz, torch.eye(4))), trained.predict(Sweep(xyz[order], torch.eye(4)))
    assert torch.allclose(a.gaussians.means.view(-1, CHILDREN, 3)[order], b.gaussians.means.view(-1, CHILDREN, 3), atol=1e-3)


def test_seen_from_where_it_was_taken(trained: ScanSplats) -> None:
    """A cloud of another frame, with its viewpoint told, gives what the scanner's own frame gives."""
    xyz, origin = cloud(), torch.tensor([1.0, 2.0, 0.5])
    own = trained.predict(Sweep(xyz, torch.eye(4))).gaussians
    merged = replace(Sweep(xyz + origin, torch.eye(4)), origin_known=False)
    told = trained.predict(merged, viewpoint=origin).gaussians
    by_origins = trained.predict(Sweep(xyz + origin, torch.eye(4), origins=origin.expand(len(xyz), 3))).gaussians
    same = ((told.means - own.means - origin).norm(dim=1) < 2e-3).float().mean()
    assert float(same) > 0.9  # rounding puts a few returns into the voxel beside
    assert float(((by_origins.means - told.means).norm(dim=1) < 2e-3).float().mean()) > 0.9


@pytest.mark.parametrize("axes", ["opencv", "opengl"])
def test_a_depth_picture_looks_along_its_own_z(trained: ScanSplats, axes: str) -> None:
    """Points in camera axes are as good as the same in a scanner's (x ahead, z up)."""
    xyz = cloud()
    turn = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # right, down, ahead
    if axes == "opengl":
        turn = torch.diag(torch.tensor([1.0, -1, -1])) @ turn
    camera_from = torch.eye(4)
    camera_from[:3, :3] = turn.T  # world (scanner's axes) from camera
    made, plain = (trained.predict(s).gaussians.means for s in (Sweep(xyz @ turn.T, camera_from), Sweep(xyz, torch.eye(4))))
    assert float(((made - plain).norm(dim=1) < 5e-3).float().mean()) > 0.9


@pytest.mark.parametrize("n", [1, 2, 13])
def test_few_returns(trained: ScanSplats, n: int) -> None:
    made = trained.predict(Sweep(cloud(n), torch.eye(4)))
    assert len(made.gaussians) == CHILDREN * n and bool(torch.isfinite(made.gaussians.means).all())


def test_no_returns(trained: ScanSplats) -> None:
    made = trained.predict(Sweep(torch.zeros(0, 3), torch.eye(4)))
    assert len(made.gaussians) == 0 and len(made.label) == 0


def test_dense_scans_are_thinned(trained: ScanSplats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handful.priors.scan_splats.MOST_RETURNS", 100)
    xyz = cloud(450)
    made = trained.predict(Sweep(xyz, torch.eye(4)))
    assert len(made.gaussians) == 100 * CHILDREN and len(made.label) == 450
    assert torch.allclose(made.gaussians.means[::CHILDREN], xyz[made.source[::CHILDREN]], atol=1e-4)


@pytest.mark.parametrize("backbone", ["unet", "focal", "sets", "patches"])
def test_every_backbone_learns_to_see(backbone: str) -> None:
    """A few steps towards a known answer: gradients reach every part."""
    torch.manual_seed(0)
    net = ScanNet(ScanNetConfig(backbone, 150_000))
    made = net(cloud(300), torch.eye(4))
    (made.gaussians.means.square().mean() + made.gaussians.log_scales.square().mean() + made.gaussians.quats_wxyz.square().mean()
     + made.gaussians.logit_opacities.square().mean() + made.classes.square().mean()).backward()  # fmt: skip
    dead = [n for n, p in net.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert not [n for n in dead if "importance" not in n]


def test_weights_survive_the_file(tmp_path) -> None:
    torch.manual_seed(0)
    net = ScanNet(ScanNetConfig("unet", 120_000)).eval()
    Path(tmp_path / "w.safetensors").write_bytes(packed(net, net.config))
    back = load_scan_net("unet", tmp_path / "w.safetensors")
    assert back.config == net.config
    a, b = net(cloud(50), torch.eye(4)), back(cloud(50), torch.eye(4))
    assert torch.allclose(a.gaussians.means, b.gaussians.means, atol=0.05)  # half precision
    (tmp_path / "w.safetensors").write_bytes(b"no weights")
    with pytest.raises(BackendUnavailable, match="w.safetensors holds no weights"):
        load_scan_net.__wrapped__("unet", tmp_path / "w.safetensors")
    with pytest.raises(BackendUnavailable, match="scan_none"):
        ScanSplats("none")


def test_shipped_weights_are_small() -> None:
    from handful.priors import scan_splats

    assert sum(f.stat().st_size for f in scan_splats.WEIGHTS.glob("*.safetensors")) < 10_000_000
    assert len(weights_digest()) == 64
