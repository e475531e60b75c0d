"""Rays against triangles: a bounding-volume tree per object, all rays at once. The judge of the splat renderers, so it shares nothing with them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Hits", "TriangleTree", "build_tree", "cast", "meet_planes", "one_thread_each"]

_LEAF = 2  # triangles in a leaf: a flat quad is one leaf
_WIDE = 4  # children of a node (fewer in a root)
_TINY = 1e-12
_FAR = 1e15  # beyond every scene, and its product with 1 / _TINY is still a float32


@dataclass(frozen=True)
class TriangleTree:
    """Triangles of several objects, each object with its own complete tree.

    Attributes:
        corner, edge1, edge2: first corner and the two edges leaving it, float64, world units; padding has zero edges and is never hit.
        source: index of each triangle in the caller's list; -1 for padding. slot: the other way round.
        box_low, box_high: bounds of every node.
        child, children: index of the first child (the others follow it), -1 in a leaf; and their number.
        first: first triangle of a leaf.
        roots: one node per object.
    """

    corner: Float[Tensor, "T 3"]
    edge1: Float[Tensor, "T 3"]
    edge2: Float[Tensor, "T 3"]
    source: Int[Tensor, "T"]
    slot: Int[Tensor, "S"]
    box_low: Float[Tensor, "M 3"]
    box_high: Float[Tensor, "M 3"]
    child: Int[Tensor, "M"]
    children: Int[Tensor, "M"]
    first: Int[Tensor, "M"]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Hits:
    """Per ray: distance in units of the direction's length (inf = nothing hit), triangle in the caller's list (-1), barycentric (b1, b2)."""

    t: Float[Tensor, "N"]
    triangle: Int[Tensor, "N"]
    bary: Float[Tensor, "N 2"]


def _object_order(triangles: np.ndarray) -> np.ndarray:
    """Indices in leaf order, padded with -1 to leaves * _LEAF: level by level, every segment is halved at its median along its longest axis."""
    n = len(triangles)
    levels = max(0, int(np.ceil(np.log2(max(1, n / _LEAF)))))
    slots = _LEAF << levels
    order = np.concatenate([np.arange(n), np.full(slots - n, -1)])
    centroid = np.concatenate([triangles.mean(1), np.full((1, 3), np.inf)])  # row -1: padding goes to the end of its segment
    for level in range(levels):
        segments = order.reshape(1 << level, -1)
        c = centroid[segments]
        low = np.where(np.isfinite(c), c, np.inf).min(1)
        high = np.where(np.isfinite(c), c, -np.inf).max(1)
        axis = np.where(np.isfinite(low), high - low, 0.0).argmax(-1)
        key = np.take_along_axis(c, axis[:, None, None], 2)[..., 0]
        order = np.take_along_axis(segments, key.argsort(1, kind="stable"), 1).reshape(-1)
    return order


def build_tree(objects: list[np.ndarray]) -> TriangleTree:
    """`objects`: arrays (n, 3 corners, 3) of world-space triangles. Triangle indices run through all objects in order."""
    corners, source, low, high, child, children, first, roots = [], [], [], [], [], [], [], []
    nodes = base = slots = 0
    for triangles in objects:
        order = _object_order(triangles)
        padded = np.concatenate([triangles, np.zeros((1, 3, 3))])[order]
        real = (order >= 0)[:, None, None]
        lo = np.where(real, padded, _FAR).reshape(-1, _LEAF * 3, 3).min(1)
        hi = np.where(real, padded, -_FAR).reshape(-1, _LEAF * 3, 3).max(1)
        levels = [(lo, hi)]
        while len(levels[0][0]) > 1:
            lo, hi = levels[0]
            wide = min(_WIDE, len(lo))
            levels.insert(0, (lo.reshape(-1, wide, 3).min(1), hi.reshape(-1, wide, 3).max(1)))
        roots.append(nodes)
        for depth, (lo, hi) in enumerate(levels):
            count, leaf = len(lo), depth + 1 == len(levels)
            wide = 1 if leaf else len(levels[depth + 1][0]) // count
            low.append(lo)
            high.append(np.where(hi < lo, lo, hi))  # a node of padding is a point out of every ray's reach
            child.append(np.full(count, -1) if leaf else nodes + count + wide * np.arange(count))
            children.append(np.full(count, wide))
            first.append(slots + _LEAF * np.arange(count) if leaf else np.full(count, -1))
            nodes += count
        corners.append(padded)
        source.append(np.where(order >= 0, order + base, -1))
        base += len(triangles)
        slots += len(order)
    tri, order = torch.from_numpy(np.concatenate(corners)), torch.from_numpy(np.concatenate(source))
    slot = torch.empty(base, dtype=torch.int64)
    slot[order[order >= 0]] = (order >= 0).nonzero()[:, 0]
    return TriangleTree(
        tri[:, 0].contiguous(),
        (tri[:, 1] - tri[:, 0]).contiguous(),
        (tri[:, 2] - tri[:, 0]).contiguous(),
        order,
        slot,
        torch.from_numpy(np.concatenate(low)).float() - 1e-5,  # float32 boxes must still hold their float64 triangles
        torch.from_numpy(np.concatenate(high)).float() + 1e-5,
        torch.from_numpy(np.concatenate(child)),
        torch.from_numpy(np.concatenate(children)),
        torch.from_numpy(np.concatenate(first)),
        tuple(roots),
    )


Parts = tuple[Tensor, ...]  # one tensor per component: torch sums over a last axis of 3 slowly


def _boxes_hit(boxes: Parts, node: Tensor | int, ray: Parts, best: Tensor) -> Tensor:
    """Slab test (Kay and Kajiya 1986): does the ray enter the box before `best`? `node` may have one more leading axis than the rays."""
    enter, leave = torch.zeros_like(best), best
    for axis in range(3):
        origin, inverse = ray[axis], ray[6 + axis]
        a = (boxes[axis][node] - origin) * inverse
        b = (boxes[3 + axis][node] - origin) * inverse
        enter = torch.maximum(enter, torch.minimum(a, b))
        leave = torch.minimum(leave, torch.maximum(a, b))
    return enter <= leave


def _unit_triangle(tree: TriangleTree) -> Parts:
    """12 numbers per triangle: the affine map that takes it to (0,0,0), (1,0,0), (0,1,0) (Woop 2004); zeros for padding."""
    normal = torch.linalg.cross(tree.edge1, tree.edge2)
    good = (normal * normal).sum(-1) > 0
    frame = torch.stack([tree.edge1, tree.edge2, normal], -1)
    frame[~good] = torch.eye(3, dtype=frame.dtype)
    inverse = torch.linalg.inv(frame) * good[:, None, None]
    shift = -(inverse @ tree.corner[..., None])
    return tuple(torch.cat([inverse, shift], -1).reshape(-1, 12).float().t().contiguous().unbind(0))


def _leaf_distance(maps: Parts, triangle: Tensor, ray: Parts) -> Tensor:
    """Distance to each triangle, inf where missed; both faces count."""
    m = [x[triangle] for x in maps]
    ox, oy, oz, dx, dy, dz = ray[:6]
    t = -(m[8] * ox + m[9] * oy + m[10] * oz + m[11]) / (m[8] * dx + m[9] * dy + m[10] * dz)
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    b1 = m[0] * x + m[1] * y + m[2] * z + m[3]
    b2 = m[4] * x + m[5] * y + m[6] * z + m[7]
    slack = -1e-6  # neighbours share an edge; a ray through it must hit one of the two
    hit = (b1 >= slack) & (b2 >= slack) & (b1 + b2 <= 1 - slack) & (t > 1e-6)  # padding gives nan: no hit
    return torch.where(hit, t, torch.inf)


def _cast_object(tree: TriangleTree, root: int, boxes: Parts, maps: Parts, rays: Parts, best: Tensor, tri: Tensor) -> None:
    """Breadth first through one object's tree; `best` and `tri` are updated in place."""
    ray = _boxes_hit(boxes, root, rays, best).nonzero()[:, 0]
    node = torch.full_like(ray, root)
    while len(ray):
        if tree.child[node[0]] < 0:  # complete tree: all frontier nodes are on one level
            mine = tuple(c[ray] for c in rays[:6])
            for k in range(_LEAF):
                triangle = tree.first[node] + k
                t = _leaf_distance(maps, triangle, mine)
                near = (t < best[ray]).nonzero()[:, 0]
                who, t = ray[near], t[near]
                best.scatter_reduce_(0, who, t, "amin")
                won = t <= best[who]
                tri[who[won]] = triangle[near[won]]
            return
        below = tree.child[node] + torch.arange(int(tree.children[node[0]]))[:, None]
        which, index = _boxes_hit(boxes, below, tuple(c[ray] for c in rays), best[ray]).nonzero(as_tuple=True)
        ray, node = ray[index], below[which, index]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Torch splits no operation over cores inside: thousands of short operations that each wait for all cores crawl on a busy machine (measured:
    five times slower). Cores are used by chunks of rays instead. The number of threads is the caller's again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _workers() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(8, allowed, int(wanted) if wanted.isdigit() and int(wanted) else 8))


