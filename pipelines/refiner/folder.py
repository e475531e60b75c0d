"""The refiner at work on a scene folder: a folder beside it with the refined scene."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...data.atomic import new_folder, write_json
from ...data.edits_file import EDITS
from ...data.ply import write_gaussians
from ...data.registry import load_capture
from ...priors.splat_refiner import SplatRefiner
from ...recon.capture import Capture
from ...recon.errors import ConfigError
from ..catalog import config_from_json
from ..job import train_psnr
from ..methods.config import SplatConfig
from ..path_file import PATH
from ..preview import write_preview
from ..scene_folder import SceneFolder, image_names, load_scene
from .judge import Verdict, judge, refined

__all__ = ["RefinedFolder", "refine_folder"]

COPIED = ("images", "masks", "extents", "sparse", "scans", "transforms.json", "config.json", EDITS, PATH)  # what a change of the splats leaves as it was


@dataclass(frozen=True)
class RefinedFolder:
    """What was written, and why so. Own photos' PSNR before and after, decibels."""

    path: Path
    verdict: Verdict
    splats: int
    before: float
    after: float


def refine_folder(
    source: Path,
    out: Path,
    strength: float | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    say: Callable[[str, float], None] = lambda what, share: None,
) -> RefinedFolder:
    """Writes `out`, a scene folder like `source` with refined splats, or with the same where the photos are against it.

    Args:
        strength: so much of the change, without asking the photos; None = as much as they agree to.

    Raises CaptureError for a folder that holds no scene, ConfigError where the scene cannot be refined or `out` is not empty.
    """
    folder = load_scene(source, device=device or torch.device("cpu"))
    if folder.scene.surfels:
        raise ConfigError(f"{source} is made of surfels (--method matcha), which the refiner does not know; make the scene with the default method.")
    _refuse_twice(folder)
    settings = _settings(source)
    capture = _capture(folder)
    refiner = SplatRefiner(device=device or torch.device("cpu"))
    verdict = Verdict(strength, ()) if strength is not None else judge(capture, settings, refiner, seed, device, say)
    scene = refined(folder.scene, capture, refiner, verdict.strength)
    before, after = (train_psnr(s, capture) for s in (folder.scene, scene))
    about = {
        "strength": verdict.strength, "left_out": {p.name: {"before": p.before, "after": list(p.after)} for p in verdict.photos}, "unasked": list(verdict.unasked),
    }  # fmt: skip
    kept = {k: v for k, v in folder.metrics.items() if k != "beams"} if scene is not folder.scene else folder.metrics
    with new_folder(out) as staging:
        for name in COPIED:
            if (source / name).is_dir():
                shutil.copytree(source / name, staging / name)
            elif (source / name).exists():
                shutil.copyfile(source / name, staging / name)
        write_json(staging / "metrics.json", {**kept, "gaussians": len(scene.gaussians), "train_psnr": after, "refined": about})
        write_preview(staging / "preview.png", scene, capture.images())
        if scene is folder.scene:
            shutil.copyfile(source / "scene.ply", staging / "scene.ply")
        else:
            write_gaussians(staging / "scene.ply", scene.gaussians.to("cpu"))
    return RefinedFolder(out, verdict, len(scene.gaussians), before, after)


def _refuse_twice(folder: SceneFolder) -> None:
    """What photos say when left out is about one change, not about a change of what was changed."""
    before = folder.metrics.get("refined")
    strength = before.get("strength") if isinstance(before, dict) else None
    if isinstance(strength, (int, float)) and strength > 0:
        raise ConfigError(f"{folder.path} has been refined already; refine the scene that it was made from.")


def _capture(folder: SceneFolder) -> Capture:
    """The photos as the scene used them, in its order, under their own names (which tell whose scans are whose), with its cameras."""
    files = [Path(n).name for n in image_names(folder.names)]
    capture = load_capture(folder.path).select(files)
    views = tuple(replace(v, name=n) for v, n in zip(capture.views, folder.names, strict=True))
    return replace(capture, views=views, cameras=folder.cameras.to("cpu"), white_background=folder.scene.background == (1.0, 1.0, 1.0))


def _settings(path: Path) -> SplatConfig:
    file = path / "config.json"
    settings = config_from_json(json.loads(file.read_text(encoding="utf-8")).get("settings"), str(file))
    if not isinstance(settings, SplatConfig):
        raise ConfigError(f"{path} was made from a radiance field, and refining judges by making scenes of splats anew; refine what a method of splats made.")
    return settings
