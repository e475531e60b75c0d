"""spconv's own layers and our weights; and the wrapper of its CUDA kernels, run over its CPU ones as far as these are right (one thread, no stream)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from handful.recon.voxel import DownConv, Rulebooks, SubMConv, UpConv
from handful.recon.voxel.spconv_backend import SpconvCuda

from .made import some_voxels


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    try:
        import spconv.pytorch as spconv
        from spconv.pytorch import ops
    except ImportError:
        pytest.skip("needs spconv")
    if not torch.cuda.is_available():
        monkeypatch.setattr(ops, "get_current_stream", lambda: 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield spconv
    torch.set_num_threads(threads)


def test_weights_are_spconvs(package: Any) -> None:
    """State of our layers loads into spconv's and computes the same."""
    x = some_voxels((6, 8, 4), dtype=torch.float32)
    books = Rulebooks(x, "torch")
    ours = [SubMConv(4, 5), DownConv(5, 6), UpConv(6, 3)]
    theirs = [
        package.SubMConv3d(4, 5, 3, padding=1),
        package.SparseConv3d(5, 6, 2, stride=2, indice_key="down"),
        package.SparseInverseConv3d(6, 3, 2, indice_key="down"),
    ]
    y, z = x, package.SparseConvTensor(x.feats, x.coords.int().contiguous(), list(x.shape), x.scenes)
    for a, b in zip(ours, theirs, strict=True):
        b.load_state_dict(a.state_dict())
        y, z = a(y, books), b(z)
    assert torch.equal(z.indices.long(), x.coords)
    torch.testing.assert_close(z.features, y.feats, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fresh", [False, True], ids=["shared rulebooks", "rulebooks of the way up alone"])
def test_wrapper_of_its_kernels(package: Any, fresh: bool) -> None:
    """Same values and gradients as torch's backend, through an odd grid, down and up."""
    fine = some_voxels((7, 5, 6), 3, dtype=torch.float32)
    torch.manual_seed(1)
    layers = [SubMConv(4, 5), SubMConv(5, 4, 5), DownConv(4, 6), UpConv(6, 3)]
    results: list[list[torch.Tensor]] = []
    for backend in ("torch", SpconvCuda(package)):
        x = fine.with_feats(fine.feats.clone().requires_grad_())
        books = Rulebooks(x, backend)
        down = x
        for layer in layers[:3]:
            down = layer(down, books)
        up = layers[3](down, Rulebooks(x, backend) if fresh else books)
        inputs = [x.feats, *(p for layer in layers for p in layer.parameters())]
        results.append([down.feats, up.feats, *torch.autograd.grad(up.feats.square().sum() + down.feats.sum(), inputs)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
