"""How fast the native rasterizer is, stage by stage, and where the time goes when scenes and images grow.

    python -m handful.benchmarks.raster --data DIR [--json FILE] [--scaling] [--quiet]

DIR holds test_garden.npz (138,766 captured points and three cameras of 648x420; gsplat's test scene). Each point becomes an isotropic Gaussian as large as the
mean distance to its three nearest neighbours, with opacity 0.2 and 0.6; drawn are colour, alpha and depth. Also timed: a whole training step (projection,
compositing, fused loss, gradients, optimiser, opacity decay) of 150,000 Gaussians with spherical harmonics of degree 3 at 504x378, on points the camera all sees.

Prints JSON: {opacity: {stage_ms, ..., gaussians, visible, pairs}, "step": {...}, "machine": {...}}, medians over all cameras and repeats. `bin_ms` is
sorting by depth and listing the splats of each tile; which tiles a splat touches is found while it is projected, in `project_ms`, with its colour.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from ..data.atomic import write_json
from ..recon.camera import Cameras, pixel_centers
from ..recon.errors import CaptureError, ConfigError, HandfulError
from ..recon.gaussians import Gaussians
from ..recon.kernels import native
from ..recon.losses.fused import fused_l1_dssim
from ..recon.optim import SparseAdam, decay_opacity
from ..recon.raster.protocol import RenderOutput
from ..recon.raster.registry import get_rasterizer
from ..recon.sh import sh_dc_from_rgb

__all__ = ["Args", "garden", "main", "measure", "step_scene", "time_step"]

OPACITIES = (0.2, 0.6)
STEP_GAUSSIANS, STEP_SIZE = 150_000, (504, 378)
GROWTH_GAUSSIANS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000)
GROWTH_MEGAPIXELS = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
FIELDS = ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh")
STAGES = ("project", "sort", "bin", "forward", "backward", "project_grad")


@dataclass(frozen=True)
class Args:
    """Times the native rasterizer on captured points."""

    data: Path
    """Folder with test_garden.npz, or the folder above it."""
    json: Path | None = None
    """Also write the result here."""
    scaling: bool = False
    """Also time 10k to 2M Gaussians and 0.1 to 8 megapixels (some minutes)."""
    repeats: int = 20
    """Repeats per camera, after three that do not count; at least 1."""
    isa: str = "auto"
    """Instruction set: auto, avx512, avx2, sse2, neon, scalar."""
    threads: int | None = None
    """Threads; torch's default where not given."""
    quiet: bool = False
    """Print nothing but errors."""


def _neighbour_distance(points: np.ndarray) -> torch.Tensor:
    """Mean distance of each point to its three nearest."""
    try:
        from scipy.spatial import cKDTree  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:  # exact too, but a minute instead of a second
        t = torch.from_numpy(points)
        near = [
            torch.cdist(part, t, compute_mode="donot_use_mm_for_euclid_dist").topk(4, largest=False).values[:, 1:] for part in t.split(512)
        ]
        return torch.cat(near).mean(1)
    return torch.from_numpy(cKDTree(points).query(points, k=4)[0][:, 1:].mean(1).astype(np.float32))


def _captured(folder: Path) -> Path:
    path = next((p for p in (folder / "test_garden.npz", folder / "m360_garden3_gsplat" / "test_garden.npz") if p.is_file()), None)
    if path is None:
        raise CaptureError(f"There is no test_garden.npz in {folder}; give the folder that holds it with --data.")
    return path


def garden(folder: Path, opacity: float) -> tuple[Gaussians, Cameras]:
    """The captured points as Gaussians, and their cameras. Raises CaptureError where they are not found."""
    path = _captured(folder)
    with np.load(path) as d:
        points, rgb = d["means3d"], torch.from_numpy(d["colors"]).float() / 255
        cameras = Cameras(torch.from_numpy(d["viewmats"]).float(), torch.from_numpy(d["Ks"]).float(), int(d["width"]), int(d["height"]))
    n = len(points)
    scale = _neighbour_distance(points).clamp_min(1e-7).log()[:, None].expand(n, 3).contiguous()
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(n, 1)
    logits = torch.full((n,), opacity).logit()
    return Gaussians(torch.from_numpy(points), quats, scale, logits, sh_dc_from_rgb(rgb)[:, None].contiguous()), cameras


