"""How good is the mesh that a method gives from three photos?

    python -m handful.benchmarks.surface --data DIR -o FILE [--methods handful 3dgs] [--captures synthetic dtu room] [--seeds 0 1 2] [--steps N]
                                         [--pictures FOLDER] [--references FOLDER] [--device cpu] [--add]
    python -m handful.benchmarks.surface --table -o FILE           prints what is stored as Markdown, and runs nothing

Any method by its name: photos with their given cameras become a scene as `handful reconstruct` makes it, the scene a mesh by `mesh_scene` with its defaults.

synthetic  tabletop and object, ray-cast scenes whose triangles are known. `accuracy`: from points alike in number per area of the mesh to the true surface that
           a training photo sees; points hidden in all training photos, behind the truth and the mesh both, or in none of their pictures, are left out
           (`left_out`: their share). `completeness`: from what every pixel of the training photos truly sees to the mesh (`completeness_twice`: of that what
           two photos or more see). `chamfer`: their mean. All in percent of the median depth. `fscore`: at 1 % of it. `normal_degrees`: between the true
           normal of a pixel and the nearest triangle's, where the mesh is within that 1 %.
dtu        scan24 and scan37, no scan at hand. Distances in mm as above, to and from PSEUDO TRUTH (stereo of all 49 photos, where three others agree; see
           surface_reference.py); those of 20 mm and more are left out of the means (`*_far`), F-score at 2 mm. `silhouette_iou` with the masks of all photos
           that were not trained on, `*_near`: of those within 20 degrees of one that was. `outside_hull`: share of the mesh's area that some mask excludes.
room       pi3_room8, against the dense depth that came with it: z-depth of the mesh at the three training photos, and at a held-out one where they see.

`mesh_*` and `render_*`: the same of the mesh and of the rasterizer's own depth: `cover`, the share of pixels that has depth; of those, the `median` relative
error and the shares off by less than 1 and 5 %; `*_train_distance`: their points' mean distance to the seen true surface. What is worse in the mesh is
the fusion's doing, the rest the method's.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..data.atomic import write_json
from ..data.files import read_json
from ..data.mesh_open3d import need_open3d
from ..pipelines.job import torch_device, train_capture
from ..pipelines.mesh import mesh_scene
from ..pipelines.methods import method_config
from ..pipelines.methods.config import SplatConfig
from ..pipelines.results import commit, machine, versions
from ..recon.errors import CaptureError, ConfigError, HandfulError
from .surface_judges import CASES, FOLDERS, Case
from .surface_pictures import write_sheet
from .surface_table import table

__all__ = ["Args", "main", "run", "summary"]

VERSION = 1


@dataclass(frozen=True)
class Args:
    """Scores the meshes of methods."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE")]
    """Results file."""
    data: Path | None = None
    """Folder that holds the captures; the made scenes need none."""
    methods: tuple[str, ...] = ("handful", "3dgs")
    """By name."""
    captures: tuple[str, ...] = tuple(CASES)
    """Groups (synthetic, dtu, room) or single ones (tabletop, object, dtu_scan24, dtu_scan37, pi3_room8)."""
    seeds: tuple[int, ...] = (0,)
    """One run each."""
    steps: int | None = None
    """Optimisation steps (None: as the method says)."""
    device: str = "auto"
    """cpu, cuda or auto."""
    pictures: Path | None = None
    """Write a sheet per run here, to look at (PNG)."""
    references: Path | None = None
    """Keep the stereo clouds of DTU here, and read them from here."""
    add: bool = False
    """Keep the runs that are in FILE already; those of the same capture, method, seed and steps are replaced."""
    table: bool = False
    """Print the table of what FILE holds, and run nothing."""
    quiet: bool = False
    """Print nothing but errors."""


