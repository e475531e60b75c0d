"""Evaluation protocols: which photos train, which test, at what size, how poses are treated and what exactly each metric is.

A number means nothing without these, so a protocol lists image NAMES (never "every 8th") and is stored as JSON in `splits/`. The rules below
made the stored files, and serve captures that are not stored (another scene, another release of the photos).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from ..data.atomic import write_json
from ..data.files import natural_key
from ..data.protocol import LoadOptions
from ..data.registry import load_capture
from ..recon.capture import Capture, View
from ..recon.errors import CaptureError, ConfigError
from .config import load_config, to_jsonable

__all__ = [
    "DATASETS",
    "EvalProtocol",
    "MetricSpec",
    "holdout",
    "load_benchmark",
    "load_holdout",
    "load_protocol",
    "load_validation",
    "pose_free",
    "present",
    "protocol_for",
    "resolve",
    "save_protocol",
    "scene_name",
    "stem",
    "stored_path",
    "stored_protocols",
    "validation",
]

SPLITS = Path(__file__).parent / "splits"
VALIDATED_ON = 9  # so many training photos of a scene are asked for at most when settings are chosen
PoseMode = Literal["given", "sim3_aligned", "test_time_optimized"]


@dataclass(frozen=True)
class MetricSpec:
    """One column of a table, spelt out.

    Attributes:
        name: "psnr", "ssim" or "lpips".
        region: "image": all pixels as they are; "mask": only pixels of the object count (PSNR); "white": what is not the object is made white
            in both pictures.
        window, sigma, padding: SSIM's Gaussian window; "zero" pads with zeros as 3DGS's tables do, "valid" uses whole windows only.
        net: LPIPS's backbone, version 0.1. Fields that do not belong to a metric are None.
    """

    name: Literal["psnr", "ssim", "lpips"]
    region: Literal["image", "mask", "white"] = "image"
    window: int | None = None
    sigma: float | None = None
    padding: Literal["zero", "valid"] | None = None
    net: Literal["vgg", "alex"] | None = None

    def __post_init__(self) -> None:
        window = None not in (self.window, self.sigma, self.padding)
        if window != (self.name == "ssim") or (self.net is not None) != (self.name == "lpips") or (self.region == "mask" and self.name != "psnr"):
            raise ConfigError(f"The metric {self.name} is not spelt out: ssim needs window, sigma and padding, lpips a net, and only psnr has a mask; got {self}.")

    @property
    def key(self) -> str:
        """Name of the column: psnr, ssim, lpips_vgg, lpips_alex."""
        return self.name if self.net is None else f"{self.name}_{self.net}"


def metrics(region: Literal["image", "white"] = "image", mask_psnr: bool = False) -> tuple[MetricSpec, ...]:
    """PSNR, SSIM (11 px, sigma 1.5, zero padding) and LPIPS with both backbones."""
    return (
        MetricSpec("psnr", "mask" if mask_psnr else region),
        MetricSpec("ssim", region, window=11, sigma=1.5, padding="zero"),
        MetricSpec("lpips", region, net="vgg"),
        MetricSpec("lpips", region, net="alex"),
    )


@dataclass(frozen=True)
class EvalProtocol:
    """What is trained on, what is scored, and how.

    Attributes:
        id: say "llff-3"; results with another id do not compare.
        dataset, scene: where the photos are from.
        train, test: names of photos. A name without ending stands for the photo of that stem, so that PNG and JPEG releases both fit.
        downscale: factor of the original photos, 0 = given by `size` alone.
        size: (width, height) of photos and renders, None = as the capture is.
        poses: "given"; or cameras are estimated and test cameras mapped by a similarity ("sim3_aligned"), then optimised against the frozen
            scene ("test_time_optimized").
        mask: "object": the capture's masks cut out what counts, the rest is white; "ignore": what they leave out (somebody passing by) has no part in a score.
        quantize_8bit: renders are rounded to 8 bits first, as if saved and read.
        metrics: the columns.
    """

    id: str
    dataset: str
    scene: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    downscale: int = 0
    size: tuple[int, int] | None = None
    poses: PoseMode = "given"
    mask: Literal["none", "object", "ignore"] = "none"
    quantize_8bit: bool = True
    metrics: tuple[MetricSpec, ...] = field(default_factory=metrics)

    def __post_init__(self) -> None:
        for part, names in (("train", self.train), ("test", self.test)):
            if not names or len(set(names)) != len(names):
                raise ConfigError(f"Protocol {self.id}: its {part} photos must be at least one, each named once; got {len(names)} names.")
        both = set(self.train) & set(self.test)
        if both:
            raise ConfigError(f"Protocol {self.id}: the photo {min(both)!r} is in train and in test; a score on a training photo means nothing.")


# -- files -------------------------------------------------------------------------------------------------------------


def load_protocol(path: Path) -> EvalProtocol:
    """Reads a protocol strictly: an unknown key is a ConfigError that names the nearest."""
    return load_config(EvalProtocol, path)


def save_protocol(path: Path, protocol: EvalProtocol) -> None:
    data = to_jsonable(protocol)
    data["metrics"] = [{k: v for k, v in m.items() if v is not None} for m in data["metrics"]]
    write_json(path, {"version": 1, **data})


def stored_protocols() -> tuple[EvalProtocol, ...]:
    """All protocols that come with Handful, by path."""
    return tuple(load_protocol(p) for p in sorted(SPLITS.glob("*/*.json")))


def stored_path(protocol: EvalProtocol) -> Path:
    """Where a protocol lies in the installed package: splits/llff/fern_3.json, splits/llff/fern_3_quarter.json."""
    return SPLITS / protocol.dataset / f"{protocol.scene}_{protocol.id.removeprefix(protocol.dataset + '-').replace('-', '_')}.json"


# -- rules -------------------------------------------------------------------------------------------------------------


def spaced(count: int, k: int) -> list[int]:
    """k of `count` places, evenly spaced ends included: linspace rounded half to even (RegNeRF's rule for LLFF)."""
    if k > count:
        raise CaptureError(f"The protocol needs {k} training photos, but the capture has only {count} that are not test photos.")
    return [round(float(x)) for x in np.linspace(0, count - 1, k)]


def _every_eighth(names: Sequence[str], views: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Mildenhall et al. 2019 and RegNeRF: of the sorted names every 8th is test; training photos are spaced over the rest."""
    rest = [n for i, n in enumerate(names) if i % 8]
    return tuple(rest[i] for i in spaced(len(rest), views)), tuple(names[::8])


_DTU_TRAIN = (25, 22, 28, 40, 44, 48, 0, 8, 13)
_DTU_UNUSED = frozenset((*range(3, 8), *range(16, 22), *range(36, 40)))


def _dtu(names: Sequence[str], views: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """pixelNeRF and RegNeRF: fixed ids of the 49 positions; 15 badly lit ones are left out."""
    if len(names) < 49:
        raise CaptureError(f"The DTU protocol counts 49 photos (ids 0 to 48); the capture has {len(names)}.")
    test = [i for i in range(49) if i not in _DTU_TRAIN and i not in _DTU_UNUSED]
    return tuple(names[i] for i in _DTU_TRAIN[:views]), tuple(names[i] for i in test)


_BLENDER_TRAIN = (26, 86, 2, 55, 75, 93, 16, 73)


def _blender(names: Sequence[str], views: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """DietNeRF and FreeNeRF: eight fixed training views, every 8th of the 200 test views. Four (InfoNeRF) and six are the first of them in DietNeRF's order; more are
    evenly spaced over the training photos at hand."""
    if views > len(_BLENDER_TRAIN):
        photos = [n for n in names if n.startswith("train/")]
        return tuple(photos[i] for i in spaced(len(photos), views)), tuple(f"test/r_{i}" for i in range(0, 200, 8))
    return tuple(f"train/r_{i}" for i in sorted(_BLENDER_TRAIN[:views])), tuple(f"test/r_{i}" for i in range(0, 200, 8))


@dataclass(frozen=True)
class Dataset:
    """A data set's rules. `views`: numbers of training views its tables have; `downscale`: the usual one first, 0 = `size` alone; `format`: that
    of its files (data/registry.py), where its folders hold more than one."""

    split: Callable[[Sequence[str], int], tuple[tuple[str, ...], tuple[str, ...]]]
    views: tuple[int, ...]
    downscale: tuple[int, ...]
    size: tuple[int, int] | None = None
    mask: Literal["none", "object"] = "none"
    metrics: tuple[MetricSpec, ...] = field(default_factory=metrics)
    format: str | None = None


DATASETS: dict[str, Dataset] = {
    "llff": Dataset(_every_eighth, (3, 6, 9, 12), (8, 4), format="llff"),
    "dtu": Dataset(_dtu, (3, 6, 9), (0,), (400, 300), "object", metrics("white", mask_psnr=True), "dtu"),
    # its folders hold poses_bounds.npy as well; the tables use the COLMAP files
    "mipnerf360": Dataset(_every_eighth, (12, 24), (4, 8), format="colmap"),
    "blender": Dataset(_blender, (8, 6, 4, 32), (0,), (400, 400), format="blender"),
}
_SUFFIX = {8: "eighth", 4: "quarter"}


def _dataset(name: str, views: int, downscale: int | None) -> tuple[Dataset, int]:
    if name not in DATASETS:
        raise ConfigError(f"There is no benchmark {name!r}; choose one of {', '.join(DATASETS)}.")
    d = DATASETS[name]
    if views not in d.views:
        raise ConfigError(f"The {name} protocol is defined for {', '.join(map(str, d.views))} training views, not {views}.")
    if downscale is not None and downscale not in d.downscale:
        raise ConfigError(f"The {name} protocol is defined at 1/{', 1/'.join(map(str, d.downscale))}, not at 1/{downscale}.")
    return d, d.downscale[0] if downscale is None else downscale


def protocol_id(dataset: str, views: int, downscale: int) -> str:
    """llff-3 at the data set's usual scale, llff-3-quarter at another."""
    usual = downscale == DATASETS[dataset].downscale[0]
    return f"{dataset}-{views}" if usual else f"{dataset}-{views}-{_SUFFIX[downscale]}"


def protocol_by_rule(dataset: str, names: Sequence[str], views: int, scene: str, downscale: int | None = None) -> EvalProtocol:
    """The protocol of any capture of the data set: `names` are all its photos, also those missing at this scale."""
    d, scale = _dataset(dataset, views, downscale)
    train, test = d.split(sorted((stem(n) for n in names), key=natural_key), views)
    return EvalProtocol(protocol_id(dataset, views, scale), dataset, scene, train, test, scale, d.size, mask=d.mask, metrics=d.metrics)


def protocol_for(dataset: str, names: Sequence[str], views: int, scene: str = "", downscale: int | None = None) -> EvalProtocol:
    """The stored protocol of `scene` where its photos are in the capture, else the data set's rule applied to `names`.

    `names` are all photos of the scene, also those missing at this scale (`load_benchmark` sees to that). Raises ConfigError for a data set,
    number of views or scale without protocol, CaptureError where the capture has too few photos.
    """
    _, scale = _dataset(dataset, views, downscale)
    scene = scene.removeprefix(f"{dataset}_")
    path = SPLITS / dataset / f"{scene}_{protocol_id(dataset, views, scale).removeprefix(dataset + '-').replace('-', '_')}.json"
    if path.is_file():
        stored = load_protocol(path)
        if {stem(n) for n in (*stored.train, *stored.test)} <= {stem(n) for n in names}:
            return stored
    return protocol_by_rule(dataset, names, views, scene, downscale)


def pose_free(protocol: EvalProtocol, mode: Literal["sim3_aligned", "test_time_optimized"]) -> EvalProtocol:
    """The same split without given cameras; the id says so."""
    return replace(protocol, id=f"{protocol.id}-{'posefree' if mode == 'sim3_aligned' else 'posefree-tto'}", poses=mode)


def validation(protocol: EvalProtocol, views: int) -> EvalProtocol:
    """Where settings are chosen: `views` of the protocol's own training photos train, its others test. No test photo is touched.

    DTU's rule lists its photos in the order they are added, so the first ones train; elsewhere they are spaced.
    """
    names = protocol.train
    if not 2 <= views < len(names):
        raise ConfigError(f"Validation on {protocol.id} takes 2 to {len(names) - 1} of its {len(names)} training photos, not {views}.")
    train = names[:views] if protocol.dataset == "dtu" else tuple(names[i] for i in spaced(len(names), views))
    rest = tuple(n for n in names if n not in train)
    return replace(protocol, id=f"{protocol.dataset}-{views}-validation-of-{len(names)}", train=train, test=rest)


def holdout(names: Sequence[str], every: int, views: int | None, scene: str) -> EvalProtocol:
    """A protocol for photos of one's own: of the sorted names every `every`-th is test, beginning with the first; `views` of the others train, evenly
    spaced (None: all of them). The names it gives are the protocol: they are stored with every result.
    """
    if every < 2:
        raise ConfigError(f"A holdout keeps every 2nd photo or fewer for the test, not every {every}th.")
    ordered = sorted(names, key=natural_key)
    rest = [n for i, n in enumerate(ordered) if i % every]
    if len(rest) < 2:
        raise CaptureError(f"A holdout of every {every}th photo leaves {len(rest)} of {len(ordered)} photos to train on; a scene needs at least 2.")
    train = tuple(rest) if views is None else tuple(rest[i] for i in spaced(len(rest), views))
    return EvalProtocol(f"holdout-{every}" + (f"-{views}" if views is not None else ""), "holdout", scene, train, tuple(ordered[::every]))


# -- captures ----------------------------------------------------------------------------------------------------------


def stem(name: str) -> str:
    """The name without the ending of a photo; its folder stays."""
    p = PurePosixPath(name)
    return str(p.with_suffix("")) if re.fullmatch(r"\.(jpe?g|png|tiff?|webp|heic)", p.suffix.lower()) else name


def resolve(names: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """The capture's own names for a protocol's names. Raises CaptureError for one that is not there, or that two photos could be."""
    by_stem: dict[str, list[str]] = {}
    for a in available:
        by_stem.setdefault(stem(a), []).append(a)
    out = []
    for name in names:
        found = [name] if name in available else by_stem.get(stem(name), [])
        if len(found) != 1:
            what = "has no photo" if not found else f"has {len(found)} photos"
            raise CaptureError(f"The capture {what} {name!r} that the protocol names; it has {len(available)} photos, the first is {available[0] if available else '-'!r}.")
        out.append(found[0])
    return tuple(out)


def present(names: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """As `resolve`, leaving out names whose photos are not there: some data sets keep their test photos to themselves."""
    out: list[str] = []
    for name in names:
        try:
            out += resolve((name,), available)
        except CaptureError:
            continue
    return tuple(out)


def scene_name(dataset: str, path: Path) -> str:
    """fern for .../fern and .../llff_fern, lego for .../synthetic_lego."""
    return path.resolve().name.removeprefix(f"{dataset}_").removeprefix("nerf_").removeprefix("synthetic_")


def load_benchmark(dataset: str, path: Path, views: int, downscale: int | None = None) -> tuple[Capture, EvalProtocol]:
    """The capture at the protocol's size, and the protocol. Raises CaptureError when photos or their size do not fit it."""
    d, scale = _dataset(dataset, views, downscale)
    options = LoadOptions(downscale=scale) if scale else LoadOptions(max_side=max(d.size or (0,)) or None)
    capture = load_capture(path, options, adapter=d.format)
    # a photo missing at this scale still counts: the rule is about all photos of the scene
    names = (*capture.names, *(u.name for u in capture.unplaced)) if dataset != "blender" else capture.names
    protocol = protocol_for(dataset, names, views, scene_name(dataset, path), downscale)
    resolve((*protocol.train, *protocol.test), capture.names)
    size = capture.views[0].image.size
    if protocol.size is not None and size != protocol.size:
        want = f"{protocol.size[0]}x{protocol.size[1]}"
        raise CaptureError(f"{path}: photos come out {size[0]}x{size[1]}, but {protocol.id} of {protocol.scene} is defined at {want}; use the data set's own photos.")
    return capture, replace(protocol, size=size)


def load_validation(dataset: str, path: Path, views: int, downscale: int | None = None) -> tuple[Capture, EvalProtocol]:
    """The capture at the protocol's size, and `validation` on the training photos of its largest protocol up to VALIDATED_ON, or the smallest beyond."""
    if dataset not in DATASETS:
        _dataset(dataset, views, downscale)  # says so
    defined = DATASETS[dataset].views
    most = max((v for v in defined if v <= VALIDATED_ON), default=min(defined))
    capture, protocol = load_benchmark(dataset, path, most, downscale)
    return capture, validation(protocol, views)


def _hides_more_than_padding(view: View) -> bool:
    mask, extent = view.image.load_mask(), view.image.load_extent()
    return mask is not None and bool(((mask < 0.5) if extent is None else (mask < 0.5) & (extent > 0.5)).any())


def load_holdout(path: Path, every: int, views: int | None, options: LoadOptions) -> tuple[Capture, EvalProtocol]:
    """Any capture with cameras, and its `holdout`. Raises CaptureError without cameras: nothing could be rendered at the test photos."""
    capture = load_capture(path, options)
    if capture.cameras is None:
        raise CaptureError(
            f"{path} has no cameras, so its test photos could not be rendered; give a capture with cameras, such as the scene folder that "
            "`handful reconstruct` writes."
        )
    protocol = holdout(capture.names, every, views, path.resolve().name)
    if capture.is_cut_out():
        protocol = replace(protocol, mask="object", metrics=metrics("white", mask_psnr=True))
    elif any(_hides_more_than_padding(v) for v in capture.views):
        protocol = replace(protocol, mask="ignore")
    return capture, replace(protocol, downscale=options.downscale or 0, size=capture.views[0].image.size)
