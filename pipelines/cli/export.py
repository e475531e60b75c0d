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
      handful export out/ -o colmap/ --format colmap        (with the photos, for other programs)
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote, or a .ply with splats."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """File (or folder) to write."""
    format: str | None = None
    """Name of the format, where the ending does not tell."""
    unedited: bool = False
    """Write the scene as it was before it was edited in the viewer."""

    def run(self) -> dict[str, Any]:
        from ...data.export import export_scene
        from ..scene_folder import image_names, load_scene, mask_name

        if self.scene.suffix.lower() == ".ply" and self.scene.is_file():
            from ...data.ply import read_gaussians

            gaussians = read_gaussians(self.scene)
            written = export_scene(self.out, gaussians, format=self.format)
        else:
            folder = load_scene(self.scene)
            folder = folder if self.unedited else folder.edited()
            gaussians, photos = folder.gaussians, [self.scene / name for name in image_names(folder.names)]
            masks = [self.scene / mask_name(name) for name in image_names(folder.names)]
            masks = masks if all(m.is_file() for m in masks) else []
            written = export_scene(self.out, gaussians, folder.cameras, folder.names, self.format, photos, masks)
        size = sum(f.stat().st_size for f in written.rglob("*") if f.is_file()) if written.is_dir() else written.stat().st_size
        self.console.say(f"{written}: {len(gaussians):,} splats, {size / 1e6:.1f} MB")
        return {"file": str(written), "bytes": size, "gaussians": len(gaussians)}
