"""Settings travel as strict JSON and take overrides by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import pytest
from handful.pipelines.config import from_jsonable, load_config, override, to_jsonable
from handful.pipelines.init.config import InitConfig
from handful.pipelines.methods import METHODS, method_config
from handful.pipelines.methods.config import SplatConfig, check_settings
from handful.recon.errors import ConfigError


@pytest.mark.parametrize("name", METHODS)
def test_round_trip(name: str) -> None:
    config = method_config(name)
    assert from_jsonable(SplatConfig, json.loads(json.dumps(to_jsonable(config)))) == config


def test_unknown_key_names_the_nearest() -> None:
    data = to_jsonable(SplatConfig())
    data["optim"]["opacity_decays"] = 1.0
    with pytest.raises(ConfigError, match="did you mean 'opacity_decay'"):
        from_jsonable(SplatConfig, data)


def test_override() -> None:
    config = override(SplatConfig(), ["optim.steps=7", "terms.smooth=0", "seed.sh_degree=2", "depth_prior=oracle", "seed.merge=false"])
    assert (config.optim.steps, config.terms.smooth, config.seed.sh_degree, config.depth_prior, config.seed.merge) == (7, 0.0, 2, "oracle", False)
    assert override(config, ["seed.sh_degree=null"]).seed.sh_degree is None
    for text in ("disk-lightglue, sift", '["disk-lightglue", "sift"]'):
        assert override(config, [f"init.matchers={text}"]).init.matchers == ("disk-lightglue", "sift")
    assert override(config, ["init.matchers=sift", "init.pointmap=vggt"]).init == InitConfig(("sift",), "vggt")
    assert override(config, ["terms.ssim=.25"]).terms.ssim == 0.25 and override(config, ["terms.ssim=1."]).terms.ssim == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim.step=7", "did you mean 'steps'"),
        ("optim.steps", "name=value"),
        ("optim.steps=many", "expected int"),
        ("optim.steps=1.5", "expected int"),
        ("optim=3", "is a group"),
        ("terms.ssim=.", "expected float"),
        ("terms.ssim=nan", "expected float"),
        ("depth_prior.x=1", "has no parts"),
        ("seed.merge=1", "expected bool"),
        ("init.matchers=3", "expected"),
    ],
)
def test_bad_override(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(SplatConfig(), [text])


def test_unknown_method() -> None:
    with pytest.raises(ConfigError, match="handful"):
        method_config("handfull")


def test_load_config(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"version": 1, **to_jsonable(SplatConfig())}))
    assert load_config(SplatConfig, path) == SplatConfig()
    path.write_text("{")
    with pytest.raises(ConfigError, match="c.json"):
        load_config(SplatConfig, path)
    path.write_text(json.dumps({"version": 99}))
    with pytest.raises(ConfigError, match="version 1"):
        load_config(SplatConfig, path)


@pytest.mark.parametrize("photos, steps", [(2, 1000), (3, 1000), (4, 1333), (6, 2000), (25, 2000)])
def test_steps_follow_the_number_of_photos(photos: int, steps: int):
    assert SplatConfig().optim.steps_for(photos) == steps
    assert override(SplatConfig(), ["optim.steps=7"]).optim.steps_for(photos) == 7


@pytest.mark.parametrize("photos, decay", [(2, 0.99), (3, 0.99), (6, 0.995), (25, 0.995)])
def test_opacities_fade_as_much_over_a_longer_run(photos: int, decay: float):
    assert SplatConfig().optim.decay_for(photos) == pytest.approx(decay)
    assert override(SplatConfig(), ["optim.steps=7"]).optim.decay_for(photos) == pytest.approx(decay), "a run cut short keeps its pace"
    assert override(SplatConfig(), ["optim.opacity_decay=1"]).optim.decay_for(photos) == 1
    assert method_config("3dgs").optim.decay_for(photos) == 1


@pytest.mark.parametrize("pixels, budget", [(1000, 320_000), (3 * 504 * 378, 320_060), (6 * 504 * 378, 640_000), (10**8, 640_000)])
def test_gaussians_follow_the_number_of_pixels(pixels: int, budget: int):
    assert SplatConfig().seed.budget_for(pixels) == budget
    assert override(SplatConfig(), ["seed.budget=9"]).seed.budget_for(pixels) == 9


@pytest.mark.parametrize(
    "change, said",
    [
        (["optim.steps=0"], "optim.steps must be at least 1, got 0"),
        (["terms.pseudo_every=0"], "terms.pseudo_every must be at least 1"),
        (["terms.virtual_every=-1"], "terms.virtual_every"),
        (["refine.densify_every=0"], "refine.densify_every"),
        (["init.matchers=[]"], "init.matchers names no match prior"),
        (["motion.reach=0"], "motion.reach must be more than 0"),
        (["motion.kind=decoder", "refine.unpool_gap=0.1"], "none can be added"),
    ],
)
def test_settings_that_no_run_can_have(change: list[str], said: str):
    with pytest.raises(ConfigError, match=said):
        check_settings(override(SplatConfig(), change))


def test_every_method_has_settings_that_can_be_had():
    for config in METHODS.values():
        check_settings(config)


def test_the_papers_dense_starts_thin_no_pixel_more_than_another() -> None:
    """The default's own rule for guesses must not leak into what docs/methods.md scores under the papers' names."""
    guessing = {name: config.seed.guess_spacing for name, config in METHODS.items() if config.seed.guesses}
    assert guessing.pop("handful") > 1 and guessing.pop("matcha") > 1  # the latter starts as the default does, and its page says so
    assert guessing == {"binocular": 1.0, "coherentgs": 1.0, "instantsplat": 1.0}


def test_of_two_kinds_of_settings_the_one_that_knows_the_names_is_read() -> None:
    @dataclass(frozen=True)
    class One:
        steps: int = 1
        size: float = 2.0

    @dataclass(frozen=True)
    class Other:
        steps: int = 1
        grid: int = 3

    Holder = make_dataclass("Holder", [("settings", One | Other)], frozen=True)
    assert from_jsonable(Holder, {"settings": {"steps": 2, "grid": 5}}).settings == Other(2, 5)  # pyright: ignore[reportAttributeAccessIssue]
    assert from_jsonable(Holder, {"settings": {"size": 1}}).settings == One(1, 1.0)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="Other has no setting 'grit'; did you mean 'grid'"):
        from_jsonable(Holder, {"settings": {"steps": 1, "grid": 2, "grit": 3}})