def step_scene(n: int, width: int, height: int, degree: int = 3) -> tuple[Gaussians, Cameras]:
    """n Gaussians on a wavy sheet that fills the image, each about as large as its share of it: what a dense start from photos looks like."""
    g = torch.Generator().manual_seed(0)
    K = torch.tensor([[[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]]])
    cameras = Cameras(torch.eye(4)[None], K, width, height)
    uv = torch.rand(1, n, 2, generator=g) * torch.tensor([width, height], dtype=torch.float32)
    depth = 3 + 0.5 * torch.sin(uv[..., 0] * 12 / width) + 0.3 * torch.rand(1, n, generator=g)
    means = cameras.unproject(uv, depth)[0]
    pixels = 0.7 * (width * height / n) ** 0.5
    scales = (depth[0] * pixels / (0.9 * width))[:, None] * (0.5 + torch.rand(n, 3, generator=g))
    sh = torch.randn(n, (degree + 1) ** 2, 3, generator=g) * 0.05
    sh[:, 0] += torch.rand(n, 3, generator=g) - 0.3
    gaussians = Gaussians(means, torch.randn(n, 4, generator=g), scales.log(), torch.randn(n, generator=g), sh)
    return gaussians, cameras


def _leaves(g: Gaussians) -> Gaussians:
    return Gaussians(*(getattr(g, f).detach().clone().requires_grad_() for f in FIELDS))


def _counts(out: RenderOutput) -> dict[str, int]:
    return {"gaussians": out.aux.visible.shape[1], "visible": int(out.aux.visible.sum(1).float().mean().round())}


def _pairs(g: Gaussians, c: Cameras) -> float:
    """Pairs of Gaussian and tile per camera."""
    n = native()
    t = [getattr(g, f).detach() for f in FIELDS]
    state = n.raster_forward(
        *t, None, c.cam_from_world, c.K, c.width, c.height, (0.0, 0.0, 0.0), 0, False, 0.01, False, False, True, torch.get_num_threads()
    )[-1]
    return n.raster_counts(int(state))["pairs"] / len(c)


def measure(gaussians: Gaussians, cameras: Cameras, repeats: int) -> dict[str, Any]:
    """Median milliseconds of each stage over all cameras, drawing colour, alpha and depth with gradients to everything but the cameras."""
    raster, n, g = get_rasterizer("cpu"), native(), _leaves(gaussians)
    v_color, v_depth = torch.rand(1, cameras.height, cameras.width, 3), torch.rand(1, cameras.height, cameras.width) * 0.1
    times: dict[str, list[float]] = {k: [] for k in (*STAGES, "forward_total", "backward_total")}
    n.reset_peak_memory()
    for i in range((repeats + 3) * len(cameras)):
        camera = cameras[i % len(cameras)]
        for f in FIELDS:
            getattr(g, f).grad = None
        t0 = time.perf_counter()
        out = raster.render(g, camera)
        t1 = time.perf_counter()
        torch.autograd.backward([out.color, out.depth], [v_color, v_depth])
        t2 = time.perf_counter()
        if i < 3 * len(cameras):
            continue
        for k, v in n.stage_times().items():
            times[k].append(v)
        times["forward_total"].append((t1 - t0) * 1e3)
        times["backward_total"].append((t2 - t1) * 1e3)
    ms = {k: round(statistics.median(v), 3) for k, v in times.items()}
    outs = raster.render(gaussians, cameras)
    return {
        "project_ms": ms["project"],
        "sort_ms": ms["sort"],
        "list_ms": ms["bin"],
        "bin_ms": round(ms["sort"] + ms["bin"], 3),
        "forward_ms": ms["forward"],
        "backward_ms": ms["backward"],
        "project_backward_ms": ms["project_grad"],
        "total_forward_ms": ms["forward_total"],
        "total_backward_ms": ms["backward_total"],
        **_counts(outs),
        "pairs": round(_pairs(gaussians, cameras)),
        "kernel_peak_mib": round(n.memory()["peak"] / 2**20, 1),
    }


