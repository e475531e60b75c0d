"""Where the error of a test photo lies: a wall, a board before it, and cameras that see one, the other, or neither."""

from __future__ import annotations

import pytest
import torch
from handful.pipelines.blame import error_shares, regions
from handful.recon.camera import Cameras
from handful.recon.depth import DepthMap

H, W, FOCAL = 20, 40, 20.0


def camera(x: float) -> Cameras:
    """At (x, 0, 0), looking along z: at depth 10 it sees x - 10 to x + 10."""
    world = torch.eye(4)[None].clone()
    world[:, 0, 3] = -x
    K = torch.tensor([[FOCAL, 0, W / 2], [0, FOCAL, H / 2], [0, 0, 1.0]])[None]
    return Cameras(world, K, W, H)


def wall(valid: torch.Tensor | None = None) -> DepthMap:
    z = torch.full((H, W), 10.0)
    return DepthMap(z, torch.ones(H, W), torch.ones(H, W, dtype=torch.bool) if valid is None else valid)


def test_beyond_the_frame_is_outside():
    parts = regions(camera(5), torch.full((H, W), 10.0), camera(0), [wall().depth], [wall()])
    assert bool(parts["measured"][:, :30].all()) and bool(parts["outside"][:, 30:].all()), "moved by 5 of 20: the last quarter"
    assert torch.equal(sum(p.int() for p in parts.values()), torch.ones(H, W, dtype=torch.int32)), "every pixel is in one part"


def test_behind_something_nearer_is_hidden_and_without_depth_unmeasured():
    shown = wall().depth.clone()
    shown[:, :8] = 4.0  # a board stands before the left fifth of the training photo
    valid = torch.ones(H, W, dtype=torch.bool)
    valid[:, 20:] = False
    parts = regions(camera(0), torch.full((H, W), 10.0), camera(0), [shown], [wall(valid)])
    assert bool(parts["hidden"][:, :8].all()) and bool(parts["measured"][:, 8:20].all()) and bool(parts["unmeasured"][:, 20:].all())


def test_one_photo_is_enough_and_an_empty_scene_takes_the_median_depth():
    z = torch.full((H, W), 10.0)
    z[:, :4] = 0
    two = Cameras(*(torch.cat([getattr(camera(0), k), getattr(camera(100), k)]) for k in ("cam_from_world", "K")), W, H)
    parts = regions(camera(0), z, two, [wall().depth] * 2, [wall()] * 2)
    assert bool(parts["measured"].all())


def test_an_empty_training_render_hides_nothing():
    empty = torch.zeros(H, W)
    parts = regions(camera(0), torch.full((H, W), 10.0), camera(0), [empty], [wall(torch.zeros(H, W, dtype=torch.bool))])
    assert bool(parts["unmeasured"].all())


def test_shares_add_up_and_masks_count():
    truth, render = torch.zeros(H, W, 3), torch.zeros(H, W, 3)
    render[:, 30:] = 0.3
    render[:, :10] = 0.1
    parts = regions(camera(5), torch.full((H, W), 10.0), camera(0), [wall().depth], [wall()])
    shares = error_shares(parts, render, truth)
    assert shares["outside"] == {"area": 0.25, "error": pytest.approx(0.9)} and shares["measured"] == {"area": 0.75, "error": pytest.approx(0.1)}
    mask = torch.ones(H, W)
    mask[:, 30:] = 0
    assert error_shares(parts, render, truth, mask)["measured"] == {"area": 1.0, "error": 1.0}
    assert error_shares(parts, truth, truth)["measured"]["error"] == 0.0
