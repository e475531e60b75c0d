"""Codebooks: few values (or vectors) that stand for many, by Lloyd's rounds (k-means), quick enough for a million splats on two cores."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["cluster", "levels", "nearest_level"]

_SAMPLE_A_CENTRE = 32  # rows for each centre are enough to place it
_FLAT = 256  # more centres than these are found in two or three storeys, each group by itself: the time grows like N sqrt(k), not N k
_CHUNK = 1 << 16


def levels(values: np.ndarray, count: int = 256, rounds: int = 25) -> np.ndarray:
    """`count` sorted numbers with a small mean squared distance to the nearest, float32.

    Half of them start evenly spread, so that no rare value (the few large splats) is far from one, half by the density to the power 1/3, which is best for
    many levels (Panter and Dite 1951). Then Lloyd's rounds; a level that nobody uses goes where most is lost.
    """
    x = values.reshape(-1)
    if len(x) > 1 << 20:
        ends = np.array([x.min(), x.max()], x.dtype)
        x = np.concatenate([x[np.random.default_rng(0).integers(0, len(x), 1 << 20)], ends])
    x = np.sort(x.astype(np.float64))
    different = np.unique(x)
    if len(different) <= count:
        return np.resize(np.append(different, np.full(count, different[-1] if len(different) else 0.0)), count).astype(np.float32)
    counts, edges = np.histogram(x, 4096)
    density = np.cbrt(counts)
    mass = np.concatenate([[0], np.cumsum(density / density.sum() + 1 / len(density))])
    centres = np.interp((np.arange(count) + 0.5) / count * mass[-1], mass, edges)
    sums, squares = np.concatenate([[0], np.cumsum(x)]), np.concatenate([[0], np.cumsum(x * x)])
    for _ in range(rounds):
        cut = np.searchsorted(x, (centres[1:] + centres[:-1]) / 2)
        first, last = np.concatenate([[0], cut]), np.concatenate([cut, [len(x)]])
        n, total = last - first, sums[last] - sums[first]
        centres = np.where(n > 0, total / np.maximum(n, 1), centres)
        lost = np.where(n > 0, squares[last] - squares[first] - total * centres, 0.0)
        unused, worst = np.flatnonzero(n == 0), np.argsort(-lost)
        worst = worst[: min(len(unused), int((lost > 0).sum()))]
        centres[unused[: len(worst)]] = centres[worst] + np.sqrt(np.maximum(lost[worst], 0) / np.maximum(n[worst], 1))
        centres.sort()
    return centres.astype(np.float32)


def nearest_level(values: np.ndarray, sorted_levels: np.ndarray) -> np.ndarray:
    """Index of the nearest of at most 256 sorted levels, uint8, in the shape of `values`."""
    middles = (sorted_levels[1:].astype(np.float64) + sorted_levels[:-1]) / 2
    return np.searchsorted(middles, values).astype(np.uint8)


class Rows(Protocol):
    """N rows of D numbers, given out for a list of row numbers: a tensor, or what makes them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: Int[Tensor, "n"], /) -> Float[Tensor, "n D"]: ...


def cluster(x: Rows, k: int) -> tuple[Float[Tensor, "K D"], Int[Tensor, "N"]]:
    """At most k centres (fewer where the rows are few or alike) and for each row which of them is near it: the nearest within its group.

    Only pieces of `x` are held; beside it a label and an error a row.
    """
    every = torch.arange(len(x))
    if len(x) <= k:
        return x[every].clone(), every
    generator = torch.Generator().manual_seed(0)
    return _split(x, every, k, generator)


def _split(x: Rows, rows: Tensor, k: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    flat = k <= _FLAT
    centres = _lloyd(x, rows, k if flat else max(2, min(_FLAT, round(k**0.5))), generator)
    labels, errors = _assign(x, rows, centres)
    if flat:
        return centres, labels
    groups = len(centres)
    count = torch.bincount(labels, minlength=groups)
    error = torch.bincount(labels, errors.double(), minlength=groups)
    if float(error.sum()) <= 0:
        return centres, labels
    del errors
    # each group gets centres by its share of what is lost, one at least, no more than it has rows
    share = ((k - groups) * error / error.sum()).floor().to(torch.int64).clamp_min(0) + 1
    share = torch.minimum(share, count)
    order, ends = labels.argsort(stable=True), count.cumsum(0)
    found, out = [], torch.zeros_like(labels)
    for group in range(groups):
        if not int(count[group]):
            continue
        inside = order[int(ends[group] - count[group]) : int(ends[group])]
        few = int(share[group])
        if few == 1:
            sub, sublabels = _mean(x, rows[inside]), torch.zeros(len(inside), dtype=torch.int64)
        else:
            sub, sublabels = _split(x, rows[inside], min(few, k - 1), generator)
        out[inside] = sublabels + sum(map(len, found))
        found.append(sub)
    return torch.cat(found), out


def _mean(x: Rows, rows: Tensor) -> Tensor:
    total = torch.stack([x[part].sum(dim=0, dtype=torch.float64) for part in rows.split(_CHUNK)]).sum(dim=0)
    return (total / len(rows)).float()[None]


def _lloyd(x: Rows, rows: Tensor, k: int, generator: torch.Generator, rounds: int = 5) -> Tensor:
    if len(rows) > k * _SAMPLE_A_CENTRE:
        rows = rows[torch.randint(len(rows), (k * _SAMPLE_A_CENTRE,), generator=generator)]
    sample = x[rows]
    every = torch.arange(len(sample))
    centres = sample[torch.randperm(len(sample), generator=generator)[:k]].clone()
    for _ in range(rounds):
        labels, _ = _assign(sample, every, centres)
        n = torch.bincount(labels, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, labels, sample)
        centres = torch.where(n[:, None] > 0, sums / n.clamp_min(1)[:, None], centres)
    return centres


def _assign(x: Rows, rows: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """(nearest centre, squared distance to it) of each of the rows."""
    half = 0.5 * (centres * centres).sum(dim=1)
    labels, errors = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
    for at in range(0, len(rows), _CHUNK):
        part = x[rows[at : at + _CHUNK]]
        best = torch.addmm(half, part, centres.T, alpha=-1).argmin(dim=1)
        labels[at : at + _CHUNK], errors[at : at + _CHUNK] = best, (part - centres[best]).square().sum(dim=1)
    return labels, errors
