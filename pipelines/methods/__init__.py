"""All methods by name: each is a composition of named settings. A new one is one line here, or one file when it brings a new part."""

from __future__ import annotations

from dataclasses import replace

from ...recon.errors import ConfigError
from .config import MotionConfig, OptimConfig, RefineConfig, SeedConfig, SplatConfig, TermsConfig

__all__ = ["METHODS", "method_config"]

PLAIN_TERMS = TermsConfig(ssim=0.2, smooth=0.0, depth=0.0, depth_final=0.2, opaque=0.0, silhouette=0.0, virtual=0.0, scan=0.0)

BASELINE = SplatConfig(
    seed=replace(SeedConfig(), guesses=False, surround=0.0, behind=0.0, opacity=0.1, thickness=1.0, tilt=1.0),
    optim=replace(OptimConfig(), lr_scales=5e-3, lr_sh=2e-2, sh_pace=0.05, opacity_decay=1.0, dropout=0.0),
    terms=PLAIN_TERMS,
    refine=RefineConfig(densify_pull=2e-4),
    background="black",
)
DENSE = replace(BASELINE.seed, guesses=True, guess_spacing=1.0)  # as the papers do, and as docs/methods.md scores them: every pixel alike

METHODS: dict[str, SplatConfig] = {  # docs/methods.md says what of each paper is here
    # the default: stereo seed, opacity decay, dropout, smooth depth that agrees with the stereo, covered photos; an object stays in the hull of its outlines
    "handful": SplatConfig(seed=SeedConfig(hull=True), refine=RefineConfig(hull_every=100)),
    # 3D Gaussian splatting on the stereo-fused cloud, with its adaptive density control and without any regulariser: the baseline of every gain
    "3dgs": BASELINE,
    "dropgaussian": replace(BASELINE, optim=replace(BASELINE.optim, dropout=0.2, dropout_rises=True)),
    # dense start, opacity decay instead of densification, consistency with a shifted camera in the last third
    "binocular": replace(
        BASELINE,
        seed=DENSE,
        optim=replace(BASELINE.optim, opacity_decay=0.995),
        terms=replace(PLAIN_TERMS, virtual=1.0, virtual_every=1, virtual_from=2 / 3),
        refine=RefineConfig(),
    ),
    # depth from flow and cameras (epipolar lines) instead of stereo; nothing else
    "nexusgs": replace(BASELINE, depth_prior="epipolar"),
    # new Gaussians half way into gaps; depth correlates with the prior's at the photos and between them
    "fsgs": replace(
        BASELINE,
        terms=replace(PLAIN_TERMS, correlation=0.05, pseudo_correlation=0.05),
        refine=replace(BASELINE.refine, unpool_gap=0.01),
    ),
    # a Gaussian per pixel and photo; those of a photo move together along their rays, and meet those of the others where the flow says
    "coherentgs": replace(
        BASELINE,
        seed=replace(DENSE, merge=False, budget=1_000_000),
        optim=replace(BASELINE.optim, lr_means=4.8e-6),
        terms=replace(PLAIN_TERMS, motion_variation=5.0, flow=1.0),
        refine=RefineConfig(),
        motion=MotionConfig(kind="decoder"),
    ),
    # cameras and Gaussians together, from dense points; what the depth is sure of moves little
    "instantsplat": replace(
        BASELINE,
        seed=DENSE,
        optim=replace(BASELINE.optim, pace=3.0),
        terms=replace(PLAIN_TERMS, camera=10.0),
        refine=RefineConfig(),
    ),
    # an uncertainty per Gaussian weights depth and normals, which have to agree
    "ung-gs": replace(BASELINE, terms=replace(PLAIN_TERMS, surface=0.02)),
    # two fields: each drops what the other has nothing near, and looks like the other from between the photos
    "corgs": replace(
        BASELINE,
        terms=replace(PLAIN_TERMS, agreement=1.0, pseudo_from=0.1),
        refine=replace(BASELINE.refine, co_prune=0.02),
        fields=2,
    ),
    # flat discs bound to the photos' depth, an atlas of charts that bends as a whole and keeps its structure: for meshes
    "matcha": SplatConfig(
        optim=replace(OptimConfig(), opacity_decay=1.0),
        terms=replace(TermsConfig(), normals=0.05, distortion=1.0, opaque=0.1, silhouette=0.1, structure=0.1),
        motion=MotionConfig(kind="charts"),
        surfels=True,
    ),
    # which of two pixels is nearer, and which belong together, is as the prior says; how far they are is not held
    "sparsenerf-rank": replace(BASELINE, terms=replace(PLAIN_TERMS, rank=1.0, continuity=0.2)),
}


def method_config(name: str) -> SplatConfig:
    """Raises ConfigError for a method that is not there."""
    if name not in METHODS:
        raise ConfigError(f"There is no method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name]
