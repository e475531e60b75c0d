"""From pairwise matches to tracks: one track = one scene point seen in several photos. Plain numpy, float64, nothing random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from ...recon.matches import Matches

__all__ = ["MatchGraph", "Tracks", "build_graph", "build_tracks", "join_graphs", "twins", "without_twins"]


@dataclass(frozen=True)
class MatchGraph:
    """Keypoints of every photo and the links between them.

    Attributes:
        uv: per photo, continuous pixels of its keypoints.
        sigma: per photo, expected localisation error of each keypoint, pixels.
        pairs: pairs of photo indices (i < j) that have links.
        links: per pair, index of a keypoint in photo i and in photo j.
        score: per pair, confidence of each link in [0, 1].
    """

    uv: tuple[Float[np.ndarray, "N 2"], ...]
    sigma: tuple[Float[np.ndarray, "N"], ...]
    pairs: tuple[tuple[int, int], ...]
    links: tuple[Int[np.ndarray, "M 2"], ...]
    score: tuple[Float[np.ndarray, "M"], ...]

    def keep(self, masks: Sequence[np.ndarray]) -> MatchGraph:
        """Only the links where the mask of their pair is true; pairs without links vanish."""
        kept = [(p, link[m], s[m]) for p, link, s, m in zip(self.pairs, self.links, self.score, masks, strict=True) if m.any()]
        return replace(self, pairs=tuple(k[0] for k in kept), links=tuple(k[1] for k in kept), score=tuple(k[2] for k in kept))


@dataclass(frozen=True)
class Tracks:
    """O observations of T scene points, sorted by track; at most one observation of a point in a photo."""

    view: Int[np.ndarray, "O"]
    keypoint: Int[np.ndarray, "O"]
    track: Int[np.ndarray, "O"]
    uv: Float[np.ndarray, "O 2"]
    sigma: Float[np.ndarray, "O"]
    count: int

    def select(self, mask: np.ndarray) -> Tracks:
        """The observations where the mask is true; tracks are numbered anew, those left with fewer than two observations dropped."""
        lengths = np.bincount(self.track[mask], minlength=self.count)
        mask = mask & (lengths[self.track] >= 2)
        number = np.cumsum(lengths >= 2) - 1
        return Tracks(self.view[mask], self.keypoint[mask], number[self.track[mask]], self.uv[mask], self.sigma[mask], int((lengths >= 2).sum()))


def build_graph(views: int, pairs: Sequence[tuple[int, int]], sources: Sequence[tuple[Sequence[Matches], Sequence[float]]]) -> MatchGraph:
    """Joins matches of several matchers.

    Args:
        views: number of photos.
        pairs: pairs of photos, the same for all matchers.
        sources: per matcher its matches (one per pair) and its localisation error in pixels (one per photo).
    """
    found: list[list[np.ndarray]] = [[] for _ in range(views)]
    errors: list[list[np.ndarray]] = [[] for _ in range(views)]
    for matches, sigma in sources:
        for (i, j), m in zip(pairs, matches, strict=True):
            for v, uv in ((i, m.uv0), (j, m.uv1)):
                found[v].append(uv.numpy().astype(np.float64))
                errors[v].append(np.full(len(m), sigma[v]))
    uv, sig, inverse = [], [], []
    for v in range(views):
        stacked = np.concatenate(found[v]) if found[v] else np.zeros((0, 2))
        unique, first, back = np.unique(stacked, axis=0, return_index=True, return_inverse=True)
        uv.append(unique)
        sig.append(np.concatenate(errors[v])[first] if len(stacked) else np.zeros(0))
        inverse.append(back.reshape(-1))
    cursor = [0] * views
    per_pair: dict[tuple[int, int], tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for matches, _ in sources:
        for (i, j), m in zip(pairs, matches, strict=True):
            a, b = inverse[i][cursor[i] : cursor[i] + len(m)], inverse[j][cursor[j] : cursor[j] + len(m)]
            cursor[i] += len(m)
            cursor[j] += len(m)
            links, scores = per_pair.setdefault((i, j), ([], []))
            links.append(np.stack([a, b], 1))
            scores.append(m.score.numpy().astype(np.float64))
    kept = {p: (np.concatenate(x), np.concatenate(s)) for p, (x, s) in per_pair.items() if sum(len(y) for y in x)}
    return MatchGraph(tuple(uv), tuple(sig), tuple(kept), tuple(x for x, _ in kept.values()), tuple(s for _, s in kept.values()))


def join_graphs(a: MatchGraph, b: MatchGraph, radius: float = 0.5) -> MatchGraph:
    """Both sets of keypoints and links; keypoints of `b` within `radius` pixels of one of `a` are taken for it."""
    uv, sigma, number = [], [], []
    for ua, sa, ub, sb in zip(a.uv, a.sigma, b.uv, b.sigma, strict=True):
        nearest = np.zeros(len(ub), dtype=np.int64)
        distance = np.full(len(ub), np.inf)
        if len(ua):
            for start in range(0, len(ub), 1024):
                d = np.linalg.norm(ub[start : start + 1024, None] - ua[None], axis=2)
                nearest[start : start + 1024], distance[start : start + 1024] = d.argmin(1), d.min(1)
        new = distance > radius
        number.append(np.where(new, len(ua) + np.cumsum(new) - 1, nearest))
        uv.append(np.concatenate([ua, ub[new]]))
        sigma.append(np.concatenate([sa, sb[new]]))
    links: dict[tuple[int, int], tuple[list[np.ndarray], list[np.ndarray]]] = {}
    for g, moved in ((a, False), (b, True)):
        for (i, j), link, score in zip(g.pairs, g.links, g.score, strict=True):
            renamed = np.stack([number[i][link[:, 0]], number[j][link[:, 1]]], 1) if moved else link
            x, s = links.setdefault((i, j), ([], []))
            x.append(renamed)
            s.append(score)
    once = [_once(np.concatenate(x), np.concatenate(s)) for x, s in links.values()]
    return MatchGraph(tuple(uv), tuple(sigma), tuple(links), tuple(x for x, _ in once), tuple(s for _, s in once))


def _once(link: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each link once, with its best score: one that both graphs have is no stronger evidence than one that either has."""
    order = np.argsort(-score, kind="stable")
    keep = np.sort(order[np.unique(link[order], axis=0, return_index=True)[1]])
    return link[keep], score[keep]


