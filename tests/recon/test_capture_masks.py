"""Which masks cut an object out, and which only leave something out."""

from __future__ import annotations

import torch
from handful.recon.capture import ArrayImage, Capture, View


def capture(*masks: torch.Tensor, extent: torch.Tensor | None = None) -> Capture:
    return Capture(tuple(View(f"{k}.png", ArrayImage(torch.rand(*m.shape, 3), m, extent)) for k, m in enumerate(masks)))


def test_an_object_before_its_surroundings() -> None:
    around = torch.zeros(40, 60)
    around[8:32, 10:50] = 1
    touching = around.clone()
    touching[8:, 10:50] = 1  # down to the lower border, as a statue on its foot
    assert capture(around, touching).is_cut_out() and capture(touching, touching, torch.ones(40, 60)).is_cut_out()


def test_a_passer_by_is_no_object() -> None:
    person = torch.ones(40, 60)
    person[5:, 20:32] = 0
    inside = torch.ones(40, 60)
    inside[10:20, 10:20] = 0
    bonnet = torch.ones(40, 60)
    bonnet[34:] = 0
    assert not capture(person, inside, person).is_cut_out() and not capture(inside).is_cut_out()
    assert not capture(bonnet, bonnet).is_cut_out(), "the car that the camera sits on"
    assert not capture(torch.ones(40, 60)).is_cut_out() and not Capture(()).is_cut_out()


def test_padding_counts_neither_way() -> None:
    """Bars at the sides where the photo is narrower: alone they cut nothing out, and an object's mask is told by what borders the photo itself."""
    extent = torch.ones(40, 60)
    extent[:, :15], extent[:, 45:] = 0, 0
    assert not capture(extent.clone(), extent=extent).is_cut_out()
    object_ = torch.zeros(40, 60)
    object_[10:30, 22:38] = 1
    assert capture(object_, extent=extent).is_cut_out()
    y, x = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    lens = ((x - 30) ** 2 + (y - 20) ** 2 < 19**2).float()  # a fisheye's circle
    assert capture(object_ * lens, extent=lens).is_cut_out() and not capture(lens.clone(), extent=lens).is_cut_out()