def cast(
    tree: TriangleTree, origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"], t_max: float = 1e9, chunk: int = 1 << 15
) -> Hits:
    """First hit of every ray, at `origin + t * direction`, 0 < t < t_max. The search runs in float32, the hit found is computed again in the rays' dtype."""
    center = origins.mean(0)
    middle = 0.5 * (tree.box_low + tree.box_high)[list(tree.roots)].to(center)
    nearest_first = [tree.roots[i] for i in (middle - center).norm(dim=-1).argsort().tolist()]
    maps = _unit_triangle(tree)
    boxes = tuple(c.contiguous() for c in (*tree.box_low.unbind(-1), *tree.box_high.unbind(-1)))
    found = torch.full((len(origins),), -1, dtype=torch.int64)

    def search(start: int) -> None:
        o, d = origins[start : start + chunk].float(), directions[start : start + chunk].float()
        safe = torch.where(d.abs() < _TINY, _TINY, d)
        rays = tuple(c.contiguous() for c in (*o.unbind(-1), *d.unbind(-1), *(1.0 / safe).unbind(-1)))
        best = torch.full((len(o),), t_max)
        for root in nearest_first:
            _cast_object(tree, root, boxes, maps, rays, best, found[start : start + chunk])

    with one_thread_each(), ThreadPoolExecutor(_workers()) as pool:
        list(pool.map(search, range(0, len(origins), chunk)))
    seen = (found >= 0).nonzero()[:, 0]
    t = torch.full((len(origins),), torch.inf, dtype=origins.dtype)
    bary = torch.zeros(len(origins), 2, dtype=origins.dtype)
    t[seen], bary[seen] = _meet(tree, found[seen], origins[seen], directions[seen])
    return Hits(t, torch.where(found >= 0, tree.source[found.clamp_min(0)], found), bary)


def _meet(tree: TriangleTree, slot: Tensor, o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Distance and barycentric coordinates in the triangle's plane, in the rays' dtype (Moeller and Trumbore 1997)."""
    corner, edge1, edge2 = (x[slot].to(o) for x in (tree.corner, tree.edge1, tree.edge2))
    s = o - corner
    p, q = torch.linalg.cross(d, edge2), torch.linalg.cross(s, edge1)
    inverse = 1.0 / torch.linalg.vecdot(edge1, p)
    t = torch.linalg.vecdot(edge2, q) * inverse
    return t, torch.stack([torch.linalg.vecdot(s, p) * inverse, torch.linalg.vecdot(d, q) * inverse], -1)


def meet_planes(tree: TriangleTree, triangle: Int[Tensor, "N"], origins: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"]) -> Hits:
    """Where each ray meets the plane of a given triangle (caller's numbering), inside it or not: for rays known to see a flat sheet."""
    t, bary = _meet(tree, tree.slot[triangle], origins, directions)
    return Hits(t, triangle, bary)
