"""NeRF methods: a radiance field that learns from rays, as compositions of named parts. A new one is one line here (docs/field.md says what of each paper is here)."""

from __future__ import annotations

from dataclasses import replace

from .config import FieldConfig, GridConfig

__all__ = ["FIELD_METHODS"]

PLAIN = FieldConfig()

FIELD_METHODS: dict[str, FieldConfig] = {
    # a VM-factorised field without any prior: the baseline of this room
    "vm": PLAIN,
    # the same planes and lines, made by a convolutional network from fixed noise; nothing else
    "zerorf": replace(PLAIN, grid=GridConfig(kind="vm-prior")),
}
