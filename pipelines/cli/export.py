"""`handful export`: take the scene along, or turn one file of splats into another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .common import CommonOptions

if TYPE_CHECKING:
    from ...data.splat_rows import Progress

__all__ = ["Export"]


@dataclass(frozen=True, kw_only=True)
class Export(CommonOptions):
    """Write a scene in another format, chosen by the file's ending; a file of splats from anywhere is read, too.

    Splats: .ply .compressed.ply .splat .spz .sog .glb .usdc (both ways). Cameras and photos: --format colmap, colmap-text, nerfstudio, blender.
    Centres as points: --format points, .las. docs/formats.md says what each keeps.

    Examples:
      handful export out/ -o scene.spz
      handful export found.sog -o scene.ply                 (any to any)
      handful export out/ -o colmap/ --format colmap        (with the photos, for other programs)
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote, or a file of splats (.ply .compressed.ply .splat .spz .sog .glb .usdc)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """File (or folder) to write."""
    format: str | None = None
    """Name of the format, where the ending does not tell."""
    unedited: bool = False
    """Write the scene as it was before it was edited in the viewer."""

    def run(self) -> dict[str, Any]:
        from ...data.export import export_format, export_scene
        from ...data.scene_mark import refuse_own_file
        from ...data.splats import is_splat_file, read_splats
        from ..scene_folder import image_names, load_scene, mask_name

        refuse_own_file(self.out)
        console = self.console

        def on_rows(what: str) -> Progress:
            began = time.monotonic()

            def told(done: int, total: int) -> None:
                if time.monotonic() - began > 1:  # what is done in a moment needs no bar
                    console.progress(f"{what} {100 * done // max(total, 1)} %")

            return told

        format = export_format(self.out, self.format, cameras=not is_splat_file(self.scene))  # before anything large is read
        if is_splat_file(self.scene):
            gaussians = read_splats(self.scene, on_rows(f"reading {self.scene.name}"))
            written = export_scene(self.out, gaussians, format=format, progress=on_rows(f"writing {self.out.name}"))
        else:
            folder = load_scene(self.scene)
            folder = folder if self.unedited else folder.edited()
            gaussians, photos = folder.gaussians, [self.scene / name for name in image_names(folder.names)]
            masks = [self.scene / mask_name(name) for name in image_names(folder.names)]
            masks = masks if all(m.is_file() for m in masks) else []
            names, progress = folder.names, on_rows(f"writing {self.out.name}")
            written = export_scene(self.out, gaussians, folder.cameras, names, format, photos, masks, progress)
        size = sum(f.stat().st_size for f in written.rglob("*") if f.is_file()) if written.is_dir() else written.stat().st_size
        console.say(f"{written}: {len(gaussians):,} splats, {size / 1e6:.1f} MB")
        return {"file": str(written), "bytes": size, "gaussians": len(gaussians)}