def time_step(n: int, width: int, height: int, repeats: int, degree: int = 3) -> dict[str, Any]:
    """Median milliseconds of a whole training step and its parts."""
    raster, kernels = get_rasterizer("cpu"), native()
    start, camera = step_scene(n, width, height, degree)
    g = _leaves(start)
    columns = {"sh": torch.full(g.sh.shape[1:], 0.05).index_fill(0, torch.tensor([0]), 1.0)}
    rates = {"means": 1e-4, "quats_wxyz": 1e-3, "log_scales": 5e-3, "logit_opacities": 3e-2, "sh": 2.5e-3}
    adam = SparseAdam({f: getattr(g, f) for f in FIELDS}, rates, column_lr=columns)
    uv = pixel_centers(width, height) / torch.tensor([width, height])
    target = torch.stack([uv[..., 0], uv[..., 1], (uv.sum(-1) * 20).sin() / 2 + 0.5], -1)
    kernels.reset_peak_memory()
    times: list[list[float]] = []
    out = None
    for i in range(repeats + 3):
        at = [time.perf_counter()]
        out = raster.render(g, camera)
        at.append(time.perf_counter())
        loss = fused_l1_dssim(out.color[0], target)
        at.append(time.perf_counter())
        loss.backward()
        at.append(time.perf_counter())
        adam.step(out.aux.visible[0])
        adam.zero_grad()
        decay_opacity(g.logit_opacities.detach(), 0.995, out.aux.visible[0])
        at.append(time.perf_counter())
        if i >= 3:
            times.append([(b - a) * 1e3 for a, b in zip(at, at[1:], strict=False)] + [(at[-1] - at[0]) * 1e3])
    assert out is not None
    names = ("render_ms", "loss_ms", "backward_ms", "optimiser_ms", "step_ms")
    return {
        **{k: round(statistics.median(t), 3) for k, t in zip(names, zip(*times, strict=True), strict=True)},
        **_counts(out),
        "width": width,
        "height": height,
        "sh_degree": degree,
        "kernel_peak_mib": round(kernels.memory()["peak"] / 2**20, 1),
        "process_peak_mib": _process_peak_mib(),
    }


def _process_peak_mib() -> float:
    """Largest resident memory of this process so far, interpreter and torch included."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def growth(repeats: int) -> dict[str, Any]:
    """The training step (degree 1) from 10k to 2M Gaussians at 504x378, and of 150,000 Gaussians from 0.1 to 8 megapixels."""
    by_gaussians = {str(n): time_step(n, *STEP_SIZE, max(3, min(repeats, 3_000_000 // n)), 1) for n in GROWTH_GAUSSIANS}
    by_pixels: dict[str, Any] = {}
    for mp in GROWTH_MEGAPIXELS:
        height = round((mp * 1e6 * 3 / 4) ** 0.5)
        by_pixels[str(mp)] = time_step(STEP_GAUSSIANS, round(height * 4 / 3), height, max(3, round(repeats / (1 + 4 * mp))), 1)
    return {"gaussians": by_gaussians, "megapixels": by_pixels}


def _machine() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": native().isa(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
    }


def run(args: Args) -> dict[str, Any]:
    if args.repeats < 1:
        raise ConfigError(f"--repeats must be 1 or more, got {args.repeats}.")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if not native().set_isa(args.isa):
        raise ConfigError(f"This machine has no instruction set {args.isa!r}; choose auto, avx512, avx2, sse2, neon or scalar.")
    try:
        _captured(args.data)  # say what is missing before the first minute, not after it
        result: dict[str, Any] = {"machine": _machine(), "step": time_step(STEP_GAUSSIANS, *STEP_SIZE, args.repeats)}
        for opacity in OPACITIES:
            result[str(opacity)] = measure(*garden(args.data, opacity), args.repeats)
        if args.scaling:
            result["growth"] = growth(args.repeats)
    finally:
        native().set_isa("auto")
    return result


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        result = run(args)
        if args.json is not None:
            write_json(args.json, result)
    except (HandfulError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if not args.quiet:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
