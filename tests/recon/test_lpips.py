"""LPIPS: the network by itself with made-up weights, and with the real ones the values its authors state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handful.priors.weights import load_lpips
from handful.recon.errors import ShapeError
from handful.recon.lpips import Lpips, lpips_keys
from PIL import Image
from torch.nn import functional as F


def random_weights(net: str, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    out = {}
    for key, shape in lpips_keys(net).items():
        fan = max(1, int(np.prod(shape[1:])))
        w = torch.randn(shape, generator=g) * (2 / fan) ** 0.5
        out[key] = w.abs() if key.startswith("lin") else w * (0.1 if key.endswith("bias") else 1)
    return out


def test_alex_against_its_recipe_written_out():
    """The architecture in the README of the weights, line by line, sharing no code with ours."""
    w = random_weights("alex")
    a, b = torch.rand(2, 1, 70, 64, 3)

    def features(x):
        x = (x.permute(0, 3, 1, 2) * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
        f0 = F.relu(F.conv2d(x, w["features.0.weight"], w["features.0.bias"], stride=4, padding=2))
        f1 = F.relu(F.conv2d(F.max_pool2d(f0, 3, 2), w["features.3.weight"], w["features.3.bias"], padding=2))
        f2 = F.relu(F.conv2d(F.max_pool2d(f1, 3, 2), w["features.6.weight"], w["features.6.bias"], padding=1))
        f3 = F.relu(F.conv2d(f2, w["features.8.weight"], w["features.8.bias"], padding=1))
        return [f0, f1, f2, f3, F.relu(F.conv2d(f3, w["features.10.weight"], w["features.10.bias"], padding=1))]

    want = 0.0
    for k, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        x, y = (t / (t.norm(dim=1, keepdim=True) + 1e-10) for t in (x, y))
        want += float(((x - y) ** 2 * w[f"lin{k}.model.1.weight"].reshape(1, -1, 1, 1)).sum(1).mean())
    assert float(Lpips("alex", w)(a, b)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_zero_for_equal_symmetric_and_per_view(net):
    lpips = Lpips(net, random_weights(net))
    a, b = torch.rand(2, 2, 66, 66, 3)
    both = lpips(a, b)
    assert both.shape == (2,) and (both > 0).all()
    torch.testing.assert_close(lpips(a, a), torch.zeros(2))
    torch.testing.assert_close(both, lpips(b, a))
    torch.testing.assert_close(both[1:], lpips(a[1:], b[1:]))


def test_it_can_be_learned_from():
    x = torch.rand(1, 64, 64, 3, requires_grad=True)
    Lpips("alex", random_weights("alex"))(x, torch.rand(1, 64, 64, 3)).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


def test_wrong_weights_and_images_are_named():
    w = random_weights("alex")
    with pytest.raises(ShapeError, match=r"features.3.weight must have the shape \(192, 64, 5, 5\); got none"):
        Lpips("alex", {k: v for k, v in w.items() if k != "features.3.weight"})
    with pytest.raises(ShapeError, match=r"lin0.model.1.weight must have the shape \(1, 64, 1, 1\); got \(64,\)"):
        Lpips("alex", w | {"lin0.model.1.weight": torch.zeros(64)})
    with pytest.raises(ShapeError, match="at least 63 pixels a side; got 40x80"):
        Lpips("alex", w)(torch.zeros(1, 80, 40, 3), torch.zeros(1, 80, 40, 3))


@pytest.mark.parametrize(("net", "values"), [("alex", (0.7219, 0.1376)), ("vgg", (0.5686, 0.4217))])
def test_the_values_its_authors_state(shared, monkeypatch, net, values):
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(shared / "weights"))
    ref, p0, p1 = (torch.from_numpy(np.array(Image.open(shared / "weights/lpips-check" / f"ex_{n}.png").convert("RGB"))).float() / 255 for n in ("ref", "p0", "p1"))
    got = load_lpips(net)(torch.stack([ref, ref]), torch.stack([p0, p1]))
    assert got.tolist() == pytest.approx(values, abs=1e-4)
