"""Makers of small photos and captures for the data room's tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """H,W,3 uint8: smooth colours with soft blobs, so that JPEG and resampling keep it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def make_texture() -> Callable[..., np.ndarray]:
    return texture


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """photo_folder(n, size, folder) writes n different JPEGs and returns the folder."""

    def make(n: int = 4, size: tuple[int, int] = (96, 64), folder: str = "photos", suffix: str = ".jpg") -> Path:
        root = tmp_path / folder
        root.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(texture(*size, seed=i)).save(root / f"p{i}{suffix}", quality=95)
        return root

    return make


@pytest.fixture
def nerfstudio_folder(photo_folder: Callable[..., Path]) -> Callable[..., Path]:
    """A capture with transforms.json: n cameras on a line along x, looking along -z of the OpenGL world."""

    def make(n: int = 3, **top: object) -> Path:
        root = photo_folder(n, folder="capture/images").parent
        frames = []
        for i in range(n):
            M = np.eye(4)
            M[0, 3] = i
            frames.append({"file_path": f"images/p{i}.jpg", "transform_matrix": M.tolist()})
        data = {"w": 96, "h": 64, "fl_x": 80.0, "fl_y": 80.0, "cx": 48.0, "cy": 32.0, "frames": frames, **top}
        (root / "transforms.json").write_text(json.dumps(data))
        return root

    return make
