"""Lessons and training of the scan network, and what the shipped weights are worth on places it has never seen."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from handful.pipelines.scan.lessons import Lesson, lesson, lessons
from handful.pipelines.scan.train import VALIDATION, TrainConfig, accuracy, train, validate
from handful.priors.net_files import packed
from handful.priors.scan_splats import load_scan_net
from handful.recon.scan.starts import ring_interpolation


@pytest.fixture(scope="module")
def held() -> list[Lesson]:
    return lessons(range(VALIDATION, VALIDATION + 8), 1, "spinning64")


def test_the_same_seed_the_same_lesson() -> None:
    a, b = lesson(3), lesson(3)
    assert a.scanner == b.scanner and torch.equal(a.sweep.xyz, b.sweep.xyz) and torch.equal(a.sights[1].depth, b.sights[1].depth)
    assert not torch.equal(a.sights[0].depth, lesson(4).sights[0].depth)


def test_shipped_weights_beat_ring_interpolation(held: list[Lesson]) -> None:
    learned, classical = validate(load_scan_net(), held), validate(None, held)
    assert learned["learned_8"] > classical["ring_8"] + 0.05 and learned["learned_4"] > classical["ring_4"] + 0.02
    assert learned["learned_8"] > 0.8
    assert classical["ring_8"] > classical["pca_8"]


def test_accuracy_counts_wrong_depth_and_holes(held: list[Lesson]) -> None:
    one = held[0]
    good = ring_interpolation(one.sweep)
    right = accuracy(good, one)
    wrong = replace(good, means=good.means * torch.tensor([1.2, 1.2, 1.0]))
    faint = replace(good, logit_opacities=torch.full_like(good.logit_opacities, -6.0))
    assert right > 0.8 > accuracy(wrong, one) + 0.3 and accuracy(faint, one) < 0.1


def test_training_runs_and_its_weights_can_be_used(tmp_path) -> None:
    said: list[str] = []
    config = TrainConfig(tmp_path / "w.safetensors", parameters=60_000, steps=4, places=3, workers=1)
    net, figures = train(config, said.append, held_places=2)
    config.out.write_bytes(packed(net, net.config))
    assert load_scan_net("unet", config.out).config.parameters == 60_000
    assert {"parameters", "places_seconds", "training_seconds", "learned_4", "learned_8"} <= set(figures) and json.dumps(figures)
    again, _ = train(config, said.append, held_places=1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))  # deterministic
