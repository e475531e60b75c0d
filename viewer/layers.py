"""Layers as pictures: of the splats by the rasterizer, of a radiance field along rays, piece by piece. No viser here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.colormap import colorize_depth, colorize_normal
from ..recon.edits import EditStep, carry_between
from ..recon.field.scene import FieldScene
from ..recon.gaussians import Gaussians
from ..recon.raster.protocol import Rasterizer, RasterOptions

__all__ = ["LAYERS", "Drawing", "FieldDrawing", "SplatDrawing", "draw_layer", "finished"]

# channels of a layer, of (red, green, blue, opacity, depth, normal x, y, z)
LAYERS = {"color": (0, 1, 2), "depth": (3, 4), "normal": (3, 5, 6, 7), "opacity": (3,)}
SOLID = 0.3  # from this opacity on depth and normals are shown in full
COARSE = 4  # times smaller along each side: the splats' first picture
COARSE_PIXELS = 8000  # the least that a field's first picture has: some 100 x 80, a few hundredths of a second on two cores
RAYS = 8192  # of a field between two looks at whether something else is more urgent

Picture = Float[Tensor, "H W 3"]


class Drawing(Protocol):
    """What can be drawn in layers from anywhere."""

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        """(width, height) of the pictures to send one after the other for a window whose full picture has this size, coarse to fine."""
        ...

    def draw(self, camera: Cameras, layer: str, background: tuple[float, float, float]) -> Iterator[Picture | None]:
        """The picture in [0, 1], on the CPU, after any number of None: between them somebody else may be served, or the picture given up."""
        ...


@dataclass(frozen=True)
class SplatDrawing:
    """Two pictures, each in one go."""

    gaussians: Gaussians
    rasterizer: Rasterizer

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        return (max(2, round(width / COARSE)), max(2, round(height / COARSE))), (width, height)

    def draw(self, camera: Cameras, layer: str, background: tuple[float, float, float]) -> Iterator[Picture | None]:
        yield draw_layer(self.gaussians, camera, layer, self.rasterizer, background)


@dataclass(frozen=True)
class FieldDrawing:
    """Pictures of twice the width each time, the first of one to four times COARSE_PIXELS.

    Attributes:
        steps: the page's edits, whose world its cameras are in; the field stays in the world that it was learned in. Only edits that move the world count.
        shrink: how many times smaller than the window the last picture is along each side.
    """

    field: FieldScene
    steps: Sequence[EditStep] = ()
    shrink: int = 1

    def sizes(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        times = [float(self.shrink)]
        while width * height / times[0] ** 2 > 4 * COARSE_PIXELS:
            times.insert(0, 2 * times[0])
        return tuple((max(2, round(width / t)), max(2, round(height / t))) for t in times)

    def draw(self, camera: Cameras, layer: str, background: tuple[float, float, float]) -> Iterator[Picture | None]:
        carry = carry_between(self.steps, ())
        camera = camera if carry is None else carry.apply_to_cameras(camera)
        field, channels, parts = replace(self.field, background=background), list(LAYERS[layer]), []
        for part in field.strips(camera, layer == "normal", RAYS):
            if parts:
                yield None
            parts.append(part[:, channels].cpu())
        yield _shown(torch.cat(parts).view(camera.height, camera.width, -1), layer)


def finished(drawn: Iterator[Picture | None]) -> Picture:
    """The picture, however long it takes."""
    return next(picture for picture in drawn if picture is not None)


@torch.no_grad()
def draw_layer(
    gaussians: Gaussians, camera: Cameras, layer: str, rasterizer: Rasterizer, background: tuple[float, float, float]
) -> Float[Tensor, "H W 3"]:
    """One layer of the splats as a picture in [0, 1], on the CPU."""
    options = RasterOptions(background=background, normal=layer == "normal", camera_grads=False)
    out = rasterizer.render(gaussians, camera.to(gaussians.device, torch.float32), options)
    values = torch.cat([out.color[0], out.alpha[0, ..., None], out.depth[0, ..., None], *([out.normal[0]] if out.normal is not None else [])], -1)
    return _shown(values[..., list(LAYERS[layer])].cpu(), layer)


def _shown(values: Float[Tensor, "H W C"], layer: str) -> Picture:
    """A layer's channels in colours."""
    if layer == "color":
        return values.nan_to_num(0.0).clamp(0, 1)
    alpha = values[..., 0]
    there = (alpha / SOLID).clamp(max=1)  # what is half clear, since the background has its colour, too, has a depth all the same
    if layer == "depth":
        return colorize_depth(values[..., 1], None, there)
    if layer == "normal":
        return colorize_normal(values[..., 1:], there)
    return alpha[..., None].expand(-1, -1, 3).clamp(0, 1)
