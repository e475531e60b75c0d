"""What every backend refuses before it draws, in one sentence each."""

from __future__ import annotations

from dataclasses import fields

from ..camera import Cameras
from ..errors import ShapeError
from ..gaussians import Gaussians
from .protocol import RasterCaps, RasterOptions

__all__ = ["check_inputs"]


def check_inputs(name: str, caps: RasterCaps, g: Gaussians, cameras: Cameras, options: RasterOptions) -> None:
    """Raises ShapeError unless shapes, dtypes and devices fit together and the backend. Values may be anything."""
    g.validate()
    dtype = str(g.means.dtype).removeprefix("torch.")
    if dtype not in caps.dtypes or g.device.type not in caps.devices:
        can = f"{' or '.join(sorted(caps.dtypes))} on {' or '.join(sorted(caps.devices))}"
        raise ShapeError(f"The {name} rasterizer takes {can}; got Gaussians of {dtype} on {g.device}.")
    tensors = {f"Gaussians.{f.name}": getattr(g, f.name) for f in fields(g)} | {"Cameras.K": cameras.K}
    if options.opacity_scale is not None:
        tensors["RasterOptions.opacity_scale"] = options.opacity_scale
    for what, t in tensors.items():
        if t.device != g.device or (what.startswith("Gaussians") and t.dtype != g.means.dtype):
            raise ShapeError(f"{what} is {str(t.dtype).removeprefix('torch.')} on {t.device}, the means are {dtype} on {g.device}; bring all to one.")
    if options.near < 0 or (options.sh_degree is not None and options.sh_degree < 0):
        raise ShapeError(f"RasterOptions need near and sh_degree of 0 or more; got {options.near:g} and {options.sh_degree}.")
    if options.surfels and options.antialiased:
        raise ShapeError("RasterOptions cannot have both surfels and antialiased: a surfel has its least size in pixels already.")
    v, shapes = cameras.cam_from_world.shape[0], (tuple(cameras.cam_from_world.shape), tuple(cameras.K.shape))
    if shapes != ((v, 4, 4), (v, 3, 3)):
        raise ShapeError(f"Cameras need cam_from_world (V,4,4) and K (V,3,3); got {shapes[0]} and {shapes[1]}.")
    if cameras.width < 1 or cameras.height < 1:
        raise ShapeError(f"Cameras need a positive image size; got {cameras.width}x{cameras.height}.")
    if cameras.device != g.device:
        raise ShapeError(f"Gaussians are on {g.device} and cameras on {cameras.device}; move both to one device.")
    if options.opacity_scale is not None and tuple(options.opacity_scale.shape) != (len(g),):
        raise ShapeError(f"RasterOptions.opacity_scale: expected shape ({len(g)},), got {tuple(options.opacity_scale.shape)}.")
