"""Display colours and linear light: the standard's own numbers, and there and back."""

from __future__ import annotations

import torch
from handful.recon.srgb import linear_from_srgb, srgb_from_linear


def test_display_colours_to_light_and_back() -> None:
    grey = torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(linear_from_srgb(grey), torch.tensor([0.0, 0.0031308, 0.2140411, 1.0]).double(), atol=1e-7, rtol=0)
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(srgb_from_linear(linear_from_srgb(x)), x, atol=1e-6, rtol=0)
    for convert in (linear_from_srgb, srgb_from_linear):
        torch.testing.assert_close(convert(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 1.0]))
