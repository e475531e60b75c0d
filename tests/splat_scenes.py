"""Scenes of splats for the tests of file formats, and how near two of them are."""

from __future__ import annotations

import torch
from handful.recon.gaussians import Gaussians
from handful.recon.se3 import matrix_from_quat


def some_gaussians(n: int = 50, degree: int = 3, seed: int = 0) -> Gaussians:
    """Splats that are nowhere equally near to each other, with values that every format can hold."""
    g = torch.Generator().manual_seed(1000 * seed + degree)
    quats = torch.nn.functional.normalize(torch.randn(n, 4, generator=g), dim=1)
    sh = (torch.randn(n, (degree + 1) ** 2, 3, generator=g) * 0.3).clamp(-0.9, 0.9)
    scales = (torch.randn(n, 3, generator=g) - 3).clamp(-8, 2)
    return Gaussians(torch.rand(n, 3, generator=g) * 6 - 2, quats, scales, torch.randn(n, generator=g), sh)


def poisoned(g: Gaussians) -> tuple[Gaussians, Gaussians]:
    """(the scene with a NaN or an infinity in some rows and a zero quaternion, what of it can be written)"""
    means, scales, quats, sh, logits = g.means.clone(), g.log_scales.clone(), g.quats_wxyz.clone(), g.sh.clone(), g.logit_opacities.clone()
    means[3, 1], scales[7, 2], sh[11, -1, 0], logits[13], quats[17, 0] = float("nan"), float("inf"), float("nan"), float("-inf"), float("nan")
    quats[19] = 0
    ok = torch.ones(len(g), dtype=torch.bool)
    ok[[3, 7, 11, 13, 17]] = False
    identity = quats.clone()
    identity[19] = torch.tensor([1.0, 0, 0, 0])
    return Gaussians(means, quats, scales, logits, sh), Gaussians(means, identity, scales, logits, sh)[ok]


def in_order_of(g: Gaussians, wanted: Gaussians) -> Gaussians:
    """The rows of `g` nearest to those of `wanted`, each once: formats may sort."""
    nearest = torch.cat([torch.cdist(part, g.means).argmin(dim=1) for part in wanted.means.split(512)])
    assert len(g) == len(wanted) and len(nearest.unique()) == len(wanted), f"{len(g)} splats, {len(nearest.unique())} of {len(wanted)} found again"
    return g[nearest]


def covariances(g: Gaussians) -> torch.Tensor:
    half = matrix_from_quat(torch.nn.functional.normalize(g.quats_wxyz, dim=1)) * g.scales[:, None]
    return half @ half.transpose(1, 2)


def loss(found: Gaussians, wanted: Gaussians) -> dict[str, float]:
    """Largest differences: place, log scale, opacity, colour, higher harmonics, and the covariance as a share of its largest number."""
    g, w = in_order_of(found, wanted), wanted
    degree = min(g.sh.shape[1], w.sh.shape[1])
    cg, cw = covariances(g), covariances(w)
    higher = (g.sh[:, 1:degree] - w.sh[:, 1:degree]).abs()
    return {
        "place": float((g.means - w.means).abs().max()),
        "scale": float((g.log_scales - w.log_scales).abs().max()),
        "opacity": float((g.opacities - w.opacities).abs().max()),
        "color": float((g.sh[:, 0] - w.sh[:, 0]).abs().max()),
        "sh": float(higher.max()) if higher.numel() else 0.0,
        "sh_rms": float(higher.square().mean().sqrt()) if higher.numel() else 0.0,
        "shape": float(((cg - cw).abs().amax(dim=(1, 2)) / cw.abs().amax(dim=(1, 2))).max()),
    }
