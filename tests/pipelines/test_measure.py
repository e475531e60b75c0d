"""What is measured before a run: by which prior, asked how, on which device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from handful.pipelines import measure as module
from handful.pipelines.config import override
from handful.pipelines.job import train_capture
from handful.pipelines.measure import measure, require_priors
from handful.pipelines.methods import method_config
from handful.priors import registry
from handful.priors.depth_relative import RelativeDepth
from handful.recon.errors import BackendUnavailable

CPU = torch.device("cpu")


@dataclass
class Ramp(RelativeDepth):
    """A "network" that sees every photo nearer from left to right."""

    name: str = "ramp"
    version: str = "1"
    license: str = "-"

    def inverse_depth(self, views):
        sizes = [v.image.size for v in views]
        return [torch.linspace(1, 2, w).expand(h, w) + (0.5 if self.device == "meta" else 0.0) for w, h in sizes]


@pytest.fixture
def ramp(monkeypatch):
    monkeypatch.setitem(registry.PRIORS["depth"], "ramp", "ramp:Ramp")
    real = registry.import_module
    monkeypatch.setattr(registry, "import_module", lambda name, package: type("M", (), {"Ramp": Ramp}) if name == ".ramp" else real(name, package))


def test_a_network_guides_by_what_it_says_alone(small_start, ramp):
    """Aligned to stereo it would repeat stereo wherever that measured, which is all that guides look at."""
    start = measure(small_start.init, override(method_config("fsgs"), ["guide_prior=ramp"]), False, 0, CPU)
    assert [g.kind for g in start.guide] == ["affine_inverse"] * 3
    for guide, own in zip(start.guide, start.depth, strict=True):
        assert bool(guide.valid.all()) and not torch.equal(guide.depth, own.depth)
    assert measure(small_start.init, method_config("fsgs"), False, 0, CPU).guide == ()


def test_networks_work_on_the_device_of_the_run(small_start, ramp):
    config = override(method_config("fsgs"), ["guide_prior=ramp"])
    here, there = (measure(small_start.init, config, False, 0, torch.device(d)).guide[0].depth for d in ("cpu", "meta"))
    assert torch.allclose(there, here + 0.5)


def test_what_is_timed_asks_the_priors_anew(small_start, monkeypatch):
    asked = []
    real = module.predict_depth
    monkeypatch.setattr(module, "predict_depth", lambda prior, views, cameras, points, anew=False: asked.append(anew) or real(prior, views, cameras, points))
    config = override(method_config("fsgs"), ["optim.steps=1", "guide_prior=stereo"])
    train_capture(small_start.init.capture, config)
    measure(small_start.init, config, False, 0, CPU)
    assert asked == [True, True, False, False]


def test_a_prior_that_cannot_work_says_so_first():
    require_priors(method_config("handful"))
    with pytest.raises(BackendUnavailable, match="vouch|not on this machine|digest"):
        require_priors(override(method_config("coherentgs"), ["flow_prior=sea-raft"]))


def test_a_sensors_metres_count_beside_given_cameras_only(small_start):
    init = small_start.init
    sensed = replace(init, capture=replace(init.capture, depth=small_start.depth))
    given, found = (measure(sensed, method_config("handful"), estimated, 0, CPU).scan for estimated in (False, True))
    assert given is not None and float((given > 0).float().mean()) > 0.5
    assert found is None  # found cameras stand in a world of no known scale
