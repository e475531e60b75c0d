"""What the refiner learns from: made-up captures of few photos, reconstructed by Handful itself, and what cameras far from the photos truly see there.

    python -m handful.pipelines.refiner.lessons -o lessons/ --count 150 --workers 2

A file a lesson; what is there is kept, so that a stopped run goes on.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float, UInt8
from torch import Tensor

from ...data._synth.kinds import KINDS as ALL_KINDS
from ...data.atomic import write_bytes
from ...data.synthetic import WHITE, SyntheticScene, arc_cameras, capture_of, look_at, make_scene, render_truth
from ...recon.camera import Cameras
from ...recon.capture import Capture
from ...recon.errors import CaptureError, ConfigError, HandfulError
from ...recon.gaussians import Gaussians
from ..job import train_capture
from ..methods import method_config
from ..methods.config import SplatConfig

__all__ = ["GROUPS", "Lesson", "Shoot", "lesson", "load_lesson", "make_lessons", "quick_config", "save_lesson", "shoot"]

GROUPS = ("high", "aside", "near")  # above 70 degrees; beyond the photos' arc; between the photos
KINDS = {"still": 0.65, "toys": 0.35}  # learned from; the other kinds are for measuring
SEEN = 0.4  # share of a view's surfaces that some photo must show: what none shows cannot be learned
PER_PIXEL = 0.56  # splats for each pixel of the photos, as the default has them at 504x378


@dataclass(frozen=True)
class Lesson:
    """A reconstruction and views with known truth.

    Attributes:
        gaussians, background: of the reconstruction. photos, images: what it was made from, rounded to 8 bit.
        views, truth: cameras with what they truly see. group: index into GROUPS of each view.
    """

    kind: str
    gaussians: Gaussians
    background: tuple[float, float, float]
    photos: Cameras
    images: UInt8[Tensor, "P H W 3"]
    views: Cameras
    truth: UInt8[Tensor, "V H W 3"]
    group: tuple[int, ...]


@dataclass(frozen=True)
class Shoot:
    """A made-up capture, and what it was made of: the exact depth of its photos, and the steps of a short reconstruction."""

    scene: SyntheticScene
    capture: Capture
    cameras: Cameras
    depth: Float[Tensor, "P H W"]
    steps: int


def shoot(seed: int, kind: str | None = None, photos: int | None = None) -> tuple[Shoot, np.random.Generator]:
    """The capture of a lesson, and the numbers that its views are drawn by. Kinds and numbers of photos are drawn where none is given."""
    rng = np.random.default_rng([21, seed])
    drawn, count = str(rng.choice(list(KINDS), p=list(KINDS.values()))), int(rng.choice([2, 3, 4], p=[0.2, 0.6, 0.2]))
    kind, count = kind or drawn, photos or count
    width = 16 * int(rng.integers(14, 19))
    scene = make_scene(seed, kind)
    cameras = _photographed(scene, rng, count, width)
    truth = render_truth(scene, cameras)
    white = kind in WHITE
    if not white:
        truth = replace(truth, mask=torch.ones_like(truth.mask))  # an even background is part of the photo
    return Shoot(scene, capture_of(truth, "photo", cameras, white), cameras, truth.depth, int(rng.integers(300, 601))), rng


def lesson(seed: int, kind: str | None = None, photos: int | None = None, whole: bool = False) -> Lesson:
    """The same for the same seed. `whole`: reconstructed by the default method as it is, not shortened."""
    made, rng = shoot(seed, kind, photos)
    config = method_config("handful") if whole else quick_config(made.depth.numel(), made.steps)
    scene, _ = train_capture(made.capture, config, seed, torch.device("cpu"))
    views, group = _views_of(made.scene, made.cameras, made.depth, rng, (4, 4, 2))
    seen = render_truth(made.scene, views).images
    return Lesson(made.scene.kind, scene.gaussians, scene.background, made.cameras, _bytes(made.capture.images()), views, _bytes(seen), group)


def quick_config(pixels: int, steps: int) -> SplatConfig:
    """The default method with as many splats a pixel as it takes for three photos of 504x378, in fewer steps."""
    config = method_config("handful")
    budget = round(PER_PIXEL * pixels)
    return replace(config, optim=replace(config.optim, steps=steps), seed=replace(config.seed, budget=budget, extra=budget // 4))


def _photographed(scene: SyntheticScene, rng: np.random.Generator, count: int, width: int) -> Cameras:
    """Photos along an arc, 5 to 20 degrees apart; before walls from their open side."""
    first = rng.uniform(-180, 180) if scene.kind in WHITE else rng.uniform(-12, 12)
    step = rng.uniform(5, 20)
    height = 16 * round(width * 0.75 / 16)
    focal = width * rng.uniform(0.9, 1.3)
    azimuths = [first + step * (i - (count - 1) / 2) for i in range(count)]
    return arc_cameras(scene, azimuths, width, height, focal, seed=int(rng.integers(2**31)))


def _views_of(
    scene: SyntheticScene, photos: Cameras, depth: Float[Tensor, "P H W"], rng: np.random.Generator, counts: tuple[int, int, int]
) -> tuple[Cameras, tuple[int, ...]]:
    """So many cameras of each group from which at least SEEN of the surface is in some photo. Fewer where there is hardly such a place; raises CaptureError
    where there is none."""
    found: list[Cameras] = []
    group: list[int] = []
    for number, wanted in enumerate(counts):
        tries = 0
        while wanted and tries < 40:
            tries += 1
            camera = _candidate(scene, photos, rng, number)
            if _worth(scene, camera, photos, depth):
                found.append(camera)
                group.append(number)
                wanted -= 1
    if not found:
        raise CaptureError("What the photos show is hardly seen from anywhere else.")
    poses = torch.cat([c.cam_from_world for c in found])
    return replace(photos, cam_from_world=poses, K=photos.K[:1].expand(len(poses), 3, 3).clone()), tuple(group)


def _candidate(scene: SyntheticScene, photos: Cameras, rng: np.random.Generator, group: int) -> Cameras:
    stage, target = scene.stage, np.array(scene.stage.target)
    offset = photos.centers.double().numpy() - target
    azimuth = np.degrees(np.unwrap(np.arctan2(offset[:, 0], -offset[:, 1])))
    low, high = float(azimuth.min()), float(azimuth.max())
    if group == 0:
        a, e, r = rng.uniform(low - 60, high + 60), rng.uniform(70, 89), rng.uniform(0.75, 1.1)
    elif group == 1:
        a, e, r = rng.uniform(low - 60, high + 60), rng.uniform(3, 65), rng.uniform(0.6, 1.15)
        if low - 8 < a < high + 8 and abs(e - stage.elevation) < 15:
            a = (low - rng.uniform(15, 60)) if rng.random() < 0.5 else (high + rng.uniform(15, 60))
    else:
        a, e, r = rng.uniform(low, high), stage.elevation + rng.uniform(-4, 4), rng.uniform(0.93, 1.05)
    aim = target + rng.uniform(-0.08, 0.08, 3) * stage.distance
    a, e = math.radians(a), math.radians(e)
    center = target + r * stage.distance * np.array([math.sin(a) * math.cos(e), -math.cos(a) * math.cos(e), math.sin(e)])
    pose = look_at(torch.from_numpy(center), torch.from_numpy(aim), float(rng.uniform(-5, 5)))
    return Cameras(pose[None].float(), photos.K[:1].clone(), photos.width, photos.height)


def _worth(scene: SyntheticScene, camera: Cameras, photos: Cameras, depth: Float[Tensor, "P H W"]) -> bool:
    """Whether the camera stands free and looks at what photos show."""
    small = camera.resized(40, 30)
    z = render_truth(scene, small, 1).depth[0]
    there = z > 0
    if float(there.float().mean()) < 0.05 or float(z[there].min()) < 0.15 * scene.stage.distance:
        return False
    xyz = small.unproject_depth(z[None])[0][there]
    seen = torch.zeros(len(xyz), dtype=torch.bool)
    for i in range(len(photos)):
        uv, far = photos[i].project(xyz)
        u, v = uv[0].nan_to_num(-1).clamp(-1, 1e6).floor().long().unbind(-1)
        inside = (u >= 0) & (v >= 0) & (u < photos.width) & (v < photos.height) & (far[0] > 0)
        shown = depth[i][v.clamp(0, photos.height - 1), u.clamp(0, photos.width - 1)]
        seen |= inside & ((shown - far[0]).abs() < 0.03 * far[0])
    return float(seen.float().mean()) >= SEEN


def _bytes(images: Float[Tensor, "V H W 3"]) -> UInt8[Tensor, "V H W 3"]:
    return (images * 255).round().to(torch.uint8)


# -- files -------------------------------------------------------------------------------------------------------------


def save_lesson(made: Lesson, path: Path) -> None:
    from safetensors.torch import save

    g = made.gaussians
    tensors = {
        "means": g.means, "quats_wxyz": g.quats_wxyz.half(), "log_scales": g.log_scales.half(), "logit_opacities": g.logit_opacities.half(), "sh": g.sh.half(),
        "images": made.images, "truth": made.truth, "photos": made.photos.cam_from_world, "photos_K": made.photos.K, "views": made.views.cam_from_world,
        "views_K": made.views.K,
    }  # fmt: skip
    about = json.dumps({"version": 1, "kind": made.kind, "background": made.background, "group": made.group})
    write_bytes(path, save({k: v.contiguous() for k, v in tensors.items()}, {"lesson": about}))


def load_lesson(path: Path) -> Lesson:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as f:
        t = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
        about = json.loads(f.metadata()["lesson"])
    names = ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh")
    height, width = t["images"].shape[1:3]
    return Lesson(
        about["kind"], Gaussians(*(t[n].float() for n in names)), tuple(about["background"]), Cameras(t["photos"], t["photos_K"], width, height), t["images"],
        Cameras(t["views"], t["views_K"], width, height), t["truth"], tuple(about["group"]),
    )  # fmt: skip


def make_lessons(folder: Path, seeds: range, workers: int, kind: str | None = None, photos: int | None = None, whole: bool = False) -> Iterator[Path]:
    """Files of the lessons as they are done, by several processes of one thread each. Arguments as of `lesson`."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "_".join([kind or "lesson", *([f"{photos}photos"] if photos is not None else []), *(["whole"] if whole else [])])
    jobs = [(folder / f"{name}_{seed:06d}.safetensors", seed, kind, photos, whole) for seed in seeds]
    yield from (j[0] for j in jobs if j[0].exists())
    todo = [j for j in jobs if not j[0].exists()]
    if not todo:
        return
    with multiprocessing.get_context("spawn").Pool(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from (path for path in pool.imap_unordered(_make, todo) if path is not None)


def _make(job: tuple[Path, int, str | None, int | None, bool]) -> Path | None:
    """None for a scene of which no lesson can be made (nothing in it can be matched, or nothing is seen from elsewhere)."""
    path, seed, kind, photos, whole = job
    try:
        save_lesson(lesson(seed, kind, photos, whole), path)
    except CaptureError as e:
        print(f"{path.name} is left out: {e}", flush=True)
        return None
    return path


@dataclass(frozen=True)
class LessonsConfig:
    """Made-up captures, reconstructed, with what is truly seen from far aside: what the refiner is trained on."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for them."""
    count: int = 150
    """So many."""
    first: int = 0
    """Seed of the first."""
    kind: str | None = None
    """Kind of the scenes (default: drawn from those to learn from)."""
    photos: int | None = None
    """Photos each (default: two to four)."""
    workers: int = 2
    """Processes at a time."""


def main() -> int:
    config = tyro.cli(LessonsConfig)
    try:
        return _run(config)
    except HandfulError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


def _run(config: LessonsConfig) -> int:
    if config.kind is not None and config.kind not in ALL_KINDS:
        raise ConfigError(f"There is no synthetic scene {config.kind!r}; choose one of {', '.join(ALL_KINDS)}.")
    began, done = time.monotonic(), 0
    for path in make_lessons(config.out, range(config.first, config.first + config.count), config.workers, config.kind, config.photos):
        done += 1
        left = (time.monotonic() - began) / done * (config.count - done)
        print(f"{path.name}: {done} of {config.count}, {left:.0f} s left", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
