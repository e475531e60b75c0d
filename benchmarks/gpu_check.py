"""One command for any machine with a CUDA GPU: does Handful work here, and how fast is it?

    python -m handful.benchmarks.gpu_check            (or: python benchmarks/gpu_check.py, from the repository's root)

Lets gsplat compile its kernels, compares it with the float64 judge, runs the numeric test suites with `--device cuda`, times a training step and, where
the LLFF fern capture is found, a whole scene, and prints one table. Exit code 0: all well; 1: something failed (the table says what); 2: no CUDA here.
"""

from __future__ import annotations

if __name__ == "__main__" and not __package__:  # started as a file: run the same module inside its package, where relative imports work
    import runpy
    import sys

    runpy.run_module("handful.benchmarks.gpu_check", run_name="__main__")
    sys.exit()

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..recon.camera import Cameras
from ..recon.errors import BackendUnavailable, HandfulError
from ..recon.gaussians import Gaussians
from ..recon.raster.protocol import Rasterizer, RasterOptions
from ..recon.raster.registry import get_rasterizer

__all__ = ["Row", "StepTime", "agreement", "main", "made_scene", "time_step"]

SUITES = ("tests/conformance", "tests/recon")
STEP_GAUSSIANS, STEP_SIZE = 150_000, (504, 378)
FIELDS = ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh")


@dataclass(frozen=True)
class Row:
    """A line of the table; ok None = not run, for the reason in `result`."""

    check: str
    result: str
    ok: bool | None


@dataclass(frozen=True)
class StepTime:
    """Median milliseconds of one training step and its parts, and the peak of memory on the device in MiB (0 on a CPU)."""

    forward_ms: float
    backward_ms: float
    optimiser_ms: float
    step_ms: float
    peak_mib: float


def made_scene(
    n: int, size: tuple[int, int], device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Gaussians, Cameras]:
    """n Gaussians of about a pixel and a half in a slab before one camera: the load of a scene started from dense depth."""
    gen = torch.Generator().manual_seed(seed)
    w, h = size
    z = 2 + 2 * torch.rand(n, generator=gen)
    uv = (torch.rand(n, 2, generator=gen) - 0.5) * 1.05
    means = torch.stack([uv[:, 0] * z * 1.1, uv[:, 1] * z * 1.1 * h / w, z], -1)
    pixel = z / (0.9 * w)
    log_scales = (1.5 * pixel).log()[:, None] + 0.3 * torch.randn(n, 3, generator=gen)
    sh = 0.3 * torch.randn(n, 4, 3, generator=gen)
    g = Gaussians(means, torch.randn(n, 4, generator=gen), log_scales, torch.randn(n, generator=gen) - 0.5, sh)
    K = torch.tensor([[[0.9 * w, 0, w / 2], [0, 0.9 * w, h / 2], [0, 0, 1]]])
    return g.to(device, dtype), Cameras(torch.eye(4)[None], K, w, h).to(device, dtype)


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_step(
    rasterizer: Rasterizer, device: torch.device, n: int = STEP_GAUSSIANS, size: tuple[int, int] = STEP_SIZE, repeats: int = 30
) -> StepTime:
    """A training step: render, L1 against a fixed picture, gradients, Adam over all parameters."""
    g, cameras = made_scene(n, size, device)
    g = Gaussians(*(getattr(g, k).clone().requires_grad_() for k in FIELDS))
    adam = torch.optim.Adam([getattr(g, k) for k in FIELDS], lr=1e-4)
    target = torch.rand(1, size[1], size[0], 3, generator=torch.Generator().manual_seed(1)).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times: list[tuple[float, float, float]] = []
    for i in range(repeats + 3):
        _sync(device)
        t0 = time.perf_counter()
        loss = (rasterizer.render(g, cameras, RasterOptions()).color - target).abs().mean()
        _sync(device)
        t1 = time.perf_counter()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        _sync(device)
        t2 = time.perf_counter()
        adam.step()
        _sync(device)
        if i >= 3:  # the first ones compile and allocate
            times.append((t1 - t0, t2 - t1, time.perf_counter() - t2))
    forward, backward, optimiser = (1e3 * statistics.median(t[k] for t in times) for k in range(3))
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return StepTime(forward, backward, optimiser, 1e3 * statistics.median(sum(t) for t in times), peak)


def agreement(rasterizer: Rasterizer, device: torch.device, n: int = 2000, size: tuple[int, int] = (96, 72)) -> dict[str, float]:
    """Median and share of outliers against the float64 judge: jumps of single pixels are allowed, a shift of all is not."""
    g, cameras = made_scene(n, size, device)
    judge_g, judge_c = made_scene(n, size, torch.device("cpu"), torch.float64)
    got = rasterizer.render(g, cameras, RasterOptions(normal=True))
    want = get_rasterizer("reference").render(judge_g.to(dtype=torch.float64), judge_c, RasterOptions(normal=True))
    error = torch.cat([(getattr(got, k).double().cpu() - getattr(want, k)).abs().flatten() for k in ("color", "alpha", "depth", "normal")])
    return {"median": error.median().item(), "beyond_1e-3": (error > 1e-3).double().mean().item(), "max": error.max().item()}


