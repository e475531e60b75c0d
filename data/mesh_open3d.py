"""Meshes by Open3D (Zhou et al. 2018; MIT): fusion of depth maps, level surfaces, small parts, Poisson, textures, files, rays. The only file that imports open3d (extra `mesh`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.errors import BackendUnavailable, ConfigError, HandfulError
from ..recon.mesh import Mesh
from .atomic import beside, clear_leftovers, write_bytes, writing
from .mesh_glb import glb_of_mesh, vertex_normals
from .mesh_obj import obj_of_mesh

__all__ = ["MESH_SUFFIXES", "MeshRays", "check_mesh_file", "fuse_depth", "keep_large_parts", "level_surface", "need_open3d", "textured", "watertight", "write_mesh"]

MESH_SUFFIXES = (".glb", ".ply", ".obj", ".stl")
_BLOCK, _BLOCKS = 16, 2000  # voxels along a block's edge, and blocks to begin with: 80 KB each, more when they are needed
_GUTTER, _STRETCH = 2.0, 0.5  # of a texture: pixels between its pieces, and how far they may be stretched


def need_open3d() -> None:
    """Raises BackendUnavailable where it is missing."""
    _open3d()


def check_mesh_file(path: Path, texture: bool) -> None:
    """Raises ConfigError for an ending that is none of ours, and for a texture in a file that has none."""
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ConfigError(f"{path}: meshes are written as {', '.join(MESH_SUFFIXES)}; {suffix or 'no ending'} is not one of them.")
    if texture and suffix in (".ply", ".stl"):
        raise ConfigError(f"{path}: {suffix} holds no texture; use .glb or .obj, or leave --texture away.")


def _open3d() -> Any:
    try:
        import open3d
    except (ImportError, OSError) as e:  # OSError: a system library it needs is missing
        raise BackendUnavailable(f"Meshes need open3d, which cannot be imported ({e}); run `pip install 'handful[mesh]'` (or `pip install open3d`).") from e
    return open3d


def fuse_depth(views: Iterable[tuple[Cameras, Float[Tensor, "H W"], Float[Tensor, "H W 3"]]], voxel: float, truncation: float) -> Mesh:
    """The zero level of a truncated signed distance field averaged over all depth maps (Curless and Levoy 1996).

    Args:
        views: one camera, its z-depth at pixel centres (world units, 0 = none) and colours (sRGB in [0, 1]), one after the other.
        voxel, truncation: edge of a voxel, and how far from a surface it is written, world units.

    Raises HandfulError when nothing is left to make a surface of.
    """
    o3d = _open3d()
    f32 = o3d.core.float32
    # the older ScalableTSDFVolume finds no surface in Open3D 0.20
    grid = o3d.t.geometry.VoxelBlockGrid(("tsdf", "weight", "color"), (f32, f32, f32), (1, 1, 3), voxel, _BLOCK, _BLOCKS, o3d.core.Device("CPU:0"))
    any_depth = False
    for camera, depth, color in views:
        z = np.ascontiguousarray(depth.float().cpu().numpy())
        if not (z > 0).any():
            continue
        any_depth = True
        rgb = np.ascontiguousarray(color.clamp(0, 1).float().cpu().numpy())
        maps = [o3d.t.geometry.Image(o3d.core.Tensor(x)) for x in (z, rgb)]
        pose = [o3d.core.Tensor(x[0].double().cpu().numpy()) for x in (camera.K, camera.cam_from_world)]  # it cuts pixels off to whole numbers: ours
        limits = (1.0, float(z.max()) + 1.0, truncation / voxel)  # of a unit of depth, the farthest, the truncation in voxels
        grid.integrate(grid.compute_unique_block_coordinates(maps[0], *pose, *limits), *maps, *pose, *limits)
    made = grid.extract_triangle_mesh(weight_threshold=0.5) if any_depth else None
    if made is None or len(made.triangle.indices) == 0:
        raise HandfulError("The depth of this scene makes no surface at this resolution; try a finer one (--resolution), or look at its depth in the viewer.")
    return Mesh(
        made.vertex.positions.numpy().astype(np.float64), made.triangle.indices.numpy().astype(np.int32), made.vertex.colors.numpy().astype(np.float64).clip(0, 1)
    )


def level_surface(values: Float[np.ndarray, "A B C"]) -> tuple[Float[np.ndarray, "N 3"], Int[np.ndarray, "M 3"]]:
    """Where numbers on a grid pass zero: vertices, in steps from the first grid point, on the edges between grid points; triangles counter-clockwise as seen from where
    the numbers are negative. Marching cubes, by flying edges (Schroeder et al. 2015)."""
    o3d = _open3d()
    made = o3d.t.geometry.TriangleMesh.create_isosurfaces(o3d.core.Tensor(np.ascontiguousarray(values, dtype=np.float32)))
    vertices, triangles = made.vertex.positions.numpy(), made.triangle.indices.numpy()
    return vertices[:, ::-1].astype(np.float64), triangles[:, ::-1].copy()  # its first axis is z; turned round, the triangles are seen from behind


def keep_large_parts(mesh: Mesh, smallest: int) -> Mesh:
    """Without connected parts of fewer than `smallest` triangles; the largest always stays."""
    made = _to(mesh)
    part, sizes, _ = made.cluster_connected_triangles()
    part, sizes = np.asarray(part), np.asarray(sizes)
    keep: Bool[np.ndarray, "K"] = (sizes >= smallest) | (np.arange(len(sizes)) == sizes.argmax())
    made.remove_triangles_by_mask(~keep[part])
    made.remove_unreferenced_vertices()
    return _from(made)


def watertight(mesh: Mesh, depth: int = 9) -> Mesh:
    """A closed surface through the vertices (screened Poisson, Kazhdan and Hoppe 2013); where nothing was seen it is bridged. `depth`: of its octree."""
    o3d = _open3d()
    used = np.unique(mesh.triangles)  # a vertex without a triangle has no normal
    points = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(mesh.vertices[used]))
    points.normals = o3d.utility.Vector3dVector(vertex_normals(mesh.vertices, mesh.triangles)[used])
    points.colors = o3d.utility.Vector3dVector(mesh.colors[used])
    made, _ = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(points, depth=depth, scale=1.5)
    return _capped(_from(made))


def _capped(mesh: Mesh) -> Mesh:
    """Its borders closed by a fan each: the surface leaves Poisson's octree now and then."""
    edges = np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)])
    _, inverse, times = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
    border = edges[times[inverse.reshape(-1)] == 1]
    if len(border) == 0:
        return mesh
    loop = np.arange(len(mesh.vertices))
    while True:  # each vertex takes the smallest number along its border
        before = loop.copy()
        np.minimum.at(loop, border[:, 0], before[border[:, 1]])
        np.minimum.at(loop, border[:, 1], before[border[:, 0]])
        if np.array_equal(loop, before):
            break
    names, of = np.unique(loop[border[:, 0]], return_inverse=True)
    middles = [(mesh.vertices[ring].mean(0), mesh.colors[ring].mean(0)) for ring in (border[of == k, 0] for k in range(len(names)))]
    fans = np.stack([border[:, 1], border[:, 0], len(mesh.vertices) + of], 1).astype(np.int32)
    places, colors = (np.stack([m[k] for m in middles]) for k in (0, 1))
    return Mesh(np.concatenate([mesh.vertices, places]), np.concatenate([mesh.triangles, fans]), np.concatenate([mesh.colors, colors]))


