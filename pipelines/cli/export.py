"""`handful export`: take the scene along, or turn one file of splats into another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .common import CommonOptions, Console, whole_field

if TYPE_CHECKING:
    from ...data.splat_rows import Progress
    from ...recon.points import PointCloud
    from ..scene_folder import SceneFolder

__all__ = ["Export"]


@dataclass(frozen=True, kw_only=True)
class Export(CommonOptions):
    """Write a scene in another format, chosen by the file's ending; a file of splats from anywhere is read, too.

    Splats: .ply .compressed.ply .splat .spz .sog .glb .usdc (both ways). Cameras and photos: --format colmap, colmap-text, nerfstudio, blender.
    Centres as points: --format points, .las. With --field, what the photos see of a radiance field as points with colours and normals. docs/formats.md says what each keeps.

    Examples:
      handful export out/ -o scene.spz
      handful export found.sog -o scene.ply                 (any to any)
      handful export out/ -o colmap/ --format colmap        (with the photos, for other programs)
      handful export out/ --field -o cloud.ply
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote, or a file of splats (.ply .compressed.ply .splat .spz .sog .glb .usdc)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """File (or folder) to write."""
    format: str | None = None
    """Name of the format, where the ending does not tell."""
    unedited: bool = False
    """Write the scene as it was before it was edited in the viewer."""
    field: bool = False
    """Points on the surface of the radiance field (zerorf and its kin) itself, as its photos see it: .ply, .las, --format colmap."""

    def run(self) -> dict[str, Any]:
        from ...data.export import export_format, export_scene
        from ...data.scene_mark import refuse_own_file
        from ...data.splats import is_splat_file, read_splats
        from ...recon.errors import ConfigError
        from ..scene_folder import image_names, load_scene, mask_name

        refuse_own_file(self.out)
        console, points = self.console, None

        def on_rows(what: str) -> Progress:
            began = time.monotonic()

            def told(done: int, total: int) -> None:
                if time.monotonic() - began > 1:  # what is done in a moment needs no bar
                    console.progress(f"{what} {100 * done // max(total, 1)} %")

            return told

        if self.field and is_splat_file(self.scene):
            raise ConfigError(f"{self.scene} is a file of splats and holds no field; give the folder that `handful reconstruct` wrote, or leave --field away.")
        format = export_format(self.out, self.format, not is_splat_file(self.scene), self.field)  # before anything large is read
        if is_splat_file(self.scene):
            gaussians = read_splats(self.scene, on_rows(f"reading {self.scene.name}"))
            written = export_scene(self.out, gaussians, format=format, progress=on_rows(f"writing {self.out.name}"))
        else:
            raw = load_scene(self.scene)
            folder = raw if self.unedited else raw.edited()
            points = self._points(raw, console) if self.field else None
            gaussians, photos = folder.gaussians, [self.scene / name for name in image_names(folder.names)]
            masks = [self.scene / mask_name(name) for name in image_names(folder.names)]
            masks = masks if all(m.is_file() for m in masks) else []
            names, progress = folder.names, on_rows(f"writing {self.out.name}")
            written = export_scene(self.out, gaussians, folder.cameras, names, format, photos, masks, progress, points)
        size = sum(f.stat().st_size for f in written.rglob("*") if f.is_file()) if written.is_dir() else written.stat().st_size
        what = f"{len(gaussians):,} splats" if points is None else f"{len(points):,} points"
        console.say(f"{written}: {what}, {size / 1e6:.1f} MB")
        return {"file": str(written), "bytes": size, "gaussians": len(gaussians)} | ({} if points is None else {"points": len(points)})

    def _points(self, raw: SceneFolder, console: Console) -> PointCloud:
        from ...recon.errors import HandfulError
        from ..nerf.points import field_points

        points = field_points(whole_field(raw, self.unedited), progress=lambda share: console.progress(f"looking at the field {share:.0%}"))
        if not len(points):
            raise HandfulError(f"The photos of {self.scene} see nothing solid in its field; look at its opacity in the viewer.")
        return points
