"""Edits: what they cut, against the plain definition; what a move leaves as it was, by rendering."""

from __future__ import annotations

import math

import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.edits import CropBox, DropFaint, DropFar, DropLarge, DropLoose, Move, apply_edits, connected_parts, dropped_by, up_after
from handful.recon.errors import ConfigError
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.raster.reference import ReferenceRasterizer
from handful.recon.se3 import matrix_from_quat

QUAT = (0.8, 0.2, -0.5, 0.3)


def some(n: int = 300, degree: int = 0, dtype: torch.dtype = torch.float32) -> Gaussians:
    torch.manual_seed(1)
    return Gaussians(
        torch.randn(n, 3, dtype=dtype), torch.randn(n, 4, dtype=dtype), torch.randn(n, 3, dtype=dtype) * 0.3 - 2.5,
        torch.randn(n, dtype=dtype) * 2, torch.randn(n, (degree + 1) ** 2, 3, dtype=dtype) * 0.3,
    )  # fmt: skip


def two_cameras(dtype: torch.dtype = torch.float32) -> Cameras:
    eye = torch.tensor([[0.0, -4, 1], [2.0, -3, 0]], dtype=dtype)
    K = torch.tensor([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]], dtype=dtype).expand(2, 3, 3).clone()
    return Cameras(look_at(eye, torch.zeros(2, 3, dtype=dtype), torch.tensor([0.0, 0, 1], dtype=dtype)), K, 64, 48)


@pytest.mark.parametrize("keep", ["inside", "outside"])
def test_a_box_keeps_what_its_own_axes_say(keep) -> None:
    g = some()
    box = CropBox((0.2, -0.1, 0.3), (0.9, 0.5, 1.4), QUAT, keep)
    R = matrix_from_quat(torch.tensor(QUAT))
    want = [
        all(abs(float(R[:, a] @ (x - torch.tensor(box.center)))) <= box.half[a] for a in range(3)) == (keep == "inside") for x in g.means
    ]
    kept, cameras = apply_edits(g, two_cameras(), [box])
    assert 20 < len(kept) < len(g) - 20
    assert torch.equal(kept.means, g.means[torch.tensor(want)]) and torch.equal(cameras.K, two_cameras().K)


def test_faint_large_far() -> None:
    g = some()
    assert torch.equal(apply_edits(g, two_cameras(), [DropFaint(0.4)])[0].means, g.means[g.opacities >= 0.4])
    assert torch.equal(apply_edits(g, two_cameras(), [DropLarge(0.1)])[0].means, g.means[g.scales.amax(1) <= 0.1])
    assert torch.equal(apply_edits(g, two_cameras(), [DropFar((1.0, 0, 0), 1.2)])[0].means, g.means[(g.means - torch.tensor([1.0, 0, 0])).norm(dim=1) <= 1.2])


def slow_parts(xyz: torch.Tensor, reach: float) -> list[int]:
    """Flood fill over a dictionary of cells."""
    origin = xyz.double().amin(0)
    cell = [tuple(torch.floor((x - origin) / reach).long().tolist()) for x in xyz.double()]
    part: dict[tuple[int, ...], int] = {}
    for start in cell:
        if start in part:
            continue
        number, stack = len(set(part.values())), [start]
        part[start] = number
        while stack:
            x, y, z = stack.pop()
            for dx in (-1, 0, 1):
                for dy in (-1, 0, 1):
                    for dz in (-1, 0, 1):
                        other = (x + dx, y + dy, z + dz)
                        if other in set(cell) and other not in part:
                            part[other] = number
                            stack.append(other)
    return [part[c] for c in cell]


@pytest.mark.parametrize("reach", [0.05, 0.15, 0.3, 5.0])
def test_parts_are_those_of_a_flood_fill(reach: float) -> None:
    xyz = torch.cat([some(60).means, some(60).means * 0.1 + 4])
    fast, slow = connected_parts(xyz, reach), torch.tensor(slow_parts(xyz, reach))
    assert torch.equal(fast[:, None] == fast[None], slow[:, None] == slow[None])


