"""What moved between scans, on places of which it is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from handful.recon.scan.moved import Beams, beams_of, hanging_together, moved_returns
from handful.recon.sweeps import Sweep

WALL = 12.0


def scan(box: float | None, eye: float = 0.0, known: bool = True) -> Sweep:
    """A scanner at x = `eye` looks along x at a wall at WALL; before it, at x = 6, stands a board of 1.6 x 1.6 m about y = `box`; the ground is at z = -1.5."""
    azimuth, elevation = torch.meshgrid(torch.arange(-30, 30, 0.25), torch.arange(-18, 8, 0.4), indexing="ij")
    a, e = torch.deg2rad(azimuth.flatten()), torch.deg2rad(elevation.flatten())
    way = torch.stack([a.cos() * e.cos(), a.sin() * e.cos(), e.sin()], 1)
    t = (WALL - eye) / way[:, 0]
    t = torch.where(way[:, 2] < 0, torch.minimum(t, -1.5 / way[:, 2]), t)
    if box is not None:
        at = (6 - eye) / way[:, 0]
        y, z = at * way[:, 1], at * way[:, 2]
        t = torch.where(((y - box).abs() < 0.8) & (z.abs() < 0.8) & (at < t), at, t)
    pose = torch.eye(4)
    pose[0, 3] = eye
    return Sweep(way * t[:, None], pose, origin_known=known)


def beams(*sweeps: Sweep) -> list[Beams]:
    asked = [beams_of(s) for s in sweeps]
    assert all(b is not None for b in asked)
    return [b for b in asked if b is not None]


def looked_through(xyz: torch.Tensor, other: Sweep) -> torch.Tensor:
    return beams(other)[0].looked_through(xyz)


def on_box(sweep: Sweep) -> torch.Tensor:
    return (sweep.world_xyz[:, 0] - 6).abs() < 0.01


def ground(sweep: Sweep) -> torch.Tensor:
    return sweep.world_xyz[:, 2] < -1.45


def test_looking_through_and_meeting() -> None:
    here, gone, still = scan(0.0), scan(None, 0.5), scan(0.0, 0.5)
    box = on_box(here)
    said = looked_through(here.world_xyz, gone)
    assert (said[box] == 1).float().mean() > 0.95 and (said[~box] == 1).float().mean() < 0.01
    assert (looked_through(here.world_xyz, still)[box] == -1).float().mean() > 0.95
    behind = looked_through(gone.world_xyz, here)  # the wall, which the board hides
    hidden = (gone.world_xyz[:, 0] > 11.9) & (gone.world_xyz[:, 1].abs() < 1.2) & (gone.world_xyz[:, 2].abs() < 1.2)
    assert (behind[hidden] == 0).all(), "what something stands before cannot be told"
    assert beams_of(scan(None, known=False)) is None, "a cloud whose origin nobody knows says nothing"
    walked = replace(gone, origins=torch.linspace(-3, 3, len(gone))[:, None] * torch.tensor([0.0, 1, 0]))
    assert beams_of(walked) is None and beams_of(gone.kept(torch.zeros(0, dtype=torch.long))) is None, "nor one from many places, nor none"
    sky = replace(gone.kept(~(gone.world_xyz[:, 0] > 11.9)), empty=torch.nn.functional.normalize(gone.xyz[gone.world_xyz[:, 0] > 11.9], dim=1))
    assert (looked_through(here.world_xyz, sky)[box] == 1).float().mean() > 0.95, "where nothing came back the way was free"
    aside = here.world_xyz @ torch.tensor([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]])
    assert not looked_through(aside, gone).any(), "nothing was measured there"


def test_a_thing_that_moves_is_found_whole() -> None:
    sweeps = [scan(0.9 * k, 0.3 * k) for k in range(-2, 3)]
    for k, sweep in enumerate(sweeps):
        moved = moved_returns(sweep, beams(*sweeps[:k], *sweeps[k + 1 :]), ground(sweep))
        box = on_box(sweep)
        assert moved[box].float().mean() > 0.95, k
        assert moved[~box].float().mean() < 0.005, k


def lorry(at: float, half: float, walker: float | None = None) -> Sweep:
    """Beside a scanner that looks along y: a side of length 2 `half` in the plane y = 5 about x = `at`, a wall behind it at y = 9, and perhaps somebody who stands 10 cm before the side."""
    azimuth, elevation = torch.meshgrid(torch.arange(-60, 60, 0.25), torch.arange(-8, 8, 0.4), indexing="ij")
    a, e = torch.deg2rad(azimuth.flatten()), torch.deg2rad(elevation.flatten())
    way = torch.stack([a.sin() * e.cos(), a.cos() * e.cos(), e.sin()], 1)
    t = 9 / way[:, 1]
    side = 5 / way[:, 1]
    t = torch.where((side * way[:, 0] - at).abs() < half, side, t)
    if walker is not None:
        man = 4.9 / way[:, 1]
        t = torch.where((man * way[:, 0] - walker).abs() < 0.35, man, t)
    return Sweep(way * t[:, None], torch.eye(4))


def test_a_side_that_slides_along_itself() -> None:
    """A lorry of 7 m drives 2 m further from scan to scan: where its front is now all others looked through, but the rest of its side seems to stand. All of it
    moved."""
    sweeps = [lorry(x, 3.5) for x in (-4.0, -2.0, 0.0, 2.0, 4.0)]
    no = torch.zeros(len(sweeps[0]), dtype=torch.bool)
    now = sweeps[4]
    side = (now.xyz[:, 1] - 5).abs() < 0.01
    others = beams(*sweeps[:4])
    moved = moved_returns(now, others, no)
    assert moved[side].float().mean() > 0.95 and not moved[~side].any()
    back = side & (now.xyz[:, 0] < 3)
    said = torch.stack([b.looked_through(now.xyz) for b in others])[:, back]
    assert ((said == 1).sum(0) <= (said == -1).sum(0)).all(), "no return of the back tells by itself"


def test_a_wall_that_somebody_passes_stays() -> None:
    sweeps = [lorry(0.0, 6.0, walker=x) for x in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    no = torch.zeros(len(sweeps[0]), dtype=torch.bool)
    man = (sweeps[2].xyz[:, 1] - 4.9).abs() < 0.01
    moved = moved_returns(sweeps[2], beams(*sweeps[:2], *sweeps[3:]), no)
    assert not moved[~man].any()


@pytest.mark.parametrize("unit", [0.001, 0.2, 1000.0])
def test_any_unit(unit: float) -> None:
    """The same place in kilometres, in a world of its own, in millimetres."""
    def other(s: Sweep) -> Sweep:
        pose = s.world_from_sensor.clone()
        pose[:3, 3] *= unit
        return Sweep(s.xyz * unit, pose)

    sweeps = [scan(0.9 * k, 0.3 * k) for k in range(-2, 3)]
    moved = moved_returns(other(sweeps[2]), beams(*(other(s) for s in sweeps[:2] + sweeps[3:])), ground(sweeps[2]))
    box = on_box(sweeps[2])
    assert moved[box].float().mean() > 0.95 and moved[~box].float().mean() < 0.005


def test_nothing_moves_in_a_still_place() -> None:
    sweeps = [scan(0.5, 0.4 * k) for k in range(4)]
    for k, sweep in enumerate(sweeps):
        assert not moved_returns(sweep, beams(*sweeps[:k], *sweeps[k + 1 :]), ground(sweep)).any()
    assert not moved_returns(sweeps[0], [], ground(sweeps[0])).any()


def test_map_coordinates() -> None:
    """Five million metres from the origin of the world, where float32 knows half a metre."""
    far = torch.tensor([5e6, 4e5, 100.0], dtype=torch.float64)
    sweeps = []
    for s in (scan(-1.0), scan(0.0), scan(1.0)):
        pose = s.world_from_sensor.double()
        pose[:3, 3] += far
        sweeps.append(Sweep(s.xyz.double(), pose))
    moved = moved_returns(sweeps[1], beams(sweeps[0], sweeps[2]), sweeps[1].xyz[:, 2] < -1.45)
    box = (sweeps[1].xyz[:, 0] - 6).abs() < 0.01
    assert moved[box].float().mean() > 0.9 and moved[~box].float().mean() < 0.01


def test_what_hangs_together() -> None:
    rng = torch.Generator().manual_seed(0)
    chain = torch.stack([torch.linspace(0, 40, 400), torch.zeros(400), torch.zeros(400)], 1)  # a long one takes many rounds
    lump = torch.rand(200, 3, generator=rng) + torch.tensor([0.0, 5.0, 0.0])
    lone = torch.tensor([[0.0, -9, 0]])
    xyz = torch.cat([chain, lump, lone])
    order = torch.randperm(len(xyz), generator=rng)
    things = hanging_together(xyz[order], 0.5)[order.argsort()]
    parts = [set(things[:400].tolist()), set(things[400:600].tolist()), set(things[600:].tolist())]
    assert all(len(p) == 1 for p in parts) and len(set.union(*parts)) == 3
    assert len(hanging_together(torch.zeros(0, 3), 0.5)) == 0
    # slow twin: union of all pairs nearer than what cells that touch can be
    few = xyz[::4]
    got = hanging_together(few, 0.5)
    near = torch.cdist(few, few) < 0.5
    assert bool((got[:, None] == got[None])[near].all()), "points nearer than a cell's edge are one thing"
    assert len(got.unique()) == 3
