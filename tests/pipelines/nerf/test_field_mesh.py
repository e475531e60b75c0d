"""A field's surface as a mesh, against closed forms: where it is, closed, facing outward, cut at bounds, coloured as it is seen; in each kind of space."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from handful.recon.errors import ConfigError, HandfulError
from handful.recon.field.scene import FieldScene
from handful.recon.field.space import BoxSpace, Space
from handful.recon.field.surface import above_level, level_density, natural_lattice, world_lattice
from handful.recon.mesh import Mesh
from handful.recon.sh import sh_basis
from torch import Tensor

from .known_fields import BOX, CONTRACTED, FRUSTUM, LOG_LEVEL, SH0, around, ball, before, plain, scene_of

open3d = pytest.importorskip("open3d", reason="needs open3d")

from handful.pipelines.mesh import MeshOptions  # noqa: E402
from handful.pipelines.nerf.mesh import joined_slabs, mesh_field  # noqa: E402
from handful.pipelines.nerf.points import typical_depth  # noqa: E402

LEVEL = 1 - math.exp(-math.exp(LOG_LEVEL) / 128)  # at 128 samples to an edge
SMALL = MeshOptions(resolution=64, smallest=0)
# center and radius: inside, before the camera, and from the middle far into the shell
BALLS = [(BOX, (0.4, -0.1, 0.9), 0.9), (FRUSTUM, (0.2, -0.1, 3.0), 0.8), (CONTRACTED, (0.3, -0.2, 1.0), 0.6), (CONTRACTED, (0.5, -0.2, 1.1), 1.9)]


def edges(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Directed edges, and for each how often it is there the other way round."""
    e = np.concatenate([mesh.triangles[:, [i, (i + 1) % 3]] for i in range(3)]).astype(np.int64)
    n = len(mesh.vertices)
    key, back = e[:, 0] * n + e[:, 1], e[:, 1] * n + e[:, 0]
    assert len(np.unique(key)) == len(key), "each edge once in each direction"
    return e, np.isin(key, back)


def is_closed(mesh: Mesh) -> bool:
    return bool(edges(mesh)[1].all())


def volume(mesh: Mesh) -> float:
    """Positive where triangles face outward (divergence theorem)."""
    a, b, c = (mesh.vertices[mesh.triangles[:, i]] for i in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


def local_voxel(scene: FieldScene, at: np.ndarray, resolution: int) -> np.ndarray:
    """The longest edge, in the world, of voxels that are even in the cube."""
    cube = scene.space.to_cube(torch.from_numpy(at).float())
    ends = [scene.space.to_world(cube + a / resolution) for a in torch.eye(3)]
    return torch.stack([torch.linalg.vector_norm(e - torch.from_numpy(at).float(), dim=1) for e in ends]).amax(0).numpy()


@pytest.mark.parametrize(("space", "center", "radius"), BALLS)
def test_a_ball_is_where_it_is(space: Space, center: tuple[float, float, float], radius: float) -> None:
    scene = scene_of(space, ball(center, radius))
    mesh = mesh_field(scene, SMALL, level=LEVEL)
    off = np.abs(np.linalg.norm(mesh.vertices - np.array(center), axis=1) - radius)
    voxel = local_voxel(scene, mesh.vertices, 64)
    assert (off / voxel).max() < 0.15 and np.median(off / voxel) < 0.03
    assert is_closed(mesh) and len(mesh) > 1000
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.02), "and faces outward"
    assert np.abs(mesh.colors - [0.8, 0.3, 0.1]).max() < 1e-3


