"""NeRF methods: a radiance field that learns from rays, as compositions of named parts. A new one is one line here (docs/field.md says what of each paper is here)."""

from __future__ import annotations

from dataclasses import replace

from .config import FieldConfig, FieldOptimConfig, FieldTermsConfig, GridConfig

__all__ = ["FIELD_METHODS"]

PLAIN = FieldConfig()

FIELD_METHODS: dict[str, FieldConfig] = {
    # a VM-factorised field without any prior: the baseline of this room
    "vm": PLAIN,
    # the same planes and lines, made by a convolutional network from fixed noise; nothing else
    "zerorf": replace(PLAIN, grid=GridConfig(kind="vm-prior"), optim=FieldOptimConfig(steps=4000, weight_decay=0.2)),
    # small tensors of three lines each, of two sizes, on what stereo and a first look find; without any prior
    "strivec": replace(PLAIN, grid=GridConfig(kind="trivec")),
    # which of two pixels is nearer, and which belong together, is as a coarse depth map says
    "sparsenerf": replace(PLAIN, terms=FieldTermsConfig(rank=0.5, continuity=0.1)),
    # depth is smooth seen from between the photos
    "regnerf": replace(PLAIN, terms=FieldTermsConfig(smooth_patches=0.5)),
    # from coarse to fine, and nothing right before the cameras
    "freenerf": replace(PLAIN, optim=FieldOptimConfig(fine_from=0.5), terms=FieldTermsConfig(occlusion=0.01)),
}
