"""What the tests with a browser share: waiting, the picture of the page, and how near two pictures are."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

__all__ = ["canvas", "psnr", "wait_for"]


def wait_for(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first value of `condition` that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def psnr(a: Float[Tensor, "*s"], b: Float[Tensor, "*s"]) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def canvas(page: Any) -> Float[Tensor, "H W 3"]:
    """What is drawn, without panels and notices, which stay where they are."""
    page.wait_for_selector("canvas[data-engine]", state="attached")  # three.js's, not the one for selections
    hide = page.add_style_tag(content="body *:not(:has(canvas[data-engine])):not(canvas[data-engine]) { visibility: hidden !important; }")
    png = page.screenshot(timeout=120_000)
    hide.evaluate("e => e.remove()")
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.float32) / 255)
