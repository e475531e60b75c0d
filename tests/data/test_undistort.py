"""Lens distortion against two outside judges: pycolmap's camera models and OpenCV's undistortion."""

from __future__ import annotations

import numpy as np
import pytest
from handful.data.colmap import COLMAP_MODELS, ColmapCamera
from handful.data.undistort import Lens, LensWarp, warp_image, warp_mask
from handful.recon.errors import CaptureError

PARAMS = {
    "SIMPLE_PINHOLE": (500.0, 320, 240),
    "PINHOLE": (500.0, 510, 321, 239),
    "SIMPLE_RADIAL": (500.0, 320, 240, 0.05),
    "RADIAL": (500.0, 320, 240, 0.05, -0.02),
    "OPENCV": (500.0, 510, 321, 239, 0.05, -0.02, 0.001, -0.002),
    "OPENCV_FISHEYE": (300.0, 310, 321, 239, 0.05, -0.02, 0.001, -0.002),
    "FULL_OPENCV": (500.0, 510, 321, 239, 0.05, -0.02, 0.001, -0.002, 0.01, 0.02, 0.03, 0.004),
    "FOV": (400.0, 410, 321, 239, 0.7),
    "SIMPLE_RADIAL_FISHEYE": (300.0, 320, 240, 0.05),
    "RADIAL_FISHEYE": (300.0, 320, 240, 0.05, -0.02),
    "THIN_PRISM_FISHEYE": (300.0, 310, 321, 239, 0.05, -0.02, 0.001, -0.002, 0.01, 0.002, 0.001, 0.002),
}


@pytest.mark.parametrize("model", COLMAP_MODELS)
def test_models_project_as_pycolmap_does(model):
    import pycolmap

    camera = ColmapCamera(model, 640, 480, tuple(float(p) for p in PARAMS[model]))
    fx, fy, cx, cy, lens = camera.pinhole_and_lens()
    rng = np.random.default_rng(0)
    xy = rng.uniform(-0.6, 0.6, (50, 2))
    xd, yd = lens.distort(xy[:, 0], xy[:, 1])
    ours = np.stack([fx * xd + cx, fy * yd + cy], axis=1)
    judge = pycolmap.Camera(model=model, width=640, height=480, params=list(camera.params))
    theirs = np.array(judge.img_from_cam(np.concatenate([xy, np.ones((50, 1))], axis=1)))
    assert np.abs(ours - theirs).max() < 1e-8
    assert COLMAP_MODELS[model][0] == judge.model.value and len(judge.params) == COLMAP_MODELS[model][1]


@pytest.mark.parametrize("params", [(-0.1, 0.02, 0.002, -0.003), (0.08, -0.05, 0.0, 0.0)])
def test_image_as_opencv_undistorts_it_with_the_pixel_rule(params):
    """OpenCV counts from integer pixel centres, so its cx, cy are ours minus 0.5."""
    import cv2

    h, w = 120, 160
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    image = np.stack([0.5 + 0.4 * np.sin(x / 9), 0.5 + 0.4 * np.cos(y / 7), 0.5 + 0.4 * np.sin((x + y) / 11)], axis=-1).astype(np.float32)
    warp = LensWarp(Lens("opencv", params), 130.0, 135.0, 82.0, 58.0, (w, h))
    K = np.array([[130.0, 0, 81.5], [0, 135.0, 57.5], [0, 0, 1]])
    theirs = cv2.undistort(image, K, np.array(params))
    ours, valid = warp_image(image, warp), warp_mask(None, warp) > 0
    inner = cv2.erode(valid.astype(np.uint8), np.ones((5, 5))) > 0
    assert inner.mean() > 0.7
    assert np.abs(ours - theirs)[inner].max() < 0.01  # cubic against linear interpolation


def test_distorting_then_undistorting_gives_the_photo_back():
    """Photo = function of the undistorted position; removing the lens must give exactly that function at the pixel centres."""
    h, w = 96, 128
    lens = Lens("opencv", (0.12, -0.03, 0.001, -0.002))
    warp = LensWarp(lens, 110.0, 108.0, 65.0, 47.0, (w, h))

    def scene(x, y):
        return 0.5 + 0.4 * np.sin(9 * x) * np.cos(8 * y)

    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    xd, yd = (u - warp.cx) / warp.fx, (v - warp.cy) / warp.fy
    x, y = xd.copy(), yd.copy()
    for _ in range(50):  # inverse by fixed point
        ax, ay = lens.distort(x, y)
        x, y = x - (ax - xd), y - (ay - yd)
    photo = np.repeat(scene(x, y)[..., None], 3, axis=2).astype(np.float32)
    got, valid = warp_image(photo, warp)[..., 0], warp_mask(None, warp) > 0
    want = scene((u - warp.cx) / warp.fx, (v - warp.cy) / warp.fy)
    import cv2

    inner = cv2.erode(valid.astype(np.uint8), np.ones((9, 9)), borderValue=0) > 0  # at its rim the photo is continued by its last pixel
    assert inner.mean() > 0.7
    assert np.abs(got - want)[inner].max() < 2e-3


def test_what_folds_back_is_masked():
    """Strong barrel distortion turns around before the corners; beyond, the polynomial would show the middle once more."""
    lens = Lens("opencv", (-0.4,))
    assert lens.fold_radius(2.0) == pytest.approx(np.sqrt(1 / 1.2), abs=1e-3)
    warp = LensWarp(lens, 60.0, 60.0, 64.0, 48.0, (128, 96))
    valid = warp_mask(None, warp)
    y, x = np.mgrid[0:96, 0:128] + 0.5
    r = np.hypot((x - 64) / 60, (y - 48) / 60)
    assert valid[r > np.sqrt(1 / 1.2) + 0.01].max() == 0
    assert valid[r < 0.7].min() == 1
    assert np.abs(warp_image(np.ones((96, 128, 3), np.float32), warp)[valid == 0]).max() == 0


def test_no_distortion_is_the_identity():
    warp = LensWarp(Lens("opencv"), 100.0, 100.0, 20.0, 15.0, (40, 30))
    image = np.random.default_rng(0).random((30, 40, 3)).astype(np.float32)
    assert warp.lens.is_pinhole and np.abs(warp_image(image, warp) - image).max() < 1e-4
    mask = (np.random.default_rng(1).random((30, 40)) > 0.5).astype(np.float32)
    assert np.abs(warp_mask(mask, warp) - mask).max() < 1e-4


def test_bad_lenses_are_refused():
    with pytest.raises(CaptureError, match="no lens model"):
        Lens("banana")
    with pytest.raises(CaptureError, match="not finite"):
        Lens("opencv", (float("nan"),))
    with pytest.raises(CaptureError, match="4 parameters"):
        Lens("fisheye", (0.0,) * 5)
