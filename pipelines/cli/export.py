"""`handful export`: take the scene along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .common import CommonOptions

__all__ = ["Export"]


@dataclass(frozen=True, kw_only=True)
class Export(CommonOptions):
    """Write a scene in another format, chosen by the file's ending.

    Examples:
      handful export out/ -o scene.spz
      handful export out/ -o scene.splat
      handful export out/ -o colmap/ --format colmap
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """File (or folder) to write."""
    format: str | None = None
    """Name of the format, where the ending does not tell."""

    def run(self) -> dict[str, Any]:
        from ...data.export import export_scene
        from ..scene_folder import image_names, load_scene

        folder = load_scene(self.scene)
        # the cameras are those of the photos as used (upright, resized), so these are named, not the originals
        photos = [file.removeprefix("images/") for file in image_names(folder.names)]
        written = export_scene(self.out, folder.gaussians, folder.cameras, photos, self.format)
        size = sum(f.stat().st_size for f in written.rglob("*") if f.is_file()) if written.is_dir() else written.stat().st_size
        self.console.say(f"{written}: {len(folder.gaussians):,} splats, {size / 1e6:.1f} MB")
        return {"file": str(written), "bytes": size, "gaussians": len(folder.gaussians)}
