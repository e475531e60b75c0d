"""The numbers of docs/raster_semantics.md are the same everywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from handful.recon.errors import BackendUnavailable
from handful.recon.kernels import native
from handful.recon.raster import constants

from ...golden import splat_numpy

ROOT = Path(__file__).resolve().parents[3]
NAMES = [k for k in vars(constants) if k.isupper()]


def test_native_constants() -> None:
    try:
        module = native()
    except BackendUnavailable:
        pytest.skip("needs compiled kernels")
    there = {k.upper(): v for k, v in module.raster_constants().items()}
    assert set(NAMES) - {"NEAR_PLANE"} <= set(there) <= set(NAMES)  # the near plane is passed with every call
    for k, v in there.items():
        assert v == pytest.approx(getattr(constants, k), rel=1e-7), k  # floats in C++


def test_numpy_constants() -> None:
    s = splat_numpy
    assert (s.ALPHA_MIN, s.ALPHA_MAX, s.T_MIN) == (constants.ALPHA_MIN, constants.ALPHA_MAX, constants.TRANSMITTANCE_MIN)
    assert (s.BLUR, s.CLAMP, s.Scene.near) == (constants.COVARIANCE_BLUR, constants.FOV_CLAMP, constants.NEAR_PLANE)


def test_page_names_every_constant() -> None:
    page = (ROOT / "docs" / "raster_semantics.md").read_text(encoding="utf-8")
    for k in NAMES:
        assert k in page or k in ("TILE_SIZE", "NEAR_PLANE") and re.search(r"near", page), k
