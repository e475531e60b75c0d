"""The benchmark file: methods x scenes x views x poses x seeds, read strictly into a list of jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...recon.errors import BackendUnavailable, CaptureError, ConfigError
from ..catalog import AnyConfig, any_method_config, check_any
from ..config import from_jsonable, override
from ..measure import require_priors
from ..protocols import PoseMode

__all__ = ["BenchmarkFile", "Job", "Method", "Place", "Plan", "find_scene", "read_plan"]

DatasetName = Literal["llff", "dtu", "mipnerf360", "blender", "spare", "holdout"]


@dataclass(frozen=True)
class MethodEntry:
    """One row of the tables. `label` is its name there (default: the method's, with the changes), `set` changes settings."""

    method: str = "handful"
    label: str = ""
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartEntry:
    """One part of an ablation: the settings that take it away, or that add it."""

    name: str
    set: tuple[str, ...]


@dataclass(frozen=True)
class AblationEntry:
    """`method` (changed by `set`) as it is, then once "without NAME" for each part, or "with NAME" where parts are added to a baseline."""

    parts: tuple[PartEntry, ...]
    method: str = "handful"
    set: tuple[str, ...] = ()
    direction: Literal["remove", "add"] = "remove"


@dataclass(frozen=True)
class BenchmarkEntry:
    """One data set.

    Attributes:
        scenes: names of folders inside `data`, with or without the data set's prefix; may be left away for spare (all of the split).
        views: numbers of training photos; 0 = all that are not test photos (holdout only).
        downscale, max_side: size of the photos, where the protocol leaves a choice.
        every: holdout: every so many photos one is for the test.
        split: spare: the split's file inside `data`, when there are several of the track.
        validation: train on `views` of the training photos and test on the other training photos, as for choosing settings; no test photo is read.
        spread: blender: as many training photos from all around (pipelines/spread.py), in place of the protocol's.
    """

    dataset: DatasetName
    scenes: tuple[str, ...] = ()
    views: tuple[int, ...] = (3,)
    poses: tuple[PoseMode, ...] = ("given",)
    downscale: int | None = None
    max_side: int | None = None
    every: int = 8
    split: str | None = None
    validation: bool = False
    spread: bool = False


@dataclass(frozen=True)
class BenchmarkFile:
    """The whole file.

    Attributes:
        data: folder that holds the captures, relative to the file.
        pictures: test photos per job of which pictures are kept for the report: the worst, and others evenly spaced.
        notes: what you saw, shown in the report; changes no job.
    """

    benchmarks: tuple[BenchmarkEntry, ...]
    methods: tuple[MethodEntry, ...] = ()
    ablation: AblationEntry | None = None
    seeds: tuple[int, ...] = (0,)
    data: str = "."
    title: str = ""
    pictures: int = 3
    notes: tuple[str, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"


@dataclass(frozen=True)
class Method:
    """A row of the tables with all its settings."""

    label: str
    method: str
    settings: AnyConfig


@dataclass(frozen=True)
class Place:
    """What is reconstructed and how it is tested. `path`: the capture's folder (spare: the data set's), absolute."""

    dataset: DatasetName
    scene: str
    path: str
    views: int
    poses: PoseMode = "given"
    downscale: int | None = None
    max_side: int | None = None
    every: int = 8
    split: str | None = None
    validation: bool = False
    spread: bool = False

    @property
    def title(self) -> str:
        poses = "" if self.poses == "given" else f", poses {self.poses}"
        return f"{self.dataset} {self.scene}, {self.views or 'all'} views{', validation' if self.validation else ''}{' from all around' if self.spread else ''}{poses}"

    def plain(self, text: str) -> str:
        """A message without the place where somebody keeps their captures: results are handed around."""
        return text.replace(str(Path(self.path).parent) + "/", "")


@dataclass(frozen=True)
class Job:
    """One training run and its scores. `pictures` is not part of its identity."""

    method: Method
    place: Place
    seed: int
    device: str = "auto"
    pictures: int = 3


@dataclass(frozen=True)
class Plan:
    """`text` is the file as it was read, kept with the results."""

    file: BenchmarkFile
    text: str
    name: str
    methods: tuple[Method, ...]
    places: tuple[Place, ...]

    def jobs(self, place: Place) -> tuple[Job, ...]:
        """Seeds outside, methods inside: what is compared is computed side by side, and a stopped run has whole pairs."""
        f = self.file
        return tuple(Job(m, place, seed, f.device, f.pictures) for seed in f.seeds for m in self.methods)


def read_plan(path: Path, data: Path | None = None) -> Plan:
    """Reads TOML or JSON; `data` replaces the file's own. Raises ConfigError in one sentence for what is unknown, missing or double."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"The benchmark file {path} cannot be read ({getattr(e, 'strerror', None) or 'it is no text'}).") from e
    file = from_jsonable(BenchmarkFile, _spell_out(_parse(text, path)), str(path))
    _check(file, path)
    folder = data if data is not None else path.parent / file.data
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder} with the captures; name it with --data, or as data = \"...\" in {path}.")
    methods = _methods(file, path)
    places = tuple(p for entry in file.benchmarks for p in _places(entry, folder.resolve(), path))
    if len(set(places)) != len(places):
        raise ConfigError(f"{path} names {next(p.title for p in places if places.count(p) > 1)} twice.")
    return Plan(file, text, path.name, methods, places)


def _parse(text: str, path: Path) -> Any:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text)
        try:
            import tomllib
        except ImportError:  # Python 3.10
            import tomli as tomllib
        return tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # both decoders' errors are ValueErrors
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise ConfigError(f"{path} is not valid {kind} ({str(e)[:120]}).") from e


def _spell_out(data: Any) -> Any:
    """A method may be written as its name alone."""
    if isinstance(data, dict) and isinstance(data.get("methods"), list):
        data = {**data, "methods": [{"method": m} if isinstance(m, str) else m for m in data["methods"]]}
    return data


def _check(file: BenchmarkFile, path: Path) -> None:
    def need(ok: bool, rule: str) -> None:
        if not ok:
            raise ConfigError(f"{path}: {rule}.")

    need(bool(file.benchmarks), "there must be at least one [[benchmarks]] with its dataset, scenes and views")
    need(bool(file.methods) or file.ablation is not None, 'there must be methods, as in methods = ["handful"], or an [ablation]')
    need(bool(file.seeds) and len(set(file.seeds)) == len(file.seeds), "seeds must be at least one, each named once")
    need(all(0 <= s < 2**31 for s in file.seeds), "seeds go from 0 to 2147483647")
    need(file.pictures >= 0, "pictures must be 0 or more")
    need(file.ablation is None or bool(file.ablation.parts), "an [ablation] needs at least one part")
    for b in file.benchmarks:
        need(bool(b.views) and bool(b.poses), f"{b.dataset} needs views and poses")
        need(bool(b.scenes) or b.dataset == "spare", f"{b.dataset} needs scenes")
        need(b.max_side is None or b.dataset in ("spare", "holdout"), f"the size of {b.dataset} is its protocol's; max_side is for spare and holdout")
        need(b.downscale is None or b.dataset != "spare", "the photos of spare are made smaller with max_side, not with downscale")
        need(b.every == 8 or b.dataset == "holdout", "every is for holdout; the other data sets have their own test photos")
        need(b.split is None or b.dataset == "spare", "split is for spare")
        need(not b.validation or b.dataset not in ("spare", "holdout"), "validation is for data sets whose training photos a protocol names")
        need(not b.spread or (b.dataset == "blender" and not b.validation), "spread is for blender, whose photos lie around the object, and not for validation")
        need(all(v >= 2 or (v == 0 and b.dataset == "holdout") for v in b.views), "views are 2 or more (0, for all, with holdout only)")
        need(b.dataset != "spare" or b.poses == ("given",), "spare gives the cameras of its test views in its own world, so poses are given")


def _methods(file: BenchmarkFile, path: Path) -> tuple[Method, ...]:
    entries = list(file.methods)
    if file.ablation is not None:
        a = file.ablation
        word = "without" if a.direction == "remove" else "with"
        entries.append(MethodEntry(a.method, a.method if not a.set else "", a.set))
        entries += [MethodEntry(a.method, f"{word} {p.name}", (*a.set, *p.set)) for p in a.parts]
    methods = []
    for e in entries:
        label = e.label or " ".join((e.method, *e.set))
        settings = override(any_method_config(e.method), e.set)
        try:
            check_any(settings)
            require_priors(settings)
        except (BackendUnavailable, ConfigError) as why:
            raise type(why)(f"{path}: {label!r}: {why}") from why
        methods.append(Method(label, e.method, settings))
    labels = [m.label for m in methods]
    double = next((label for label in labels if labels.count(label) > 1), None)
    if double is not None:
        raise ConfigError(f"{path} has two methods labelled {double!r}; give each its own label.")
    same = next(((a, b) for i, a in enumerate(methods) for b in methods[:i] if a.settings == b.settings and a.method == b.method), None)
    if same is not None:
        raise ConfigError(f"{path}: {same[1].label!r} and {same[0].label!r} have the same settings, so there is nothing to compare; remove one.")
    return tuple(methods)


def _places(entry: BenchmarkEntry, data: Path, path: Path) -> list[Place]:
    out = []
    for views in entry.views:
        scenes = entry.scenes
        if entry.dataset == "spare" and not scenes:
            from ...data.spare import spare_scenes

            scenes = spare_scenes(data, views, entry.split)
        for scene in scenes:
            if entry.dataset == "spare":
                folder = data
            else:
                folder, scene = find_scene(data, entry.dataset, scene)
            base = Place(entry.dataset, scene, str(folder), views, "given", entry.downscale, entry.max_side, entry.every, entry.split, entry.validation, entry.spread)
            out += [replace(base, poses=p) for p in entry.poses]
    return out


# folders under which data sets are usually unpacked, besides the scene's plain name
_FOLDERS = {"blender": ("nerf_synthetic/{}", "synthetic_{}"), "llff": ("nerf_llff_data/{}",), "mipnerf360": ("360_v2/{}", "m360_{}")}


def find_scene(data: Path, dataset: str, scene: str) -> tuple[Path, str]:
    """The capture's folder, and the scene's name without prefix. Raises CaptureError when there is none."""
    bare = scene.removeprefix(f"{dataset}_")
    forms = ("{}", f"{dataset}_{{}}", f"{dataset}/{{}}", *_FOLDERS.get(dataset, ()))
    for candidate in (data / scene, *(data / f.format(bare) for f in forms)):
        if candidate.exists():
            return candidate.resolve(), Path(bare).name
    raise CaptureError(f"{data} has no folder {scene} or {dataset}_{bare}; name the folder of the captures with --data.")
