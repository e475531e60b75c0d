"""Another method is advised where few photos go around an object, and nowhere else."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from handful.pipelines.advice import for_another_method, turn
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.framing import look_at


def ring(*degrees: float, white: bool = True) -> Capture:
    """Photos on a circle that look at its middle."""
    angle = torch.tensor([math.radians(d) for d in degrees])
    eyes = torch.stack([3 * angle.cos(), 3 * angle.sin(), torch.zeros(len(angle))], 1)
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]).expand(len(angle), 3, 3)
    cameras = Cameras(look_at(eyes, torch.zeros_like(eyes), torch.tensor([0.0, 0, 1])), K, 64, 48)
    views = tuple(View(f"{k}.png", ArrayImage(torch.ones(48, 64, 3))) for k in range(len(angle)))
    return Capture(views, cameras, white_background=white, source="ring")


def test_the_turn_is_that_of_the_two_furthest_apart() -> None:
    assert turn(ring(0, 40, 100, 170)) == pytest.approx(170, abs=8), "the focus is drawn a little towards the cameras"
    assert turn(ring(-15, 0, 15)) < 40


def test_advice_is_for_few_photos_all_around_an_object_by_the_default_alone() -> None:
    around, aside = ring(0, 60, 120, 180, 240, 300), ring(0, 10, 20, 30, 40, 50)
    advice = for_another_method("handful", around, True)
    assert advice is not None and "These 6 photos" in advice and "--method zerorf" in advice
    assert for_another_method("handful", around, False) is None, "a field would take found cameras as they are"
    assert for_another_method("handful", aside, True) is None and for_another_method("zerorf", around, True) is None
    assert for_another_method("handful", ring(*range(0, 360, 30)), True) is None, "many photos share enough"
    assert for_another_method("handful", replace(around, white_background=False), True) is None, "a place is not an object"
