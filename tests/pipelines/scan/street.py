"""A made-up street with photos and scans of the same moments, for tests."""

from __future__ import annotations

import numpy as np
import torch
from handful.data._synth.solids import BOX, Solids, solid
from handful.data.synthetic_scans import PATTERNS, Pattern, make_place, scan, see
from handful.recon.camera import Cameras
from handful.recon.capture import ArrayImage, Capture, View
from handful.recon.sweeps import Sweep
from torch import Tensor

TURN = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])  # camera axes from those of a scanner: right, down, ahead


def moment(x: float, width: int = 160, height: int = 60) -> tuple[Tensor, Tensor]:
    """cam_from_world and world_from_sensor of a car that has come x metres along the street."""
    stand = torch.eye(4)
    stand[:3, 3] = torch.tensor([x, 0.0, 1.7])
    cam = torch.eye(4)
    cam[:3, :3], cam[:3, 3] = TURN, -TURN @ torch.tensor([x + 0.2, 0.0, 1.65])
    return cam, stand


def street_capture(
    moments: int = 5, seed: int = 4, beams: int = 32, width: int = 160, height: int = 60, passing: float | None = None
) -> tuple[Capture, Tensor]:
    """The capture (photos 000.png, .., scans scans/000.npz, ..) and the true depth of each photo. `passing`: a red box of 1 x 1 x 1.4 m before us on
    the right goes so many metres further than we do from moment to moment."""
    place, rng = make_place(seed), np.random.default_rng(seed)
    still = place
    whole = PATTERNS["spinning64"](rng, (-0.8, 0.8))
    some = whole.ring % (64 // beams) == 0
    pattern = Pattern(whole.directions[some], whole.ring[some] // (64 // beams))
    views, poses, sweeps, depth = [], [], [], []
    K = torch.tensor([[0.7 * width, 0, width / 2], [0, 0.7 * width, height / 2], [0, 0, 1]])
    for k in range(moments):
        cam, stand = moment(0.5 * k)
        if passing is not None:
            place = Solids.together([still, solid(BOX, (4.5 + (0.5 + passing) * k, -2.1, 0.9), (0.5, 0.5, 0.7), "movable", (0.9, 0.1, 0.1))])
        seen = see(place, Cameras(cam[None], K[None], width, height), seed=k)
        made = scan(place, pattern, stand, rng, noise=0.005, stray=0.0).sweep
        views.append(View(f"{k:03}.png", ArrayImage(seen.image)))
        poses.append(cam)
        depth.append(seen.depth)
        sweeps.append(Sweep(made.xyz, stand, f"scans/{k:03}.npz", ring=made.ring))
    cameras = Cameras(torch.stack(poses), K.expand(moments, 3, 3).clone(), width, height)
    return Capture(tuple(views), cameras, sweeps=tuple(sweeps)), torch.stack(depth)
