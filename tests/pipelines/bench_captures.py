"""Small captures on disk and a tiny benchmark file for the benchmark's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from handful.data.atomic import write_bytes
from handful.data.image_io import encode_png
from handful.data.nerfstudio_json import write_transforms
from handful.data.synthetic import arc_cameras, make_scene, render_truth

TINY = ["optim.steps=2", "seed.budget=600", "seed.extra=100"]


def write_capture(folder: Path, count: int = 6, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Path:
    """A nerfstudio capture of `count` photos v0.png, v1.png, ... of a synthetic tabletop."""
    scene = make_scene(seed)
    cameras = arc_cameras(scene, torch.linspace(-20, 20, count).tolist(), *size, seed=seed)
    truth = render_truth(scene, cameras, supersample=1)
    names = [f"v{i}.png" for i in range(count)]
    for name, image in zip(names, truth.images, strict=True):
        write_bytes(folder / "images" / name, encode_png(image))
    write_transforms(folder / "transforms.json", cameras, [f"images/{n}" for n in names])
    return folder


def write_file(path: Path, **changes: Any) -> Path:
    """A benchmark file: two methods, one scene, one seed, every third photo for the test."""
    content = {
        "methods": [{"label": "one", "set": TINY}, {"label": "two", "set": [*TINY, "terms.depth=0"]}],
        "benchmarks": [{"dataset": "holdout", "scenes": ["table"], "views": [0], "every": 3}],
        "pictures": 1,
        "device": "cpu",
        **changes,
    }
    path.write_text(json.dumps(content))
    return path
