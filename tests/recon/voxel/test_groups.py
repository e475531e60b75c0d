"""Sets, patches and pooling against plain loops, and attention within groups against one voxel at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from handful.recon.errors import ShapeError
from handful.recon.voxel import Rulebooks, SparseVoxels
from handful.recon.voxel.attention import GroupAttention, Groups
from handful.recon.voxel.curves import CURVES, hilbert
from handful.recon.voxel.patches import PatchBlock, patch_groups
from handful.recon.voxel.sets import AttentionPool, SetBlock, choose_window, set_groups
from torch import Tensor

from .made import some_voxels


def _check_groups(groups: Groups, x: SparseVoxels) -> None:
    """Each voxel takes its result from a slot that holds it and counts; a group holds no voxel twice among those that count, and one scene alone."""
    valid = torch.ones_like(groups.index, dtype=torch.bool) if groups.valid is None else groups.valid
    assert torch.equal(groups.index.flatten()[groups.slot], torch.arange(len(x)))
    assert bool(valid.flatten()[groups.slot].all()) and bool(valid.any(1).all())
    for rows, counts in zip(groups.index, valid, strict=True):
        seen = rows[counts].tolist()
        assert len(seen) == len(set(seen)) and set(seen) == set(rows.tolist())
        assert len(set(x.coords[rows, 0].tolist())) == 1


def _slow_sets(x: SparseVoxels, window: tuple[int, int, int], size: int, axis: int, shifted: bool) -> list[list[int]]:
    """Rows of each set, repeats dropped, as the paper's equation says it."""
    windows: dict[tuple[int, ...], list[tuple[list[int], int]]] = {}
    for row, (b, *ijk) in enumerate(x.coords.tolist()):
        moved = [c + (w // 2 if shifted else 0) for c, w in zip(ijk, window, strict=True)]
        inside = [c % w for c, w in zip(moved, window, strict=True)]
        inside.insert(0, inside.pop(axis))
        windows.setdefault((b, *(c // w for c, w in zip(moved, window, strict=True))), []).append((inside, row))
    sets: list[list[int]] = []
    for key in sorted(windows):
        rows = [row for _, row in sorted(windows[key])]
        number = math.ceil(len(rows) / size)
        for j in range(number):
            at = [((j * size + k) * len(rows)) // (number * size) for k in range(size)]
            sets.append([rows[a] for a in dict.fromkeys(at)])
    return sets


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("window", "size"), [((4, 4, 4), 5), ((3, 5, 2), 7), ((20, 20, 20), 16)])
def test_sets_against_loops(window: tuple[int, int, int], size: int, axis: int, shifted: bool) -> None:
    x = some_voxels((9, 8, 7), 3, share=0.3)
    groups = set_groups(x, window, size, axis, shifted)
    assert groups.valid is not None
    _check_groups(groups, x)
    assert [row[ok].tolist() for row, ok in zip(groups.index, groups.valid, strict=True)] == _slow_sets(x, window, size, axis, shifted)


def test_axes_turn_the_sets() -> None:
    """On a full plane, sets along the first axis are rows of it and along the second its columns."""
    x = some_voxels((6, 6, 1), 1, share=1.0)
    for axis in (0, 1):
        groups = set_groups(x, (6, 6, 6), 6, axis)
        assert groups.fill() == 1
        for rows in groups.index:
            assert len(set(x.coords[rows, 1 + axis].tolist())) == 1 and len(set(x.coords[rows, 2 - axis].tolist())) == 6


def test_windows_are_chosen_so_that_sets_are_full() -> None:
    x = some_voxels((40, 40, 40), 1, share=0.02)
    window = choose_window(x, 48, 0.8)
    half = (window[0] // 2,) * 3
    assert set_groups(x, window, 48).fill() >= 0.8 > set_groups(x, half, 48).fill()
    assert choose_window(some_voxels((5, 5, 5), 1, share=0.1), 48, 0.8) == (8, 8, 8)  # more than the grid: nothing wider would help


@pytest.mark.parametrize("curve", list(CURVES))
@pytest.mark.parametrize(("size", "scenes"), [(16, 3), (1000, 3), (1, 2), (64, 1)])
def test_patches_against_loops(curve: str, size: int, scenes: int) -> None:
    x = some_voxels((9, 8, 7), scenes, share=0.3)
    x = replace(x, coords=x.coords[: -x.coords.shape[0] // 5], feats=x.feats[: -x.coords.shape[0] // 5])  # the last scene has fewer
    groups = patch_groups(x, size, curve)
    _check_groups(groups, x)
    code = CURVES[curve](x.coords[:, 1:], 4).tolist()
    want: list[list[int]] = []
    for b in range(x.scenes):
        rows = sorted((row for row in range(len(x)) if int(x.coords[row, 0]) == b), key=lambda row: code[row])
        for start in range(0, len(rows), size):
            want.append(rows[max(0, min(start, len(rows) - size)) :][:size])
    valid = torch.ones_like(groups.index, dtype=torch.bool) if groups.valid is None else groups.valid
    assert [row[ok].tolist() for row, ok in zip(groups.index, valid, strict=True)] == want
    if scenes == 1:
        assert groups.valid is None  # nothing to mask: the quick way


def _slow_attention(layer: GroupAttention, feats: Tensor, place: Tensor | None, groups: list[list[int]]) -> Tensor:
    """One voxel and one head at a time; a voxel takes its result from the first group that holds it."""
    query, key = layer.compare(feats if place is None else feats + place).chunk(2, 1)
    value, width = layer.value(feats), feats.shape[1] // layer.heads
    out: dict[int, Tensor] = {}
    for rows in groups:
        for row in rows:
            heads = []
            for h in range(layer.heads):
                part = slice(h * width, (h + 1) * width)
                weight = torch.stack([query[row, part] @ key[r, part] for r in rows]).div(math.sqrt(width)).softmax(0)
                heads.append(sum(w * value[r, part] for w, r in zip(weight, rows, strict=True)))
            out.setdefault(row, torch.cat(heads))  # pyright: ignore[reportArgumentType]
    return layer.out(torch.stack([out[row] for row in range(len(feats))]))


@pytest.mark.parametrize("kind", ["sets", "patches", "patches of short scenes"])
def test_attention_against_loops(kind: str) -> None:
    """Values and gradients; repeats of a voxel in a set change nothing."""
    x = some_voxels((4, 4, 3), 2, 8, 0.4)
    groups = {
        "sets": lambda: set_groups(x, (3, 3, 3), 5),
        "patches": lambda: patch_groups(x, 6),
        "patches of short scenes": lambda: patch_groups(x, 1000),
    }[kind]()
    valid = torch.ones_like(groups.index, dtype=torch.bool) if groups.valid is None else groups.valid
    if kind != "patches":
        assert not bool(valid.all())
    layer = GroupAttention(8, 2).double()
    feats = x.feats.requires_grad_()
    place = torch.randn_like(feats, requires_grad=True) if kind == "sets" else None
    pull = torch.randn_like(feats)
    inputs = [feats, *layer.parameters(), *([place] if place is not None else [])]
    members = [row[ok].tolist() for row, ok in zip(groups.index, valid, strict=True)]
    got, want = (
        [out, *torch.autograd.grad((out * pull).sum(), inputs)]
        for out in (layer(feats, groups, place), _slow_attention(layer, feats, place, members))
    )
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_pooling_against_loops() -> None:
    x = some_voxels((5, 4, 3), 2, 8, 0.4)
    x = x.with_feats(x.feats.requires_grad_())
    layer = AttentionPool(8, 6, heads=2).double()
    out = layer(x, Rulebooks(x))
    feats, rows = layer.norm(x.feats), []
    for b, i, j, k in out.coords.tolist():
        children = [(row, c) for row, c in enumerate(x.coords.tolist()) if (c[0], c[1] // 2, c[2] // 2, c[3] // 2) == (b, i, j, k)]
        places = [layer.place[4 * (c[1] % 2) + 2 * (c[2] % 2) + c[3] % 2] for _, c in children]
        own = torch.stack([feats[row] for row, _ in children])
        best = own.amax(0)
        query, key, value = layer.query(best), layer.key(own + torch.stack(places)), layer.value(own)
        heads = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            heads.append(((key[:, part] @ query[part]) / 2).softmax(0) @ value[:, part])
        rows.append(layer.out(best + torch.cat(heads)))
    want = torch.stack(rows)
    torch.testing.assert_close(out.feats, want, rtol=1e-10, atol=1e-10)
    inputs = [x.feats, *layer.parameters()]
    for a, b in zip(torch.autograd.grad(out.feats.sin().sum(), inputs), torch.autograd.grad(want.sin().sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_blocks_keep_their_groups() -> None:
    """Groups are made once for one set of coordinates; the two layers of a set block use different ones."""
    x = some_voxels((9, 8, 7), 1, 8, 0.3)
    books = Rulebooks(x)
    block, patch = SetBlock(8, size=5).double(), PatchBlock(8, size=16).double()
    first = patch(block(x, books), books).feats
    kept = dict(books._kept)
    assert torch.equal(patch(block(x, books), books).feats, first)
    assert books._kept.keys() == kept.keys() and all(books._kept[k] is kept[k] for k in kept)
    sets = [v for k, v in kept.items() if isinstance(k, tuple) and k[0] == "sets"]
    assert len(sets) == 2 and isinstance(sets[0], Groups) and isinstance(sets[1], Groups)
    assert not torch.equal(sets[0].index, sets[1].index)


def test_hilbert_patches_are_compact() -> None:
    """A full cube in patches of 64: each is a sub-cube of 4."""
    x = some_voxels((8, 8, 8), 1, share=1.0)
    for rows in patch_groups(x, 64).index:
        spread = x.coords[rows, 1:].amax(0) - x.coords[rows, 1:].amin(0)
        assert spread.tolist() == [3, 3, 3]
    assert int(hilbert(x.coords[:, 1:], 3).max()) == 511


def test_heads_must_share_channels() -> None:
    with pytest.raises(ShapeError, match="4 heads cannot share 6 channels; give a multiple of 4"):
        GroupAttention(6, 4)
    with pytest.raises(ShapeError, match="3 heads cannot share 8 channels"):
        AttentionPool(8, 8, 3)
