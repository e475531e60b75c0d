"""A field's surface as a mesh: where its density passes a level, by marching cubes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...data.mesh_glb import vertex_normals
from ...data.mesh_open3d import keep_large_parts, level_surface, textured
from ...recon.errors import ConfigError, HandfulError
from ...recon.field.scene import FieldScene
from ...recon.field.space import BoxSpace
from ...recon.field.surface import Lattice, above_level, colors_from_outside, faced_from, level_density, natural_lattice, world_lattice
from ...recon.mesh import Mesh
from ..mesh import MeshOptions
from .points import typical_depth

__all__ = ["LEVEL", "check_bounds", "joined_slabs", "mesh_field"]

LEVEL = 0.05  # opacity of one sample: matter that a few dozen of them make solid counts; docs/field.md says what other levels do

Bounds = tuple[float, float, float, float, float, float]


def check_bounds(bounds: Bounds | None, level: float) -> None:
    """Raises ConfigError for what no mesh can have."""
    if bounds is not None and not (all(map(math.isfinite, bounds)) and all(a < b for a, b in zip(bounds[:3], bounds[3:], strict=True))):
        raise ConfigError(f"--bounds takes X0 Y0 Z0 X1 Y1 Z1 with each of the last three more than its counterpart, got {' '.join(f'{b:g}' for b in bounds)}.")
    if not 0 < level < 1:
        raise ConfigError(f"--level is an opacity between 0 and 1, got {level:g}.")


def mesh_field(
    scene: FieldScene,
    options: MeshOptions = MeshOptions(),
    bounds: Bounds | None = None,
    level: float = LEVEL,
    photos: Sequence[Float[Tensor, "H W 3"]] = (),
    progress: Callable[[str, float], None] | None = None,
) -> Mesh:
    """The surface on which one of the renderer's samples is as opaque as `level`, in the field's world.

    Args:
        options: resolution: voxels along the longest edge of what is looked at; reach, of a frustum or of all around: no further than so many times the median depth
            of what the photos see; watertight: what is looked at ends in a wall through matter, where it would be open; nothing else has to be closed.
        bounds: a box of the world, its lower and upper corner, meshed in even steps; None = all of the field, in even steps of its cube: of an object's box that is the
            same, in a frustum and all around voxels grow with the distance, as the field itself grows coarse there.
        photos: those of scene.cameras; needed for a texture.
        progress: called with what is done and the share of it.

    Raises ConfigError for impossible bounds or levels and a texture without photos, BackendUnavailable without open3d, HandfulError where there is no surface.
    """
    check_bounds(bounds, level)
    if options.texture and len(photos) != len(scene.cameras):
        raise ConfigError("A texture needs the photos; mesh a scene folder, or leave --texture away.")
    tell = progress or (lambda what, share: None)
    if bounds is None:
        lattice = natural_lattice(scene.space.to("cpu"), options.resolution, options.reach * typical_depth(scene))
    else:
        lattice = world_lattice(scene.space, bounds, options.resolution)
    # of an object's box all is there: beyond it there is nothing
    closed = options.watertight or (bounds is None and isinstance(scene.space, BoxSpace))
    slabs = above_level(scene, lattice, level_density(scene, level), closed)
    places, triangles = joined_slabs(slabs, lambda layers: tell("marching", min(1.0, layers / lattice.shape[0])))
    if not len(triangles):
        where = "these bounds" if bounds is not None else "this field"
        raise HandfulError(f"Nothing in {where} is as opaque as --level {level:g}; try a lower one{' or other --bounds' if bounds is not None else ''}.")
    mesh = Mesh(_in_world(lattice, places - closed), triangles.astype(np.int32), np.zeros_like(places))
    mesh = _colored(scene, keep_large_parts(mesh, options.smallest), tell)
    if options.texture:
        tell("laying the texture", 0.0)
        mesh = textured(mesh, torch.stack(list(photos)), scene.cameras, options.texture)
    return mesh


def joined_slabs(
    slabs: Iterable[Float[Tensor, "T A B"]], tell: Callable[[int], None] = lambda layers: None
) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "M 3"]]:
    """The level surface (`level_surface`) of slabs along the first axis, each of which begins with the layer that the one before ended with, as of one piece: vertices on
    such a layer are those of both. `tell`: is told the layers that are done."""
    vertices, triangles = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)]
    first = count = 0
    seam, seam_index = np.zeros((0, 2)), np.zeros(0, np.int64)
    for slab in slabs:
        new, faces = level_surface(slab.numpy())
        index = count + np.arange(len(new))
        shared = np.flatnonzero(new[:, 0] == 0)
        # both sides found these between the same two numbers of the same layer: equal to the last bit
        _, which = np.unique(np.concatenate([seam, new[shared, 1:]]), axis=0, return_inverse=True)
        known = np.full(which.max(initial=-1) + 1, -1)
        known[which.reshape(-1)[: len(seam)]] = seam_index
        before = known[which.reshape(-1)[len(seam) :]]
        own = np.ones(len(new), bool)
        own[shared[before >= 0]] = False
        index[own] = count + np.arange(own.sum())
        index[shared[before >= 0]] = before[before >= 0]
        last = np.flatnonzero(new[:, 0] == len(slab) - 1)
        seam, seam_index = new[last, 1:], index[last]
        vertices.append(new[own] + np.array([first, 0, 0]))
        triangles.append(index[faces])
        count, first = count + int(own.sum()), first + len(slab) - 1
        tell(first)
    return np.concatenate(vertices), np.concatenate(triangles)


def _in_world(lattice: Lattice, places: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """A wall where the lattice ends stands on its last grid points."""
    within = torch.from_numpy(places.clip(0, np.array(lattice.shape) - 1)).float()
    return lattice.in_world(within).double().numpy()


def _colored(scene: FieldScene, mesh: Mesh, tell: Callable[[str, float], None]) -> Mesh:
    tell("looking at its colours", 0.0)
    at, normals = (torch.from_numpy(x).float().to(scene.cells.device) for x in (mesh.vertices, vertex_normals(mesh.vertices, mesh.triangles)))
    return Mesh(mesh.vertices, mesh.triangles, colors_from_outside(scene, at, faced_from(scene, at, normals)).double().cpu().numpy())
