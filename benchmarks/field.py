"""How fast a radiance field learns: one step of a VM field, natively, against the same step in plain torch.

    python -m handful.benchmarks.field [--json FILE] [--rays 4096] [--threads N]
    python -m handful.benchmarks.field --table FILE           the table of docs/field.md from a stored result

The field is made: a ball of matter in the cube, seen by rays from all around, with an occupancy grid that knows the ball. Where it is "solid", light ends soon after the
surface, and the native step leaves out all samples behind, as it does once a field has learned; where it is "fog", every sample counts. A step is marching,
lookup, network, compositing, and the way back to planes, lines and network; the optimiser is left out. "torch" reads the grid by `grid_sample`, as the code of
TensoRF does, "index" by indexing (the kernels' slow twin); both composite in torch. "cloud" is the same step of tensors of three lines, at three scales on the ball's surface.
Milliseconds, the median of the repeats.

Prints JSON: {"machine", "rays", "rows": [{"matter", "side", "channels", "hidden", "samples", "native": {"march_ms", "forward_ms", "backward_ms", "step_ms", "samples_per_second"},
"torch": {...}, "index": {...}, "times_faster"}], "cloud": {"tensors", "parameters", "samples", "native", "index", "times_faster"}, "generator": [{"side", "forward_ms", "backward_ms"}], "peak_mb"}.
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from ..pipelines.results import commit, machine, versions
from ..recon.errors import ConfigError
from ..recon.field.decoder import Decoder, colors_of, density_of
from ..recon.field.occupancy import march, march_torch
from ..recon.field.radiance import RadianceField
from ..recon.field.samples import Samples, Segments
from ..recon.field.space import BoxSpace
from ..recon.field.trivec import TriVectors, trivec_centers
from ..recon.field.vm import LINE_AXIS, PLANE_AXES, VmGrid
from ..recon.field.vm_prior import VmGenerator
from ..recon.field.volume import composite_torch
from ..recon.sh import sh_basis
from .command import run_command

__all__ = ["Args", "main", "run", "table"]

STEPS, CELLS = 256, 96
FOG, SOLID = -2.0, 3.5  # logarithm of density
SIZES = ((FOG, 160, 16), (SOLID, 160, 16), (SOLID, 256, 16), (SOLID, 160, 48))  # matter, side, channels
HIDDEN = 64
BOXES, LINE_POINTS = (0.2, 0.1, 0.05), (33, 17, 9)


@dataclass(frozen=True)
class Args:
    """Times one step of a VM field."""

    rays: int = 4096
    """Rays in a step."""
    repeats: int = 5
    """Of each measurement, after one that does not count; at least 1."""
    threads: int | None = None
    """Threads; torch's default where not given."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's table."""
    quiet: bool = False
    """Print nothing but errors."""


def rays_around(count: int) -> Segments:
    """Rays from a sphere about the cube towards places near its middle."""
    rng = torch.Generator().manual_seed(0)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=rng), dim=1) * 2
    directions = torch.nn.functional.normalize(0.4 * (torch.rand(count, 3, generator=rng) - 0.5) - origins, dim=1)
    return BoxSpace(torch.zeros(3), 1.0).segments(origins, directions, directions)


def ball(field: RadianceField, matter: float = SOLID) -> Tensor:
    """Fills the field with it, and returns the cells of a ball of radius .3."""
    axis = (torch.arange(CELLS) + 0.5) / CELLS - 0.5
    away = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).norm(dim=-1)
    with torch.no_grad():
        field.decoder.b2[0] = matter
    return away < 0.3


def features_by_sampling(planes: Tensor, lines: Tensor, xyz: Tensor) -> Tensor:
    """As the code of TensoRF reads its grids."""
    out = []
    for k in range(3):
        at = xyz[:, [PLANE_AXES[k][1], PLANE_AXES[k][0]]] * 2 - 1
        plane = torch.nn.functional.grid_sample(planes[k].permute(2, 0, 1)[None], at[None, :, None], align_corners=True)[0, :, :, 0]
        along = torch.stack([torch.zeros(len(xyz)), xyz[:, LINE_AXIS[k]] * 2 - 1], 1)
        line = torch.nn.functional.grid_sample(lines[k].T[None, :, :, None], along[None, :, None], align_corners=True)[0, :, :, 0]
        out.append((plane * line).T)
    return torch.cat(out, 1)


def one_way(name: str, field: RadianceField, segments: Segments, cells: Tensor, repeats: int) -> dict[str, Any]:
    """Times the parts of a step."""
    jitter = torch.full_like(segments.length, 0.5)
    times: dict[str, list[float]] = {"march_ms": [], "forward_ms": [], "backward_ms": []}
    samples = march(segments, cells, STEPS, jitter)
    for _ in range(repeats + 1):
        field.zero_grad()
        at = [time.perf_counter()]
        samples = (march if name == "native" else march_torch)(segments, cells, STEPS, jitter)
        at.append(time.perf_counter())
        color = _colors(name, field, samples, segments)
        at.append(time.perf_counter())
        color.sum().backward()
        at.append(time.perf_counter())
        for key, a, b in zip(times, at, at[1:], strict=False):
            times[key].append((b - a) * 1e3)
    row = {key: round(statistics.median(values[1:]), 2) for key, values in times.items()}
    step = sum(row.values())
    return {**row, "step_ms": round(step, 2), "samples_per_second": round(len(samples) / step * 1e3)}


def _colors(name: str, field: RadianceField, samples: Samples, segments: Segments) -> Tensor:
    if name != "torch":
        return field.ready(twin=name == "index").rays(samples, segments.directions).color
    planes, lines = field.encoding.grids()  # pyright: ignore[reportAttributeAccessIssue]
    raw = field.decoder(features_by_sampling(planes, lines, samples.xyz))
    basis = sh_basis(segments.directions, field.decoder.degree)[samples.rays]
    return composite_torch(density_of(raw), colors_of(raw, basis), samples).color


def run(args: Args) -> dict[str, Any]:
    if args.repeats < 1 or args.rays < 1:
        raise ConfigError(f"--repeats and --rays must be 1 or more; got {args.repeats} and {args.rays}.")
    threads = torch.get_num_threads()
    rows, generators = [], []
    try:
        torch.set_num_threads(args.threads or threads)
        segments = rays_around(args.rays)
        for matter, side, channels in SIZES:
            rng = torch.Generator().manual_seed(0)
            field = RadianceField(VmGrid(side, channels, rng), Decoder(3 * channels, HIDDEN, 1, rng=rng))
            cells = ball(field, matter)
            ways = {name: one_way(name, field, segments, cells, args.repeats) for name in ("native", "torch", "index")}
            row = {"matter": "fog" if matter == FOG else "solid", "side": side, "channels": channels, "hidden": HIDDEN, "samples": len(march(segments, cells, STEPS)), **ways}
            rows.append({**row, "times_faster": round(min(ways["torch"]["step_ms"], ways["index"]["step_ms"]) / ways["native"]["step_ms"], 1)})
        cloud = _cloud(segments, args.repeats)
        for side in (96, 160):
            generators.append({"side": side, **_generator(VmGenerator(side), args.repeats)})
        used = torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return {
        "rays": args.rays, "threads": used, "rows": rows, "cloud": cloud, "generator": generators, "peak_mb": round(peak),
        "commit": commit(), "machine": machine(), "versions": versions(),
    }  # fmt: skip


def _cloud(segments: Segments, repeats: int) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    surface = 0.5 + 0.3 * torch.nn.functional.normalize(torch.randn(40_000, 3, generator=rng), dim=1)
    centers = [trivec_centers(surface, size / 2, 10_000) for size in BOXES]
    grid = TriVectors(centers, BOXES, LINE_POINTS, 16, rng=rng)
    field = RadianceField(grid, Decoder(grid.features, HIDDEN, 1, rng=rng))
    cells = ball(field) & grid.reached(CELLS)
    ways = {name: one_way(name, field, segments, cells, repeats) for name in ("native", "index")}
    sizes = {"tensors": [len(c) for c in centers], "parameters": sum(p.numel() for p in field.parameters()), "samples": len(march(segments, cells, STEPS))}
    return {**sizes, **ways, "times_faster": round(ways["index"]["step_ms"] / ways["native"]["step_ms"], 1)}


def _generator(net: VmGenerator, repeats: int) -> dict[str, float]:
    made: list[Tensor] = []

    def ahead() -> None:
        made[:] = net.grids()

    forward = _ms(ahead, repeats)

    def both() -> None:
        ahead()
        sum(t.sum() for t in made).backward()  # pyright: ignore[reportAttributeAccessIssue]

    return {"forward_ms": forward, "backward_ms": round(_ms(both, repeats) - forward, 2)}


def _ms(work: Callable[[], object], repeats: int) -> float:
    times: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times[1:]), 2)


def table(result: dict[str, Any]) -> str:
    lines = [
        "| matter, grid | samples | native: march | forward | backward | step, ms | million samples a second | torch, ms | by indexing, ms | times faster |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        n = r["native"]
        lines.append(
            f"| {r['matter']}, {r['side']}, {r['channels']} channels | {r['samples']:,} | {n['march_ms']:.1f} | {n['forward_ms']:.1f} | {n['backward_ms']:.1f} | {n['step_ms']:.1f} | "
            f"{n['samples_per_second'] / 1e6:.1f} | {r['torch']['step_ms']:.0f} | {r['index']['step_ms']:.0f} | {r['times_faster']:.1f} |"
        )
    c, n = result["cloud"], result["cloud"]["native"]
    lines.append(
        f"| solid, {sum(c['tensors']):,} tensors | {c['samples']:,} | {n['march_ms']:.1f} | {n['forward_ms']:.1f} | {n['backward_ms']:.1f} | {n['step_ms']:.1f} | "
        f"{n['samples_per_second'] / 1e6:.1f} | | {c['index']['step_ms']:.0f} | {c['times_faster']:.1f} |"
    )
    lines += ["", "| generated grid | forward, ms | backward, ms |", "|---|---|---|"]
    lines += [f"| {g['side']} | {g['forward_ms']:.0f} | {g['backward_ms']:.0f} |" for g in result["generator"]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    sys.exit(main())