def build_tracks(graph: MatchGraph) -> Tracks:
    """Joins links into tracks, best links first; a link that would give a track two keypoints in one photo is left out."""
    offset = np.concatenate([[0], np.cumsum([len(u) for u in graph.uv])]).astype(np.int64)
    view_of = np.repeat(np.arange(len(graph.uv)), np.diff(offset))
    edges = [link + offset[[i, j]] for (i, j), link in zip(graph.pairs, graph.links, strict=True)]
    if not edges:
        empty = np.zeros(0, dtype=np.int64)
        return Tracks(empty, empty, empty, np.zeros((0, 2)), np.zeros(0), 0)
    edge, score = np.concatenate(edges), np.concatenate(graph.score)
    sigma = np.concatenate(graph.sigma)
    order = np.lexsort((edge[:, 1], edge[:, 0], -score, sigma[edge].max(1)))  # a link is as sharp as its worse end
    parent = list(range(int(offset[-1])))
    seen = [1 << int(v) for v in view_of]

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for a, b in edge[order].tolist():
        ra, rb = root(a), root(b)
        if ra != rb and not seen[ra] & seen[rb]:
            parent[rb] = ra
            seen[ra] |= seen[rb]
    nodes = np.unique(edge)
    roots = np.array([root(int(n)) for n in nodes])
    _, track, size = np.unique(roots, return_inverse=True, return_counts=True)
    order = np.lexsort((view_of[nodes], track))
    order = order[size[track[order]] >= 2]
    nodes, track = nodes[order], np.unique(track[order], return_inverse=True)[1]
    view = view_of[nodes]
    uv = np.concatenate(graph.uv)[nodes]
    return Tracks(view, nodes - offset[view], track, uv, sigma[nodes], int(track.max(initial=-1)) + 1)


def twins(graph: MatchGraph, side: int, share: float = 0.01, least: int = 30) -> set[tuple[int, int]]:
    """Pairs of photos taken from nearly the same spot in nearly the same direction: half of their links move by less than `share` of the longer `side`."""
    near = set()
    for (i, j), link in zip(graph.pairs, graph.links, strict=True):
        moved = np.linalg.norm(graph.uv[i][link[:, 0]] - graph.uv[j][link[:, 1]], axis=1)
        if len(link) >= least and np.median(moved) < share * side:
            near.add((i, j))
    return near


def without_twins(tracks: Tracks, graph: MatchGraph, side: int) -> Tracks:
    """Leaves out tracks that only twins see: they have thousands, which no depth follows from, and would drown all others. Where a photo would be left with
    little else, as when all photos stand close together, everything stays."""
    useful = np.ones(tracks.count, dtype=bool)
    length = np.bincount(tracks.track, minlength=tracks.count)
    start = np.searchsorted(tracks.track, np.arange(tracks.count))
    two = np.flatnonzero(length == 2)
    for i, j in twins(graph, side):
        useful[two[(tracks.view[start[two]] == i) & (tracks.view[start[two] + 1] == j)]] = False
    left = tracks.select(useful[tracks.track])
    return left if np.bincount(left.view, minlength=len(graph.uv))[np.unique(tracks.view)].min(initial=100) >= 100 else tracks
