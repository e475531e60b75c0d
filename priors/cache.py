"""Results of learned depth priors kept by content: the same photos, cameras, settings and weights are not computed twice.

Files lie in the user's cache (`$XDG_CACHE_HOME/handful/priors`, else `~/.cache/handful/priors`) and are named by a digest of everything the result depends on, so none is ever
stale; the oldest go when they grow beyond `LIMIT`. A prior without weights (stereo) is quick and is not kept.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import packages_distributions, version
from pathlib import Path

import torch

from ..recon.camera import Cameras
from ..recon.capture import View
from ..recon.depth import DepthMap
from ..recon.points import PointCloud
from .protocol import DepthPrior
from .weight_files import weights_digest
from .weights import cache_dir

__all__ = ["LIMIT", "cache_bytes", "predict_depth", "results_dir"]

LIMIT = 2_000_000_000  # bytes


def results_dir() -> Path:
    """Where results are kept; not created here."""
    return cache_dir().parent / "priors"


def cache_bytes() -> int:
    return sum(p.stat().st_size for p in results_dir().glob("*.safetensors"))


def predict_depth(
    prior: DepthPrior, views: Sequence[View], cameras: Cameras | None, points: PointCloud | None, anew: bool = False
) -> list[DepthMap]:
    """`prior.predict`, from the cache where it has been asked the same before. A cache that cannot be read or written is no error.

    Args:
        anew: ask the prior in any case, so that the time this takes is that of a first run.
    """
    if not getattr(prior, "weights", ()):
        return prior.predict(views, cameras, points)
    path = results_dir() / f"{_key(prior, views, cameras, points)}.safetensors"
    kept = None if anew else _read(path)
    if kept is not None:
        return kept
    maps = prior.predict(views, cameras, points)
    _write(path, maps)
    return maps


def _key(prior: DepthPrior, views: Sequence[View], cameras: Cameras | None, points: PointCloud | None) -> str:
    h = hashlib.sha256(f"{type(prior).__name__} {prior.name} {prior.version}".encode())
    for f in dataclasses.fields(prior):  # pyright: ignore[reportArgumentType]
        if f.init and not f.name.startswith("_") and f.name != "device":
            h.update(f"\0{f.name}={_said(getattr(prior, f.name))}".encode())
    for name in getattr(prior, "weights", ()):
        h.update(weights_digest(name).encode())
    for package in sorted(getattr(prior, "packages", {})):  # another version of the network's package may answer otherwise
        for distribution in sorted(packages_distributions().get(package, ())):
            h.update(f"\0{distribution} {version(distribution)}".encode())
    for view in views:
        h.update(view.image.digest().encode())
    tensors = [] if cameras is None else [cameras.cam_from_world, cameras.K]
    for t in tensors + ([] if points is None else [points.xyz]):
        h.update(f"{tuple(t.shape)}".encode() + t.detach().cpu().double().contiguous().numpy().tobytes())
    return h.hexdigest()


def _said(value: object) -> str:
    """An option in words that are the same in every run; a prior inside a prior by its name, version and settings."""
    inner = getattr(value, "name", None)
    return f"{inner} {getattr(value, 'version', '')} {getattr(value, 'config', '')}" if isinstance(inner, str) else repr(value)


def _read(path: Path) -> list[DepthMap] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as f:
            kinds = f.metadata()["kinds"].split()
            t = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        os.utime(path)  # it was wanted today
        return [
            DepthMap(t[f"{i}.depth"], t[f"{i}.confidence"], t[f"{i}.valid"], t.get(f"{i}.normal"), kind)  # pyright: ignore[reportArgumentType]
            for i, kind in enumerate(kinds)
        ]
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def _write(path: Path, maps: Sequence[DepthMap]) -> None:
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    for i, m in enumerate(maps):
        parts = {"depth": m.depth, "confidence": m.confidence, "valid": m.valid} | ({} if m.normal is None else {"normal": m.normal})
        tensors.update({f"{i}.{k}": v.detach().cpu().clone().contiguous() for k, v in parts.items()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="write-") as folder:
            part = Path(folder) / "part"
            part.write_bytes(save(tensors, {"kinds": " ".join(m.kind for m in maps)}))
            os.replace(part, path)
        _bound(path)
    except OSError:
        return


def _bound(newest: Path) -> None:
    files = sorted(newest.parent.glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > LIMIT and file != newest:
            file.unlink(missing_ok=True)
