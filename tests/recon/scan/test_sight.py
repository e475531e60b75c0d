"""What a camera sees of a scan, against loops."""

from __future__ import annotations

import torch
from handful.recon.camera import Cameras
from handful.recon.scan.sight import Returns, sampled, seen_returns


def camera(width: int = 40, height: int = 30) -> Cameras:
    K = torch.tensor([[30.0, 0, width / 2], [0, 30.0, height / 2], [0, 0, 1]])
    return Cameras(torch.eye(4)[None], K[None], width, height)


def test_only_what_is_in_the_picture() -> None:
    xyz = torch.tensor([[0.0, 0, 2], [0, 0, -2], [5, 0, 2], [0.1, 0.1, 0.05], [0, 0, 4]])
    seen = seen_returns(camera(), xyz)
    assert seen.index.tolist() == [0, 4]
    assert seen.uv.tolist() == [[20.0, 15.0], [20.0, 15.0]] and seen.z.tolist() == [2.0, 4.0]


def test_the_nearest_return_of_a_pixel_is_its_depth() -> None:
    xyz = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + torch.tensor([0, 0, 3.0])
    seen = seen_returns(camera(), xyz)
    loop = torch.zeros(30, 40)
    for (u, v), z in zip(seen.uv.tolist(), seen.z.tolist(), strict=True):
        at = loop[int(v), int(u)]
        loop[int(v), int(u)] = z if at == 0 else min(float(at), z)
    assert torch.equal(seen.depth_map(40, 30), loop)


def test_what_something_nearer_hides_is_left_out() -> None:
    front = torch.tensor([[0.0, 0.0, 2.0]])
    behind = torch.tensor([[0.05, 0.0, 4.0], [1.3, 0.0, 4.0]])  # a pixel beside it, and ten aside
    assert seen_returns(camera(), torch.cat([front, behind]), cell=3).index.tolist() == [0, 2]
    near = torch.tensor([[0.05, 0.0, 2.15]])  # the same surface, slanted
    assert seen_returns(camera(), torch.cat([front, near]), cell=3).index.tolist() == [0, 1]


def test_sampling_is_exact_on_a_slope() -> None:
    v, u = torch.meshgrid(torch.arange(30) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    image = torch.stack([u, v, u + 2 * v], -1)
    uv = torch.rand(100, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([38.0, 28.0]) + 1
    want = torch.stack([uv[:, 0], uv[:, 1], uv[:, 0] + 2 * uv[:, 1]], 1)
    assert torch.allclose(sampled(image, uv), want, atol=1e-4)


def test_nothing_seen() -> None:
    seen = seen_returns(camera(), torch.zeros(0, 3), cell=4)
    assert len(seen) == 0 and float(seen.depth_map(40, 30).abs().max()) == 0
    assert len(Returns(seen.index, seen.uv, seen.z).kept(torch.zeros(0, dtype=torch.bool))) == 0
