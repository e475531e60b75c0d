"""Which photos see the same things: matches of all worthwhile pairs by all matchers, checked by epipolar geometry, keypoints sharpened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch

from ...data.pycolmap_bridge import verify_pair
from ...priors.registry import get_prior
from ...recon.capture import Capture, View
from ...recon.matches import Matches
from .subpixel import sharpen
from .tracks import MatchGraph, build_graph, build_tracks, join_graphs

__all__ = ["Overlap", "PairingOptions", "duplicates", "find_overlap", "look_wider", "match_pairs", "named_matchers", "sharpened"]

ON_THE_CPU = frozenset({"xfeat"})  # small: quick there, and so the default finds the same cameras on every machine


def named_matchers(names: Sequence[str], device: torch.device | None) -> list[Any]:
    """Match priors by name; their networks work on `device` (None: the CPU), all but those ON_THE_CPU. Raises as get_prior does."""
    return [get_prior("match", name, None if name in ON_THE_CPU else device) for name in names]


@dataclass(frozen=True)
class PairingOptions:
    """How much matching is done.

    Attributes:
        all_pairs_up_to: every pair is matched up to this many photos; beyond, each photo is matched with its `partners` most similar ones
            and its two neighbours in order.
        min_links: a pair with fewer agreeing matches does not overlap.
        error_share: match error allowed by the check, as a share of the longer side (0.005 = 4 px of 800).
        sharpen: align keypoints to a fraction of a pixel.
        wide_partners: a photo that found no place is matched once more with at most this many others.
    """

    all_pairs_up_to: int = 10
    partners: int = 6
    min_links: int = 15
    error_share: float = 0.005
    sharpen: bool = True
    wide_partners: int = 4


@dataclass(frozen=True)
class Overlap:
    """What matching found.

    Attributes:
        graph: checked links.
        same: photos that are the same picture as an earlier one: {photo: the earlier one}.
        keypoints: per photo, how many the best matcher found.
        shared: V,V, checked links per pair.
        widely: pairs that have had the slower looks.
    """

    graph: MatchGraph
    same: dict[int, int]
    keypoints: np.ndarray
    shared: np.ndarray
    widely: frozenset[tuple[int, int]] = frozenset()


def find_overlap(
    capture: Capture, matchers: Sequence[Any], focal_px: np.ndarray, options: PairingOptions, seed: int, tell: Callable[[float], None]
) -> Overlap:
    """Args:
    matchers: MatchPrior each; where one has them, `similarity` (which pairs to try), `keypoints` and `error_px` are used.
    focal_px: a guess per photo; the check does not depend on it.
    tell: called with the share done.
    """
    views = capture.views
    pairs = _worthwhile(views, matchers, options)
    tell(0.05)
    raw = match_pairs(views, pairs, matchers, lambda d: tell(0.05 + 0.85 * d))
    graph = _checked(raw, capture, focal_px, options, seed)
    tell(0.9)
    if options.sharpen and graph.pairs:
        graph = sharpened(graph, views)
    tell(1.0)
    counts = [max((int(m.keypoints(v)) for m in matchers if hasattr(m, "keypoints")), default=len(raw.uv[i])) for i, v in enumerate(views)]
    return Overlap(graph, duplicates(raw), np.array(counts), _shared(graph))


def _shared(graph: MatchGraph) -> np.ndarray:
    shared = np.zeros((len(graph.uv), len(graph.uv)), dtype=int)
    for (i, j), link in zip(graph.pairs, graph.links, strict=True):
        shared[i, j] = shared[j, i] = len(link)
    return shared


def match_pairs(
    views: Sequence[View], pairs: Sequence[tuple[int, int]], matchers: Sequence[Any], tell: Callable[[float], None]
) -> MatchGraph:
    """All matchers on all pairs, joined and unchecked."""
    sources: list[tuple[list[Matches], list[float]]] = []
    for n, matcher in enumerate(matchers):
        found: list[Matches] = []
        for k, pair in enumerate(pairs):
            found.extend(matcher.predict(views, [pair]))
            tell((n + (k + 1) / len(pairs)) / len(matchers))
        sources.append((found, [float(matcher.error_px(v)) if hasattr(matcher, "error_px") else 1.0 for v in views]))
    return build_graph(len(views), pairs, sources)


def look_wider(
    overlap: Overlap,
    capture: Capture,
    lost: int,
    placed: Sequence[int],
    matchers: Sequence[Any],
    focal_px: np.ndarray,
    options: PairingOptions,
    seed: int,
    tell: Callable[[float], None],
) -> Overlap:
    """Matches a photo that found no place once more with those of the `placed` ones (or any, if there are none) that look most like it, by the slower looks of
    matchers that have them (`predict_wide`). Returns what is known then; no pair is looked at twice."""
    views = capture.views
    lookers = [m for m in matchers if hasattr(m, "predict_wide")]
    others = [w for w in (placed or range(len(views))) if w != lost and (min(lost, w), max(lost, w)) not in overlap.widely]
    likeness = {w: sum(int(m.wide_similarity(views[lost], views[w])) for m in lookers) for w in others}
    pairs = [(min(lost, w), max(lost, w)) for w in sorted(others, key=lambda w: -likeness[w])[: options.wide_partners]]
    overlap = replace(overlap, widely=overlap.widely | set(pairs))
    sources = []
    for matcher in lookers:
        found = []
        for k, pair in enumerate(pairs):
            found.extend(matcher.predict_wide(views, [pair]))
            tell((k + 1) / len(pairs))
        sources.append((found, [float(matcher.error_px(v)) if hasattr(matcher, "error_px") else 1.0 for v in views]))
    if not pairs or not any(len(m) for found, _ in sources for m in found):
        return overlap
    added = _checked(build_graph(len(views), pairs, sources), capture, focal_px, options, seed)
    if not added.pairs:
        return overlap
    if options.sharpen:
        added = sharpened(added, views)
    # the slower looks have keypoints of their own; those at the same corner must become one point for a photo to be tied to what is known
    graph = join_graphs(overlap.graph, added, 0.5 * options.error_share * max(views[0].image.size))
    return replace(overlap, graph=graph, shared=_shared(graph))


def duplicates(raw: MatchGraph) -> dict[int, int]:
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
    """Links that agree with one of up to three geometries of their pair: repeated things make several, and the largest need not be the true one."""
    size = capture.views[0].image.size
    masks = []
    for (i, j), link in zip(raw.pairs, raw.links, strict=True):
        uv0, uv1 = raw.uv[i][link[:, 0]], raw.uv[j][link[:, 1]]
        mask = np.zeros(len(link), dtype=bool)
        for _ in range(3):
            rest = np.flatnonzero(~mask)
            if len(rest) < o.min_links:
                break
            fits = verify_pair(uv0[rest], uv1[rest], size, (float(focal_px[i]), float(focal_px[j])), o.error_share * max(size), seed)
            if fits.sum() < o.min_links:
                break
            mask[rest[fits]] = True
        masks.append(mask)
    return raw.keep(masks)


def sharpened(graph: MatchGraph, views: Sequence[View]) -> MatchGraph:
    """Keypoints that take part in tracks, aligned to a fraction of a pixel."""
    return sharpen(graph, build_tracks(graph), [v.image.load().mean(-1) for v in views])[0]