def test_a_long_chain_is_one_part() -> None:
    """Labels must travel the whole way."""
    t = torch.linspace(0, 60, 4000)
    chain = torch.stack([t, torch.sin(t), torch.cos(t)], 1)
    assert int(connected_parts(chain, 0.1).max()) == 0


def test_loose_parts_go_and_what_is_not_finite_goes_with_them() -> None:
    g = some(50)
    means = torch.cat([g.means[:40] * 0.01, g.means[40:45] * 0.01 + 10, g.means[45:] * 0.01 - 10])
    means[3] = math.nan
    g = Gaussians(means, g.quats_wxyz, g.log_scales, g.logit_opacities, g.sh)
    kept, _ = apply_edits(g, two_cameras(), [DropLoose(10, 0.05)])
    assert torch.equal(kept.means, torch.cat([means[:3], means[4:40]]))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_a_move_leaves_every_picture(degree: int) -> None:
    """Rotation, scale and shift together, with view-dependent colours, in float64; depth grows with the scale."""
    g, cameras = some(120, degree, torch.float64), two_cameras(torch.float64)
    move = Move(QUAT, (3.0, -2.0, 5.0), 2.5, "turned")
    before = ReferenceRasterizer().render(g, cameras)
    moved, placed = apply_edits(g, cameras, [move])
    after = ReferenceRasterizer().render(moved, placed)
    assert before.color.std() > 0.1
    torch.testing.assert_close(after.color, before.color, atol=2e-5, rtol=0)  # quaternions, exponentials, the cut at 1/255
    inside = before.alpha > 0.5
    torch.testing.assert_close(after.depth[inside], 2.5 * before.depth[inside], rtol=1e-5, atol=0)


def test_steps_follow_each_other_in_the_moved_world() -> None:
    g = some()
    twice = apply_edits(g, two_cameras(), [Move(scale=10.0), DropFar((0, 0, 0), 10.0)])[0]
    assert torch.equal(twice.log_scales, (g.log_scales + math.log(10))[g.means.norm(dim=1) <= 1.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: CropBox((0, 0, 0), (1, 0, 1)), lambda: CropBox((0, 0, math.nan), (1, 1, 1)), lambda: CropBox((0, 0, 0), (1, 1, 1), (0, 0, 0, 0)),
        lambda: CropBox((0, 0, 0), (1, 1, 1), keep="around"), lambda: DropFaint(1.5), lambda: DropLarge(0), lambda: DropFar((0, 0, 0), -1),
        lambda: DropLoose(0, 1.0), lambda: DropLoose(3, math.inf), lambda: Move(scale=0.0), lambda: Move((0, 0, 0, 0)),
    ],
)  # fmt: skip
def test_impossible_steps_are_refused(make) -> None:
    with pytest.raises(ConfigError):
        make()


def test_up_is_what_was_set_last_and_turns_with_what_follows() -> None:
    assert up_after([DropFaint(0.1), Move(scale=2.0)]) is None
    quarter = (math.sqrt(0.5), math.sqrt(0.5), 0.0, 0.0)  # about x: z goes to -y
    assert torch.allclose(up_after([Move(QUAT, upright=True)]), torch.tensor([0.0, 0, 1]).double())
    assert torch.allclose(up_after([Move(QUAT, upright=True), Move(quarter)]), torch.tensor([0.0, -1, 0]).double(), atol=1e-6)


def test_what_is_dropped_is_told_row_by_row() -> None:
    g = some()
    steps = [DropFaint(0.3), Move(scale=5.0), CropBox((0, 0, 0), (1, 1, 1)), DropLoose(3, 0.5)]
    gone = dropped_by(g, steps)
    assert torch.equal(g.means[~gone], apply_edits(g, two_cameras(), [s for s in steps if not isinstance(s, Move)])[0].means) and 0 < int(gone.sum()) < len(g)


def test_nothing_left_is_a_scene_too() -> None:
    kept, _ = apply_edits(some(), two_cameras(), [DropFaint(1.0), DropLoose(5, 0.1), Move(scale=2.0), CropBox((0, 0, 0), (1, 1, 1))])
    assert len(kept) == 0