def textured(mesh: Mesh, images: Float[Tensor, "V H W 3"], cameras: Cameras, size: int = 2048) -> Mesh:
    """The same with a texture, blended from the photos. Raises HandfulError where the mesh cannot be unfolded (it must be a manifold)."""
    o3d = _open3d()
    legacy = _to(mesh)
    legacy.remove_non_manifold_edges()
    legacy.remove_degenerate_triangles()
    legacy.remove_unreferenced_vertices()
    made = o3d.t.geometry.TriangleMesh.from_legacy(legacy)
    try:
        made.compute_uvatlas(size, _GUTTER, _STRETCH, parallel_partitions=8)
        pictures = [o3d.t.geometry.Image(np.ascontiguousarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy())) for image in images]
        shifted = cameras.K.double().cpu().numpy().copy()
        shifted[:, :2, 2] -= 0.5  # Open3D puts pixel centres at whole numbers
        K = [o3d.core.Tensor(k) for k in shifted]
        T = [o3d.core.Tensor(t) for t in cameras.cam_from_world.double().cpu().numpy()]
        texture = made.project_images_to_albedo(pictures, K, T, size, True)
    except (RuntimeError, AttributeError) as e:  # AttributeError: an older Open3D
        raise HandfulError(f"No texture could be laid on this mesh ({str(e).strip().splitlines()[-1]}); leave --texture away for a colour per vertex.") from e
    plain = _from(made.to_legacy())
    return replace(plain, colors=_from(legacy).colors, uvs=made.triangle.texture_uvs.numpy(), texture=texture.as_tensor().numpy()[..., :3].copy())


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Writes .glb, .ply, .obj (with its .mtl and texture) or .stl, beside and then renamed. Raises ConfigError for another ending, and for a texture in
    a .ply or .stl, which have none."""
    check_mesh_file(path, mesh.texture is not None)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "is a folder", str(path))
    suffix = path.suffix.lower()
    if suffix == ".glb":
        write_bytes(path, glb_of_mesh(mesh))
        return
    if suffix == ".obj":
        for name, content in obj_of_mesh(mesh, path.stem).items():  # what it refers to first
            write_bytes(path.with_name(name), content)
        return
    clear_leftovers(path.parent)
    partial = beside(path).with_suffix(suffix)  # Open3D goes by the ending
    try:
        if not _open3d().io.write_triangle_mesh(str(partial), _to(mesh, normals=True)) or not partial.is_file():
            raise HandfulError(f"Cannot write {path}: open3d could not; is the disk full?")
        with writing(path):
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class MeshRays:
    """Rays against a mesh's triangles and exact distances to them (Embree, float32)."""

    def __init__(self, vertices: Float[np.ndarray, "N 3"], triangles: Int[np.ndarray, "M 3"]) -> None:
        self._core = _open3d().core
        self._scene = _open3d().t.geometry.RaycastingScene()
        self._scene.add_triangles(self._core.Tensor(vertices.astype(np.float32)), self._core.Tensor(triangles.astype(np.uint32)))

    def cast(
        self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]
    ) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """First hit of each ray: its distance in units of the direction's length (inf = none), and its triangle (-1 = none). Both faces count."""
        hit = self._scene.cast_rays(self._core.Tensor(np.concatenate([origins, directions], 1).astype(np.float32)))
        t, triangle = hit["t_hit"].numpy(), hit["primitive_ids"].numpy().astype(np.int64)
        return t, np.where(np.isfinite(t), triangle, -1)

    def nearest(self, points: Float[np.ndarray, "N 3"]) -> tuple[Float[np.ndarray, "N"], Int[np.ndarray, "N"]]:
        """Distance from each point to the nearest place on any triangle, and that triangle."""
        query = points.astype(np.float32)
        found = self._scene.compute_closest_points(self._core.Tensor(query))
        return np.linalg.norm(found["points"].numpy() - query, axis=1), found["primitive_ids"].numpy().astype(np.int64)


def _from(made: Any) -> Mesh:
    vertices, triangles = np.asarray(made.vertices), np.asarray(made.triangles)
    colors = np.asarray(made.vertex_colors) if made.has_vertex_colors() else np.full_like(vertices, 0.5)
    return Mesh(vertices.astype(np.float64), triangles.astype(np.int32), colors.astype(np.float64))


def _to(mesh: Mesh, normals: bool = False) -> Any:
    o3d = _open3d()
    made = o3d.geometry.TriangleMesh(o3d.utility.Vector3dVector(mesh.vertices), o3d.utility.Vector3iVector(mesh.triangles))
    made.vertex_colors = o3d.utility.Vector3dVector(mesh.colors)
    if normals:
        made.compute_vertex_normals()
    return made
