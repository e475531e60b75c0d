"""The cache of results: hit by the same question only, bounded, and never in the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from handful.priors import cache
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, View
from handful.recon.depth import DepthMap


@dataclass
class Counting:
    side: int = 14
    device: str = "cpu"
    weights: tuple[str, ...] = ("toy",)
    name: str = "counting"
    version: str = "1"
    license: str = "MIT"
    asked: list[int] = field(default_factory=list, init=False)

    def predict(self, views: Sequence[View], cameras, points) -> list[DepthMap]:
        self.asked.append(len(views))
        one = torch.rand(4, 6)
        return [
            DepthMap(one + k, one, one > 0.5, torch.rand(4, 6, 3) if k else None, "affine_inverse" if k else "metric")
            for k in range(len(views))
        ]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "weights_digest", lambda name: "d" * 64)
    return tmp_path / "handful" / "priors"


def view(value: float, name: str = "a") -> View:
    return View(name, ArrayImage(torch.full((4, 6, 3), value)))


def test_the_same_question_is_answered_from_the_cache(home):
    prior, views = Counting(), [view(0.1), view(0.2)]
    first = cache.predict_depth(prior, views, None, None)
    again = cache.predict_depth(Counting(device="cuda"), [view(0.1, "renamed"), view(0.2)], None, None)
    assert prior.asked == [2] and len(list(home.iterdir())) == 1 and cache.cache_bytes() > 0
    for a, b in zip(first, again, strict=True):
        assert (
            torch.equal(a.depth, b.depth) and torch.equal(a.confidence, b.confidence) and torch.equal(a.valid, b.valid) and a.kind == b.kind
        )
        assert (a.normal is None) == (b.normal is None) and (a.normal is None or b.normal is None or torch.equal(a.normal, b.normal))


def test_who_measures_time_asks_in_any_case(home):
    prior = Counting()
    for _ in range(2):
        cache.predict_depth(prior, [view(0.1)], None, None, anew=True)
    assert prior.asked == [1, 1]
    cache.predict_depth(prior, [view(0.1)], None, None)
    assert prior.asked == [1, 1], "what was asked anew is kept all the same"


def test_everything_the_result_depends_on_asks_anew(home, monkeypatch):
    cameras = Cameras(torch.eye(4)[None], torch.eye(3)[None], 6, 4)
    moved = replace(cameras, cam_from_world=cameras.cam_from_world + torch.tensor([0.0, 0, 0, 1e-4]))
    keys = {
        cache._key(p, v, c, None)
        for p, v, c in (
            (Counting(), [view(0.1)], None), (Counting(side=28), [view(0.1)], None), (Counting(version="2"), [view(0.1)], None),
            (Counting(weights=("toy", "toy")), [view(0.1)], None), (Counting(), [view(0.3)], None), (Counting(), [view(0.1)], cameras),
            (Counting(), [view(0.1)], moved),
        )
    }  # fmt: skip
    assert len(keys) == 7
    monkeypatch.setattr(cache, "weights_digest", lambda name: "e" * 64)
    assert cache._key(Counting(), [view(0.1)], None, None) not in keys


def test_another_version_of_the_networks_package_asks_anew(home, monkeypatch):
    @dataclass
    class Packaged(Counting):
        packages: ClassVar[dict[str, str]] = {"PIL": "pip install Pillow", "absent": "pip install absent"}

    prior = Packaged()
    cache.predict_depth(prior, [view(0.1)], None, None)
    cache.predict_depth(prior, [view(0.1)], None, None)
    assert len(prior.asked) == 1
    monkeypatch.setattr(cache, "version", lambda distribution: "999")
    cache.predict_depth(prior, [view(0.1)], None, None)
    assert len(prior.asked) == 2


def test_a_prior_without_weights_is_not_kept(home):
    prior = Counting(weights=())
    for _ in range(2):
        cache.predict_depth(prior, [view(0.1)], None, None)
    assert prior.asked == [1, 1] and not home.exists() and cache.cache_bytes() == 0


def test_a_broken_or_closed_cache_is_no_error(home, monkeypatch):
    prior = Counting()
    cache.predict_depth(prior, [view(0.1)], None, None)
    next(home.iterdir()).write_bytes(b"nonsense")
    cache.predict_depth(prior, [view(0.1)], None, None)
    assert prior.asked == [1, 1]
    cache.predict_depth(prior, [view(0.1)], None, None)
    assert prior.asked == [1, 1], "the broken file was replaced"
    (home.parent.parent / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent.parent / "file"))
    assert len(cache.predict_depth(prior, [view(0.1)], None, None)) == 1


def test_the_oldest_go_when_it_is_full(home, monkeypatch):
    import os

    cache.predict_depth(Counting(), [view(0.1)], None, None)
    first = next(home.iterdir())
    os.utime(first, (1, 1))
    monkeypatch.setattr(cache, "LIMIT", int(1.5 * first.stat().st_size))
    cache.predict_depth(Counting(), [view(0.2)], None, None)
    assert not first.exists() and len(list(home.iterdir())) == 1
