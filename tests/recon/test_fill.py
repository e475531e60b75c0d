"""Continuing images: holes inside, and beyond their borders."""

from __future__ import annotations

import torch
from handful.recon.fill import FADE, beyond_borders, push_pull


def ramp(h: int = 20, w: int = 30) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    return torch.stack([x / w, y / h, torch.full_like(x, 0.3)], -1)


def test_what_is_known_stays():
    image = ramp()
    weight = (torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) > 0.4).float()
    assert torch.equal(push_pull(image, weight)[weight == 1], image[weight == 1])
    assert torch.equal(beyond_borders(image, 12)[12:-12, 12:-12], image)


def test_holes_take_the_colour_around_them():
    image = torch.full((16, 16, 3), 0.7)
    weight = torch.ones(16, 16)
    weight[4:9, 5:12] = 0
    assert torch.allclose(push_pull(image * weight[..., None], weight), image, atol=1e-5)


def test_a_plain_image_goes_on_plainly():
    assert torch.allclose(beyond_borders(torch.full((15, 22, 2), 0.4), 9), torch.full((33, 40, 2), 0.4), atol=1e-6)


def test_beside_the_border_the_nearest_pixels_count_and_far_away_the_mean_of_the_border():
    image = torch.zeros(40, 40, 1)
    image[:, 20:] = 1.0  # dark at the left border, bright at the right one; the border's mean is 0.5
    out = beyond_borders(image, 200)[..., 0]
    middle = 220
    assert out[middle, 199] < 0.1 and out[middle, 240] > 0.9
    left = out[middle, :200].flip(0)  # outwards
    assert bool((left.diff() >= -1e-5).all()), "fades evenly from dark to the mean"
    expected = 0.5 * (1 - torch.exp(torch.tensor(-200 / (FADE * 40))))
    assert torch.allclose(left[199], expected, atol=0.02)


def test_stripes_blur_with_the_distance():
    image = torch.zeros(64, 64, 1)
    image[torch.arange(64) // 8 % 2 == 0] = 1.0
    out = beyond_borders(image, 32)[32:-32, :32, 0].flip(1)  # outwards from the left border
    contrast = out.std(0)
    assert contrast[0] > 0.4 and 0.1 < contrast[4] < 0.4 and contrast[20] < 0.05


def test_what_lies_far_inside_has_no_say():
    image = torch.zeros(60, 60, 1)
    image[20:40, 20:40] = 1.0
    out = beyond_borders(image, 24)[..., 0]
    out[24:-24, 24:-24] = 0
    assert out.amax() < 0.05
