"""PSNR and SSIM against scikit-image and kornia, closed forms, and the poison."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.metrics import composite, gaussian_window, psnr, quantize_8bit, ssim, ssim_map


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 6, 7, generator=g), (41, 53), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)
    return smooth, (smooth + 0.08 * torch.randn(smooth.shape, generator=g)).clamp(0, 1)


def _skimage_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    from skimage.metrics import structural_similarity

    kw = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": -1}
    return float(structural_similarity(a.double().numpy(), b.double().numpy(), **kw))


def _kornia_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    from kornia.metrics import ssim as kornia_ssim

    x, y = (t.permute(2, 0, 1)[None].double() for t in (a, b))
    return float(kornia_ssim(x, y, 11, max_val=1.0, eps=0.0, padding="valid").mean())


def _zeros_around(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, 0, 5, 5, 5, 5))


@pytest.mark.parametrize("judge", [_skimage_ssim, _kornia_ssim])
def test_ssim_agrees_with_two_libraries(pair, judge):
    a, b = pair
    for k in range(2):
        assert float(ssim(a, b, padding="valid")[k]) == pytest.approx(judge(a[k], b[k]), abs=1e-6)
        # zero padding is the valid windows of a picture with zeros around
        assert float(ssim(a, b, padding="zero")[k]) == pytest.approx(judge(_zeros_around(a[k]), _zeros_around(b[k])), abs=1e-6)


def test_psnr_agrees_with_two_libraries(pair):
    from kornia.metrics import psnr as kornia_psnr
    from skimage.metrics import peak_signal_noise_ratio

    a, b = pair
    ours = psnr(a, b)
    for k in range(2):
        assert float(ours[k]) == pytest.approx(float(peak_signal_noise_ratio(a[k].numpy(), b[k].numpy(), data_range=1.0)), abs=1e-4)
        assert float(ours[k]) == pytest.approx(float(kornia_psnr(a[k], b[k], 1.0)), abs=1e-4)


def test_masked_psnr_sees_only_the_mask(pair):
    a, b = pair
    mask = torch.zeros(2, 41, 53)
    mask[:, 10:20, 5:30] = 1
    spoilt = torch.where(mask[..., None] > 0, b, torch.rand(b.shape))
    torch.testing.assert_close(psnr(a, spoilt, mask), psnr(a[:, 10:20, 5:30], b[:, 10:20, 5:30]))
    half = torch.full((2, 41, 53), 0.5)
    torch.testing.assert_close(psnr(a, b, half), psnr(a, b))
    assert torch.isnan(psnr(a, b, torch.zeros(2, 41, 53))).all()


def test_closed_forms():
    a = torch.full((1, 16, 16, 3), 0.5)
    torch.testing.assert_close(psnr(a, a + 0.1), torch.tensor([20.0], dtype=torch.float64), rtol=0, atol=1e-5)
    assert psnr(a, a).isinf().all()
    torch.testing.assert_close(ssim(a, a), torch.ones(1, dtype=torch.float64))
    # two constants: only the luminance term is left
    x, y, c = 0.5, 0.8, 1e-4
    expected = (2 * x * y + c) / (x * x + y * y + c)
    assert float(ssim(a, torch.full_like(a, 0.8), padding="valid")) == pytest.approx(expected, abs=1e-6)
    assert float(gaussian_window().sum()) == pytest.approx(1.0) and len(gaussian_window()) == 11


def test_map_sizes_and_symmetry(pair):
    a, b = pair
    assert ssim_map(a, b).shape == (2, 41, 53, 3) and ssim_map(a, b, padding="valid").shape == (2, 31, 43, 3)
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
    # inside, both paddings are the same
    torch.testing.assert_close(ssim_map(a, b)[:, 5:-5, 5:-5], ssim_map(a, b, padding="valid"))


def test_ssim_has_gradients(pair):
    a, b = pair
    x = b[:1, :16, :16].clone().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: ssim(a[:1, :16, :16].double(), t, padding="zero"), x, fast_mode=True)


def test_eight_bits():
    x = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 0.5, 1.0, 1.7])
    assert (quantize_8bit(x) * 255).round().tolist() == [0, 0, 0, 1, 128, 255, 255]
    levels = torch.arange(256) / 255
    assert torch.equal(quantize_8bit(levels), levels)
    assert np.array_equal((quantize_8bit(x) * 255).round().numpy().astype(np.uint8), np.array([0, 0, 0, 1, 128, 255, 255], np.uint8))


def test_composite_blends():
    image, mask = torch.zeros(1, 1, 3, 3), torch.tensor([[[0.0, 0.5, 1.0]]])
    assert composite(image, mask)[0, 0, :, 0].tolist() == [1.0, 0.5, 0.0]


def test_wrong_shapes_are_named():
    a = torch.zeros(1, 20, 20, 3)
    with pytest.raises(ShapeError, match=r"one shape \(V, H, W, 3\); got \(1, 20, 20, 3\) and \(1, 20, 21, 3\)"):
        psnr(a, torch.zeros(1, 20, 21, 3))
    with pytest.raises(ShapeError, match="one shape"):
        ssim(a[0], a[0])
    with pytest.raises(ShapeError, match=r"mask for images \(1, 20, 20, 3\) has the shape \(1, 20, 20\)"):
        psnr(a, a, torch.zeros(20, 20))
    with pytest.raises(ShapeError, match="window of 11 needs images at least that large; got 8x20"):
        ssim(torch.zeros(1, 20, 8, 3), torch.zeros(1, 20, 8, 3), padding="valid")
