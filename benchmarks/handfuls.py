"""How often are the photos of a random handful placed, and placed rightly? The more photos a capture has, the more handfuls it gives; no one chose these.

    python -m handful.benchmarks.handfuls --data ../shared/data --json benchmarks/results/handfuls.json [--draws 6] [--only fox ...] [--quiet]

A draw is 3 to 6 photos out of a run of consecutive ones, one to four times as many. Cameras are found without those given and without EXIF; a photo is `right`
when its rotation to the middle one of the other placed photos' is within 5 degrees, `wrong` otherwise. `gaps` counts photos by the angle from their viewing
direction to the nearest other photo's of the handful. Judges are the given cameras; where there are none, COLMAP on all photos of the capture.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from ..data.atomic import write_json
from ..data.protocol import LoadOptions
from ..data.registry import load_capture
from ..pipelines.cli.common import Console
from ..pipelines.init.registry import get_initializer
from ..pipelines.poses import turn_errors
from ..pipelines.results import commit, machine
from ..recon.camera import Cameras
from ..recon.capture import Capture
from ..recon.errors import CaptureError
from .cameras import reference, stacked

__all__ = ["CAPTURES", "Handfuls", "draw", "main", "summary"]

CAPTURES = (
    "llff_fern", "llff_flower", "llff_fortress", "llff_horns", "strecha_fountain_P11", "fox", "dtu_scan24", "dtu_scan37", "m360_kitchen25",
    "middlebury_temple16", "pi3_room8",
)  # fmt: skip
RIGHT = 5.0  # degrees
GAPS = (15, 30, 45, 60, 90, 180)


@dataclass(frozen=True)
class Handfuls:
    """Places random handfuls of real captures without using their cameras."""

    data: Path
    """Folder that holds the captures."""
    json: Path | None = None
    """Results file."""
    draws: int = 6
    """Handfuls per capture."""
    seed: int = 0
    """Of the draws; settings that were chosen while looking at one seed are to be judged by another."""
    only: tuple[str, ...] = ()
    """Captures to draw from; all when empty."""
    quiet: bool = False


def main(args: Handfuls | None = None) -> None:
    args = args or tyro.cli(Handfuls, description=__doc__)
    console = Console(args.quiet)
    rows: list[dict[str, Any]] = []
    for name in args.only or CAPTURES:
        if not (args.data / name).is_dir():
            console.warn(f"{name} is not in {args.data} and is left out.")
            continue
        capture = load_capture(args.data / name, LoadOptions(max_side=640, downscale=8 if "llff" in name else None))
        truth = _truth(capture, args.data / name)
        rng = np.random.default_rng([args.seed, CAPTURES.index(name) if name in CAPTURES else len(CAPTURES)])
        for _ in range(args.draws):
            rows.append({"capture": name} | _place(capture, truth, draw(rng, sorted(truth)), args.seed))
            console.say("  ".join(f"{k} {v}" for k, v in rows[-1].items() if k not in ("photos", "gaps")))
            if args.json is not None:
                head = {"version": 1, "seed": args.seed, "draws": args.draws, "commit": commit(), "machine": machine()}
                write_json(args.json, head | {"summary": summary(rows), "rows": rows})
    for line in _lines(summary(rows)):
        console.say(line)


def draw(rng: np.random.Generator, photos: list[int]) -> list[int]:
    """3 to 6 of the photos, out of a run of consecutive ones."""
    k = min(int(rng.integers(3, 7)), len(photos))
    run = min(len(photos), int(k * rng.uniform(1.0, 4.0)) + 1)
    start = int(rng.integers(0, len(photos) - run + 1))
    return [photos[start + int(i)] for i in sorted(rng.choice(run, k, replace=False))]


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Photos drawn, right and wrong: of each capture, for each gap, of all. `wholly`: handfuls of which every photo is right."""
    out: dict[str, dict[str, int]] = {}
    for row in rows:
        at = [_bin(g) for g in row["gaps"]]
        for key, mine in [(row["capture"], at), *((f"gap below {g}", [a for a in at if a == g]) for g in GAPS), ("all", at)]:
            pick = [n for n, a in enumerate(at) if a in mine]
            sums = out.setdefault(key, {"photos": 0, "right": 0, "wrong": 0})
            sums["photos"] += len(pick)
            for what in ("right", "wrong"):
                sums[what] += sum(row["photos"][n] in row[what] for n in pick)
            if not key.startswith("gap"):
                sums["handfuls"] = sums.get("handfuls", 0) + 1
                sums["wholly"] = sums.get("wholly", 0) + (len(row["right"]) == len(row["photos"]))
    return out


def _bin(gap: float) -> int:
    """The first of GAPS that is larger."""
    return next((g for g in GAPS if gap < g), GAPS[-1])


def _lines(sums: dict[str, dict[str, int]]) -> list[str]:
    return [f"{key:22s} " + "  ".join(f"{k} {v}" for k, v in row.items()) for key, row in sums.items()]


def _truth(capture: Capture, path: Path) -> dict[int, Cameras]:
    """Cameras by number of the photo, of those that have any."""
    if capture.cameras is not None:
        return {i: capture.cameras[i] for i in range(len(capture))}
    width, height = capture.views[0].image.size
    known = reference(path, capture.names, width, height)
    return {i: known[n] for i, n in enumerate(capture.names) if n in known}


def _place(capture: Capture, truth: dict[int, Cameras], picked: list[int], seed: int) -> dict[str, Any]:
    names = [capture.names[i] for i in picked]
    R = torch.stack([truth[i].cam_from_world[0, :3, :3].double() for i in picked])
    apart = torch.rad2deg(torch.arccos((R[:, 2] @ R[:, 2].T).clamp(-1, 1))).fill_diagonal_(torch.inf)
    bare = replace(capture, cameras=None, points=None).select(names)
    bare = replace(bare, views=tuple(replace(v, focal_prior_px=None) for v in bare.views))
    row: dict[str, Any] = {"photos": names, "gaps": [round(float(g), 1) for g in apart.min(1).values], "right": [], "wrong": []}
    began = time.monotonic()
    try:
        state = get_initializer("matches").run(bare, seed)
    except CaptureError as e:
        return row | {"seconds": round(time.monotonic() - began, 1), "error": str(e)}
    row["seconds"] = round(time.monotonic() - began, 1)
    found = state.capture.cameras
    assert found is not None
    at = [names.index(n) for n in state.capture.names]
    off = turn_errors(found, stacked([truth[picked[i]] for i in at])).numpy()
    for k, n in enumerate(state.capture.names):
        row["right" if np.median(np.delete(off[k], k)) <= RIGHT else "wrong"].append(n)
    return row | {"focal_percent": round(100 * float(found.K[:, 0, 0].mean() / truth[picked[0]].K[0, 0, 0] - 1), 1)}


if __name__ == "__main__":
    main()