def chosen(args: Args) -> dict[str, Case]:
    """The cases asked for, loaded; those without photos at hand are left out and said so."""
    known = {name for group in CASES.values() for name in group}
    if unknown := [c for c in args.captures if c not in CASES and c not in known]:
        raise ConfigError(f"There is no capture {unknown[0]!r}; choose from {', '.join((*CASES, *sorted(known)))}.")
    out: dict[str, Case] = {}
    for group, cases in CASES.items():
        for name, load in cases.items():
            if group not in args.captures and name not in args.captures:
                continue
            if name in FOLDERS and (args.data is None or not (args.data / name).is_dir()):
                print(f"{name}: left out, {args.data or '--data'} does not hold it", file=sys.stderr)
                continue
            out[name] = load(args.data or Path(), args.references)
    if not out:
        raise CaptureError(f"{args.data} holds none of the captures asked for; give the folder that has {', '.join(FOLDERS)}.")
    return out


def settings(method: str, steps: int | None) -> SplatConfig:
    config = method_config(method)
    return config if steps is None else replace(config, optim=replace(config.optim, steps=steps))


def measure(args: Args, name: str, case: Case, method: str, seed: int) -> dict[str, Any]:
    """One run. A scene without a surface has no scores, and `error` says why."""
    row: dict[str, Any] = {"capture": name, "method": method, "seed": seed, "steps": args.steps, "commit": commit()}
    began = time.perf_counter()
    scene, _ = train_capture(case.train, settings(method, args.steps), seed, torch_device(args.device))
    meshing = time.perf_counter()
    row |= {"gaussians": len(scene.gaussians), "reconstruct_s": round(meshing - began, 1)}
    try:
        mesh = mesh_scene(scene)
    except HandfulError as e:
        return row | {"error": str(e), "scores": {}}
    row |= {"mesh_s": round(time.perf_counter() - meshing, 1), "triangles": len(mesh)}
    if args.pictures is not None:
        write_sheet(args.pictures / f"{name}_{method}_seed{seed}.png", case.looks, scene, mesh)
    return row | {"scores": {k: round(v, 5) if v == v else None for k, v in case.judge(scene, mesh).items()}}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per capture, method and steps: mean and standard deviation (None of a single run) of every figure over the seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for r in rows:
        groups.setdefault((r["capture"], r["method"], r["steps"]), []).append(r)
    out = []
    for (capture, method, steps), runs in groups.items():
        flat = [r["scores"] | {k: r[k] for k in ("reconstruct_s", "mesh_s", "triangles", "gaussians") if k in r} for r in runs]
        figures: dict[str, Any] = {}
        for key in dict.fromkeys(k for f in flat for k in f):
            values = [f[key] for f in flat if f.get(key) is not None]
            if len(values) == len(runs):
                figures[key] = {"mean": round(statistics.fmean(values), 5), "std": round(statistics.stdev(values), 5) if len(values) > 1 else None}
        out.append({"capture": capture, "method": method, "steps": steps, "seeds": [r["seed"] for r in runs], **figures})
    return out


def run(args: Args) -> dict[str, Any]:
    """Runs everything, writing the file after each run."""
    need_open3d()
    for method in args.methods:
        settings(method, args.steps)  # an unknown name is told before the work
    rows: list[dict[str, Any]] = read_json(args.out)["rows"] if args.add and args.out.is_file() else []
    result: dict[str, Any] = {}
    for name, case in chosen(args).items():
        for method in args.methods:
            for seed in args.seeds:
                new = measure(args, name, case, method, seed)
                same = ("capture", "method", "seed", "steps")
                rows = [r for r in rows if any(r[k] != new[k] for k in same)] + [new]
                if not args.quiet:
                    print(_line(new), flush=True)
                result = {"version": VERSION, "machine": machine(), "versions": versions() | {"open3d": version("open3d")}, "summary": summary(rows), "rows": rows}
                write_json(args.out, result)
    return result


def _line(row: dict[str, Any]) -> str:
    keys = ("chamfer", "fscore", "normal_degrees", "silhouette_iou_near", "mesh_train_median", "render_train_median")
    told = [f"{k} {row['scores'][k]:.3g}" for k in keys if row["scores"].get(k) is not None]
    return f"{row['capture']} {row['method']} seed {row['seed']}: {', '.join(told) or row.get('error', '')}; {row['reconstruct_s']:.0f} s"


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        result = read_json(args.out) if args.table else run(args)
    except (HandfulError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    if not args.quiet:
        print(table(result["summary"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
