"""Photos in wide directions of something with a room around it: all of it is learned, in a contracted space."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handful.pipelines.nerf.convert import views_around
from handful.pipelines.nerf.field_file import load_field, save_field
from handful.pipelines.nerf.layout import choose_space
from handful.pipelines.nerf.run import FieldRun
from handful.pipelines.protocol import Start
from handful.recon.capture import Capture
from handful.recon.field.contracted import ContractedSpace
from handful.recon.field.space import BoxSpace, FrustumSpace

from .test_field_run import finish, quality, run_of, start_of


@pytest.fixture(scope="module")
def room() -> tuple[Start, Capture]:
    """From directions up to 100 degrees apart: too wide for a frustum."""
    return start_of("room", [12.5 * k - 20 for k in range(9)])


@pytest.fixture(scope="module")
def learned(room: tuple[Start, Capture]) -> tuple[FieldRun, float, float]:
    run = run_of("vm", room[0], "optim.steps=300", "optim.rays=1024", "grid.side=64", "grid.hidden=32", "sampling.steps=128")
    before = quality(run, room[0].init.capture), quality(run, room[1])
    return finish(run), *before


def test_a_room_is_learned(room: tuple[Start, Capture], learned: tuple[FieldRun, float, float]) -> None:
    (start, test), (run, photos, between) = room, learned
    assert isinstance(run.space, ContractedSpace)
    assert quality(run, start.init.capture) > photos + 5 and quality(run, test) > between + 4
    distance = torch.linalg.vector_norm(run.photos.cameras.centers - run.space.center, dim=1)
    assert run.space.radius == pytest.approx(0.5 * float(distance.max()))
    depth, truth = run.snapshot().render(run.photos.cameras).depth, torch.stack([d.depth for d in start.depth])
    wrong = ((depth - truth).abs() / truth)[truth > 0]
    assert float(wrong.median()) < 0.2


def test_what_the_cameras_suggest_and_what_is_asked_for(room: tuple[Start, Capture]) -> None:
    photos = run_of("vm", room[0], "optim.steps=1").photos
    for rule, alone, kind in (
        ("auto", False, ContractedSpace), ("auto", True, BoxSpace), ("contracted", True, ContractedSpace), ("box", False, BoxSpace), ("frustum", False, FrustumSpace),
    ):  # fmt: skip
        assert isinstance(choose_space(photos, rule, alone), kind), rule


@pytest.mark.parametrize("method", ["sparsenerf", "regnerf", "freenerf"])
def test_every_term_has_its_say(method: str, room: tuple[Start, Capture]) -> None:
    run = run_of(method, room[0], "optim.steps=80", "terms.distortion=0.01")
    before = quality(run, room[0].init.capture)
    assert quality(finish(run), room[0].init.capture) > before + 0.1
    assert all(bool(torch.isfinite(p).all()) for p in run.field.parameters())


def test_kept_and_looked_at_from_between(learned: tuple[FieldRun, float, float], tmp_path: Path) -> None:
    scene = learned[0].snapshot()
    save_field(tmp_path / "f", scene)
    again = load_field(tmp_path / "f", scene.cameras, scene.names, scene.background)
    torch.testing.assert_close(again.render(scene.cameras[1], True).color, scene.render(scene.cameras[1], True).color, rtol=0, atol=1e-5)
    between = views_around(scene.cameras, 4, around=False)
    assert isinstance(scene.space, ContractedSpace)
    assert float(between.centers.norm(dim=1).max()) <= float(scene.cameras.centers.norm(dim=1).max()) + 1e-4, "between the photos"
    assert len(learned[0].shown().gaussians) > 200
