"""The photos decide: what makes left-out photos worse is not kept."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.pipelines.job import train_capture
from handful.pipelines.methods import method_config
from handful.pipelines.refiner.judge import STRENGTHS, LeftOut, Verdict, judge, refined, strongest
from handful.recon.capture import Capture
from handful.recon.errors import CaptureError
from handful.recon.gaussians import Gaussians
from handful.recon.scene import SplatScene

DEFAULT = method_config("handful")
QUICK = replace(DEFAULT, seed=replace(DEFAULT.seed, budget=4000, extra=500), optim=replace(DEFAULT.optim, steps=25))


@pytest.fixture(scope="module")
def capture(small_demo) -> Capture:
    return Capture(small_demo.photos.views, small_demo.photo_cameras.to(dtype=torch.float32))


class Spoils:
    """Makes everything redder, the more the stronger."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.counts: list[torch.Tensor | None] = []

    def refine(
        self, scene: SplatScene, images: torch.Tensor, strengths: tuple[float, ...] = (1.0,), counts: torch.Tensor | None = None
    ) -> list[Gaussians]:
        self.counts.append(counts)
        assert images.shape[0] == len(scene.cameras), "of the photos it was made from, no other"
        self.asked.append(scene.names)
        return [replace(scene.gaussians, sh=scene.gaussians.sh + s * torch.tensor([2.0, 0, 0])) for s in strengths]


class Knows:
    """Cheats: has seen all photos, and the full change is best."""

    def __init__(self, better: Gaussians) -> None:
        self.better = better

    def refine(
        self, scene: SplatScene, images: torch.Tensor, strengths: tuple[float, ...] = (1.0,), counts: torch.Tensor | None = None
    ) -> list[Gaussians]:
        return [self.better if s == 1.0 else scene.gaussians for s in strengths]


def test_what_spoils_is_not_kept(capture: Capture) -> None:
    said: list[tuple[str, float]] = []
    spoils = Spoils()
    verdict = judge(capture, QUICK, spoils, say=lambda what, share: said.append((what, share)))  # pyright: ignore
    assert [set(capture.names) - set(names) for names in spoils.asked] == [{n} for n in capture.names], "each scene is made without the photo that judges it"
    assert verdict.strength == 0 and [p.name for p in verdict.photos] == list(capture.names)
    assert all(a < p.before for p in verdict.photos for a in p.after)
    assert all(list(p.after) == sorted(p.after, reverse=True) for p in verdict.photos)
    assert "stays as it is" in verdict.sentence() and [share for _, share in said] == [0, 1 / 3, 2 / 3]
    scene, _ = train_capture(capture, QUICK)
    assert refined(scene, capture, Spoils(), verdict.strength) is scene  # pyright: ignore


def test_what_helps_is_kept(capture: Capture) -> None:
    scene, _ = train_capture(capture, replace(QUICK, optim=replace(QUICK.optim, steps=60)))
    verdict = judge(capture, QUICK, Knows(scene.gaussians))  # pyright: ignore
    assert verdict.strength == 1.0 and min(verdict.gains(1.0)) > 0
    assert "refined at 100%" in verdict.sentence()
    after = refined(scene, capture, Knows(scene.gaussians), verdict.strength)  # pyright: ignore
    assert torch.equal(after.gaussians.means, scene.gaussians.means) and after.names == scene.names


def test_two_photos_cannot_judge(capture: Capture) -> None:
    verdict = judge(capture.select(capture.names[:2]), QUICK, Spoils())  # pyright: ignore
    assert verdict == Verdict(0.0, ()) and "cannot judge" in verdict.sentence()
    with pytest.raises(CaptureError, match="cameras"):
        judge(replace(capture, cameras=None), QUICK, Spoils())  # pyright: ignore


def test_a_photo_that_joins_the_others_is_not_asked(capture: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_middle(rest: Capture, *args: object) -> object:
        if capture.names[1] not in rest.names:
            raise CaptureError("nothing fits")
        return train_capture(rest, *args)  # pyright: ignore

    monkeypatch.setattr("handful.pipelines.refiner.judge.train_capture", without_the_middle)
    verdict = judge(capture, QUICK, Spoils())  # pyright: ignore
    assert verdict.unasked == (capture.names[1],) and [p.name for p in verdict.photos] == [capture.names[0], capture.names[2]]
    assert "nor without any other" in Verdict(0.0, (), ("a", "b")).sentence()


def test_haze_beside_an_object_is_seen(small_demo) -> None:
    """Inside the mask nothing changes; beside it, where nothing should be, a cloud appears."""
    masks = torch.zeros(3, 90, 120)
    masks[:, 30:60, 40:80] = 1
    views = tuple(replace(v, image=replace(v.image, mask=m)) for v, m in zip(small_demo.photos.views, masks, strict=True))
    cut = Capture(views, small_demo.photo_cameras.to(dtype=torch.float32))
    assert cut.is_cut_out()
    scene, _ = train_capture(cut, QUICK)
    camera = scene.cameras[0]
    corner = camera.unproject(torch.tensor([[[10.0, 10.0]]]), torch.tensor([[float(scene.render(camera).depth[0, 45, 60]) * 0.9]]))[0]
    g = scene.gaussians
    cloud = replace(g[:1], means=corner, log_scales=torch.full((1, 3), -2.0), logit_opacities=torch.tensor([5.0]), sh=g.sh[:1] * 0 + 2.0)

    class Clouds(Spoils):
        def refine(self, scene, images, strengths=(1.0,), counts=None):  # noqa: ANN001, ANN202
            assert counts is not None and counts.mean() < 0.3, "photos say nothing where they do not count"
            return [Gaussians.concatenate([scene.gaussians, cloud]) for _ in strengths]

    verdict = judge(cut, QUICK, Clouds())  # pyright: ignore
    assert verdict.strength == 0 and min(p.after[0] - p.before for p in verdict.photos) < -0.5


def left_out(before: float, *after: float) -> LeftOut:
    return LeftOut("x", before, after)


def test_the_strongest_that_hurts_no_photo() -> None:
    assert STRENGTHS == (0.25, 0.5, 0.75, 1.0)
    assert strongest([left_out(20, 20.1, 20.4, 20.3, 20.2), left_out(20, 20.1, 20.2, 20.4, 20.6)]) == 1.0
    assert strongest([left_out(20, 20.1, 20.4, 20.3, 20.2), left_out(20, 20.1, 20.2, 19.9, 19.9)]) == 0.5
    assert strongest([left_out(20, 19.9, 19.8, 19.7, 19.6), left_out(20, 25.0, 25.0, 25.0, 25.0)]) == 0
    assert strongest([left_out(20, 20, 20, 20, 20)]) == 0, "nothing to gain"
    assert strongest([left_out(20, 21, float("nan"), 22, float("inf"))]) == 0.75
    assert strongest([]) == 0
