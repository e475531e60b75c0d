"""The two passes against torch's own square window."""

from __future__ import annotations

import pytest
import torch
from handful.recon.windows import window_max


@pytest.mark.parametrize(("size", "radius"), [((23, 31), 4), ((5, 40), 2), ((9, 9), 4), ((12, 7), 0)])
def test_window_max_is_the_square_pool(size: tuple[int, int], radius: int) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(radius))
    want = torch.nn.functional.max_pool2d(values[None, None], 2 * radius + 1, 1, radius)[0, 0]
    assert torch.equal(window_max(values, radius), want)
