"""Cameras from nothing against given ones: photos placed, focal length, rotation and centre after similarity alignment.

    python -m handful.benchmarks.cameras --data ../shared/data --json benchmarks/results/cameras.json
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from ..data.atomic import write_json
from ..data.protocol import LoadOptions
from ..data.registry import load_capture
from ..pipelines.init.registry import get_initializer
from ..pipelines.poses import pose_errors
from ..pipelines.results import commit, machine
from ..recon.errors import CaptureError

__all__ = ["Cameras", "main"]

# capture folder, numbers of evenly spaced photos (index int(i * n / k) of the sorted names)
CASES: dict[str, tuple[int, ...]] = {
    "llff_fern": (3, 6, 9),
    "strecha_fountain_P11": (3, 5, 11),
    "middlebury_temple16": (4, 8, 16),
    "fox": (3, 6),
    "m360_kitchen25": (3, 5, 8),
}


@dataclass(frozen=True)
class Cameras:
    """Estimates the cameras of real captures without using theirs."""

    data: Path
    """Folder that holds the captures."""
    json: Path | None = None
    """Results file."""
    only: tuple[str, ...] = ()
    """Captures to run, as NAME or NAME:COUNT; all when empty."""
    seed: int = 0


def main(args: Cameras | None = None) -> None:
    args = args or tyro.cli(Cameras, description=__doc__)
    rows = []
    for name, counts in CASES.items():
        for count in counts:
            if args.only and name not in args.only and f"{name}:{count}" not in args.only:
                continue
            rows.append(measure(args.data / name, count, args.seed))
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
            if args.json is not None:
                write_json(args.json, {"version": 1, "seed": args.seed, "commit": commit(), "machine": machine(), "rows": rows})


def measure(path: Path, count: int, seed: int) -> dict[str, Any]:
    """One capture with `count` photos. Errors are means over the placed photos; None where nothing is given to compare with."""
    capture = load_capture(path, LoadOptions(max_side=640, max_photos=count, downscale=8 if "llff" in path.name else None))
    row: dict[str, Any] = {"capture": path.name, "photos": len(capture), "placed": 0}
    began = time.monotonic()
    try:
        init = get_initializer("matches").run(replace(capture, cameras=None, points=None), seed)
    except CaptureError as e:
        return row | {"error": str(e), "seconds": round(time.monotonic() - began, 1)}
    report = init.report
    row |= {
        "placed": report.registered, "seconds": round(time.monotonic() - began, 1), "focal_px": report.focal_px,
        "reprojection_px": report.reprojection_px, "baseline": report.baseline, "points": report.points,
        "rotation_deg": None, "center_percent": None, "focal_percent": None,
    }  # fmt: skip
    if capture.cameras is not None and init.capture.cameras is not None:
        given = capture.select(init.capture.names).cameras
        assert given is not None
        errors = pose_errors(init.capture.cameras, given)
        row |= {
            "rotation_deg": float(errors.rotation_deg.mean()),
            "center_percent": float(errors.center.mean()),
            "focal_percent": float(errors.focal.mean()),
        }
    return row


if __name__ == "__main__":
    main()
