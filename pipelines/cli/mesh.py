"""`handful mesh`: the scene's surface as triangles."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .common import CommonOptions, Console, duration, whole_field

if TYPE_CHECKING:
    from torch import Tensor

    from ...recon.mesh import Mesh
    from ..mesh import MeshOptions
    from ..scene_folder import SceneFolder

__all__ = ["MeshCommand"]


@dataclass(frozen=True, kw_only=True)
class MeshCommand(CommonOptions):
    """Make a triangle mesh of what the photos see: rendered depth, fused (needs open3d: pip install "handful[mesh]").

    A .glb stands upright, as glTF wants it (y is up, the first photo looks along -z); .ply, .obj and .stl stay in the scene's world. Crop in the viewer first
    (`handful view`), and the mesh is of what is left. Surfaces are truest of scenes made with `handful reconstruct --method matcha`.

    Examples:
      handful mesh out/ -o scene.glb
      handful mesh out/ -o scene.obj --texture 4096
      handful mesh out/ -o print.stl --watertight --resolution 512
      handful mesh out/ -o thing.glb --field --bounds -1 -1 0 1 1 1.5     (of a radiance field itself)
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """Mesh to write: .glb, .ply, .obj or .stl."""
    resolution: int = 256
    """Voxels along the distance from the photos to the scene (with --field: along the longest edge of what is meshed); twice as many take four to eight times as long."""
    reach: float = 3.0
    """Leave out what is further away than so many times that distance."""
    smallest: int = 500
    """Leave out loose parts of fewer triangles."""
    texture: int = 0
    """Size of a texture from the photos, in pixels (0: a colour per vertex)."""
    watertight: bool = False
    """Close the surface, for printing: by Poisson, which bridges what no photo sees; with --field by walls where it ends."""
    between: bool = True
    """Look from between the photos, too."""
    unedited: bool = False
    """The scene as it was before it was edited in the viewer."""
    field: bool = False
    """The surface of the radiance field (zerorf and its kin) itself, not of the splats it was turned into."""
    bounds: Annotated[tuple[float, float, float, float, float, float] | None, tyro.conf.arg(metavar="X0 Y0 Z0 X1 Y1 Z1")] = None
    """With --field: only what is in this box, in the scene's world."""
    level: float | None = None
    """With --field: how opaque one sample is on the surface, between 0 and 1 (default: 0.05); higher leaves out haze, and thin matter with it."""

    def run(self) -> dict[str, Any]:
        from ...data.atomic import ensure_place
        from ...data.mesh_open3d import check_mesh_file, need_open3d, write_mesh
        from ...data.scene_mark import refuse_own_file
        from ...recon.edits import up_after
        from ...recon.framing import frame_scene
        from ..mesh import MeshOptions, facing, turned
        from ..scene_folder import load_scene

        options = MeshOptions(self.resolution, self.reach, self.smallest, self.between, self.texture, self.watertight)
        self._check_field_options()
        check_mesh_file(self.out, self.texture > 0)  # what cannot work is told before the work
        refuse_own_file(self.out)
        ensure_place(self.out)
        need_open3d()
        began, console = time.monotonic(), self.console
        raw = load_scene(self.scene)
        folder, steps = (raw, ()) if self.unedited else (raw.edited(), raw.edits())
        mesh = self._mesh(raw, folder, options, console)
        if self.out.suffix.lower() == ".glb":
            up = frame_scene(folder.cameras, folder.gaussians.means, folder.gaussians.opacities, up_after(steps)).up
            mesh = turned(mesh, facing(up, folder.cameras.cam_from_world[0, 2, :3]))
        write_mesh(self.out, mesh)
        seconds = time.monotonic() - began
        console.say(f"{self.out}: {len(mesh):,} triangles, {self.out.stat().st_size / 1e6:.1f} MB, {duration(seconds)}")
        return {"file": str(self.out), "triangles": len(mesh), "vertices": len(mesh.vertices), "seconds": round(seconds, 2)}

    def _check_field_options(self) -> None:
        from ...recon.errors import ConfigError
        from ..nerf.mesh import LEVEL, check_bounds

        if not self.field and (self.bounds is not None or self.level is not None):
            raise ConfigError("--bounds and --level are of a field's surface; add --field, or crop the splats in the viewer.")
        if self.field and not self.between:
            raise ConfigError("--no-between is about places to look from, and a field's surface is not looked for from any; leave it or --field away.")
        check_bounds(self.bounds, LEVEL if self.level is None else self.level)

    def _mesh(self, raw: SceneFolder, folder: SceneFolder, options: MeshOptions, console: Console) -> Mesh:
        from ..mesh import mesh_scene
        from ..nerf.mesh import LEVEL, mesh_field

        def tell(what: str, share: float) -> None:
            console.progress(f"{what} {share:.0%}")

        field = whole_field(raw, self.unedited) if self.field else None
        photos = _photos_without_gaps(folder) if self.texture else ()
        if field is None:
            return mesh_scene(folder.scene, options, photos, tell)
        return mesh_field(field, options, self.bounds, LEVEL if self.level is None else self.level, photos, tell)


def _photos_without_gaps(folder: SceneFolder) -> tuple[Tensor, ...]:
    """The photos, with the scene itself drawn where a picture is padding or a corner that the lens left out: a texture is blended from all there is."""
    import torch

    photos = []
    for i, (image, extent) in enumerate(zip(folder.images(), folder.extents(), strict=True)):
        if extent is not None and bool((extent < 0.5).any()):
            drawn = folder.scene.render(folder.cameras[i]).color[0].to(image).clamp(0, 1)
            image = torch.where(extent[..., None] > 0.5, image, drawn)
        photos.append(image)
    return tuple(photos)
