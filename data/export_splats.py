"""Exports that hold the splats alone."""

from __future__ import annotations

from pathlib import Path

from .export import ExportScene
from .ply import write_gaussians
from .splat_file import write_splat
from .spz import write_spz

__all__ = ["ply", "splat", "spz"]


def ply(path: Path, scene: ExportScene) -> None:
    write_gaussians(path, scene.gaussians)


def splat(path: Path, scene: ExportScene) -> None:
    write_splat(path, scene.gaussians)


def spz(path: Path, scene: ExportScene) -> None:
    write_spz(path, scene.gaussians)
