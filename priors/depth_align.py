"""Relative depth made metric: one scale and one shift of inverse depth per photo, fitted robustly to what stereo measured surely.

Single-photo networks know the shape of a scene, not its size: inverse depth up to `scale * r + shift`. Stereo knows the size where it measured, and nothing
elsewhere. Fitted together they complete each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.depth import DepthMap

__all__ = ["InverseFit", "completed", "fit_inverse_depth"]

SURE = 0.5  # confidence from which the reference counts as measured
LEAST = 64  # measured pixels without which nothing is fitted
ENOUGH = 0.4  # share of them that must agree with the fit
CLOSE = 0.1  # relative error of inverse depth that counts as agreement
TRUST = 0.3  # confidence of a completed pixel where the fit is exact
FAR = 4.0  # completed depth ends at this many times the farthest sure one: a shift near zero says nothing about the sky
TRIALS, SAMPLE = 300, 4096


@dataclass(frozen=True)
class InverseFit:
    """1 / depth = scale * relative + shift.

    Attributes:
        agree: share of the reference (by confidence) within `CLOSE` of the fit.
        error: median relative error of inverse depth over the pixels that agree.
    """

    scale: float
    shift: float
    agree: float
    error: float


def fit_inverse_depth(relative: Float[Tensor, "H W"], reference: DepthMap) -> InverseFit | None:
    """Scale and shift from `relative` (larger = nearer) to the inverse of the reference's depth; None where they have no such relation.

    Pairs of pixels propose, all sure pixels judge by relative error cut off at `CLOSE`, least squares on those that agree refine. Up to about half of the
    reference may be wrong. Deterministic.
    """
    sure = reference.valid & (reference.confidence >= SURE) & (reference.depth > 0) & relative.isfinite()
    r, d, weight = relative[sure].double(), 1.0 / reference.depth[sure].double(), reference.confidence[sure].double()
    if len(r) < LEAST or not r.std() > 1e-6 * r.abs().max():
        return None
    rng = torch.Generator().manual_seed(0)
    part = torch.randperm(len(r), generator=rng)[:SAMPLE]
    rp, dp, wp = r[part], d[part], weight[part]
    i, j = torch.randint(len(rp), (2, TRIALS), generator=rng)
    scale = (dp[i] - dp[j]) / torch.where(rp[i] == rp[j], torch.inf, rp[i] - rp[j])
    shift = dp[i] - scale * rp[i]
    error = ((scale[:, None] * rp + shift[:, None]) / dp - 1).abs().clamp_max(CLOSE)
    cost = torch.where(scale > 0, (error * wp).sum(1), torch.inf)
    best = int(cost.argmin())
    if not cost[best].isfinite():
        return None
    a, b = float(scale[best]), float(shift[best])
    for width in (CLOSE, CLOSE, CLOSE / 2, CLOSE / 2):
        off = (a * r + b) / d - 1
        # Tukey's weight, of relative errors
        w = weight / d**2 * (1 - (off / width).square()).clamp_min(0).square()
        total = w.sum()
        if total <= 0:
            break
        mr, md = (w * r).sum() / total, (w * d).sum() / total
        spread = (w * (r - mr).square()).sum()
        if spread <= 0:
            break
        a = float((w * (r - mr) * (d - md)).sum() / spread)
        b = float(md - a * mr)
    off = ((a * r + b) / d - 1).abs()
    close = off < CLOSE
    agree = float((weight * close).sum() / weight.sum())
    if a <= 0 or agree < ENOUGH:
        return None
    return InverseFit(a, b, agree, float(off[close].median()))


def completed(relative: Float[Tensor, "H W"], reference: DepthMap, mask: Float[Tensor, "H W"] | None = None) -> DepthMap:
    """The reference, and where it measured nothing the aligned relative depth.

    Measured pixels stay as they are, with their confidence, normal and `valid`. A completed pixel has a confidence of at most `TRUST`, less where the fit is
    worse, and is not `valid`: no second photo vouched for it, so it may guide (completion, the depth term) and is never taken for a measurement. Where
    nothing can be fitted the reference comes back unchanged.
    """
    fit = fit_inverse_depth(relative, reference)
    if fit is None:
        return reference
    farthest = float(reference.depth[reference.valid & (reference.confidence >= SURE)].max())
    inverse = fit.scale * relative + fit.shift
    here = relative.isfinite() & ~reference.valid
    if mask is not None:
        here &= mask > 0.5
    depth = 1.0 / inverse.clamp_min(1.0 / (FAR * farthest))
    trust = TRUST * fit.agree * float(torch.exp(torch.tensor(-0.5 * (fit.error / (CLOSE / 2)) ** 2)))
    return replace(
        reference,
        depth=torch.where(here, depth, reference.depth),
        confidence=torch.where(here, torch.where(inverse > 0, trust, 0.0), reference.confidence),
    )
