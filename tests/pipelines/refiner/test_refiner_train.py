"""The refiner learns: a few steps on two tiny lessons run, save weights that load, and say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from handful.pipelines.refiner.lessons import Lesson, save_lesson
from handful.pipelines.refiner.train import RefinerTraining, gains, train
from handful.priors.net_files import packed
from handful.priors.refiner_net import RefinerConfig, RefinerNet
from handful.priors.splat_refiner import load_refiner
from handful.recon.errors import ConfigError
from handful.recon.gaussians import Gaussians
from handful.recon.sh import sh_dc_from_rgb


@pytest.fixture(scope="module")
def lessons(small_demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The true scene as splats that are all too faint: what a refiner must learn is plain."""
    folder = tmp_path_factory.mktemp("lessons")
    cameras = small_demo.photo_cameras.to(dtype=torch.float32)
    depth, images = small_demo.photo_truth.depth.float(), small_demo.photos.images()
    xyz = cameras.unproject_depth(depth)[:, ::2, ::2].reshape(-1, 3)
    rgb = images[:, ::2, ::2].reshape(-1, 3)
    ok = (depth[:, ::2, ::2] > 0).reshape(-1)
    n = int(ok.sum())
    size = (depth[:, ::2, ::2].reshape(-1)[ok] * 1.6 / cameras.K[0, 0, 0]).log()[:, None].expand(n, 3)
    g = Gaussians(xyz[ok], torch.tensor([1.0, 0, 0, 0]).repeat(n, 1), size.contiguous(), torch.full((n,), -3.0), sh_dc_from_rgb(rgb[ok])[:, None])
    held = small_demo.held_out.cameras.to(dtype=torch.float32)
    truth = (small_demo.held_out.images() * 255).round().to(torch.uint8)
    made = Lesson("tabletop", g, (0.0, 0.0, 0.0), cameras, (images * 255).round().to(torch.uint8), held, truth, (0, 1))
    for k in range(2):
        save_lesson(made, folder / f"lesson_{k:06d}.safetensors")
    return folder


def test_a_few_steps_help(lessons: Path, tmp_path: Path) -> None:
    said: list[str] = []
    net, figures = train(RefinerTraining(lessons, tmp_path / "w.safetensors", parameters=60_000, steps=100, lr=1e-2), said.append)
    assert figures["lessons"] == 1 and figures["held"] == 1 and "step 100 of 100" in said[-1]
    assert figures["high_after"] > figures["high_before"] + 1, "they need only be less faint"
    (tmp_path / "w.safetensors").write_bytes(packed(net, net.config))
    again = gains(load_refiner(tmp_path / "w.safetensors"), sorted(lessons.glob("*"))[:1])
    assert abs(again["high_after"] - figures["high_after"]) < 0.1, "half precision loses little"
    json.dumps(figures, allow_nan=False)


def test_an_untrained_network_gains_nothing(lessons: Path) -> None:
    figures = gains(RefinerNet(RefinerConfig(parameters=60_000)).eval(), sorted(lessons.glob("*"))[:1])
    assert figures["high_after"] == figures["high_before"] and figures["photos_after"] == figures["photos_before"]


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lessons -o"):
        train(RefinerTraining(tmp_path, tmp_path / "w.safetensors"))
