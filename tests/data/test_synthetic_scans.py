"""Made-up places: rays against a slow twin, scans against the places they are of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from handful.data._synth.solids import BALL, BOX, CYLINDER, Solids, solid
from handful.data.synthetic_scans import PATTERNS, make_place, scan, see
from handful.recon.camera import Cameras
from handful.recon.scan.labels import LABELS


def rays(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.zeros(n, 3), torch.nn.functional.normalize(torch.randn(n, 3, generator=rng), dim=1)


def marched(place: Solids, origin: torch.Tensor, direction: torch.Tensor, far: float = 12.0, steps: int = 6000) -> float:
    """First place on the ray inside any solid, by small steps."""
    t = torch.arange(1, steps) * far / steps
    points = origin + t[:, None] * direction
    local = torch.einsum("sij,nj->nsi", place.local[:, :, :3], points) + place.local[:, :, 3]
    box = local.abs().amax(-1) < 1
    ball = local.norm(dim=-1) < 1
    tube = (local[..., :2].norm(dim=-1) < 1) & (local[..., 2].abs() < 1)
    inside = torch.where(place.kind == BALL, ball, torch.where(place.kind == CYLINDER, tube, box)).any(1)
    return float(t[inside][0]) if bool(inside.any()) else math.inf


def test_rays_meet_what_small_steps_meet() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for k in range(30):
        at = rng.normal(0, 4, 3)
        if np.linalg.norm(at) > 2.5:
            parts.append(solid((BOX, BALL, CYLINDER)[k % 3], tuple(at), tuple(rng.uniform(0.2, 1.2, 3)), "structure", (0.5, 0.5, 0.5), *rng.uniform(-2, 2, 3)))
    place = Solids.together(parts)
    origins, directions = rays(120)
    hit = place.cast(origins, directions)
    slow = torch.tensor([marched(place, o, d) for o, d in zip(origins, directions, strict=True)])
    near = slow < 11
    assert int(near.sum()) > 12
    assert torch.allclose(hit.t[near], slow[near], atol=5e-3)
    assert bool((hit.t[~near] > 10.9).all())


@pytest.mark.parametrize("kind", [BOX, BALL, CYLINDER])
def test_normals_are_those_of_the_surface(kind: int) -> None:
    place = solid(kind, (6.0, 0.5, -0.3), (1.0, 1.5, 0.8), "structure", (0.5, 0.5, 0.5), 0.4, 0.3, -0.6)
    origins, directions = rays(4000, 1)
    hit = place.cast(origins, directions)
    on = hit.solid >= 0
    assert int(on.sum()) > 20
    at = origins[on] + hit.t[on, None] * directions[on]
    tiny = 1e-3
    assert bool(((hit.normal[on] * directions[on]).sum(1) <= 0).all())
    # a step out along the normal leaves the solid, a step in enters it
    local = lambda x: x @ place.local[0, :, :3].T + place.local[0, :, 3]  # noqa: E731

    def inside(x: torch.Tensor) -> torch.Tensor:
        p = local(x)
        return p.abs().amax(1) < 1 if kind == BOX else p.norm(dim=1) < 1 if kind == BALL else (p[:, :2].norm(dim=1) < 1) & (p[:, 2].abs() < 1)

    assert float((~inside(at + tiny * hit.normal[on])).float().mean()) > 0.99
    assert float(inside(at - tiny * hit.normal[on]).float().mean()) > 0.99


def test_a_room_is_seen_from_inside() -> None:
    hit = solid(BOX, (0, 0, 0), (2, 3, 1), "structure", (0.5, 0.5, 0.5)).cast(torch.zeros(1, 3), torch.tensor([[0.0, 1, 0]]))
    assert float(hit.t) == pytest.approx(3.0) and hit.normal.tolist() == [[0, -1, 0]]


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("kind", ["street", "room"])
def test_returns_lie_on_the_place(pattern: str, kind: str) -> None:
    place, rng = make_place(5, kind), np.random.default_rng(5)
    stand = torch.eye(4)
    stand[2, 3] = 1.6
    made = scan(place, PATTERNS[pattern](rng, (-0.15, 0.15)), stand, rng, noise=0.0, stray=0.0)
    assert len(made.sweep) > 200 and len(made.label) == len(made.sweep)
    solid_ones = made.label != LABELS.index("noise")
    xyz = made.sweep.world_xyz[solid_ones]
    origin = stand[:3, 3].expand_as(xyz)
    hit = place.cast(origin, xyz - origin)
    assert float(((hit.t - 1).abs() < 1e-3).float().mean()) > 0.85  # some return from between two surfaces, and leaves let rays through


def test_the_same_seed_the_same_scan() -> None:
    def one() -> torch.Tensor:
        rng = np.random.default_rng(3)
        return scan(make_place(2), PATTERNS["spinning"](rng, (0, 0.3)), torch.eye(4), rng).sweep.xyz

    assert torch.equal(one(), one())


def test_cameras_see_the_depth_that_scans_measure() -> None:
    place, rng = make_place(8), np.random.default_rng(8)
    stand = torch.eye(4)
    stand[2, 3] = 1.7
    made = scan(place, PATTERNS["spinning64"](rng, (-0.4, 0.4)), stand, rng, noise=0.0, stray=0.0, lost=0.0)
    turn = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 1.7], [1, 0, 0, 0], [0, 0, 0, 1]])  # ahead along x, from the same place
    camera = Cameras(turn[None], torch.tensor([[300.0, 0, 100], [0, 300, 60], [0, 0, 1]])[None], 200, 120)
    seen = see(place, camera)
    from handful.recon.scan.sight import seen_returns

    found = seen_returns(camera, made.sweep.world_xyz)
    there = seen.depth.reshape(-1)[found.pixels(200)]
    firm = made.label[found.index] != LABELS.index("noise")
    assert int(firm.sum()) > 500
    assert float(((there - found.z).abs() < 0.05 * found.z + 0.05)[firm].float().mean()) > 0.9