def test_what_is_far_is_coarse_unless_bounds_are_given() -> None:
    """In the shell of a contracted space voxels grow; in bounds they are even in the world, as many as asked for along the longest edge."""
    center, radius = (0.5, -0.2, 1.1), 1.9
    scene = scene_of(CONTRACTED, ball(center, radius))
    whole = mesh_field(scene, SMALL, level=LEVEL)
    near, far = (local_voxel(scene, np.array([p]), 64)[0] for p in ((0.3, -0.2, 1.2), (0.5, -0.2, 3.0)))
    assert near == pytest.approx(4 / 64, rel=1e-3) and far > 3 * near
    bounds = (-1.5, -2.2, -0.9, 2.5, 1.8, 3.1)
    even = mesh_field(scene, SMALL, bounds, LEVEL)
    off = np.abs(np.linalg.norm(even.vertices - np.array(center), axis=1) - radius)
    assert off.max() < 0.15 * 4 / 64 and is_closed(even) and len(even) > 1.3 * len(whole)
    # on grid lines of the world: of each vertex two coordinates are whole
    steps = (even.vertices - np.array(bounds[:3])) / (4 / 64)
    assert ((np.abs(steps - steps.round()) < 1e-3).sum(1) >= 2).all()


def test_bounds_cut() -> None:
    scene = scene_of(BOX, ball((0.3, -0.2, 1.0), 0.9))
    bounds = (-0.9, -1.4, 1.0, 1.5, 1.0, 2.2)  # the upper half
    mesh = mesh_field(scene, SMALL, bounds, LEVEL)
    assert mesh.vertices[:, 2].min() == pytest.approx(1.0, abs=1e-6) and mesh.vertices[:, 2].max() == pytest.approx(1.9, abs=0.01)
    e, other = edges(mesh)
    assert (~other).sum() > 50 and np.abs(mesh.vertices[e[~other]][..., 2] - 1.0).max() < 1e-6, "open at the bounds alone"
    closed = mesh_field(scene, MeshOptions(resolution=64, smallest=0, watertight=True), bounds, LEVEL)
    assert is_closed(closed) and closed.vertices[:, 2].min() == pytest.approx(1.0, abs=1e-6)
    assert volume(closed) == pytest.approx(2 / 3 * math.pi * 0.9**3, rel=0.02)


