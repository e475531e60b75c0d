"""Nearest neighbours among many points: a kd-tree from OpenCV, exact and on the CPU whatever device the points are on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Neighbours", "nearest"]

KDTREE_SINGLE = 4  # cv2's number of FLANN's exact tree


class Neighbours:
    """Points that are asked for their nearest more than once: the tree is built once."""

    def __init__(self, points: Float[Tensor, "N 3"]) -> None:
        self._count = len(points)
        self._index: Any = None
        if len(points):
            import cv2

            self._kept = _plain(points)  # the tree refers to it
            self._index = cv2.flann.Index(self._kept, {"algorithm": KDTREE_SINGLE})  # pyright: ignore[reportCallIssue, reportArgumentType]

    def nearest(self, query: Float[Tensor, "M 3"], k: int) -> tuple[Int[Tensor, "M k"], Float[Tensor, "M k"]]:
        """As the function `nearest`."""
        k = min(k, self._count)
        if k == 0 or len(query) == 0:
            return torch.zeros(len(query), k, dtype=torch.long, device=query.device), torch.zeros(len(query), k, device=query.device)
        found, squared = self._index.knnSearch(_plain(query), k, params={"checks": -1})
        return torch.from_numpy(found).long().to(query.device), torch.from_numpy(squared).clamp_min(0).sqrt().to(query.device)


def nearest(points: Float[Tensor, "N 3"], query: Float[Tensor, "M 3"], k: int) -> tuple[Int[Tensor, "M k"], Float[Tensor, "M k"]]:
    """Indices of the k nearest of `points` for each query, nearest first, and their distances. With fewer than k points, all of them. Non-finite points are
    far from everything."""
    return Neighbours(points).nearest(query, k)


def _plain(x: Float[Tensor, "N 3"]) -> Float[np.ndarray, "N 3"]:
    return torch.nan_to_num(x.detach().float().cpu(), nan=1e18, posinf=1e18, neginf=-1e18).contiguous().numpy()
