"""The Gaussian splatting run: one loop for every method; what differs lies in the config, the terms and the seed."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from ...recon.camera import Cameras
from ...recon.depth import DepthMap
from ...recon.errors import CheckpointError
from ...recon.gaussians import Gaussians
from ...recon.metrics import psnr
from ...recon.optim import SparseAdam, decay_opacity
from ...recon.raster.protocol import RasterOptions, RenderOutput
from ...recon.raster.registry import get_rasterizer
from ...recon.scene import SplatScene
from ...recon.se3 import se3_exp
from ..events import Event, Finished, StepDone
from ..protocol import Start
from .config import SplatConfig
from .refine import REFINEMENTS, Edit, RefineContext
from .seed import seed_gaussians
from .terms import TERMS, StepContext

__all__ = ["SplatMethod", "SplatRun"]

REPORT_EVERY = 20  # steps between two readings of loss and PSNR: reading a tensor waits for the device
PARAMETERS = tuple(f.name for f in fields(Gaussians))
WARM_UP, REFIT_EVERY = 10, 20  # with a time limit: from so many steps after the (re)start on, every so many steps are timed and the end refitted


class SplatMethod:
    def __init__(self, config: SplatConfig) -> None:
        self.config = config

    def seed(self, start: Start) -> Gaussians:
        return seed_gaussians(start.init.capture, start.depth, self.config.seed)

    def start(self, start: Start, gaussians: Gaussians | None = None, max_seconds: float | None = None) -> SplatRun:
        return SplatRun(self.config, start, gaussians if gaussians is not None else self.seed(start), max_seconds)


class SplatRun:
    """See `Run` in pipelines/protocol.py. Results depend on config, start and thread count only, not on interruptions."""

    # the trainable copies of a Gaussians' fields, under the same names
    means: Tensor
    quats_wxyz: Tensor
    log_scales: Tensor
    logit_opacities: Tensor
    sh: Tensor

    def __init__(self, config: SplatConfig, start: Start, gaussians: Gaussians, max_seconds: float | None = None) -> None:
        capture = start.init.capture
        assert capture.cameras is not None, "training follows the initialiser, which gives every view a camera"
        self.config, self.device = config, start.device
        self.rasterizer = get_rasterizer(config.rasterizer, start.device)
        self.names = capture.names
        self.cameras = capture.cameras.to(start.device, torch.float32)
        self.images = capture.images().to(start.device)
        masks = capture.masks()
        self.masks = None if masks is None else masks.to(start.device)
        self.background = _background(capture.white_background, self.images, self.masks, start.depth, config.background)
        self.depth = [_to(d, start.device) for d in start.depth]
        self.neighbour = _neighbour_distances(self.cameras)
        self.scene_depth = _median_depth(start)
        self.rng = torch.Generator().manual_seed(start.seed)
        self.step, self.steps, self.elapsed = 0, config.optim.steps, 0.0
        self.max_seconds = max_seconds
        self.order: list[int] = []
        self.refine = start.estimated_cameras and config.optim.lr_camera > 0
        self.camera_delta = torch.zeros(len(self.cameras), 6, device=start.device)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._readings: list[tuple[float, float]] = []
        self._set_gaussians(gaussians.to(start.device))

    # -- what the caller sees ------------------------------------------------------------------------------------

    def events(self) -> Iterator[Event]:
        began, timed = time.monotonic() - self.elapsed, self.step + WARM_UP
        timed_at = self.elapsed
        while self.step < self.steps and not self._stop.is_set():
            with self._lock:
                self._one_step()
            self.elapsed = time.monotonic() - began
            if self.step == timed:
                timed_at = self.elapsed
            elif self.max_seconds is not None and self.step == timed + REFIT_EVERY:
                self._fit_to_time((self.elapsed - timed_at) / REFIT_EVERY)
                timed, timed_at = self.step, self.elapsed
            loss, fit = self._readings[-1] if self._readings else (None, None)
            yield StepDone(self.step, self.steps, len(self.means), self.elapsed, loss, fit)
        yield Finished(self.step, self.elapsed, early=self.step < self.steps)

    def stop(self) -> None:
        self._stop.set()

    def snapshot(self) -> SplatScene:
        with self._lock:
            gaussians = Gaussians(*(getattr(self, name).detach().clone() for name in PARAMETERS))
            cameras = self._cameras_now(detached=True)
            keep = 1.0 - self._dropout()  # trained with dropout, so the expected opacity is what a whole render must show
        opacity = (torch.sigmoid(gaussians.logit_opacities) * keep).clamp(1e-6, 1 - 1e-6)
        gaussians = replace(gaussians, logit_opacities=torch.logit(opacity))
        return SplatScene(gaussians, cameras, self.names, self.rasterizer, self.background)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with self._lock:
            tensors = {f"gaussians.{name}": getattr(self, name).detach().clone() for name in PARAMETERS}
            tensors |= {f"adam.{k}": v.clone() for k, v in self.adam.state_dict().items()}
            tensors["rng"] = self.rng.get_state()
            tensors["pull"] = self.pull.clone()
            tensors["camera_delta"] = self.camera_delta.detach().clone()
            tensors |= {f"camera_adam.{k}": v.clone() for k, v in self.camera_adam.state_dict().items()}
            meta = {"step": self.step, "steps": self.steps, "elapsed": self.elapsed, "order": list(self.order)}
        return tensors, meta

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        try:
            self._set_gaussians(Gaussians(*(tensors[f"gaussians.{name}"].to(self.device) for name in PARAMETERS)))
            self.adam.load_state_dict({k[5:]: v.to(self.device) for k, v in tensors.items() if k.startswith("adam.")})
            self.pull = tensors["pull"].to(self.device)
            self.camera_delta.data.copy_(tensors["camera_delta"])
            self.camera_adam.load_state_dict({k[12:]: v.to(self.device) for k, v in tensors.items() if k.startswith("camera_adam.")})
            self.rng.set_state(tensors["rng"])
            self.step, self.steps, self.elapsed = meta["step"], meta["steps"], meta["elapsed"]
            self.order = list(meta["order"])
        except KeyError as e:
            raise CheckpointError(f"The checkpoint lacks {e}; delete it to start anew.") from e

    # -- one step ------------------------------------------------------------------------------------------------

    def _one_step(self) -> None:
        optim, progress = self.config.optim, self.step / self.steps
        if not self.order:
            self.order = torch.randperm(len(self.cameras), generator=self.rng).tolist()
        i = self.order.pop()
        drop = self._dropout()
        keep = (torch.rand(len(self.means), generator=self.rng) >= drop).float().to(self.device) if drop > 0 else None
        options = RasterOptions(background=self.background, opacity_scale=keep, camera_grads=self.refine)
        gaussians = Gaussians(*(getattr(self, name) for name in PARAMETERS))

        def render(cameras: Cameras) -> RenderOutput:
            return self.rasterizer.render(gaussians, cameras, options)

        camera = self._cameras_now()[i]
        out = render(camera)
        context = StepContext(
            camera, self.images[i], None if self.masks is None else self.masks[i], out, self.depth[i],
            self.neighbour[i], progress, self.step, render, self.rng,
        )  # fmt: skip
        losses = [loss for term in TERMS if (loss := term(context, self.config.terms)) is not None]
        total = torch.stack(losses).sum()
        total.backward()
        visible = out.aux.visible[0]
        with torch.no_grad():
            self.adam.set_lr("means", optim.lr_means * self.scene_depth * optim.lr_decay**progress)
            self.adam.step(visible)
            self.adam.zero_grad()
            if self.refine:
                self.camera_adam.step(None)
                self.camera_adam.zero_grad()
            if optim.opacity_decay < 1:
                decay_opacity(self.logit_opacities, optim.opacity_decay, visible)
        self.step += 1
        if self.step % REPORT_EVERY == 0 or self.step == self.steps:
            mask = None if self.masks is None else self.masks[i : i + 1]
            self._readings.append((total.item(), psnr(out.color.detach(), self.images[i : i + 1], mask).clamp(max=100).item()))
        self._edit_gaussians(out)

    def _dropout(self) -> float:
        optim = self.config.optim
        return optim.dropout * (self.step / self.steps if optim.dropout_rises else 1.0)

    def _cameras_now(self, detached: bool = False) -> Cameras:
        if not self.refine:
            return self.cameras
        delta = self.camera_delta.detach() if detached else self.camera_delta
        scale = torch.tensor([self.scene_depth] * 3 + [1.0] * 3, device=self.device)
        return replace(self.cameras, cam_from_world=se3_exp(delta * scale) @ self.cameras.cam_from_world)

    def _set_gaussians(self, gaussians: Gaussians) -> None:
        """Makes trainable copies and a fresh optimiser."""
        optim = self.config.optim
        for name in PARAMETERS:
            setattr(self, name, getattr(gaussians, name).detach().clone().requires_grad_(True))
        rates = {
            "means": optim.lr_means * self.scene_depth, "quats_wxyz": optim.lr_quats, "log_scales": optim.lr_scales,
            "logit_opacities": optim.lr_opacities, "sh": optim.lr_sh,
        }  # fmt: skip
        self.adam = SparseAdam({name: getattr(self, name) for name in PARAMETERS}, rates)
        self.camera_delta = self.camera_delta.detach().requires_grad_(self.refine)
        self.camera_adam = SparseAdam({"delta": self.camera_delta}, {"delta": optim.lr_camera})
        self.pull = torch.zeros(len(self.means), 2, device=self.device)  # sum and number of the gradients to the projected centres

    @torch.no_grad()
    def _edit_gaussians(self, out: RenderOutput) -> None:
        """Adds and drops Gaussians as the refinements say, each on what the one before left."""
        if self.config.refine.densify_pull > 0:
            self._record_pull(out)
        for refinement in REFINEMENTS:
            gaussians = Gaussians(*(getattr(self, name).detach() for name in PARAMETERS))
            context = RefineContext(gaussians, self.pull[:, 0], self.pull[:, 1], self.step, self.steps, self.scene_depth, self.rng)
            edit = refinement(context, self.config.refine)
            if edit is not None:
                self._apply(edit)

    def _record_pull(self, out: RenderOutput) -> None:
        means2d = out.aux.means2d.grad
        assert means2d is not None, "the rasterizer fills means2d.grad"
        half = 0.5 * torch.tensor([self.cameras.width, self.cameras.height], device=self.device)
        seen = out.aux.visible[0]
        self.pull += torch.stack([(means2d[0] * half).norm(dim=-1) * seen, seen.float()], -1)

    def _apply(self, edit: Edit) -> None:
        for name in PARAMETERS:
            rows = getattr(self, name).detach()[edit.keep].clone().requires_grad_(True)
            self.adam.select(name, rows, edit.keep)
            if edit.new is not None:
                rows = torch.cat([rows.detach(), getattr(edit.new, name)]).requires_grad_(True)
                self.adam.append(name, rows)
            setattr(self, name, rows)
        self.pull = self.pull[edit.keep] if edit.new is None else torch.zeros(len(self.means), 2, device=self.device)

    def _fit_to_time(self, per_step: float) -> None:
        """Turns the time limit into a number of steps, so that the schedule ends where the time ends."""
        assert self.max_seconds is not None
        affordable = self.step + int((self.max_seconds - self.elapsed) / per_step)
        self.steps = max(self.step + 1, min(self.config.optim.steps, affordable))


def _to(depth: Any, device: torch.device) -> Any:
    normal = None if depth.normal is None else depth.normal.to(device)
    return replace(depth, depth=depth.depth.to(device), confidence=depth.confidence.to(device), valid=depth.valid.to(device), normal=normal)


def _background(
    white: bool, images: Tensor, masks: Tensor | None, depth: tuple[DepthMap, ...], rule: str
) -> tuple[float, float, float]:
    """What shows where nothing is known: white for objects on white, else black, or the least wrong colour. Holes lie behind things, so that is the mean of
    all but the nearer half of what was measured; of the whole object where there are masks."""
    if white:
        return (1.0, 1.0, 1.0)
    if rule == "black":
        return (0.0, 0.0, 0.0)
    if masks is None:
        near = [d.valid & (d.depth < d.depth[d.valid].median()) if bool(d.valid.any()) else d.valid for d in depth]
        weight = (~torch.stack(near)).to(images)
    else:
        weight = masks
    r, g, b = ((images * weight[..., None]).sum((0, 1, 2)) / weight.sum().clamp_min(1)).tolist()
    return (r, g, b)


def _neighbour_distances(cameras: Cameras) -> list[float]:
    """Distance from each camera centre to the nearest other; 0 for a single camera."""
    if len(cameras) < 2:
        return [0.0]
    distance = torch.cdist(cameras.centers, cameras.centers)
    distance.fill_diagonal_(math.inf)
    return distance.min(1).values.tolist()


def _median_depth(start: Start) -> float:
    """Median depth of the confident pixels: the unit that position steps are measured in."""
    known = [d.depth[d.valid] if bool(d.valid.any()) else d.depth[d.depth > 0] for d in start.depth]
    known = torch.cat([k for k in known if k.numel()] or [torch.ones(1)])
    return float(known.median())
