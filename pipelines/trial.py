"""One trial: a method trained on a protocol's training photos, with its test cameras placed. `evaluate`, `benchmark` and the runners share it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..recon.camera import Cameras
from ..recon.capture import Capture, View
from ..recon.depth import DepthMap
from ..recon.errors import CaptureError, ConfigError
from ..recon.scene import SplatScene
from .catalog import AnyConfig, AnyScene
from .evaluate import held_out, training_capture
from .events import Event
from .job import torch_device, train_capture
from .nerf.config import FieldConfig
from .poses import map_cameras, optimise_test_cameras
from .protocols import EvalProtocol, present, resolve

__all__ = ["Trial", "refuse_leak", "torch_device", "train_trial"]

THUMB = 64  # longer side, pixels, at which photos are compared: noise and JPEG's blocks average out, what is in the picture does not
# Variance of a thumbnail over the mean square difference, from which two photos are one that was encoded twice. Measured on seven captures: JPEG of
# quality 75 gives 35 to 39 dB, of quality 92 42 to 44; the nearest two photos give 4 to 26, and 32 where both were taken from the very same place.
SAME_DB = 33.0
FLAT = 1e-4  # variance of a thumbnail that shows nothing to tell photos apart by


@dataclass(frozen=True)
class Trial:
    """What training gave.

    Attributes:
        cameras: of the test photos in the scene's world; None where the given ones are.
        seconds: from photos to scene, scoring excluded.
        depth: what was measured of each training photo, in the scene's order.
        notes: a sentence for each training photo that found no place, and what else the cameras' search has to say.
    """

    scene: AnyScene
    cameras: Cameras | None
    seconds: float
    depth: tuple[DepthMap, ...] = ()
    notes: tuple[str, ...] = ()


def train_trial(
    capture: Capture,
    protocol: EvalProtocol,
    config: AnyConfig,
    seed: int,
    device: torch.device,
    on_event: Callable[[Event], None] | None = None,
    on_trained: Callable[[], None] | None = None,
) -> Trial:
    """Trains on the protocol's training photos alone and places the test cameras.

    Args:
        on_trained: called when the clock has stopped, before test photos are looked at.

    Raises CaptureError when a test photo is among the training photos, under whatever name.
    """
    if isinstance(config, FieldConfig) and protocol.poses == "test_time_optimized":
        raise ConfigError("Test cameras are optimised against splats only; score a field with --poses given or sim3_aligned.")
    refuse_leak(capture, protocol)
    train = training_capture(capture, protocol)
    began = time.monotonic()
    scene, start = train_capture(train, config, seed, device, on_event)
    seconds = time.monotonic() - began
    if on_trained is not None:
        on_trained()
    foreign = set(scene.names) - set(train.names)
    if foreign:
        raise CaptureError(f"The method trained on {min(foreign)!r}, which is no training photo of {protocol.id}; such a score means nothing.")
    notes = start.notes + start.init.report.warnings()
    if protocol.poses == "given":
        return Trial(scene, None, seconds, start.depth, notes)
    test, given = held_out(capture, protocol), capture.select(scene.names)
    assert test.cameras is not None and given.cameras is not None, "held_out and the protocol demand given cameras"
    cameras = map_cameras(test.cameras, given.cameras, scene.cameras.to("cpu"))
    if protocol.poses == "test_time_optimized":
        assert isinstance(scene, SplatScene), "refused above"
        counts = test.extents() if protocol.mask == "none" else test.masks()
        cameras = optimise_test_cameras(
            scene.gaussians, scene.rasterizer, test.images().to(device), cameras.to(device), background=scene.background, masks=counts
        )
    return Trial(scene, cameras, seconds, start.depth, notes)


# -- no test photo trains ----------------------------------------------------------------------------------------------


def refuse_leak(capture: Capture, protocol: EvalProtocol) -> None:
    """Raises CaptureError when a training photo is a test photo: by its name, by its content, or as the same picture encoded once more.

    Test photos that are not in the capture (a data set that keeps them to itself) cannot leak and are passed over.
    """
    views = {v.name: v for v in capture.views}
    train = [views[n] for n in resolve(protocol.train, capture.names)]
    test = [views[n] for n in present(protocol.test, capture.names)]
    both = {v.name for v in train} & {v.name for v in test}
    if both:
        raise CaptureError(f"{protocol.id}: the photo {min(both)} is in train and in test; a score on a training photo means nothing.")
    pair = _same_content(train, test) or _same_picture(train, test)
    if pair is not None:
        raise CaptureError(
            f"{protocol.id}: the training photo {pair[0]} and the test photo {pair[1]} are the same picture; a score on a training photo means "
            "nothing, so remove one of the two."
        )


def _same_content(train: Sequence[View], test: Sequence[View]) -> tuple[str, str] | None:
    by_digest = {v.image.digest(): v.name for v in train}
    return next(((by_digest[d], v.name) for v in test if (d := v.image.digest()) in by_digest), None)


def _same_picture(train: Sequence[View], test: Sequence[View]) -> tuple[str, str] | None:
    thumbs = [_thumbnail(v) for v in train]
    for v in test:
        thumb = _thumbnail(v)
        variance = float(thumb.var())
        if variance < FLAT:
            continue  # an empty picture is like every other
        for other, t in zip(train, thumbs, strict=True):
            if t.shape == thumb.shape and float((t - thumb).square().mean()) < variance * 10 ** (-SAME_DB / 10):
                return other.name, v.name
    return None


def _thumbnail(view: View) -> Tensor:
    image = view.image.load().permute(2, 0, 1)[None]
    h, w = image.shape[2:]
    scale = min(1.0, THUMB / max(h, w))
    return torch.nn.functional.interpolate(image, (max(1, round(h * scale)), max(1, round(w * scale))), mode="area")[0]
