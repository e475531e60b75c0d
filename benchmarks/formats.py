"""What each format of splats costs and keeps: size, seconds, memory, and the renders before and after.

    python -m handful.benchmarks.formats SCENE [--json FILE]          SCENE: a scene folder, or a file of splats
    python -m handful.benchmarks.formats --memory 10 --degree 0       a made scene of ten million splats; a process for each figure

The first writes SCENE in every format and reads it again. PSNR is between renders of the two at the photos' cameras (mean over cameras, "same" where
they do not differ by a bit of eight), and of each with the photos; a file alone has no cameras, so those columns stay empty.
The second prints the peak of resident memory of a process that makes the scene and writes it, and of one that reads it, with Python and torch.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from ..data.atomic import write_json
from ..data.splats import SPLAT_FORMATS, is_splat_file, read_splats, write_splats
from ..pipelines.scene_folder import SceneFolder, load_scene
from ..recon.errors import ConfigError, HandfulError
from ..recon.gaussians import Gaussians
from ..recon.metrics import psnr, quantize_8bit

__all__ = ["Args", "main", "measure_memory", "measure_scene", "table"]

BOUNDED = ("ply", "compressed-ply", "splat", "spz", "glb")  # written and read piece by piece; the images of SOG are not


@dataclass(frozen=True)
class Args:
    """What each format of splats costs and keeps."""

    scene: tyro.conf.Positional[Path | None] = None
    """Scene folder, or a file of splats."""
    formats: tuple[str, ...] = ()
    """Only these."""
    memory: Annotated[float | None, tyro.conf.arg(metavar="MILLIONS")] = None
    """Measure memory instead, with so many million made splats."""
    degree: int = 0
    """Of the spherical harmonics of the made splats."""
    folder: Path | None = None
    """Where the made files go for as long as they are needed (default: the system's temporary folder)."""
    json: Path | None = None
    """Also write the result here."""
    quiet: bool = False
    """Print nothing but errors."""


# -- a scene -------------------------------------------------------------------------------------------------------------------------------


def measure_scene(path: Path, formats: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Format -> {bytes, write_s, read_s, psnr, photo_psnr}; the last two None without cameras. "original" has what the renders were before."""
    folder = None if is_splat_file(path) else load_scene(path)
    gaussians = read_splats(path) if folder is None else folder.gaussians
    before = _renders(folder, gaussians)
    rows: dict[str, dict[str, Any]] = {"original": {"gaussians": len(gaussians), "degree": gaussians.sh_degree, "photo_psnr": _against_photos(folder, before)}}
    with tempfile.TemporaryDirectory() as name:
        for format in formats or tuple(name for name in SPLAT_FORMATS if name != "usd" or find_spec("pxr") is not None):
            file = Path(name) / f"scene{SPLAT_FORMATS[format].suffixes[0]}"
            write_s = _seconds(lambda f=format, p=file: write_splats(p, gaussians, f))
            read: list[Gaussians] = []
            read_s = _seconds(lambda p=file, r=read: r.append(read_splats(p)))
            after = _renders(folder, read[0])
            kept = None if before is None or after is None else float(psnr(after, before).mean())
            rows[format] = {"bytes": file.stat().st_size, "write_s": write_s, "read_s": read_s, "psnr": kept, "photo_psnr": _against_photos(folder, after)}
    return rows


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 3)


def _renders(folder: SceneFolder | None, gaussians: Gaussians) -> torch.Tensor | None:
    if folder is None:
        return None
    scene = replace(folder.scene, gaussians=gaussians)
    return torch.cat([quantize_8bit(scene.render(folder.cameras[i]).color.clamp(0, 1)) for i in range(len(folder.cameras))])


def _against_photos(folder: SceneFolder | None, renders: torch.Tensor | None) -> float | None:
    return None if folder is None or renders is None else round(float(psnr(renders, folder.images()).mean()), 3)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    ply = rows.get("ply", {}).get("bytes")
    lines = ["| format | MB | of the ply | write, s | read, s | PSNR to the renders before | PSNR to the photos |", "|---|---|---|---|---|---|---|"]
    for name, r in rows.items():
        if name == "original":
            continue
        share = "" if not ply else f"{100 * r['bytes'] / ply:.1f} %"
        kept = "" if r["psnr"] is None else "same" if math.isinf(r["psnr"]) or r["psnr"] >= 120 else f"{r['psnr']:.1f}"
        photo = "" if r["photo_psnr"] is None else f"{r['photo_psnr']:.2f} (before: {rows['original']['photo_psnr']:.2f})"
        lines.append(f"| {name} | {r['bytes'] / 1e6:.2f} | {share} | {r['write_s']:.2f} | {r['read_s']:.2f} | {kept} | {photo} |")
    return "\n".join(lines)


# -- memory ----------------------------------------------------------------------------------------------------------------------------------


def measure_memory(millions: float, degree: int, formats: tuple[str, ...], folder: Path | None) -> dict[str, dict[str, Any]]:
    """Format -> {bytes, write_gib, read_gib, write_s, read_s}; "scene" has what a process takes that only makes the scene."""
    n = round(millions * 1e6)
    rows = {"scene": _apart("", "make", Path(), n, degree)}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        for format in formats or BOUNDED:
            file = Path(name) / f"scene{SPLAT_FORMATS[format].suffixes[0]}"
            wrote = _apart(format, "write", file, n, degree)
            read = _apart(format, "read", file, n, degree)
            rows[format] = {"bytes": file.stat().st_size, **{f"{k}_{u}": d[u] for k, d in (("write", wrote), ("read", read)) for u in ("gib", "s")}}
            file.unlink()
    return rows


def _apart(format: str, what: str, file: Path, n: int, degree: int) -> dict[str, Any]:
    """{gib, s} of a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, format, what, file, n, degree))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError as e:
        raise HandfulError(f"The process that was to {what} {n} splats as {format or 'a scene'} died (not enough memory?); ask for fewer with --memory.") from e
    finally:
        process.join()


