"""Graphs of matches and the tracks made of them: what must hold for any links, and small cases by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from handful.pipelines.init.tracks import MatchGraph, Tracks, build_graph, build_tracks, join_graphs
from handful.recon.matches import Matches
from hypothesis import given, settings
from hypothesis import strategies as st


def graph(keypoints: list[int], links: dict[tuple[int, int], list[tuple[int, int, float]]], sigma: dict[tuple[int, int], float] | None = None) -> MatchGraph:
    """`links`: per pair (keypoint, keypoint, score); `sigma`: (photo, keypoint) -> error, 1 where not given."""
    uv = tuple(np.arange(2.0 * n).reshape(n, 2) + 100 * v for v, n in enumerate(keypoints))
    errors = tuple(np.array([(sigma or {}).get((v, k), 1.0) for k in range(n)]) for v, n in enumerate(keypoints))
    pairs = tuple(links)
    return MatchGraph(
        uv, errors, pairs, tuple(np.array([x[:2] for x in links[p]], dtype=int) for p in pairs), tuple(np.array([x[2] for x in links[p]]) for p in pairs)
    )


def members(tracks: Tracks) -> set[frozenset[tuple[int, int]]]:
    """Each track as the set of its (photo, keypoint)."""
    return {frozenset((int(tracks.view[o]), int(tracks.keypoint[o])) for o in np.flatnonzero(tracks.track == n)) for n in range(tracks.count)}


@st.composite
def any_graph(draw) -> MatchGraph:
    keypoints = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    pairs = [(i, j) for i in range(len(keypoints)) for j in range(i + 1, len(keypoints))]
    links = {}
    for i, j in draw(st.lists(st.sampled_from(pairs), unique=True, max_size=6)):
        one = st.tuples(st.integers(0, keypoints[i] - 1), st.integers(0, keypoints[j] - 1), st.sampled_from([0.2, 0.5, 0.5001, 0.9]))
        links[i, j] = draw(st.lists(one, min_size=1, max_size=8))
    sigma = {(v, k): draw(st.sampled_from([0.3, 1.0])) for v, n in enumerate(keypoints) for k in range(n)}
    return graph(keypoints, links, sigma)


# ---- tracks ---------------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(any_graph())
def test_what_holds_for_any_links(g):
    t = build_tracks(g)
    assert len(t.view) == len(t.keypoint) == len(t.track) == len(t.uv) == len(t.sigma)
    assert (np.diff(t.track) >= 0).all() and set(t.track) == set(range(t.count))
    assert (np.bincount(t.track, minlength=t.count) >= 2).all()
    seen = list(zip(t.track.tolist(), t.view.tolist(), strict=True))
    assert len(set(seen)) == len(seen)  # no track has two keypoints of one photo
    nodes = list(zip(t.view.tolist(), t.keypoint.tolist(), strict=True))
    assert len(set(nodes)) == len(nodes)  # no keypoint is in two tracks
    for o, (v, k) in enumerate(nodes):
        np.testing.assert_array_equal(t.uv[o], g.uv[v][k])
        assert t.sigma[o] == g.sigma[v][k]


@settings(max_examples=150, deadline=None)
@given(any_graph())
def test_tracks_follow_links_and_leave_out_only_what_conflicts(g):
    t = build_tracks(g)
    owner = {(int(v), int(k)): int(n) for v, k, n in zip(t.view, t.keypoint, t.track, strict=True)}
    photos = {n: {v for (v, _), m in owner.items() if m == n} for n in range(t.count)}
    reach: dict[int, set] = {n: set() for n in range(t.count)}
    for (i, j), link in zip(g.pairs, g.links, strict=True):
        for a, b in link.tolist():
            na, nb = owner.get((i, a)), owner.get((j, b))
            if na is not None and na == nb:
                reach[na].add(frozenset([(i, a), (j, b)]))
            else:  # a link between two tracks (or loose ends): joining them would repeat a photo
                assert (photos[na] if na is not None else {i}) & (photos[nb] if nb is not None else {j})
    for n in range(t.count):  # every track hangs together by links
        mine = {x for x, m in owner.items() if m == n}
        found = {min(mine)}
        while True:
            more = found | {x for edge in reach[n] if edge & found for x in edge}
            if more == found:
                break
            found = more
        assert found == mine


@settings(max_examples=60, deadline=None)
@given(any_graph(), st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(g, random):
    order = list(range(len(g.pairs)))
    random.shuffle(order)
    turned = replace(g, pairs=tuple(g.pairs[k] for k in order), links=tuple(g.links[k] for k in order), score=tuple(g.score[k] for k in order))
    assert members(build_tracks(turned)) == members(build_tracks(g))


def test_a_chain_becomes_one_track():
    t = build_tracks(graph([2, 2, 2], {(0, 1): [(1, 0, 1.0)], (1, 2): [(0, 1, 1.0)]}))
    assert members(t) == {frozenset([(0, 1), (1, 0), (2, 1)])}
    np.testing.assert_array_equal(t.view, [0, 1, 2])


@pytest.mark.parametrize("first", [0.9, 0.4])
def test_the_better_scored_link_wins(first):
    t = build_tracks(graph([1, 2], {(0, 1): [(0, 0, first), (0, 1, 0.6)]}))
    assert members(t) == {frozenset([(0, 0), (1, 0 if first > 0.6 else 1)])}


@pytest.mark.parametrize("swap", [False, True])
def test_a_sharp_link_beats_a_better_scored_one(swap):
    """Whichever photo comes first."""
    links = [(0, 0, 0.5), (1, 0, 0.9)]
    if swap:
        g = graph([1, 2], {(0, 1): [(b, a, s) for a, b, s in links]}, {(0, 0): 0.3, (1, 0): 0.3})
    else:
        g = graph([2, 1], {(0, 1): links}, {(0, 0): 0.3, (1, 0): 0.3})
    assert members(build_tracks(g)) == {frozenset([(0, 0), (1, 0)])}


def test_a_wrong_link_does_not_glue_two_tracks():
    links = {(0, 1): [(0, 0, 0.9), (1, 1, 0.9)], (1, 2): [(0, 0, 0.9), (1, 1, 0.9)], (0, 2): [(0, 1, 0.3)]}
    assert members(build_tracks(graph([2, 2, 2], links))) == {frozenset((v, k) for v in range(3)) for k in range(2)}


def test_no_links_no_tracks():
    t = build_tracks(graph([3, 2], {}))
    assert t.count == 0 and t.uv.shape == (0, 2)


@settings(max_examples=60, deadline=None)
@given(any_graph(), st.integers(0, 2**20))
def test_selecting_drops_what_is_left_alone_and_numbers_anew(g, bits):
    t = build_tracks(g)
    mask = np.array([bits >> k & 1 for k in range(len(t.view))], dtype=bool)
    s = t.select(mask)
    kept = [o for o in range(len(mask)) if mask[o] and sum(mask[p] and t.track[p] == t.track[o] for p in range(len(mask))) >= 2]
    np.testing.assert_array_equal(s.keypoint, t.keypoint[kept])
    np.testing.assert_array_equal(s.view, t.view[kept])
    np.testing.assert_array_equal(s.uv, t.uv[kept])
    old = sorted({int(t.track[o]) for o in kept})
    assert s.count == len(old)
    np.testing.assert_array_equal(s.track, [old.index(int(t.track[o])) for o in kept])


# ---- graphs ---------------------------------------------------------------------------------------------------------------------------------


def matches(*rows: tuple[float, float, float, float, float]) -> Matches:
    x = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Matches(x[:, :2], x[:, 2:4], x[:, 4])


def test_matches_of_several_matchers_share_keypoints():
    pairs = [(0, 1), (0, 2), (1, 2)]
    one = [matches((1, 2, 3, 4, 0.9), (5, 6, 7, 8, 0.8)), matches((1, 2, 9, 9, 0.7)), matches()]
    two = [matches((5, 6, 3, 4, 0.25)), matches(), matches()]
    g = build_graph(3, pairs, [(one, [1.0, 1.1, 1.2]), (two, [2.0, 2.1, 2.2])])
    assert g.pairs == ((0, 1), (0, 2))  # a pair without matches has no links
    assert [len(u) for u in g.uv] == [2, 2, 1]
    (a, b), s = g.links[0].T, g.score[0]
    np.testing.assert_allclose(np.c_[g.uv[0][a], g.uv[1][b], s], [[1, 2, 3, 4, 0.9], [5, 6, 7, 8, 0.8], [5, 6, 3, 4, 0.25]], atol=1e-6)
    np.testing.assert_allclose(g.uv[2][g.links[1][:, 1]], [[9, 9]])
    np.testing.assert_allclose([s[0] for s in g.sigma], [1.0, 1.1, 1.2])


def test_no_matches_at_all():
    g = build_graph(2, [(0, 1)], [([matches()], [1.0, 1.0])])
    assert g.pairs == () and [len(u) for u in g.uv] == [0, 0] and build_tracks(g).count == 0


def test_keeping_links():
    g = graph([3, 3, 3], {(0, 1): [(0, 0, 0.1), (1, 1, 0.2)], (1, 2): [(2, 2, 0.3)]})
    kept = g.keep([np.array([False, True]), np.array([False])])
    assert kept.pairs == ((0, 1),)
    np.testing.assert_array_equal(kept.links[0], [[1, 1]])
    np.testing.assert_array_equal(kept.score[0], [0.2])
    assert len(kept.uv) == 3


def placed(uv0: list, uv1: list, links: list, sigma: float) -> MatchGraph:
    u = tuple(np.array(x, dtype=float).reshape(-1, 2) for x in (uv0, uv1))
    return MatchGraph(u, tuple(np.full(len(x), sigma) for x in u), ((0, 1),), (np.array(links, dtype=int),), (np.full(len(links), 0.5),))


def test_joined_graphs_share_keypoints_within_the_radius_and_not_beyond():
    a = placed([[10, 10], [20, 20]], [[30, 30]], [[0, 0]], 1.0)
    b = placed([[10.3, 10.3], [20, 20.6], [50, 50]], [[30.1, 30], [70, 70]], [[0, 0], [1, 1], [2, 0]], 2.0)
    g = join_graphs(a, b, 0.5)
    np.testing.assert_array_equal(g.uv[0], [[10, 10], [20, 20], [20, 20.6], [50, 50]])
    np.testing.assert_array_equal(g.uv[1], [[30, 30], [70, 70]])
    np.testing.assert_array_equal(g.sigma[0], [1, 1, 2, 2])
    assert {tuple(x) for x in g.links[0].tolist()} == {(0, 0), (2, 1), (3, 0)}
    assert len(join_graphs(a, b, 0.55).uv[0]) == 4 and len(join_graphs(a, b, 0.65).uv[0]) == 3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.0, 3.0))
def test_joining_keeps_every_link_in_its_place(seed, radius):
    rng = np.random.default_rng(seed)

    def some() -> MatchGraph:
        n = rng.integers(1, 12, 2)
        m = int(rng.integers(1, 10))
        return placed(rng.uniform(0, 10, (n[0], 2)).tolist(), rng.uniform(0, 10, (n[1], 2)).tolist(), np.c_[rng.integers(0, n[0], m), rng.integers(0, n[1], m)].tolist(), 1.0)

    a, b = some(), some()
    g = join_graphs(a, b, radius)
    for v in range(2):
        np.testing.assert_array_equal(g.uv[v][: len(a.uv[v])], a.uv[v])
        far = np.linalg.norm(b.uv[v][:, None] - a.uv[v][None], axis=2).min(1) > radius
        np.testing.assert_array_equal(g.uv[v][len(a.uv[v]) :], b.uv[v][far])
    there = [np.c_[g.uv[0][x], g.uv[1][y]] for x, y in g.links[0].tolist()]
    for h, reach in ((a, 0.0), (b, radius)):
        for x, y in h.links[0].tolist():
            wanted = np.c_[h.uv[0][x], h.uv[1][y]]
            assert any((np.linalg.norm(t - wanted, axis=0) <= reach + 1e-12).all() for t in there)


def test_joining_links_of_new_pairs():
    a = graph([1, 1, 1], {(0, 1): [(0, 0, 0.9)]})
    b = replace(graph([1, 1, 1], {(1, 2): [(0, 0, 0.4)]}))
    g = join_graphs(a, b)
    assert set(g.pairs) == {(0, 1), (1, 2)}
    assert members(build_tracks(g)) == {frozenset([(0, 0), (1, 0), (2, 0)])}


def test_a_link_known_already_counts_once():
    a = graph([1, 1], {(0, 1): [(0, 0, 0.4)]})
    g = join_graphs(a, graph([1, 1], {(0, 1): [(0, 0, 0.9)]}))
    np.testing.assert_array_equal(g.links[0], [[0, 0]])
    np.testing.assert_array_equal(g.score[0], [0.9])  # the better of the two
