"""Alignment of keypoints on pictures whose warp is known, and what it must refuse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handful.pipelines.init.subpixel import SHARP_PX, SubpixelOptions, align_patches, sharpen
from handful.pipelines.init.tracks import MatchGraph, build_tracks
from torch import Tensor

W, H = 160, 120
O = SubpixelOptions()  # noqa: E741
EYE = np.eye(2)


class Texture:
    """A smooth made-up picture that can be asked at any place, so that warped pictures are exact."""

    def __init__(self, seed: int = 0, waves: int = 40) -> None:
        rng = np.random.default_rng(seed)
        turn, length = rng.uniform(0, 2 * np.pi, waves), rng.uniform(5, 14, waves)
        self.k = 2 * np.pi * np.stack([np.cos(turn), np.sin(turn)]) / length
        self.phase, self.weight = rng.uniform(0, 2 * np.pi, waves), rng.uniform(0.5, 1, waves) / waves

    def __call__(self, uv: np.ndarray) -> np.ndarray:
        return 0.5 + np.cos(uv @ self.k + self.phase) @ self.weight

    def photo(self, A: np.ndarray = EYE, b: np.ndarray | None = None) -> Tensor:
        """What lies at x in the plain picture lies at A x + b in this one."""
        v, u = np.mgrid[:H, :W] + 0.5
        uv = np.stack([u, v], -1) - (0.0 if b is None else b)
        return torch.from_numpy(self(uv @ np.linalg.inv(A).T)).float()


def spots(count: int = 40, seed: int = 1, margin: float = 25.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform([margin, margin], [W - margin, H - margin], (count, 2))


def guesses(true: np.ndarray, off: float = 1.0, seed: int = 2) -> np.ndarray:
    return true + off * np.random.default_rng(seed).uniform(-1, 1, true.shape)


def align(source: Tensor, target: Tensor, uv0: np.ndarray, uv1: np.ndarray, affine: np.ndarray = EYE, o: SubpixelOptions = O):
    return align_patches(source, target, uv0, uv1, np.tile(affine, (len(uv0), 1, 1)), o)


def worst(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(found - true, axis=1).max())


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.5, 0.5), (0.37, -0.61), (7.25, -4.4)])
def test_known_shifts(shift):
    texture, uv0 = Texture(), spots()
    true = uv0 + shift
    moved, good = align(texture.photo(), texture.photo(b=np.array(shift)), uv0, guesses(true))
    assert good.all() and worst(moved, true) < 0.05


@pytest.mark.parametrize("name,A", [("turn", [[0.985, -0.174], [0.174, 0.985]]), ("zoom", [[1.12, 0], [0, 1.12]]), ("shear", [[1.0, 0.15], [0.0, 0.9]])])
def test_known_warps_from_no_idea_of_them(name, A):
    A, b, texture, uv0 = np.array(A), np.array([3.3, -5.2]), Texture(3), spots(margin=35.0)
    true = uv0 @ A.T + b
    moved, good = align(texture.photo(), texture.photo(A, b), uv0, guesses(true, 0.7))
    assert good.mean() > 0.9 and worst(moved[good], true[good]) < 0.05


def test_a_known_large_warp():
    A = np.array([[0.2, -1.3], [1.2, 0.3]])  # a quarter turn and more
    b, texture = np.array([115.0, -30.0]), Texture(4)
    uv0 = np.random.default_rng(5).uniform([55, 35], [100, 75], (25, 2))
    true = uv0 @ A.T + b
    inside = ((true > 20) & (true < [W - 20, H - 20])).all(1)
    assert inside.sum() > 12
    uv0, true = uv0[inside], true[inside]
    moved, good = align(texture.photo(), texture.photo(A, b), uv0, guesses(true), A)
    assert good.mean() > 0.9 and worst(moved[good], true[good]) < 0.05
    assert align(texture.photo(), texture.photo(A, b), uv0, guesses(true))[1].mean() < 0.3  # without knowing the warp it is not found


def test_light_does_not_matter():
    texture, uv0 = Texture(), spots()
    true = uv0 + [1.4, 0.3]
    dim = 0.35 * texture.photo(b=np.array([1.4, 0.3])) + 0.4
    moved, good = align(texture.photo(), dim, uv0, guesses(true))
    assert good.all() and worst(moved, true) < 0.05


def test_little_noise_moves_little():
    texture, uv0 = Texture(), spots()
    rng = torch.Generator().manual_seed(0)
    photos = [p + 0.01 * torch.randn(p.shape, generator=rng) for p in (texture.photo(), texture.photo(b=np.array([0.6, 0.2])))]
    moved, good = align(photos[0], photos[1], uv0, guesses(uv0 + [0.6, 0.2]))
    assert good.mean() > 0.9 and np.sqrt(((moved - uv0 - [0.6, 0.2])[good] ** 2).sum(1).mean()) < 0.1


# ---- what it refuses ------------------------------------------------------------------------------------------------------------------------


def test_nothing_to_hold_on_to():
    uv0, flat = spots(10), torch.full((H, W), 0.5)
    assert not align(flat, flat, uv0, uv0)[1].any()
    assert not align(Texture().photo(), flat, uv0, uv0)[1].any()
    assert not align(flat, Texture().photo(), uv0, uv0)[1].any()
    rng = torch.Generator().manual_seed(0)
    grain = [flat + 0.004 * torch.randn(flat.shape, generator=rng) for _ in range(2)]
    assert not align(grain[0], grain[1], uv0, uv0)[1].any()


def test_edges_slide_and_are_refused():
    u = torch.arange(W) + 0.5
    edge = torch.sigmoid((u - 80) / 1.5).expand(H, W).contiguous()
    uv0 = np.stack([np.full(8, 80.0), np.linspace(30, 90, 8)], 1)
    assert not align(edge, edge, uv0, uv0 + [0.4, 0.0])[1].any()


def test_other_things_are_refused():
    uv0 = spots(60)
    assert align(Texture(0).photo(), Texture(9).photo(), uv0, uv0)[1].mean() < 0.1


def test_too_far_is_refused():
    texture, uv0 = Texture(), spots()
    far = uv0 + [2.0, 1.0]
    assert align(texture.photo(), texture.photo(), uv0, far)[1].all()
    moved, good = align(texture.photo(), texture.photo(), uv0, far, o=replace(O, limit_px=1.5))
    assert not good.any()


def test_beyond_the_picture_is_refused():
    texture = Texture()
    uv0 = np.array([[80.0, 60], [80, 60], [80, 60]])
    uv1 = np.array([[-20.0, 60], [W + 3.0, 60], [80, H + 40.0]])
    moved, good = align(texture.photo(), texture.photo(), uv0, uv1)
    assert not good.any() and np.isfinite(moved).all()


def test_no_keypoints():
    moved, good = align(Texture().photo(), Texture().photo(), np.zeros((0, 2)), np.zeros((0, 2)))
    assert moved.shape == (0, 2) and good.shape == (0,)


# ---- the whole graph ------------------------------------------------------------------------------------------------------------------------


def rough_graph(uv: list[np.ndarray], sigma: list[float]) -> MatchGraph:
    n = np.arange(len(uv[0]))
    pairs = tuple((i, j) for i in range(len(uv)) for j in range(i + 1, len(uv)))
    each = np.stack([n, n], 1)
    return MatchGraph(tuple(uv), tuple(np.full(len(n), s) for s in sigma), pairs, (each,) * len(pairs), (np.ones(len(n)),) * len(pairs))


def test_sharpening_makes_tracks_agree():
    texture, uv0 = Texture(), spots(60)
    shifts = np.array([[0.0, 0], [2.3, 1.1], [-1.7, 3.6]])
    photos = [texture.photo(b=s) for s in shifts]
    rough = [guesses(uv0 + s, 0.9, seed=v) for v, s in enumerate(shifts)]
    graph = rough_graph(rough, [1.0, 1.0, 1.0])
    sharp, share = sharpen(graph, build_tracks(graph), photos)
    assert share > 0.97

    def spread(uv) -> float:
        at = np.stack([u - s for u, s in zip(uv, shifts, strict=True)])
        return float(np.sqrt(((at - at.mean(0)) ** 2).sum(-1).mean()))

    assert spread(rough) > 0.5 and spread(sharp.uv) < 0.05
    np.testing.assert_array_equal(sharp.uv[1], rough[1])  # the middle photo is the reference: it defines the point
    assert np.mean([(s == SHARP_PX).mean() for s in sharp.sigma]) > 0.97
    for a, b in zip(graph.uv, rough, strict=True):
        np.testing.assert_array_equal(a, b)  # the graph handed in is not changed


def test_the_sharpest_keypoint_is_the_reference():
    texture, uv0 = Texture(), spots(30)
    rough = [guesses(uv0, 0.8, seed=v) for v in range(3)]
    graph = rough_graph(rough, [0.5, 1.0, 1.0])
    sharp, _ = sharpen(graph, build_tracks(graph), [texture.photo()] * 3)
    np.testing.assert_array_equal(sharp.uv[0], rough[0])
    assert worst(sharp.uv[1], rough[0]) < 0.05 and worst(sharp.uv[2], rough[0]) < 0.05


def test_what_cannot_be_aligned_stays_as_it_was():
    uv0 = spots(20)
    graph = rough_graph([uv0, uv0 + 0.5], [1.0, 0.8])
    flat = torch.full((H, W), 0.5)
    sharp, share = sharpen(graph, build_tracks(graph), [Texture().photo(), flat])
    assert share == 0.0
    for v in range(2):
        np.testing.assert_array_equal(sharp.uv[v], graph.uv[v])
        np.testing.assert_array_equal(sharp.sigma[v], graph.sigma[v])


def test_sharpening_nothing():
    graph = MatchGraph((np.zeros((0, 2)),) * 2, (np.zeros(0),) * 2, (), (), ())
    assert sharpen(graph, build_tracks(graph), [torch.zeros(H, W)] * 2) == (graph, 0.0)


def test_turned_photos_are_aligned_by_their_neighbours_flow():
    """The warp of a patch is guessed from the tracks around it: a turn by 80 degrees is too much to find from nothing."""
    texture, a = Texture(6), np.radians(80)
    A = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    b = np.array([80.0, 60.0]) - A @ [80.0, 60.0]
    uv0 = np.random.default_rng(7).uniform([50, 30], [110, 90], (80, 2))
    true = uv0 @ A.T + b
    photos = [texture.photo(), texture.photo(A, b)]
    assert align(*photos, uv0, guesses(true, 0.5))[1].mean() < 0.3
    graph = rough_graph([uv0, guesses(true, 0.5)], [0.5, 1.0])
    sharp, share = sharpen(graph, build_tracks(graph), photos)
    off = np.linalg.norm(sharp.uv[1] - true, axis=1)
    assert share > 0.8 and np.median(off) < 0.05