def test_a_slab_through_an_object_s_box_ends_with_it() -> None:
    """Beyond a box there is nothing, so its matter is closed there; in a frustum, where the field only ends, it stays open unless asked for."""

    def depth(at: Tensor) -> Tensor:
        return 0.5 - (at[:, 2] - 1.1).abs()

    mesh = mesh_field(scene_of(BOX, depth), SMALL, level=LEVEL)
    low, high = (BOX.center + s * BOX.size / 2 for s in (-1, 1))
    assert is_closed(mesh) and volume(mesh) == pytest.approx(3 * 3 * 1.0, rel=0.01)
    for axis in (0, 1):
        assert mesh.vertices[:, axis].min() == pytest.approx(float(low[axis]), abs=1e-5) and mesh.vertices[:, axis].max() == pytest.approx(float(high[axis]), abs=1e-5)

    def wall(at: Tensor) -> Tensor:
        return at[:, 2] - 2.5

    scene = scene_of(FRUSTUM, wall)
    open_wall = mesh_field(scene, SMALL, level=LEVEL)
    assert np.abs(open_wall.vertices[:, 2] - 2.5).max() < 0.02 and not is_closed(open_wall)
    a, b, c = (open_wall.vertices[open_wall.triangles[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] < 0).all(), "towards the camera"
    solid = mesh_field(scene, MeshOptions(resolution=64, smallest=0, watertight=True), level=LEVEL)
    assert is_closed(solid) and volume(solid) > 0 and solid.vertices[:, 2].max() == pytest.approx(3 * typical_depth(scene), rel=1e-4), "as far as --reach"


@pytest.mark.parametrize("closed", [False, True])
def test_slabs_make_the_same_as_one_piece(closed: bool) -> None:
    """Of noise, where no two cells are alike; against scikit-image's marching cubes as well, which must find the same crossings of grid lines."""
    from skimage.measure import marching_cubes

    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(13, 11, 9, generator=rng)
    scene = scene_of(BoxSpace(torch.zeros(3), 1.0), lambda at: noise[tuple(((at + 0.5) * torch.tensor([12, 10, 8])).round().long().T)], steepness=1.0)
    lattice = world_lattice(scene.space, (-0.5, -0.5, -0.5, 0.5, 0.5, 0.5), 12)
    lattice = type(lattice)(lattice.space, lattice.lower, lattice.upper, (13, 11, 9), True)
    level = math.exp(LOG_LEVEL)
    whole = [joined_slabs(above_level(scene, lattice, level, closed))]
    pieces = list(above_level(scene, lattice, level, closed, slab=250))
    assert len(pieces) > 4 and max(p.numel() for p in pieces) < 600
    one = next(above_level(scene, lattice, level, closed))
    assert torch.equal(torch.cat([pieces[0], *(p[1:] for p in pieces[1:])]), one)
    whole.append(joined_slabs(pieces))

    def line_of(p: np.ndarray) -> tuple[int, ...]:
        """The edge of the grid that a vertex lies on: its nearer end, and along which axis."""
        return (*map(int, np.floor(p)), int((p % 1).argmax()))

    crossings, triangles = [], []
    for v, f in whole:
        lines = [line_of(p) for p in v]
        assert ((v % 1 > 0).sum(1) == 1).all() and len(set(lines)) == len(v)
        crossings.append(dict(zip(lines, v, strict=True)))
        triangles.append(sorted(sorted(lines[i] for i in face) for face in f))
    assert crossings[0].keys() == crossings[1].keys() and triangles[0] == triangles[1]
    assert max(np.abs(p - crossings[1][line]).max() for line, p in crossings[0].items()) < 1e-6
    for v, f in whole:
        assert is_closed(Mesh(v, f, v)) == closed
    theirs = marching_cubes(one.numpy(), 0.0, method="lorensen")[0]
    assert {line_of(p) for p in theirs} == set(crossings[1])
    assert max(np.abs(p - crossings[1][line_of(p)]).max() for p in theirs) < 1e-5


def test_cells_that_hold_nothing_are_never_asked() -> None:
    cells = torch.zeros(16, 16, 16, dtype=torch.bool)
    cells[:8] = True

    def two(at: Tensor) -> Tensor:
        return torch.maximum(ball((-0.5, -0.2, 1.0), 0.4)(at), ball((1.1, -0.2, 1.0), 0.4)(at))

    scene = scene_of(BOX, two, cells=cells)
    lattice = natural_lattice(BOX, 64, 1.0)
    asked = scene.field.encoding.asked  # pyright: ignore[reportAttributeAccessIssue]
    (values,) = above_level(scene, lattice, math.exp(LOG_LEVEL))
    assert torch.cat(asked)[:, 0].max() < 0.5 and len(torch.cat(asked)) == 32 * 65 * 65
    assert bool((values[33:] < 0).all()) and bool((values[:32] > 0).any())
    one = mesh_field(scene, SMALL, level=LEVEL)
    assert is_closed(one) and volume(one) == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.03)


def test_the_level_is_the_opacity_of_a_sample() -> None:
    scene = scene_of(BOX, ball((0.3, -0.2, 1.0), 0.9))
    for opacity in (0.01, 0.5, 0.99):
        assert 1 - math.exp(-level_density(scene, opacity) / scene.steps) == pytest.approx(opacity)
        # steepness 8 in the logarithm of density: the surface moves with it as that says
        radius = 0.9 - (math.log(level_density(scene, opacity)) - LOG_LEVEL) / 8
        mesh = mesh_field(scene, SMALL, level=opacity)
        assert np.linalg.norm(mesh.vertices - [0.3, -0.2, 1.0], axis=1).mean() == pytest.approx(radius, abs=0.005)


