"""Small corrections of the cameras, learned with the Gaussians."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.optim import SparseAdam
from ...recon.se3 import se3_exp

__all__ = ["CameraCorrections"]


class CameraCorrections:
    """A twist per camera (translation in `unit`s, rotation vector in radians) on top of the given ones. With lr 0 the cameras stay as they are."""

    def __init__(self, cameras: Cameras, unit: float, lr: float) -> None:
        self.cameras, self.active = cameras, lr > 0
        self.delta: Float[Tensor, "V 6"] = torch.zeros(len(cameras), 6, device=cameras.device).requires_grad_(self.active)
        self._scale = torch.tensor([unit] * 3 + [1.0] * 3, device=cameras.device)
        self._adam = SparseAdam({"delta": self.delta}, lr)

    def now(self, detached: bool = False) -> Cameras:
        if not self.active:
            return self.cameras
        delta = self.delta.detach() if detached else self.delta
        return replace(self.cameras, cam_from_world=se3_exp(delta * self._scale) @ self.cameras.cam_from_world)

    @torch.no_grad()
    def step(self) -> None:
        if self.active:
            self._adam.step(None)
            self._adam.zero_grad()

    def state(self) -> dict[str, Tensor]:
        return {"delta": self.delta.detach().clone()} | {f"adam.{k}": v.clone() for k, v in self._adam.state_dict().items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises KeyError for what is missing."""
        self.delta.data.copy_(tensors["delta"])
        self._adam.load_state_dict({k[5:]: v.to(self.delta.device) for k, v in tensors.items() if k.startswith("adam.")})