def _work(answer: Connection, format: str, what: str, file: Path, n: int, degree: int) -> None:
    made = None if what == "read" else made_scene(n, degree)
    began = time.perf_counter()
    if what == "read":
        made = read_splats(file)
    elif what == "write" and made is not None:
        write_splats(file, made, format)
    assert made is not None and len(made) == n
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    answer.send({"gib": round(peak, 3), "s": round(time.perf_counter() - began, 1)})


def made_scene(n: int, degree: int) -> Gaussians:
    """Splats in a ball with harmonics that compress as badly as noise; nothing larger than itself is made on the way."""
    torch.manual_seed(0)
    sh = torch.empty(n, (degree + 1) ** 2, 3).normal_(0, 0.1)
    return Gaussians(torch.empty(n, 3).normal_(0, 3), torch.empty(n, 4).normal_(), torch.empty(n, 3).normal_(-4, 0.7), torch.empty(n).normal_(0, 2), sh)


def memory_table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"Making the scene alone: {rows['scene']['gib']:.2f} GiB.", "", "| format | GB | write, GiB | write, s | read, GiB | read, s |", "|---|---|---|---|---|---|"]
    for name, r in rows.items():
        if name != "scene":
            lines.append(f"| {name} | {r['bytes'] / 1e9:.2f} | {r['write_gib']:.2f} | {r['write_s']:.0f} | {r['read_gib']:.2f} | {r['read_s']:.0f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        if unknown := [f for f in args.formats if f not in SPLAT_FORMATS]:
            raise ConfigError(f"There is no format {unknown[0]!r}; choose from {', '.join(SPLAT_FORMATS)}.")
        if args.memory is not None:
            rows = measure_memory(args.memory, args.degree, args.formats, args.folder)
            text = memory_table(rows)
        elif args.scene is not None:
            rows = measure_scene(args.scene, args.formats)
            text = table(rows)
        else:
            raise ConfigError("Give a scene folder or a file of splats, or --memory MILLIONS.")
        if args.json is not None:
            write_json(args.json, {k: {a: None if isinstance(b, float) and math.isinf(b) else b for a, b in r.items()} for k, r in rows.items()})
    except (HandfulError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if not args.quiet:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
