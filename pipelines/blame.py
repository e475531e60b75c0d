"""Where the error of a test photo lies: on what was measured, on what was only seen, on what was hidden, or where nobody looked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.depth import DepthMap
from ..recon.scene import Scene

__all__ = ["REGIONS", "error_shares", "regions", "training_depths"]

REGIONS = ("outside", "hidden", "unmeasured", "measured")
SAME = 0.03  # relative depth by which a point may lie behind what a training photo shows and still be that


def training_depths(scene: Scene) -> list[Float[Tensor, "H W"]]:
    """The scene's depth as each training photo sees it."""
    return [scene.render(scene.cameras[i]).depth[0].detach().cpu() for i in range(len(scene.names))]


def regions(
    camera: Cameras, z: Float[Tensor, "H W"], training: Cameras, shown: Sequence[Float[Tensor, "H W"]], depth: Sequence[DepthMap]
) -> dict[str, Bool[Tensor, "H W"]]:
    """Parts a test picture by the scene's own depth z; every pixel is in one part.

    outside: in no training photo's frame. hidden: in a frame, but each photo shows something nearer (an
    empty one hides nothing). unmeasured: shown by a photo, in none with a valid
    `depth`. measured: shown by a photo whose depth is valid there. Where the scene is empty, its median depth stands in.
    """
    h, w = z.shape
    known = z[z > 0]
    xyz = camera.unproject_depth(torch.where(z > 0, z, known.median() if len(known) else torch.ones(()))[None]).reshape(-1, 3)
    inside = torch.zeros(h * w, dtype=torch.bool)
    seen, measured = inside.clone(), inside.clone()
    for j, there in enumerate(shown):
        uv, depth_j = training[j].project(xyz)
        x, y = uv[0].nan_to_num(-1.0).clamp(-1, 1e6).floor().long().unbind(-1)
        in_frame = (x >= 0) & (x < there.shape[1]) & (y >= 0) & (y < there.shape[0]) & (depth_j[0] > 0)
        x, y = x.clamp(0, there.shape[1] - 1), y.clamp(0, there.shape[0] - 1)
        visible = in_frame & ((there[y, x] <= 0) | (depth_j[0] < there[y, x] * (1 + SAME)))
        inside |= in_frame
        seen |= visible
        measured |= visible & depth[j].valid[y, x]
    parts = (~inside, inside & ~seen, seen & ~measured, measured)
    return {name: part.reshape(h, w) for name, part in zip(REGIONS, parts, strict=True)}


def error_shares(
    parts: dict[str, Bool[Tensor, "H W"]], render: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], mask: Float[Tensor, "H W"] | None = None
) -> dict[str, dict[str, float]]:
    """Share of the picture's area and of its squared error in each part, both adding up to 1 (0 where there is no error at all)."""
    weight = torch.ones(render.shape[:2]) if mask is None else mask
    error = (render - truth).square().mean(-1) * weight
    area, total = float(weight.sum()), float(error.sum())
    return {
        name: {
            "area": round(float(weight[part].sum()) / area, 4) if area > 0 else 0.0,
            "error": round(float(error[part].sum()) / total, 4) if total > 0 else 0.0,
        }
        for name, part in parts.items()
    }
