"""How long sparse convolutions and backbones take: rulebooks, forward, backward.

    python -m handful.benchmarks.voxels [--json FILE] [--voxels 10000 100000] [--threads N]
    python -m handful.benchmarks.voxels --table FILE          the tables of docs/voxels.md from a stored result

The voxels are a wavy sheet, occupied as a scanned surface is. Backends are timed on one submanifold convolution 3^3 of 32 channels to 32, and on the way to the
next stride, rulebooks apart; backbones at equally many parameters on 8 features, with the backend that "auto" takes: the first pass makes rulebooks and groups,
forward and backward find them made, and `kept` is what a forward pass holds for the backward pass. Milliseconds, the least of the repeats; with one thread the processor's time of this process, since other programs then do
not count, with more the clock's.

Prints JSON: {"machine", "clock": "processor" | "wall", "parameters", "rows": [{"voxels", "what": "backend" | "backbone", "name", ...}]}.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from ..pipelines.results import commit, machine, versions
from ..recon.errors import BackendUnavailable, ConfigError
from ..recon.voxel import SPARSE_BACKENDS, DownConv, Rulebooks, SparseVoxels, SubMConv, build_backbone, get_backend, voxelize, width_for
from ..recon.voxel.protocol import SparseBackend
from ..recon.voxel.registry import BACKBONES, parameters
from .command import run_command

__all__ = ["Args", "main", "run", "surface_voxels", "table"]

CHANNELS, FEATURES, OUTPUTS = 32, 8, 16


@dataclass(frozen=True)
class Args:
    """Times sparse convolutions and backbones on made surfaces."""

    voxels: tuple[int, ...] = (10_000, 100_000)
    """About so many voxels, one row each."""
    parameters: int = 1_000_000
    """Of every backbone, as near as its steps of channels allow."""
    repeats: int = 5
    """Of each measurement, after one that does not count; at least 1."""
    threads: int | None = None
    """Threads; torch's default where not given."""
    json: Path | None = None
    """Also write the result here."""
    table: Path | None = None
    """Measure nothing; print this result's tables."""
    quiet: bool = False
    """Print nothing but errors."""


def surface_voxels(count: int, channels: int) -> SparseVoxels:
    """About `count` voxels of a wavy sheet, with random features."""
    g = torch.Generator().manual_seed(0)
    edge = (count / 1.5) ** 0.5  # the waves add about a half
    uv = torch.rand(8 * count, 2, generator=g) * edge
    height = 12 * torch.sin(uv[:, :1] / 20) + 10 * torch.cos(uv[:, 1:] / 15)
    return voxelize(torch.cat([uv, height], 1), torch.randn(len(uv), channels, generator=g), 1.0)[0]


def time_backend(backend: SparseBackend, x: SparseVoxels, repeats: int) -> dict[str, Any]:
    conv = SubMConv(CHANNELS, CHANNELS)
    down = DownConv(CHANNELS, CHANNELS)
    x = x.with_feats(x.feats.requires_grad_())
    books = Rulebooks(x, backend)
    return {
        "rulebook_ms": _ms(lambda: backend.subm(x.coords, x.shape, 3), repeats),
        "down_rulebook_ms": _ms(lambda: backend.down(x.coords, x.shape), repeats),
        **_both_ways("", lambda: conv(x, books).feats, repeats),
        **_both_ways("down_", lambda: down(x, books).feats, repeats),
        "pairs": books.subm(1, 3).pairs,
    }


def time_backbone(name: str, x: SparseVoxels, count: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    net = build_backbone(name, FEATURES, OUTPUTS, width_for(name, FEATURES, OUTPUTS, count))
    books = Rulebooks(x)
    with torch.no_grad():
        first = _ms(lambda: net(x), repeats)
    return {"parameters": parameters(net), "first_ms": first, **_both_ways("", lambda: net(x, books).feats, repeats), "kept_mb": _kept(net, lambda: net(x, books).feats)}


def _kept(net: torch.nn.Module, forward: Callable[[], torch.Tensor]) -> float:
    """Megabytes that a forward pass keeps for the backward pass, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    sizes: dict[int, int] = {}
    held: list[torch.Tensor] = []  # none is freed, and its place given to the next, while they are counted

    def pack(t: torch.Tensor) -> torch.Tensor:
        place = t.untyped_storage().data_ptr()
        if place not in weights:
            sizes[place] = t.untyped_storage().nbytes()
            held.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        forward()
    return round(sum(sizes.values()) / 1e6, 1)


def _both_ways(prefix: str, forward: Callable[[], torch.Tensor], repeats: int) -> dict[str, float]:
    outs: list[torch.Tensor] = []

    def ahead() -> None:
        outs[:] = [forward()]

    forward_ms = _ms(ahead, repeats)
    back: list[float] = []
    for _ in range(repeats):
        ahead()
        start = _clock()
        outs[0].sum().backward()
        back.append((_clock() - start) * 1e3)
    return {f"{prefix}forward_ms": forward_ms, f"{prefix}backward_ms": round(min(back), 2)}


def _clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def _ms(work: Callable[[], object], repeats: int) -> float:
    times: list[float] = []
    for _ in range(repeats + 1):
        start = _clock()
        work()
        times.append((_clock() - start) * 1e3)
    return round(min(times[1:]), 2)


def run(args: Args) -> dict[str, Any]:
    if args.repeats < 1 or min(args.voxels, default=0) < 1:
        raise ConfigError(f"--repeats and --voxels must be 1 or more; got {args.repeats} and {args.voxels}.")
    threads = torch.get_num_threads()
    rows: list[dict[str, Any]] = []
    try:
        torch.set_num_threads(args.threads or threads)
        for count in args.voxels:
            x = surface_voxels(count, CHANNELS)
            for name in SPARSE_BACKENDS:
                try:
                    backend = get_backend(name)
                except BackendUnavailable as e:
                    rows.append({"voxels": len(x), "what": "backend", "name": name, "missing": str(e)})
                    continue
                rows.append({"voxels": len(x), "what": "backend", "name": name, **time_backend(backend, x, args.repeats)})
            x = surface_voxels(count, FEATURES)
            for name in BACKBONES:
                rows.append({"voxels": len(x), "what": "backbone", "name": name, **time_backbone(name, x, args.parameters, args.repeats)})
        head = {
            "version": 1,
            "commit": commit(),
            "clock": "processor" if torch.get_num_threads() == 1 else "wall",
            "machine": machine(),
            "versions": versions("spconv", "spconv-triton"),
        }
    finally:
        torch.set_num_threads(threads)
    return {**head, "parameters": args.parameters, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Two tables in Markdown: backends, then backbones."""
    columns = {
        "backend": ("rulebook_ms", "forward_ms", "backward_ms", "down_rulebook_ms", "down_forward_ms", "down_backward_ms"),
        "backbone": ("parameters", "first_ms", "forward_ms", "backward_ms", "kept_mb"),
    }
    parts: list[str] = []
    for what, keys in columns.items():
        lines = [_line(["voxels", what, *(k.replace("_ms", ", ms").replace("_mb", ", MB").replace("_", " ") for k in keys)]), _line(["---"] * (len(keys) + 2))]
        for row in result["rows"]:
            if row["what"] == what and "missing" not in row:
                lines.append(_line([f"{row['voxels']:,}", row["name"], *(_cell(row[k]) for k in keys)]))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str] | None = None) -> int:
    return run_command(tyro.cli(Args, args=argv, description=__doc__), run, table)


if __name__ == "__main__":
    sys.exit(main())
