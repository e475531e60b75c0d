"""Gaussians that are added and dropped during a run."""

from __future__ import annotations

from dataclasses import replace

import torch
from handful.pipelines.methods.config import RefineConfig
from handful.pipelines.methods.refine import RefineContext
from handful.pipelines.methods.refine.densify import CHILDREN, SHRINK, densify
from handful.pipelines.methods.refine.prune_beyond import prune_beyond
from handful.pipelines.methods.refine.prune_faded import prune_faded
from handful.pipelines.methods.refine.unpool import unpool
from handful.recon.camera import Cameras
from handful.recon.gaussians import Gaussians
from handful.recon.hull import Hull

CONFIG = RefineConfig(densify_pull=1.0, densify_every=10, densify_until=0.5, split_above=0.1)


def context(n: int = 4, pull: list[float] | None = None, step: int = 10, scale: float = 0.01) -> RefineContext:
    rng = torch.Generator().manual_seed(0)
    g = Gaussians(
        torch.randn(n, 3, generator=rng), torch.randn(n, 4, generator=rng), torch.full((n, 3), scale).log(), torch.zeros(n), torch.randn(n, 1, 3, generator=rng)
    )
    seen = torch.full((n,), 3.0)
    return RefineContext(g, torch.tensor(pull or [0.0] * n) * seen, seen, step, 100, scene_depth=1.0, rng=rng)


def test_small_ones_that_are_pulled_are_cloned():
    c = context(pull=[0.0, 2.0, 0.5, 3.0])
    edit = densify(c, CONFIG)
    assert edit is not None and edit.new is not None and bool(edit.keep.all())
    assert torch.equal(edit.new.means, c.gaussians.means[[1, 3]]) and torch.equal(edit.new.sh, c.gaussians.sh[[1, 3]])


def test_large_ones_are_split_into_smaller_ones_inside_them():
    c = context(n=400, pull=[2.0] * 400, scale=0.5)
    edit = densify(c, CONFIG)
    assert edit is not None and edit.new is not None and not bool(edit.keep.any()) and len(edit.new) == 400 * CHILDREN
    parents = c.gaussians.means.repeat_interleave(CHILDREN, 0)
    assert torch.allclose(edit.new.scales, torch.tensor(0.5 / SHRINK))
    # drawn from the parent's own density: isotropic here, so any rotation leaves sigma 0.5 in every direction
    assert torch.allclose((edit.new.means - parents).std(0), torch.tensor(0.5), atol=0.05)


def test_a_split_follows_the_parent_s_rotation():
    quarter = torch.tensor([[0.5**0.5, 0.0, 0.0, 0.5**0.5]]).repeat(300, 1)  # about z: the local x axis points along y
    c = context(n=300, pull=[2.0] * 300)
    long = replace(c.gaussians, quats_wxyz=quarter, log_scales=torch.tensor([0.5, 0.001, 0.001]).log().repeat(300, 1))
    edit = densify(replace(c, gaussians=long), CONFIG)
    assert edit is not None and edit.new is not None
    spread = (edit.new.means - long.means.repeat_interleave(CHILDREN, 0)).std(0)
    assert spread[1] > 0.4 and spread[0] < 0.01 and spread[2] < 0.01


def test_nothing_between_the_rounds_nor_after_the_end_nor_when_switched_off():
    pulled = [2.0] * 4
    assert densify(context(pull=pulled, step=11), CONFIG) is None
    assert densify(context(pull=pulled, step=50), CONFIG) is None
    assert densify(context(pull=pulled), replace(CONFIG, densify_pull=0.0)) is None


def test_the_most_pulled_come_first_when_there_is_little_room():
    edit = densify(context(pull=[2.0, 5.0, 3.0, 4.0]), replace(CONFIG, densify_most=6))
    assert edit is not None and edit.new is not None
    assert torch.equal(edit.new.means, context().gaussians.means[[1, 3]])
    assert densify(context(pull=[2.0] * 4), replace(CONFIG, densify_most=4)) is None


def test_faded_ones_are_dropped_at_each_tenth():
    c = context()
    faint = replace(c.gaussians, logit_opacities=torch.tensor([-9.0, 0.0, -9.0, 1.0]))
    edit = prune_faded(replace(c, gaussians=faint), CONFIG)
    assert edit is not None and edit.keep.tolist() == [False, True, False, True] and edit.new is None
    assert prune_faded(replace(c, gaussians=faint, step=13), CONFIG) is None
    assert prune_faded(c, CONFIG) is None