@pytest.mark.parametrize(("space", "center", "radius"), BALLS[:3])
def test_colours_are_those_seen_from_outside(space: Space, center: tuple[float, float, float], radius: float) -> None:
    """Red changes with the direction one looks in, green with the place."""
    cameras, spread = (before(), 0.02) if space is FRUSTUM else (around(center, 3.0, 12), 0.3)
    coefficients = torch.tensor([0.3, 0.9, -1.4, 0.6])

    def colors(at: Tensor) -> Tensor:
        green = torch.logit(torch.where(at[:, 0] > center[0], 0.9, 0.2))[:, None] / SH0
        none = torch.zeros(len(at), 3)
        return torch.stack([coefficients.expand(len(at), 4), torch.cat([green, none], 1), torch.zeros(len(at), 4)], 1)

    mesh = mesh_field(scene_of(space, ball(center, radius), colors, 20.0, cameras=cameras), SMALL, level=LEVEL)
    outward = (mesh.vertices - np.array(center)) / radius
    # looked at from the camera that is most nearly straight above
    to_camera = cameras.centers.numpy()[:, None] - mesh.vertices
    to_camera /= np.linalg.norm(to_camera, axis=2, keepdims=True)
    cosines = (to_camera * outward).sum(2)
    first = to_camera[cosines.argmax(0), np.arange(len(outward))]
    red = torch.sigmoid(sh_basis(torch.from_numpy(-first).float(), 1) @ coefficients).numpy()
    # the normals of so coarse a mesh are off by 4.5 degrees: 0.08, which may decide between two cameras (Cauchy and Schwarz)
    decided = (cosines.max(0) - cosines >= 0.08 * np.linalg.norm(first - to_camera, axis=2)).all(0)
    assert np.ptp(red[decided]) > spread and decided.mean() > 0.6 and np.abs(mesh.colors[decided, 0] - red[decided]).max() < 1e-3
    clear = np.abs(outward[:, 0]) > 0.5  # looked at aslant, a ray ends a little further on
    green = np.where(outward[:, 0] > 0, 0.9, 0.2)
    assert np.abs(mesh.colors[clear, 1] - green[clear]).max() < 1e-3 and np.abs(mesh.colors[:, 2] - 0.5).max() < 1e-3


def test_a_colour_is_composited_as_a_ray_would_be() -> None:
    """A thin clear coat of another colour over the ball is seen as much as it is opaque: less than half of it at the level of the mesh."""

    def colors(at: Tensor) -> Tensor:
        coat = ball((0.3, -0.2, 1.0), 0.9)(at) < 0.01
        return torch.where(coat[:, None, None], plain(0.9, 0.1, 0.1)(at), plain(0.1, 0.1, 0.9)(at))

    thin = mesh_field(scene_of(BOX, ball((0.3, -0.2, 1.0), 0.9), colors, 20.0), SMALL, level=LEVEL)
    share = (thin.colors[:, 0] - 0.1) / 0.8  # of the coat
    assert 0.1 < np.median(share) < 0.5 and np.abs(thin.colors[:, 0] + thin.colors[:, 2] - 1).max() < 1e-3


def test_small_parts_and_textures() -> None:
    def two(at: Tensor) -> Tensor:
        return torch.maximum(ball((-0.3, -0.2, 1.0), 0.5)(at), ball((1.2, -0.2, 1.0), 0.1)(at))

    scene = scene_of(BOX, two)
    assert mesh_field(scene, SMALL, level=LEVEL).vertices[:, 0].max() > 1.2
    assert mesh_field(scene, MeshOptions(resolution=64, smallest=200), level=LEVEL).vertices[:, 0].max() < 0.3
    photos = [torch.full((48, 48, 3), 0.7)] * len(scene.cameras)
    mesh = mesh_field(scene, MeshOptions(resolution=24, texture=128), level=LEVEL, photos=photos)
    assert mesh.texture is not None and mesh.texture.shape == (128, 128, 3) and mesh.uvs is not None


def test_what_cannot_be_is_said() -> None:
    scene = scene_of(BOX, ball((0.3, -0.2, 1.0), 0.9))
    for bounds in ((0, 0, 0, 1, 1, 0), (0, 0, 0, 1, 1, math.nan), (0, 0, -math.inf, 1, 1, 1)):
        with pytest.raises(ConfigError, match="--bounds takes"):
            mesh_field(scene, SMALL, bounds)
    for level in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="--level is an opacity"):
            mesh_field(scene, SMALL, level=level)
    with pytest.raises(HandfulError, match="Nothing in these bounds"):
        mesh_field(scene, SMALL, (5, 5, 5, 6, 6, 6))
    with pytest.raises(HandfulError, match="Nothing in this field"):
        mesh_field(scene_of(BOX, ball((0.3, -0.2, 1.0), -3.0)), SMALL)
    with pytest.raises(ConfigError, match="texture needs the photos"):
        mesh_field(scene, MeshOptions(texture=128))
