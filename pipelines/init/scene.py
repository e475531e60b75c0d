"""What all hypotheses about one capture share: links, tracks, photos, and relative poses of pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from .geometry import Rig
from .subpixel import SHARP_PX
from .tracks import MatchGraph, Tracks
from .twoview import PairPose, epipolar_agreement, pair_hypotheses

__all__ = ["SURE", "Scene", "agreeing"]

SURE = 0.5  # a matcher's confidence


class Scene:
    """Links, tracks and photos of a capture.

    Attributes:
        sure: per pair, links of which a matcher is confident.
        fine: per pair, links whose two keypoints are one track and could be aligned pixel for pixel.
    """

    def __init__(
        self,
        graph: MatchGraph,
        tracks: Tracks,
        size: tuple[int, int],
        camera_of: np.ndarray,
        error_px: float,
        seed: int,
        grey: Sequence[Float[Tensor, "H W"]] = (),
        counts: Sequence[Float[Tensor, "H W"] | None] = (),
    ) -> None:
        """`grey`: the photos; without them no place is checked against what the photo shows. `counts`: their masks."""
        self.counts = counts
        self.graph, self.tracks, self.size, self.camera_of, self.error_px, self.seed, self.grey = graph, tracks, size, camera_of, error_px, seed, grey
        self.pair_index = {p: n for n, p in enumerate(graph.pairs)}
        self.sure = [score > SURE for score in graph.score]
        self.fine = self._fine_links()
        self._poses: dict[tuple[int, int, float, float], list[PairPose]] = {}

    def links(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels of the links of two photos, in that order; empty when they have none."""
        n = self.pair_index.get((min(i, j), max(i, j)))
        if n is None:
            return np.zeros((0, 2)), np.zeros((0, 2))
        a, b = self.graph.links[n].T
        uv = self.graph.uv[min(i, j)][a], self.graph.uv[max(i, j)][b]
        return uv if i < j else (uv[1], uv[0])

    def poses(self, i: int, j: int, focals: tuple[float, float]) -> list[PairPose]:
        """Hypotheses of photo j from photo i for focal lengths near these (steps of 4 %), found when first asked for."""
        near = tuple(float(np.exp(np.round(np.log(f) / 0.04) * 0.04)) for f in focals)
        key = (i, j, near[0], near[1])
        if key not in self._poses:
            uv0, uv1 = self.links(i, j)
            self._poses[key] = pair_hypotheses(uv0, uv1, self.size, (near[0], near[1]), self.error_px, self.seed)
        return self._poses[key]

    def _fine_links(self) -> list[Bool[np.ndarray, "M"]]:
        node = [np.full(len(u), -1) for u in self.graph.uv]
        for v in range(len(node)):
            mine = self.tracks.view == v
            node[v][self.tracks.keypoint[mine]] = self.tracks.track[mine]
        masks = []
        for (i, j), link in zip(self.graph.pairs, self.graph.links, strict=True):
            a, b = link.T
            sharp = np.maximum(self.graph.sigma[i][a], self.graph.sigma[j][b]) <= SHARP_PX
            masks.append(sharp & (node[i][a] == node[j][b]) & (node[i][a] >= 0))
        return masks


def agreeing(rig: Rig, scene: Scene, a: int, view: int) -> Bool[np.ndarray, "M"]:
    """Which links of two placed photos agree with their cameras."""
    uv0, uv1 = scene.links(a, view)
    R = rig.R[view] @ rig.R[a].T
    t = rig.t[view] - R @ rig.t[a]
    return epipolar_agreement(R, t, uv0, uv1, scene.size, (float(rig.focal[a]), float(rig.focal[view])), scene.error_px)
