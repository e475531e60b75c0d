"""Whether a scan's outlines lie on a photo's edges: needs neither parallax nor exact camera motion, and is not misled by what moved between photos.

After Levinson and Thrun 2013, "Automatic online calibration of cameras and lasers" (section III): returns before a step in depth should fall where the picture
changes; in place more of them do than with the scan shifted in the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from ...recon.camera import Cameras
from ...recon.neighbours import nearest
from ...recon.scan.between import returns_in_view
from ...recon.scan.sight import Returns, sampled
from ...recon.sweeps import Sweep, world_returns

__all__ = ["outline_contrast", "returns_of_photos"]

SHIFT = 0.03  # of the picture's width: where the outlines would lie by chance
AROUND = 8  # neighbours in the picture that a step is looked for among
STEP, FULL = 0.05, 0.35  # relative difference of depth where a step begins, and where it counts in full
SPREAD, FADE = 4, 0.7  # an edge is felt so many pixels (of the given picture) away, each time weaker by this
MOST = 4.0  # times the mean: one bold edge must not outvote the rest
MOST_RETURNS, MOST_SEEN = 200_000, 30_000  # of a scan, and of what a photo sees of it, evenly taken: more outlines say no more
LEAST = 100  # returns before a step, all photos together: fewer say nothing


def outline_contrast(images: Iterable[Float[Tensor, "h w 3"]], cameras: Cameras, returns: Sequence[Float[Tensor, "N 3"]]) -> float | None:
    """How much stronger the photos' edges are under the scan's outlines than beside them, by 3 % of the picture's width to the four sides; about 1 where the
    scan lies elsewhere, None where it has too few outlines.

    Args:
        images: of any size, each of its camera's shape; one is looked at after the other.
        returns: per photo, the world points to hold against it: of the scan of its moment, where things move.
    """
    here = count = 0.0
    beside = torch.zeros(4, dtype=torch.float64)
    ways = SHIFT * cameras.width * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    for i, (image, xyz) in enumerate(zip(images, returns, strict=True)):
        seen, _ = returns_in_view(cameras[i], xyz)
        seen = seen.kept(torch.arange(0, len(seen), max(1, -(-len(seen) // MOST_SEEN))))
        if len(seen) <= AROUND:
            continue
        weight = _steps(seen)
        at, weight = seen.uv[weight > 0], weight[weight > 0]
        edges, size = _edges(image)[..., None], torch.tensor([image.shape[1] / cameras.width, image.shape[0] / cameras.height])
        here += float((weight * sampled(edges, at * size)[:, 0]).sum())
        beside += torch.stack([(weight * sampled(edges, (at + way) * size)[:, 0]).sum().double() for way in ways])
        count += len(weight)
    mean = float(beside.mean())
    return here / mean if count >= LEAST and mean > 0 else None


def returns_of_photos(cameras: Cameras, sweeps: Sequence[Sweep]) -> list[Float[Tensor, "N 3"]]:
    """For each photo the returns (float64) of the scan that was taken nearest to it, or of all together where nobody wrote down from where."""
    if len(sweeps) == 1 or not all(s.origin_known for s in sweeps):
        return [world_returns(sweeps, MOST_RETURNS)] * len(cameras)
    places = torch.stack([s.world_from_sensor[:3, 3].double() for s in sweeps])
    nearest_to = [int((places - eye).norm(dim=-1).argmin()) for eye in cameras.centers.double()]
    worlds = {k: world_returns([sweeps[k]], MOST_RETURNS) for k in set(nearest_to)}
    return [worlds[k] for k in nearest_to]


def _steps(seen: Returns) -> Float[Tensor, "n"]:
    """How much nearer each return is than the furthest beside it, 0 to 1."""
    flat = torch.cat([seen.uv, torch.zeros_like(seen.uv[:, :1])], -1)
    index, _ = nearest(flat, flat, AROUND + 1)
    step = (seen.z[index] / seen.z[:, None]).max(1).values - 1
    return ((step - STEP) / (FULL - STEP)).clamp(0, 1)


def _edges(image: Float[Tensor, "h w 3"]) -> Float[Tensor, "h w"]:
    """Strength of the picture's edges, fading with the distance from them; 1 on the mean."""
    grey = avg_pool2d(pad(image.mean(-1)[None, None], (1, 1, 1, 1), mode="replicate"), 3, 1)
    across = pad(grey[..., 2:] - grey[..., :-2], (1, 1, 0, 0))
    down = pad(grey[..., 2:, :] - grey[..., :-2, :], (0, 0, 1, 1))
    felt = wave = (across.square() + down.square()).sqrt()
    for _ in range(SPREAD):
        wave = max_pool2d(wave, 3, 1, 1) * FADE
        felt = torch.maximum(felt, wave)
    return (felt / felt.mean().clamp_min(1e-6)).clamp(max=MOST)[0, 0]
