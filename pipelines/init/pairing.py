"""Which photos see the same things: matches of all worthwhile pairs by all matchers, checked by epipolar geometry, keypoints sharpened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ...data.pycolmap_bridge import verify_pair
from ...recon.capture import Capture, View
from ...recon.matches import Matches
from .subpixel import sharpen
from .tracks import MatchGraph, build_graph, build_tracks

__all__ = ["Overlap", "PairingOptions", "duplicates", "find_overlap", "match_pairs", "sharpened"]


@dataclass(frozen=True)
class PairingOptions:
    """How much matching is done.

    Attributes:
        all_pairs_up_to: every pair is matched up to this many photos; beyond, each photo is matched with its `partners` most similar ones
            and its two neighbours in order.
        min_links: a pair with fewer agreeing matches does not overlap.
        error_share: match error allowed by the check, as a share of the longer side (0.005 = 4 px of 800).
        sharpen: align keypoints to a fraction of a pixel.
    """

    all_pairs_up_to: int = 10
    partners: int = 6
    min_links: int = 15
    error_share: float = 0.005
    sharpen: bool = True


@dataclass(frozen=True)
class Overlap:
    """What matching found.

    Attributes:
        graph: checked links.
        raw: all links, also those that disagree with their pair's best geometry (repeated texture has several).
        keypoints: per photo, how many the best matcher found.
        shared: V,V, checked links per pair.
    """

    graph: MatchGraph
    raw: MatchGraph
    keypoints: np.ndarray
    shared: np.ndarray


def find_overlap(
    capture: Capture, matchers: Sequence[Any], focal_px: np.ndarray, options: PairingOptions, seed: int, tell: Callable[[float], None]
) -> Overlap:
    """Args:
    matchers: MatchPrior each; where one has them, `similarity` (which pairs to try), `predict_turned` (photos turned against each
        other), `keypoints` and `error_px` are used.
    focal_px: a guess per photo; the check does not depend on it.
    tell: called with the share done.
    """
    views = capture.views
    pairs = _worthwhile(views, matchers, options)
    tell(0.05)
    raw, sources = match_pairs(views, pairs, matchers, lambda d: tell(0.05 + 0.75 * d))
    graph = _checked(raw, capture, focal_px, options, seed)
    turned = _across_islands(graph, views, pairs, sources, matchers)
    if turned:
        raw = build_graph(len(views), pairs, sources)
        graph = _checked(raw, capture, focal_px, options, seed)
    tell(0.9)
    if options.sharpen and graph.pairs:
        raw, graph = sharpened(raw, graph, views)
    tell(1.0)
    shared = np.zeros((len(views), len(views)), dtype=int)
    for (i, j), link in zip(graph.pairs, graph.links, strict=True):
        shared[i, j] = shared[j, i] = len(link)
    counts = [max((int(m.keypoints(v)) for m in matchers if hasattr(m, "keypoints")), default=len(raw.uv[i])) for i, v in enumerate(views)]
    return Overlap(graph, raw, np.array(counts), shared)


def match_pairs(
    views: Sequence[View], pairs: Sequence[tuple[int, int]], matchers: Sequence[Any], tell: Callable[[float], None]
) -> tuple[MatchGraph, list[tuple[list[Matches], list[float]]]]:
    """All matchers on all pairs: the joined graph, unchecked, and what it was joined from (see `build_graph`)."""
    sources: list[tuple[list[Matches], list[float]]] = []
    for n, matcher in enumerate(matchers):
        found: list[Matches] = []
        for k, pair in enumerate(pairs):
            found.extend(matcher.predict(views, [pair]))
            tell((n + (k + 1) / len(pairs)) / len(matchers))
        sources.append((found, [float(matcher.error_px(v)) if hasattr(matcher, "error_px") else 1.0 for v in views]))
    return build_graph(len(views), pairs, sources), sources


def duplicates(raw: MatchGraph, names: Sequence[str]) -> dict[int, int]:
    """Photos that are the same picture as an earlier one (nearly all matches stay in place): {photo: the earlier one}."""
    same: dict[int, int] = {}
    for (i, j), link in zip(raw.pairs, raw.links, strict=True):
        moved = np.linalg.norm(raw.uv[i][link[:, 0]] - raw.uv[j][link[:, 1]], axis=1)
        if len(link) >= 30 and np.percentile(moved, 80) < 0.75:
            same.setdefault(j, same.get(i, i))
    return same


def _worthwhile(views: Sequence[View], matchers: Sequence[Any], o: PairingOptions) -> list[tuple[int, int]]:
    n = len(views)
    every = list(combinations(range(n), 2))
    judge = next((m for m in matchers if hasattr(m, "similarity")), None)
    if n <= o.all_pairs_up_to or judge is None:
        return every
    alike = judge.similarity(views).numpy()
    wanted = {(i, i + d) for d in (1, 2) for i in range(n - d)}
    for i in range(n):
        for j in np.argsort(-alike[i], kind="stable")[: o.partners]:
            if int(j) != i:
                wanted.add((min(i, int(j)), max(i, int(j))))
    return sorted(wanted)


def _checked(raw: MatchGraph, capture: Capture, focal_px: np.ndarray, o: PairingOptions, seed: int) -> MatchGraph:
    size = capture.views[0].image.size
    masks = []
    for (i, j), link in zip(raw.pairs, raw.links, strict=True):
        uv0, uv1 = raw.uv[i][link[:, 0]], raw.uv[j][link[:, 1]]
        mask = verify_pair(uv0, uv1, size, (float(focal_px[i]), float(focal_px[j])), o.error_share * max(size), seed)
        masks.append(mask if mask.sum() >= o.min_links else np.zeros_like(mask))
    return raw.keep(masks)


def _across_islands(graph: MatchGraph, views: Sequence[View], pairs: Sequence[tuple[int, int]], sources: list[Any], matchers: Sequence[Any]) -> bool:
    """Photos that fall into groups without a firm link are matched again across the groups, allowing for quarter turns. True if tried."""
    group = list(range(len(views)))
    for (i, j), link in zip(graph.pairs, graph.links, strict=True):
        if len(link) >= 40:
            group = [group[i] if g == group[j] else g for g in group]
    if len(set(group)) == 1:
        return False
    across = [n for n, (i, j) in enumerate(pairs) if group[i] != group[j]]
    tried = False
    for (found, _), matcher in zip(sources, matchers, strict=True):
        if hasattr(matcher, "predict_turned") and across:
            tried = True
            for n, again in zip(across, matcher.predict_turned(views, [pairs[n] for n in across]), strict=True):
                if len(again) > len(found[n]):
                    found[n] = again
    return tried


def sharpened(raw: MatchGraph, graph: MatchGraph, views: Sequence[View]) -> tuple[MatchGraph, MatchGraph]:
    """Raw and checked graph with keypoints aligned to a fraction of a pixel. Both hold the same keypoints; only those in tracks of checked links move."""
    grey = [v.image.load().mean(-1) for v in views]
    sharp, _ = sharpen(graph, build_tracks(graph), [g.to(torch.float32) for g in grey])
    return MatchGraph(sharp.uv, sharp.sigma, raw.pairs, raw.links, raw.score), sharp
