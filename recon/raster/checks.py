"""What every backend refuses before it draws, in one sentence each."""

from __future__ import annotations

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
    v, shapes = cameras.cam_from_world.shape[0], (tuple(cameras.cam_from_world.shape), tuple(cameras.K.shape))
    if shapes != ((v, 4, 4), (v, 3, 3)):
        raise ShapeError(f"Cameras need cam_from_world (V,4,4) and K (V,3,3); got {shapes[0]} and {shapes[1]}.")
    if cameras.width < 1 or cameras.height < 1:
        raise ShapeError(f"Cameras need a positive image size; got {cameras.width}x{cameras.height}.")
    if cameras.device != g.device:
        raise ShapeError(f"Gaussians are on {g.device} and cameras on {cameras.device}; move both to one device.")
    if options.opacity_scale is not None and tuple(options.opacity_scale.shape) != (len(g),):
        raise ShapeError(f"RasterOptions.opacity_scale: expected shape ({len(g)},), got {tuple(options.opacity_scale.shape)}.")