def test_unpooling_puts_new_ones_half_way_to_the_neighbours_of_lonely_ones():
    row = torch.stack([torch.arange(10) * 0.01, torch.zeros(10), torch.zeros(10)], -1)
    c = context(n=11)
    means = torch.cat([row, torch.tensor([[5.0, 0.0, 0.0]])])
    c = replace(c, gaussians=replace(c.gaussians, means=means))
    edit = unpool(c, replace(CONFIG, unpool_gap=1.0))
    assert edit is not None and edit.new is not None and bool(edit.keep.all())
    near = torch.tensor([9, 8, 7])  # the three nearest of the one far away, and no edge from any other
    got = edit.new.means[edit.new.means[:, 0].argsort(descending=True)]
    assert torch.allclose(got, (means[near] + means[10]) / 2, atol=1e-6)
    by_place = edit.new.means[:, 0].argsort(descending=True)
    assert torch.equal(edit.new.logit_opacities[by_place], c.gaussians.logit_opacities[near])
    assert torch.allclose(edit.new.sh[by_place], (c.gaussians.sh[near] + c.gaussians.sh[10]) / 2)


def test_unpooling_adds_each_pair_once_widest_gaps_first_and_none_when_switched_off():
    means = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [2.0, 7, 0]])
    c = replace(context(n=3), gaussians=replace(context(n=3).gaussians, means=means))
    wide = replace(CONFIG, unpool_gap=0.1, unpool_neighbours=1)
    edit = unpool(c, wide)
    assert edit is not None and edit.new is not None
    assert edit.new.means.tolist() == [[2.0, 3.5, 0.0], [1.0, 0.0, 0.0]]  # 0-1 is named from both sides
    edit = unpool(c, replace(wide, densify_most=4))
    assert edit is not None and edit.new is not None and edit.new.means.tolist() == [[2.0, 3.5, 0.0]]
    assert unpool(c, replace(wide, densify_most=3)) is None and unpool(c, replace(wide, unpool_gap=0.0)) is None
    assert unpool(replace(c, step=11), wide) is None and unpool(replace(c, step=50), wide) is None


def test_a_dense_start_may_still_grow_by_half():
    c = context(n=6, pull=[2.0] * 6)
    assert densify(c, replace(CONFIG, densify_most=4)) is None
    edit = densify(replace(c, started=6), replace(CONFIG, densify_most=4))
    assert edit is not None and edit.new is not None and len(edit.new) == 3, "half as many again as at the start"


def test_what_strays_out_of_an_object_s_outline_is_dropped():
    """One camera at the origin that looks along z; its outline is the square from 30 to 70 of 100 pixels."""
    mask = torch.zeros(1, 100, 100)
    mask[:, 30:70, 30:70] = 1
    hull = Hull.of(Cameras(torch.eye(4)[None], torch.tensor([[[100.0, 0, 50], [0, 100, 50], [0, 0, 1]]]), 100, 100), mask)
    assert hull is not None
    c = context(n=7, step=100)
    means = torch.tensor([[0.0, 0, 2], [0.39, 0, 2], [0.5, 0, 2], [0, 0, -2], [9.0, 0, 2], [0, 0.1, 2], [0.1, 0, 2]])  # at 50, 69.5, 75 and off the photo
    c = replace(c, gaussians=replace(c.gaussians, means=means))
    edit = prune_beyond(replace(c, hull=hull), RefineConfig(hull_every=100))
    assert edit is not None and edit.new is None and edit.keep.tolist() == [True, True, False, False, False, True, True]
    assert prune_beyond(c, RefineConfig(hull_every=100)) is None and prune_beyond(replace(c, hull=hull, step=99), RefineConfig(hull_every=100)) is None
    assert prune_beyond(replace(c, hull=hull), RefineConfig()) is None
    assert prune_beyond(replace(c, hull=hull, gaussians=replace(c.gaussians, means=means[[0, 0, 1, 1, 0, 5, 6]])), RefineConfig(hull_every=100)) is None
    doubtful = replace(c, hull=hull, gaussians=replace(c.gaussians, means=means[[0, 1, 2, 2, 3, 4, 5]]))
    assert prune_beyond(doubtful, RefineConfig(hull_every=100)) is None, "an outline that most things lie beyond is not to be believed"
    aside = replace(hull.cameras, cam_from_world=hull.cameras.cam_from_world @ torch.tensor([[1.0, 0, 0, -0.2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    moved = prune_beyond(replace(c, hull=hull.seen_by(aside)), RefineConfig(hull_every=100))
    assert moved is not None and moved.keep.tolist() == [True, True, True, False, False, True, True], "the outlines go with their cameras"