def _suites(root: Path, device: str) -> Row:
    if not all((root / s).is_dir() for s in SUITES):
        return Row("numeric suites", f"not run: no {SUITES[0]} in {root}; start from the repository's root", None)
    with tempfile.TemporaryDirectory() as tmp:
        report = Path(tmp) / "report.xml"
        command = [sys.executable, "-m", "pytest", *SUITES, "--device", device, "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        run = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if not report.is_file():
            return Row("numeric suites", f"pytest did not run: {(run.stderr or run.stdout).strip().splitlines()[-1:]}", False)
        suite = ET.parse(report).getroot().find("testsuite")
        assert suite is not None
        count = {k: int(suite.get(k, 0)) for k in ("tests", "failures", "errors", "skipped")}
        failed = [
            f"{c.get('classname', '').rsplit('.', 1)[-1]}::{c.get('name')}"
            for c in suite
            if c.find("failure") is not None or c.find("error") is not None
        ]
    bad = count["failures"] + count["errors"]
    passed = count["tests"] - bad - count["skipped"]
    text = f"{passed} passed, {bad} failed, {count['skipped']} skipped"
    return Row(f"numeric suites --device {device}", text + (": " + ", ".join(failed[:8]) if failed else ""), bad == 0 and passed > 0)


def _scene(fern: Path | None, views: int) -> Row:
    name = f"scene: LLFF fern, {views} views"
    if fern is None or not fern.is_dir():
        return Row(name, "not run: no fern capture found (--fern DIR)", None)
    with tempfile.TemporaryDirectory() as tmp:
        out = Path(tmp) / "summary.json"
        command = [
            sys.executable,
            "-m",
            "handful.pipelines.cli.main",
            "evaluate",
            "llff",
            str(fern),
            "--views",
            str(views),
            "--json",
            str(out),
            "--quiet",
        ]
        t0 = time.perf_counter()
        run = subprocess.run(command, cwd=tmp, capture_output=True, text=True)
        seconds = time.perf_counter() - t0
        if run.returncode or not out.is_file():
            last = (run.stderr or run.stdout).strip().splitlines()
            return Row(name, f"failed (exit {run.returncode}): {last[-1] if last else ''}", False)
        s = json.loads(out.read_text(encoding="utf-8"))
    figures = ", ".join(f"{k} {s[k]:.4g}" for k in ("psnr", "ssim", "lpips_vgg", "seconds") if isinstance(s.get(k), (int, float)))
    return Row(name, f"{figures} ({seconds:.0f} s in all, {s.get('seeds', 1)} seeds)", True)


def _guarded(name: str, check: Callable[[], Row]) -> Row:
    """A check that breaks is a line of the table, not the end of it."""
    try:
        return check()
    except (HandfulError, RuntimeError, OSError, ValueError, AssertionError) as e:
        return Row(name, f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", False)


def _step_row(name: str, device: torch.device, n: int, repeats: int) -> Row:
    t = time_step(get_rasterizer(name, device), device, n, repeats=repeats)
    w, h = STEP_SIZE
    text = f"{t.step_ms:.2f} ms (forward {t.forward_ms:.2f}, backward {t.backward_ms:.2f}, Adam {t.optimiser_ms:.2f}), peak {t.peak_mib:.0f} MiB"
    return Row(f"step: {name}, {n} Gaussians, {w}x{h}", text, True)


def _agreement_row(name: str, device: torch.device) -> Row:
    e = agreement(get_rasterizer(name, device), device)
    ok = e["median"] < 1e-5 and e["beyond_1e-3"] < 1e-3
    return Row(
        f"{name} against the judge", f"median error {e['median']:.1e}, beyond 1e-3: {100 * e['beyond_1e-3']:.3f} %, max {e['max']:.1e}", ok
    )


def print_table(rows: list[Row]) -> None:
    width = max(len(r.check) for r in rows)
    for r in rows:
        print(f"{ {True: 'ok  ', False: 'FAIL', None: '-   '}[r.ok] }  {r.check:<{width}}  {r.result}", flush=True)


def _default_fern() -> Path | None:
    places = [Path(os.environ["HANDFUL_SHARED"])] if "HANDFUL_SHARED" in os.environ else []
    places.append(Path.cwd().parent / "shared")
    return next((p / "data" / "llff_fern" for p in places if (p / "data" / "llff_fern").is_dir()), None)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu_check", description="Checks and times Handful on this machine's CUDA GPU.")
    parser.add_argument("--fern", type=Path, default=None, help="folder of the LLFF fern capture (default: ../shared/data/llff_fern)")
    parser.add_argument("--views", type=int, default=3, help="training views of the scene")
    parser.add_argument("--repeats", type=int, default=30, help="training steps timed")
    parser.add_argument("--json", type=Path, default=None, help="also write the rows to this file")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        why = "this PyTorch was built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        print(f"gpu_check: {why}, so there is nothing to check here; run it on a machine with an NVIDIA GPU.", file=sys.stderr)
        return 2
    device, rows = torch.device("cuda"), []
    name, total = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 2**30
    rows.append(Row("device", f"{name}, {total:.0f} GiB, CUDA {torch.version.cuda}, torch {torch.__version__}", True))
    t0 = time.perf_counter()
    try:
        get_rasterizer("gsplat")
        rows.append(Row("gsplat kernels", f"compiled and loaded in {time.perf_counter() - t0:.0f} s", True))
        have = ("gsplat", "reference")
    except BackendUnavailable as e:
        rows.append(Row("gsplat kernels", str(e), False))
        have = ("reference",)
    for r in have:
        rows.append(_guarded(f"{r} against the judge", lambda r=r: _agreement_row(r, device)))
        rows.append(_guarded(f"step: {r}", lambda r=r: _step_row(r, device, STEP_GAUSSIANS, args.repeats if r == "gsplat" else 3)))
    rows.append(_guarded("numeric suites", lambda: _suites(Path.cwd(), "cuda")))
    rows.append(_guarded("scene", lambda: _scene(args.fern or _default_fern(), args.views)))
    print_table(rows)
    if args.json is not None:
        beside = args.json.with_name(args.json.name + ".part")
        beside.write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")
        os.replace(beside, args.json)
    return 1 if any(r.ok is False for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
