"""The Gaussian splatting run: one loop for every method; what differs lies in the config, the terms and the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.errors import CheckpointError
from ...recon.gaussians import Gaussians
from ...recon.metrics import psnr
from ...recon.raster.protocol import RasterOptions, RenderOutput
from ...recon.raster.registry import get_rasterizer
from ...recon.scene import SplatScene
from ...recon.se3 import matrix_from_quat
from ...recon.sh import sh_dc_from_rgb
from ..pace import Paced
from ..protocol import Start
from .columns import columns_of
from .config import SplatConfig
from .corrections import CameraCorrections
from .field import Field
from .motion import MOTIONS
from .photos import Photos, background_of
from .refine import REFINEMENTS, RefineContext
from .seed import seed_gaussians
from .surface import facing
from .terms import TERMS, StepContext

__all__ = ["SplatMethod", "SplatRun"]


class SplatMethod:
    def __init__(self, config: SplatConfig) -> None:
        self.config = config

    def seed(self, start: Start) -> Gaussians:
        gaussians = seed_gaussians(start.init.capture, start.depth, self.config.seed)
        cameras = start.init.capture.cameras
        return facing(gaussians, cameras).flattened() if self.config.surfels and cameras is not None else gaussians

    def start(self, start: Start, gaussians: Gaussians | None = None, max_seconds: float | None = None) -> SplatRun:
        return SplatRun(self.config, start, gaussians if gaussians is not None else self.seed(start), max_seconds)


class SplatRun(Paced):
    """See `Run` in pipelines/protocol.py. Results depend on config, start and thread count only, not on interruptions."""

    def __init__(self, config: SplatConfig, start: Start, gaussians: Gaussians, max_seconds: float | None = None) -> None:
        super().__init__(config.optim.steps_for(len(start.init.capture.names)), max_seconds)
        self.config, self.device = config, start.device
        self.rasterizer = get_rasterizer(config.rasterizer, start.device)
        self.names = start.init.capture.names
        self.photos = Photos.of(start)
        self.background = background_of(self.photos, start.init.capture.white_background, config.background)
        self.seed, self.rng = start.seed, torch.Generator().manual_seed(start.seed)
        self.order: list[int] = []
        moves = start.estimated_cameras or config.optim.move_given_cameras
        self.corrections = CameraCorrections(self.photos.cameras, self.photos.scene_depth, config.optim.lr_camera if moves else 0.0)
        self.fields = [self._field(g.to(start.device)) for g in _draws(gaussians, config.fields, start.seed)]

    # -- what the caller sees ------------------------------------------------------------------------------------

    @property
    def field(self) -> Field:
        """The one that becomes the scene."""
        return self.fields[0]

    @property
    def size(self) -> int:
        return len(self.field)

    @property
    def images(self) -> Tensor:
        return self.photos.images

    def snapshot(self) -> SplatScene:
        with self._lock:
            with torch.no_grad():
                gaussians = self.field.gaussians().clone()
            cameras = self.corrections.now(detached=True)
            keep = 1.0 - self._dropout()  # trained with dropout, so the expected opacity is what a whole render must show
        opacity = (torch.sigmoid(gaussians.logit_opacities) * keep).clamp(1e-6, 1 - 1e-6)
        gaussians = replace(gaussians, logit_opacities=torch.logit(opacity))
        if self.config.surfels:
            gaussians = gaussians.flattened()
        return SplatScene(gaussians, cameras, self.names, self.rasterizer, self.background, self.config.surfels)

    def shown(self) -> SplatScene:
        return self.snapshot()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with self._lock:
            tensors = {"rng": self.rng.get_state()}
            for name, part in self._parts():
                tensors |= {f"{name}.{k}": v for k, v in part.state().items()}
            return tensors, {**self.pace(), "order": list(self.order)}

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        try:
            for name, part in self._parts():
                part.restore({k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")})
            self.rng.set_state(tensors["rng"])
            self.restore_pace(meta)
            self.order = list(meta["order"])
        except KeyError as e:
            raise CheckpointError(f"The checkpoint lacks {e}; delete it to start anew.") from e

    def _parts(self) -> list[tuple[str, Field | CameraCorrections]]:
        """Everything that learns, under the names it is saved by."""
        return [*((f"field{k}", field) for k, field in enumerate(self.fields)), ("cameras", self.corrections)]

    # -- one step ------------------------------------------------------------------------------------------------

    def _one_step(self) -> None:
        if not self.order:
            self.order = torch.randperm(len(self.photos), generator=self.rng).tolist()
        i = self.order.pop()
        learned = [self._learn(field, i) for field in self.fields]
        out, loss = learned[0]
        self.corrections.step()
        self.step += 1
        if self.due_to_report:
            mask = None if self.photos.masks is None else self.photos.masks[i : i + 1]
            self._readings.append((loss.item(), psnr(out.color.detach(), self.images[i : i + 1], mask).clamp(max=100).item()))
        for field, (out, _) in zip(self.fields, learned, strict=True):
            self._refine(field, out)

    def _learn(self, field: Field, i: int) -> tuple[RenderOutput, Tensor]:
        """Render, loss, gradients, and the field's step on photo i."""
        optim, progress = self.config.optim, self.step / self.steps
        drop = self._dropout()
        keep = self._kept(len(field), drop) if drop > 0 else None
        normal = self.config.terms.surface > 0 or self.config.terms.normals > 0
        options = RasterOptions(background=self.background, opacity_scale=keep, camera_grads=self.corrections.active, normal=normal, surfels=self.config.surfels)
        gaussians = field.gaussians()

        seen: list[Tensor] = []  # by each render: what only a camera between the photos shows learns, too

        def render(cameras: Cameras) -> RenderOutput:
            out = self.rasterizer.render(gaussians, cameras, options)
            seen.append(out.aux.visible.any(0))
            return out

        def render_values(camera: Cameras, values: Tensor) -> Tensor:
            plain = replace(options, background=(0.0, 0.0, 0.0), normal=False)
            return self.rasterizer.render(replace(gaussians, sh=sh_dc_from_rgb(values)[:, None]), camera, plain).color[0]

        camera = self.corrections.now()[i]
        out = render(camera)
        correction = self.corrections.delta[i] if self.corrections.active else None
        context = StepContext(
            self.photos, i, camera, out, progress, self.step, field, correction, gaussians, render, render_values,
            self._rivals(field, replace(options, opacity_scale=None, normal=False)), self.rng,
        )  # fmt: skip
        losses = [loss for term in TERMS if (loss := term(context, self.config.terms)) is not None]
        total = torch.stack(losses).sum()
        total.backward()
        field.step(torch.stack(seen).any(0), self._shown(out, i), self._lr_means(progress), optim.decay_for(len(self.names)), progress)
        return out, total.detach()

    def _shown(self, out: RenderOutput, i: int) -> Bool[Tensor, "N"]:
        """Gaussians that photo i shows, and so may fade. What lies in its padding is beyond its border, which other photos end at without padding; what a mask
        hides, unless it cuts an object out, is not for this photo to say."""
        visible = out.aux.visible[0]
        shows = self.photos.extents if self.photos.cut_out else self.photos.masks  # masks cover the extents
        if shows is None:
            return visible
        x, y = out.aux.means2d[0].detach().nan_to_num(-1.0).unbind(-1)
        h, w = shows.shape[1:]
        beside = (x < 0) | (y < 0) | (x >= w) | (y >= h)
        there = shows[i][y.clamp(0, h - 1).long(), x.clamp(0, w - 1).long()] > 0.5
        return visible & (there | beside)

    def _kept(self, n: int, drop: float) -> Float[Tensor, "N"]:
        """1 for each Gaussian that this step draws, else 0."""
        rng = self.rng
        if self.device.type != "cpu":  # there the CPU would draw, and send, for as long as the rest of the step takes; the seed is drawn here, so state() is whole
            rng = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=self.rng)))
        return (torch.rand(n, generator=rng, device=self.device) >= drop).float()

    def _rivals(self, field: Field, options: RasterOptions) -> tuple[Callable[[Cameras], RenderOutput], ...]:
        """Draw the other fields, without gradients."""

        def draw(other: Field, camera: Cameras) -> RenderOutput:
            with torch.no_grad():
                return self.rasterizer.render(other.gaussians(), camera, options)

        return tuple(partial(draw, other) for other in self.fields if other is not field)

    def _lr_means(self, progress: float) -> float:
        optim = self.config.optim
        return optim.lr_means * self.photos.scene_depth * optim.lr_decay**progress

    def _dropout(self) -> float:
        optim = self.config.optim
        return optim.dropout * (self.step / self.steps if optim.dropout_rises else 1.0)

    def _field(self, gaussians: Gaussians) -> Field:
        optim = self.config.optim
        rates = {
            "means": self._lr_means(0.0), "quats_wxyz": optim.lr_quats, "log_scales": optim.lr_scales,
            "logit_opacities": optim.lr_opacities, "sh": optim.lr_sh,
        }  # fmt: skip
        motion = MOTIONS.get(self.config.motion.kind)
        moved = motion and motion(self.config.motion, self.photos, self.seed)
        return Field(gaussians, rates, columns_of(self.config, self.photos), moved, optim.sh_pace)

    @torch.no_grad()
    def _refine(self, field: Field, out: RenderOutput) -> None:
        """Adds and drops Gaussians as the refinements say, each on what the one before left."""
        if self.config.refine.densify_pull > 0:
            means2d = out.aux.means2d.grad
            assert means2d is not None, "the rasterizer fills means2d.grad"
            field.record_pull(means2d[0], out.aux.visible[0], self.photos.cameras.width, self.photos.cameras.height)
        placed, others = field.placed(), tuple(other.placed() for other in self.fields if other is not field)
        hull = self.photos.hull if self.config.refine.hull_every > 0 else None
        if hull is not None and self.corrections.active:
            hull = hull.seen_by(self.corrections.now(detached=True))
        for refinement in REFINEMENTS:
            context = RefineContext(
                placed, field.pull[:, 0], field.pull[:, 1], self.step, self.steps, self.photos.scene_depth, self.rng, others, field.started, hull
            )  # fmt: skip
            edit = refinement(context, self.config.refine)
            if edit is not None:
                field.apply(edit)
                placed = field.placed()


def _draws(gaussians: Gaussians, fields: int, seed: int) -> list[Gaussians]:
    """The Gaussians, and for each further field the same with every centre drawn anew from its own density: otherwise the fields would hardly differ."""
    rng = torch.Generator().manual_seed(seed + 1)
    draws = [gaussians]
    for _ in range(1, fields):
        noise = torch.randn(gaussians.means.shape, generator=rng).to(gaussians.means)
        offset = torch.einsum("nij,nj->ni", matrix_from_quat(gaussians.quats_wxyz), noise * gaussians.scales)
        draws.append(replace(gaussians, means=gaussians.means + offset))
    return draws
