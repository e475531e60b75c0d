"""`handful mesh`: the scene's surface as triangles."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from .common import CommonOptions, duration

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
    """

    scene: tyro.conf.Positional[Path]
    """Folder that `handful reconstruct` wrote."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """Mesh to write: .glb, .ply, .obj or .stl."""
    resolution: int = 256
    """Voxels along the distance from the photos to the scene; twice as many take four to eight times as long."""
    reach: float = 3.0
    """Leave out what is further away than so many times that distance."""
    smallest: int = 500
    """Leave out loose parts of fewer triangles."""
    texture: int = 0
    """Size of a texture from the photos, in pixels (0: a colour per vertex)."""
    watertight: bool = False
    """Close the surface (Poisson): for printing; what no photo sees is bridged."""
    between: bool = True
    """Look from between the photos, too."""
    unedited: bool = False
    """The scene as it was before it was edited in the viewer."""

    def run(self) -> dict[str, Any]:
        from ...data.atomic import ensure_place
        from ...data.mesh_open3d import check_mesh_file, need_open3d, write_mesh
        from ...data.scene_mark import refuse_own_file
        from ...recon.edits import up_after
        from ...recon.framing import frame_scene
        from ..mesh import MeshOptions, facing, mesh_scene, turned
        from ..scene_folder import load_scene

        options = MeshOptions(self.resolution, self.reach, self.smallest, self.between, self.texture, self.watertight)
        check_mesh_file(self.out, self.texture > 0)  # what cannot work is told before the work
        refuse_own_file(self.out)
        ensure_place(self.out)
        need_open3d()
        began, console = time.monotonic(), self.console
        raw = load_scene(self.scene)
        folder, steps = (raw, ()) if self.unedited else (raw.edited(), raw.edits())
        photos = tuple(folder.images()) if self.texture else ()
        mesh = mesh_scene(folder.scene, options, photos, lambda what, share: console.progress(f"{what} {share:.0%}"))
        if self.out.suffix.lower() == ".glb":
            up = frame_scene(folder.cameras, folder.gaussians.means, folder.gaussians.opacities, up_after(steps)).up
            mesh = turned(mesh, facing(up, folder.cameras.cam_from_world[0, 2, :3]))
        write_mesh(self.out, mesh)
        seconds = time.monotonic() - began
        console.say(f"{self.out}: {len(mesh):,} triangles, {self.out.stat().st_size / 1e6:.1f} MB, {duration(seconds)}")
        return {"file": str(self.out), "triangles": len(mesh), "vertices": len(mesh.vertices), "seconds": round(seconds, 2)}
