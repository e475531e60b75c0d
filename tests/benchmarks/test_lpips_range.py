"""LPIPS on both ranges: the one in print is that of pictures of half the contrast, and the table counts gains over the first method."""

from __future__ import annotations

import pytest
import torch
from handful.benchmarks.lpips_range import as_printed, table
from handful.recon.lpips import VGG, Lpips


def test_the_printed_one_sees_half_the_contrast(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = torch.Generator().manual_seed(0)
    weights, taps = {}, [layer for layer in VGG if layer.tap]
    for layer in VGG:
        shape = (layer.outputs, layer.inputs, layer.kernel, layer.kernel)
        weights[f"features.{layer.index}.weight"] = torch.randn(shape, generator=rng) / (layer.inputs * 9) ** 0.5
        weights[f"features.{layer.index}.bias"] = torch.zeros(layer.outputs)
    for k, layer in enumerate(taps):
        weights[f"lin{k}.model.1.weight"] = torch.rand(1, layer.outputs, 1, 1, generator=rng)
    net = Lpips("vgg", weights)
    a, b = torch.rand(2, 1, 32, 32, 3, generator=rng)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Lpips, "_taps", lambda self, x: seen.append(x) or [])
    net(a, b)
    as_printed(net, a, b)
    torch.testing.assert_close(seen[1] - seen[1].mean((2, 3), keepdim=True), (seen[0] - seen[0].mean((2, 3), keepdim=True)) / 2)


def test_gains_are_over_the_first() -> None:
    rows = [{"method": m, "defined": d, "printed": p} for m, d, p in (("3dgs", 0.3, 0.2), ("3dgs", 0.2, 0.1), ("handful", 0.2, 0.1), ("handful", 0.1, 0.0))]
    assert table({"rows": rows}).splitlines()[2:] == ["| `3dgs` | 0.250 |  | 0.150 |  |", "| `handful` | 0.150 | -0.100 | 0.050 | -0.100 |"]
