"""Scores renders against photos as a protocol says, and treats poses where none were given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..priors.weights import load_lpips
from ..recon.camera import Cameras
from ..recon.capture import Capture
from ..recon.errors import BackendUnavailable, CaptureError, ShapeError
from ..recon.lpips import SMALLEST, Lpips
from ..recon.metrics import composite, psnr, quantize_8bit, ssim
from .protocols import EvalProtocol, MetricSpec, resolve

__all__ = ["EvalReport", "Pictures", "ViewScore", "available_lpips", "evaluate_scene", "held_out", "render_views", "score_views", "training_capture"]

PSNR_CAP = 100.0  # dB reported for equal pictures: JSON has no infinity
RenderFn = Callable[[Cameras], Float[Tensor, "V H W 3"]]


@dataclass(frozen=True)
class ViewScore:
    """One test photo. PSNR in dB; LPIPS None where its weights are missing."""

    name: str
    psnr: float
    ssim: float
    lpips_vgg: float | None = None
    lpips_alex: float | None = None


@dataclass(frozen=True)
class Pictures:
    """What was compared, as compared: rounded, composited. `masks` None where the protocol has none."""

    names: tuple[str, ...]
    renders: Float[Tensor, "V H W 3"]
    truths: Float[Tensor, "V H W 3"]
    masks: Float[Tensor, "V H W"] | None = None


@dataclass(frozen=True)
class EvalReport:
    """One scene scored once.

    Attributes:
        protocol: what was scored and how.
        views: a score per test photo, in the protocol's order.
        notes: one sentence each on what is missing from the scores.
        pictures: what was compared, for side-by-side sheets; not saved.
    """

    protocol: EvalProtocol
    views: tuple[ViewScore, ...]
    notes: tuple[str, ...] = ()
    pictures: Pictures | None = field(default=None, repr=False, compare=False)

    def mean(self, key: Literal["psnr", "ssim", "lpips_vgg", "lpips_alex"]) -> float | None:
        """Mean over the test photos (as all tables of the field; not the PSNR of the mean error). None where a view has no value."""
        values = [getattr(v, key) for v in self.views]
        return None if any(v is None for v in values) else sum(values) / len(values)

    @property
    def psnr(self) -> float:
        return self.mean("psnr") or 0.0

    @property
    def ssim(self) -> float:
        return self.mean("ssim") or 0.0

    @property
    def lpips_vgg(self) -> float | None:
        return self.mean("lpips_vgg")

    @property
    def lpips_alex(self) -> float | None:
        return self.mean("lpips_alex")


def available_lpips(
    protocol: EvalProtocol, device: torch.device | str = "cpu", size: tuple[int, int] | None = None
) -> tuple[dict[str, Lpips], tuple[str, ...]]:
    """The LPIPS networks that the protocol asks for, this machine has, and that see anything of photos of this (width, height), by column; a sentence for each
    other one."""
    nets: dict[str, Lpips] = {}
    notes: list[str] = []
    for spec in protocol.metrics:
        if spec.net is None:
            continue
        try:
            net = load_lpips(spec.net, device)
        except BackendUnavailable as e:
            notes.append(f"{spec.key} is left out. {e}")
            continue
        if size is not None and min(size) < SMALLEST[spec.net]:
            notes.append(f"{spec.key} is left out: its network needs {SMALLEST[spec.net]} pixels a side, and the photos are {size[0]}x{size[1]}.")
        else:
            nets[spec.key] = net
    return nets, tuple(notes)


def _regions(image: Tensor, mask: Tensor | None, spec: MetricSpec) -> Tensor:
    if spec.region != "white":
        return image
    if mask is None:
        raise CaptureError(f"The protocol composites {spec.key} on white, but the capture has no masks; add the data set's mask folder.")
    return composite(image, mask)


def _score(
    spec: MetricSpec, render: Tensor, truth: Tensor, mask: Tensor | None, extent: Tensor | None, nets: Mapping[str, Lpips]
) -> float | None:
    """One metric of one view (tensors with a leading 1). A mask covers the extent, too."""
    a, b = _regions(render, mask, spec), _regions(truth, mask, spec)
    if spec.name == "psnr":
        if spec.region == "mask" and mask is None:
            raise CaptureError("The protocol takes PSNR inside masks, but the capture has none; add the data set's mask folder.")
        value = float(psnr(a, b, mask if spec.region == "mask" else extent)[0])
        if math.isnan(value):
            raise CaptureError("A test photo's mask is empty, so nothing of it can be scored; restore its mask.")
        return min(value, PSNR_CAP)
    if spec.name == "ssim":
        assert spec.window is not None and spec.sigma is not None and spec.padding is not None, "MetricSpec checks this"
        return float(ssim(a, b, spec.window, spec.sigma, spec.padding)[0])
    return float(nets[spec.key](a, b)[0]) if spec.key in nets else None


def score_views(
    names: Sequence[str],
    renders: Float[Tensor, "V H W 3"],
    truths: Float[Tensor, "V H W 3"],
    masks: Float[Tensor, "V H W"] | None,
    protocol: EvalProtocol,
    nets: Mapping[str, Lpips] | None = None,
    extents: Float[Tensor, "V H W"] | None = None,
) -> EvalReport:
    """Scores renders against photos; `nets` are LPIPS networks by column (None: those this machine has, with a note for the others).

    Beyond `extents` (padding of photos of mixed sizes, corners that a lens left out) there is no truth: PSNR leaves it out, and for the other metrics, which
    look at windows, render and photo are alike there. Masks and extents are cut at one half: a pixel counts or it does not.

    Pixels of a render that are not finite are scored as black. Raises ShapeError where
    sizes differ, CaptureError where the protocol needs masks and there are none.
    """
    if renders.shape != truths.shape or len(names) != len(truths):
        raise ShapeError(f"Scores need a render per photo of the same size; got {tuple(renders.shape)} for {len(names)} photos {tuple(truths.shape)}.")
    notes: tuple[str, ...] = ()
    if nets is None:
        nets, notes = available_lpips(protocol, renders.device, (truths.shape[2], truths.shape[1]))
    if not torch.isfinite(renders).all():
        notes += ("Some rendered pixels are not finite and were scored as black.",)
        renders = torch.where(torch.isfinite(renders), renders, torch.zeros((), device=renders.device))
    if protocol.quantize_8bit:
        renders, truths = quantize_8bit(renders), quantize_8bit(truths)  # a photo resized here would have been saved and read, too
    shown = renders.clamp(0, 1)
    if protocol.mask == "ignore" and masks is not None:
        masks, extents = None, masks  # a mask covers the extent, too
    extents = None if extents is None else (extents > 0.5).to(shown)
    if extents is not None:
        shown = torch.where(extents[..., None] > 0, shown, truths)
    masks = None if masks is None or protocol.mask == "none" else (masks > 0.5).float()
    views = []
    with torch.no_grad():
        for i, name in enumerate(names):
            mask = None if masks is None else masks[i : i + 1]
            extent = None if extents is None else extents[i : i + 1]
            values = {s.key: _score(s, shown[i : i + 1], truths[i : i + 1], mask, extent, nets) for s in protocol.metrics}
            views.append(ViewScore(name, values.get("psnr") or 0.0, values.get("ssim") or 0.0, values.get("lpips_vgg"), values.get("lpips_alex")))
    pictures = Pictures(tuple(names), shown, truths, masks)
    if masks is not None:
        pictures = replace(pictures, renders=composite(shown, masks), truths=composite(truths, masks))
    return EvalReport(protocol, tuple(views), notes, pictures)


# -- captures ----------------------------------------------------------------------------------------------------------


def training_capture(capture: Capture, protocol: EvalProtocol) -> Capture:
    """What a method may see: the training photos, with cameras (and scans and sensor depth, which are of the cameras' world) only where the protocol gives
    poses, no points made from other photos, no scan of a test photo's moment."""
    train = capture.select(resolve(protocol.train, capture.names))
    return train if protocol.poses == "given" else replace(train, cameras=None, sweeps=(), depth=())


def held_out(capture: Capture, protocol: EvalProtocol) -> Capture:
    """The test photos with their given cameras. Raises CaptureError where cameras are missing, or a mask that the protocol scores by."""
    test = capture.select(resolve(protocol.test, capture.names))
    if test.cameras is None:
        raise CaptureError("The capture has no cameras for its test photos, so nothing can be rendered there; evaluate a capture with cameras.")
    if protocol.mask != "none":
        for view in test.views:
            mask = view.image.load_mask()
            if mask is None and protocol.dataset != "holdout":  # one's own photo may well be filled by the object
                raise CaptureError(f"{protocol.id} scores what masks cut out, but the test photo {view.name} has none; add the data set's mask folder.")
            if mask is not None and not bool((mask > 0.5).any()):
                raise CaptureError(f"The mask of the test photo {view.name} leaves nothing of it to score; mend it (masks are white where pixels count), or leave the photo away.")
    return test


def _one_by_one(render: RenderFn, cameras: Cameras) -> Iterator[Tensor]:
    for i in range(len(cameras)):
        image = render(cameras[i])
        if tuple(image.shape) != (1, cameras.height, cameras.width, 3):
            raise ShapeError(f"A render must be (1, {cameras.height}, {cameras.width}, 3), got {tuple(image.shape)}.")
        yield image[0].detach()


def render_views(render: RenderFn, cameras: Cameras) -> Float[Tensor, "V H W 3"]:
    """Renders one camera at a time (memory of one picture), on the CPU."""
    return torch.stack([image.cpu() for image in _one_by_one(render, cameras)])


def evaluate_scene(
    render: RenderFn, capture: Capture, protocol: EvalProtocol, cameras: Cameras | None = None, nets: Mapping[str, Lpips] | None = None
) -> EvalReport:
    """Renders the protocol's test photos and scores them.

    Args:
        render: draws cameras; V,H,W,3 sRGB, not rounded.
        capture: the whole capture with cameras and masks, at the protocol's size.
        cameras: of the test photos in the scene's world, for pose-free protocols (`poses.map_cameras`, `poses.optimise_test_cameras`); the
            capture's own where poses are given.
        nets: LPIPS networks by column; None = those at hand.
    """
    test = held_out(capture, protocol)
    if protocol.poses != "given" and cameras is None:
        raise CaptureError(f"{protocol.id} is scored at cameras mapped into the scene's world; pass them (pose-free scenes have a world of their own).")
    used = cameras or test.cameras
    assert used is not None, "held_out checks this"
    return score_views(test.names, render_views(render, used), test.images(), test.masks(), protocol, nets, test.extents())
