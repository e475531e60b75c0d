"""Objects on white are outlined: by connection with the border, whatever the compression; other captures are left alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from handful.data.image_io import FileImage
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.outline import OutlinedImage, outline_on_white, outlined
from PIL import Image
from torch import Tensor


def ring() -> Tensor:
    """A grey ring with a white middle and a white spot on it, on white."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    r = ((x - 40) ** 2 + (y - 30) ** 2).sqrt()
    image = torch.ones(60, 80, 3)
    image[(r > 8) & (r < 20)] = torch.tensor([0.8, 0.3, 0.2])
    image[28:31, 53:56] = 1.0
    return image


def test_white_within_the_object_is_the_objects() -> None:
    mask = outline_on_white(ring())
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    assert mask is not None and torch.equal(mask, ((x - 40) ** 2 + (y - 30) ** 2 < 400).float())


def test_what_compression_adds_lies_within_a_block_of_the_object() -> None:
    pixels = (ring().numpy() * 255).round().astype(np.uint8)
    _, packed = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    unpacked = torch.from_numpy(cv2.imdecode(packed, cv2.IMREAD_COLOR)).float() / 255
    mask, truth = outline_on_white(unpacked), outline_on_white(ring())
    assert mask is not None and truth is not None
    grown = torch.from_numpy(cv2.dilate(truth.numpy(), np.ones((33, 33))))
    assert bool((mask >= truth).all()) and bool((mask <= grown).all())


@pytest.mark.parametrize("value", [1.0, 0.5])
def test_nothing_to_outline(value: float) -> None:
    assert outline_on_white(torch.full((20, 30, 3), value)) is None


def test_a_photos_own_mask_is_kept() -> None:
    own = torch.zeros(60, 80)
    assert torch.equal(OutlinedImage(ArrayImage(ring(), own)).load_mask(), own)


def test_only_captures_on_white_are_outlined() -> None:
    view = View("a.png", ArrayImage(ring()))
    other = Capture((view, view))
    assert outlined(other) is other and other.masks() is None
    white = outlined(Capture((view, view), white_background=True))
    masks = white.masks()
    assert masks is not None and white.is_cut_out() and white.images().equal(other.images())
    assert white.views[0].image.digest() != view.image.digest()


def test_what_the_file_says_of_its_transparency_is_the_outline(tmp_path: Path) -> None:
    """A white thing on nothing, put on white: its colours say nothing, its alpha all."""
    alpha = np.zeros((40, 60), np.uint8)
    alpha[10:30, 20:50] = 255
    white = np.full((40, 60, 3), 255, np.uint8)
    for name, a in (("thing", alpha), ("opaque", np.full_like(alpha, 255))):
        Image.fromarray(np.dstack([white, a])).save(tmp_path / f"{name}.png")
    thing, opaque = (OutlinedImage(FileImage(tmp_path / f"{n}.png", (60, 40), (60, 40), has_alpha=True, background="white")) for n in ("thing", "opaque"))
    mask = thing.load_mask()
    assert bool((thing.load() == 1).all()) and mask is not None and torch.equal(mask, torch.from_numpy(alpha).float() / 255)
    assert opaque.load_mask() is None and thing.source.load_mask() is None, "the photo itself counts everywhere"
    assert thing.digest().endswith("-cut") and OutlinedImage(ArrayImage(ring())).digest().endswith("-outlined")
