"""A scene's surface as a mesh: depth rendered from the photos' places and between them, fused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data.mesh_open3d import fuse_depth, keep_large_parts, textured, watertight
from ..recon.camera import Cameras
from ..recon.camera_path import smooth_cameras
from ..recon.errors import ConfigError
from ..recon.framing import frame_scene
from ..recon.mesh import Mesh
from ..recon.scene import SplatScene

__all__ = ["MeshOptions", "believed", "facing", "mesh_scene", "turned"]

SOLID = 0.6  # opacity from which a pixel has a depth
EDGE = 0.03  # of the depth: a jump between neighbours across which the rendered depth lies on neither side
GRAZING = 0.2  # cosine between the line of sight and the normal below which a depth is not believed
BETWEEN, NEIGHBOURS = 4, 2  # cameras between a photo and each of so many nearest ones


@dataclass(frozen=True)
class MeshOptions:
    """How to make the mesh.

    Attributes:
        resolution: voxels along the typical distance from the photos to the scene.
        reach: what lies further than so many times that distance is left out.
        smallest: parts of fewer triangles are left out.
        between: look from between the photos, too.
        texture: size of a texture from the photos, pixels; 0 = a colour per vertex. watertight: close it (Poisson).
    """

    resolution: int = 256
    reach: float = 3.0
    smallest: int = 500
    between: bool = True
    texture: int = 0
    watertight: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if not 16 <= self.resolution <= 4096:
            raise ConfigError(f"--resolution must be from 16 to 4096, got {self.resolution}.")
        if not self.reach > 0:
            raise ConfigError(f"--reach must be more than 0, got {self.reach:g}.")
        if self.smallest < 0 or not (self.texture == 0 or 64 <= self.texture <= 16384):
            raise ConfigError(f"--smallest must be 0 or more and --texture 0 or from 64 to 16384, got {self.smallest} and {self.texture}.")


def mesh_scene(
    scene: SplatScene,
    options: MeshOptions = MeshOptions(),
    photos: Sequence[Float[Tensor, "H W 3"]] = (),
    progress: Callable[[str, float], None] | None = None,
) -> Mesh:
    """The surface that the photos see, in the scene's world.

    Args:
        photos: those of scene.cameras; needed for a texture.
        progress: called with what is done and the share of it.

    Raises ConfigError for a texture without photos, BackendUnavailable without open3d, HandfulError for a scene without a surface.
    """
    if options.texture and len(photos) != len(scene.cameras):
        raise ConfigError("A texture needs the photos; mesh a scene folder, or leave --texture away.")
    tell = progress or (lambda what, share: None)
    g = scene.gaussians
    framing = frame_scene(scene.cameras, g.means, g.opacities)
    cameras = _cameras(scene, options)

    def views() -> Iterator[tuple[Cameras, Tensor, Tensor]]:
        for i in range(len(cameras)):
            tell("fusing depth", i / len(cameras))
            yield cameras[i], *_believed(scene, cameras[i], options.reach * framing.depth)

    voxel = framing.depth / options.resolution
    mesh = fuse_depth(views(), voxel, 4 * voxel)
    mesh = keep_large_parts(mesh, options.smallest)
    if options.watertight:
        tell("closing", 0.0)
        mesh = watertight(mesh, max(6, min(12, round(float(np.log2(np.ptp(mesh.vertices, axis=0).max() / voxel))))))
    if options.texture:
        tell("laying the texture", 0.0)
        mesh = textured(mesh, torch.stack(list(photos)), scene.cameras, options.texture)
    return mesh


def turned(mesh: Mesh, R: Float[np.ndarray, "3 3"]) -> Mesh:
    """The same with x -> R x."""
    return Mesh(mesh.vertices @ R.T, mesh.triangles, mesh.colors, mesh.uvs, mesh.texture)


def facing(up: Float[Tensor, "3"], forward: Float[Tensor, "3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation after which `up` is y, and who looks along `forward` looks along -z: what programs that read glTF show first."""
    y = torch.nn.functional.normalize(up.double(), dim=0)
    z = -(forward.double() - (forward.double() @ y) * y)
    if float(torch.linalg.vector_norm(z)) < 1e-6:  # straight up or down
        z = torch.linalg.cross(y, torch.eye(3, dtype=torch.float64)[int(y.abs().argmin())])
    z = torch.nn.functional.normalize(z, dim=0)
    return torch.stack([torch.linalg.cross(y, z), y, z]).numpy()


def _cameras(scene: SplatScene, options: MeshOptions) -> Cameras:
    """Those of the photos, and some between each and its nearest neighbours."""
    photos = scene.cameras.to("cpu", torch.float64)
    if not options.between or len(photos) < 2:
        return photos.to(dtype=torch.float32)
    nearest = photos.distances.fill_diagonal_(torch.inf).topk(min(NEIGHBOURS, len(photos) - 1), largest=False).indices
    pairs = sorted({(min(i, j), max(i, j)) for i, row in enumerate(nearest.tolist()) for j in row})
    share = torch.linspace(0, 1, BETWEEN + 2, dtype=torch.float64)
    ways = [smooth_cameras(photos[list(pair)], share[[0, -1]], share[1:-1]) for pair in pairs]
    every = [photos, *ways]
    together = Cameras(torch.cat([c.cam_from_world for c in every]), torch.cat([c.K for c in every]), photos.width, photos.height)
    return together.to(dtype=torch.float32)


def _believed(scene: SplatScene, camera: Cameras, farthest: float) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W 3"]]:
    """Rendered depth where there is a surface (0 elsewhere), and the colours."""
    out = scene.render(camera)
    z = out.depth[0].cpu()
    return torch.where(believed(z, out.alpha[0].cpu(), camera, farthest), z, 0.0), out.color[0].cpu().nan_to_num(0.0).clamp(0, 1)


def believed(z: Float[Tensor, "H W"], alpha: Float[Tensor, "H W"], camera: Cameras, farthest: float) -> Bool[Tensor, "H W"]:
    """Where a rendered depth is that of a surface: solid, no jump, no further than `farthest`."""
    jump = torch.zeros_like(z)
    for axis in (0, 1):
        step = z.diff(dim=axis).abs()
        first, last = (0, 0, 0, 1) if axis == 0 else (0, 1, 0, 0), (0, 0, 1, 0) if axis == 0 else (1, 0, 0, 0)
        jump = torch.maximum(jump, torch.maximum(torch.nn.functional.pad(step, first), torch.nn.functional.pad(step, last)))
    # a surface seen at an angle steps, too: by its depth over the focal length and the tangent of that angle
    slope = z / float(camera.K[0, 0, 0]) / GRAZING
    return (alpha > SOLID) & (jump < torch.maximum(EDGE * z, slope)) & (z > 0) & (z < farthest) & torch.isfinite(z)
