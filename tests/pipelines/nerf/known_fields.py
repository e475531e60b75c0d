"""Fields of closed form, given in the world: what is solid, and what colour it has."""

from __future__ import annotations

from collections.abc import Callable

import torch
from handful.recon.camera import Cameras
from handful.recon.field.contracted import ContractedSpace
from handful.recon.field.radiance import RadianceField
from handful.recon.field.scene import FieldScene
from handful.recon.field.space import BoxSpace, FrustumSpace, Space
from handful.recon.framing import look_at
from torch import Tensor, nn

SH0 = 0.28209479177387814  # of the constant harmonic
LOG_LEVEL = 3.0  # of the density where the depth below the surface is 0


class Places(nn.Module):
    """Every place is its own feature. Keeps those that were asked for."""

    features = 3

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Tensor] = []

    def forward(self, xyz: Tensor) -> Tensor:
        self.asked.append(xyz)
        return xyz


class Known(nn.Module):
    """Stands in for the decoder. `depth`: how far below the surface places in the world are (negative outside); `raw_colors`: N, 3, K coefficients."""

    degree, bands = 1, 4

    def __init__(self, space: Space, depth: Callable[[Tensor], Tensor], raw_colors: Callable[[Tensor], Tensor], steepness: float) -> None:
        super().__init__()
        self.space, self.depth, self.raw_colors, self.steepness = space, depth, raw_colors, steepness

    def forward(self, xyz: Tensor) -> Tensor:
        at = self.space.to_world(xyz)
        return torch.cat([(LOG_LEVEL + self.steepness * self.depth(at))[:, None], self.raw_colors(at).flatten(1)], 1)


def plain(*rgb: float) -> Callable[[Tensor], Tensor]:
    """One colour from everywhere."""
    return lambda at: torch.cat([torch.logit(torch.tensor(rgb))[:, None] / SH0, torch.zeros(3, 3)], 1).expand(len(at), 3, 4)


def ball(center: tuple[float, float, float], radius: float) -> Callable[[Tensor], Tensor]:
    return lambda at: radius - torch.linalg.vector_norm(at - torch.tensor(center), dim=1)


def around(center: tuple[float, float, float], distance: float, count: int = 5, size: int = 48) -> Cameras:
    turn = torch.arange(count) / count * 2 * torch.pi
    eyes = torch.tensor(center) + distance * torch.nn.functional.normalize(torch.stack([turn.cos(), turn.sin(), 0.3 * (-1.0) ** torch.arange(count)], 1), dim=1)
    K = torch.tensor([[1.2 * size, 0, size / 2], [0, 1.2 * size, size / 2], [0, 0, 1]]).expand(count, 3, 3).contiguous()
    return Cameras(look_at(eyes, torch.tensor(center).expand(count, 3), torch.tensor([0.0, 0, 1])), K, size, size)


def before(size: int = 48) -> Cameras:
    """At the origin and beside it, along z, y down."""
    T = torch.eye(4).repeat(2, 1, 1)
    T[1, 0, 3] = -0.2
    return Cameras(T, torch.tensor([[size * 1.0, 0, size / 2], [0, size * 1.0, size / 2], [0, 0, 1]]).expand(2, 3, 3).contiguous(), size, size)


BOX = BoxSpace(torch.tensor([0.3, -0.2, 1.0]), 3.0)
FRUSTUM = FrustumSpace(before()[0], 1.0)
CONTRACTED = ContractedSpace(torch.tensor([0.3, -0.2, 1.0]), 1.0)


def scene_of(
    space: Space,
    depth: Callable[[Tensor], Tensor],
    colors: Callable[[Tensor], Tensor] = plain(0.8, 0.3, 0.1),
    steepness: float = 8.0,
    steps: float = 128.0,
    cells: Tensor | None = None,
    cameras: Cameras | None = None,
) -> FieldScene:
    field = RadianceField(Places(), Known(space, depth, colors, steepness)).ready()  # pyright: ignore[reportArgumentType]
    cells = torch.ones(16, 16, 16, dtype=torch.bool) if cells is None else cells
    cameras = (before() if isinstance(space, FrustumSpace) else around((0.3, -0.2, 1.0), 3.0)) if cameras is None else cameras
    return FieldScene(field, space, cells, steps, cameras, tuple(f"{k}" for k in range(len(cameras))), (1.0, 1.0, 1.0))
