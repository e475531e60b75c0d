"""Nearest neighbours among many points: a kd-tree from OpenCV, exact and on the CPU whatever device the points are on."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["nearest"]

KDTREE_SINGLE = 4  # cv2's number of FLANN's exact tree


def nearest(points: Float[Tensor, "N 3"], query: Float[Tensor, "M 3"], k: int) -> tuple[Int[Tensor, "M k"], Float[Tensor, "M k"]]:
    """Indices of the k nearest of `points` for each query, nearest first, and their distances. With fewer than k points, all of them. Non-finite points are
    far from everything."""
    k = min(k, len(points))
    if k == 0 or len(query) == 0:
        return torch.zeros(len(query), k, dtype=torch.long, device=query.device), torch.zeros(len(query), k, device=query.device)
    import cv2

    tree, ask = (
        torch.nan_to_num(x.detach().float().cpu(), nan=1e18, posinf=1e18, neginf=-1e18).contiguous().numpy() for x in (points, query)
    )
    index = cv2.flann.Index(tree, {"algorithm": KDTREE_SINGLE})  # pyright: ignore[reportCallIssue, reportArgumentType]
    found, squared = index.knnSearch(ask, k, params={"checks": -1})  # pyright: ignore[reportCallIssue, reportArgumentType]
    return torch.from_numpy(found).long().to(query.device), torch.from_numpy(squared).clamp_min(0).sqrt().to(query.device)
