"""How good the depth from the photos is, and how long it takes.

    python -m handful.benchmarks.stereo --data DIR [--json FILE] [--only room3 ...] [--pictures FOLDER] [--quiet]

DIR holds the captures; a case whose capture is missing is left out and said so. Cases:

room3, room8            pi3_room8: three neighbouring photos, all eight; against the dense depth that came with them (its mirror shows another room: stereo
                        follows the reflection, the truth the glass).
fern3                   llff_fern: the three training photos of llff-3 at 1/8, against COLMAP's points (from all photos) that those photos see.
fountain3, fountain3wide  strecha_fountain_P11: photos 3, 5, 7 and 0, 5, 10 with true cameras, against keypoints matched over all eleven photos and
                        triangulated, agreed on by two or more other photos.

Each at confidence thresholds: `complete` is the share of the truth's pixels that have depth above the threshold, `median` the median relative error of those,
`within_N` the share of them off by less than N percent; `confidence` what their confidence promised on average. `dense` is the depth completed everywhere.
`warp_psnr` compares photos that stereo did not see with the points of its valid depth seen from there, over the covered share `warp_cover`.
"""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from ..data.atomic import write_json
from ..data.protocol import LoadOptions
from ..data.registry import load_capture
from ..pipelines.init.from_capture import FromCapture
from ..priors.depth_stereo import StereoDepth
from ..priors.registry import get_prior
from ..recon.camera import Cameras
from ..recon.capture import Capture
from ..recon.depth import DepthMap
from ..recon.depth_fill import complete_depth
from ..recon.errors import CaptureError, ConfigError, HandfulError

__all__ = ["Args", "Case", "main", "run", "score", "warp"]

THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
WITHIN = (1, 2, 5, 10)

Truth = tuple[Tensor, Tensor, Tensor]  # rows, columns, z-depths of one photo


@dataclass(frozen=True)
class Args:
    """Measures the stereo depth prior against truth."""

    data: Path
    """Folder with the captures."""
    json: Path | None = None
    """Also write the result here."""
    only: tuple[str, ...] = ()
    """Names of the cases to run; all when left out."""
    pictures: Path | None = None
    """Write photo, depth, valid depth, confidence and completed depth of each case here (PNG)."""
    backend: str = "auto"
    """auto, native or reference (slow)."""
    quiet: bool = False
    """Print nothing but errors."""


@dataclass(frozen=True)
class Case:
    """Photos with cameras, the truth of each, and photos held out."""

    photos: Capture
    truth: list[Truth]
    held_out: Capture | None = None


def _picked(capture: Capture, ids: list[int]) -> Capture:
    return capture.select([capture.names[i] for i in ids])


def _cameras(capture: Capture) -> Cameras:
    if capture.cameras is None:
        raise CaptureError("The benchmark needs captures with cameras.")
    return capture.cameras


def room(data: Path, ids: list[int]) -> Case:
    capture = _picked(load_capture(data / "pi3_room8"), ids)
    truth: list[Truth] = []
    for d in capture.depth:
        assert d is not None, "this capture brings depth"
        y, x = torch.nonzero(d.depth > 0, as_tuple=True)
        truth.append((y, x, d.depth[y, x]))
    return Case(capture, truth)


def fern(data: Path) -> Case:
    capture, ids = load_capture(data / "llff_fern", LoadOptions(downscale=8)), [1, 10, 19]
    xyz, seen_by = _points_with_tracks(data / "llff_fern" / "sparse" / "0" / "points3D.bin")
    photos = _picked(capture, ids)
    truth = [_projected(photos, k, xyz[[i + 1 in s for s in seen_by]]) for k, i in enumerate(ids)]
    return Case(photos, truth, _picked(capture, [4, 7, 13, 15]))  # of the training pool


def fountain(data: Path, ids: list[int], held_out: list[int]) -> Case:
    capture = load_capture(data / "strecha_fountain_P11", LoadOptions(max_side=504))
    photos = _picked(capture, ids)
    return Case(photos, [_matched_truth(capture, i) for i in ids], _picked(capture, held_out))


CASES: dict[str, tuple[str, Callable[[Path], Case]]] = {
    "room3": ("pi3_room8", lambda data: room(data, [0, 1, 2])),
    "room8": ("pi3_room8", lambda data: room(data, list(range(8)))),
    "fern3": ("llff_fern", fern),
    "fountain3": ("strecha_fountain_P11", lambda data: fountain(data, [3, 5, 7], [4, 6])),
    "fountain3wide": ("strecha_fountain_P11", lambda data: fountain(data, [0, 5, 10], [3, 7])),
}


def _points_with_tracks(file: Path) -> tuple[Tensor, list[set[int]]]:
    """COLMAP points3D.bin: positions and the image ids of each track (numbered from 1 in the order of names)."""
    raw = file.read_bytes()
    (count,), at = struct.unpack_from("<Q", raw), 8
    xyz, tracks = [], []
    for _ in range(count):
        values = struct.unpack_from("<QdddBBBdQ", raw, at)
        at += struct.calcsize("<QdddBBBdQ")
        xyz.append(values[1:4])
        tracks.append(set(np.frombuffer(raw, "<i4", 2 * values[8], at)[::2].tolist()))
        at += 8 * values[8]
    return torch.tensor(xyz, dtype=torch.float32), tracks


def _projected(photos: Capture, k: int, xyz: Tensor) -> Truth:
    cams = _cameras(photos)
    uv, z = (t[0] for t in cams[k].project(xyz))
    inside = (z > 0) & (uv >= 0).all(-1) & (uv[:, 0] < cams.width) & (uv[:, 1] < cams.height)
    return uv[inside, 1].long(), uv[inside, 0].long(), z[inside]


def _matched_truth(capture: Capture, i: int) -> Truth:
    """Keypoints of photo i triangulated with every other photo (epipolar error below a pixel, 3 degrees or more); the median where two or more agree."""
    cams = _cameras(capture).to(dtype=torch.float64)
    pairs = [(i, j) for j in range(len(capture)) if j != i]
    seen: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for (_, j), m in zip(pairs, get_prior("match", "sift").predict(capture.views, pairs), strict=True):
        if not len(m):
            continue
        z = _triangulated_depth(cams[[i, j]], m.uv0.double(), m.uv1.double())
        for (u, v), d in zip(m.uv0.tolist(), z.tolist(), strict=True):
            if d > 0:
                seen.setdefault((round(4 * u), round(4 * v)), []).append((u, v, d))
    rows, columns, depths = [], [], []
    for found in seen.values():
        middle = float(np.median([d for _, _, d in found]))
        if sum(abs(d - middle) < 0.005 * middle for _, _, d in found) >= 2:
            columns.append(int(found[0][0]))
            rows.append(int(found[0][1]))
            depths.append(middle)
    return torch.tensor(rows, dtype=torch.long), torch.tensor(columns, dtype=torch.long), torch.tensor(depths)


def _triangulated_depth(pair: Cameras, uv0: Tensor, uv1: Tensor) -> Tensor:
    """z-depth in the first camera of the point nearest to both rays (midpoint); 0 where the rays do not meet or are nearly parallel."""
    c0, c1 = pair.centers
    ones = torch.ones_like(uv0[None, :, 0])
    d0 = torch.nn.functional.normalize(pair[0].unproject(uv0[None], ones)[0] - c0, dim=-1)
    d1 = torch.nn.functional.normalize(pair[1].unproject(uv1[None], ones)[0] - c1, dim=-1)
    cosine, base = (d0 * d1).sum(-1), c1 - c0
    sine2 = (1 - cosine**2).clamp(min=1e-12)
    t0 = ((d0 @ base) - cosine * (d1 @ base)) / sine2
    t1 = (cosine * (d0 @ base) - (d1 @ base)) / sine2
    middle = 0.5 * (c0 + t0[:, None] * d0 + c1 + t1[:, None] * d1)
    uv, z = pair.project(middle)
    error = torch.maximum((uv[0] - uv0).norm(dim=-1), (uv[1] - uv1).norm(dim=-1))
    good = (error < 1.0) & (z > 0).all(0) & (sine2.sqrt() > np.sin(np.deg2rad(3.0)))
    return torch.where(good, z[0], torch.zeros_like(z[0]))


def score(depth: list[Tensor], keep: list[Tensor], confidence: list[Tensor] | None, truth: list[Truth]) -> dict[str, float]:
    """Completeness, median relative error and shares within WITHIN percent, over all photos together."""
    errors, promised, total = [], [], 0
    for i, (y, x, z) in enumerate(truth):
        total += len(z)
        d, k = depth[i][y, x], keep[i][y, x]
        errors.append(((d - z).abs() / z)[k])
        if confidence is not None:
            promised.append(confidence[i][y, x][k])
    e = torch.cat(errors)
    out = {"complete": len(e) / max(total, 1), "median": float(e.median()) if len(e) else float("nan")}
    out |= {f"within_{p}": float((e < p / 100).float().mean()) if len(e) else float("nan") for p in WITHIN}
    if promised:
        p = torch.cat(promised)
        out["confidence"] = float(p.mean()) if len(p) else float("nan")
    return out


def warp(
    images: Float[Tensor, "V H W 3"], cameras: Cameras, maps: list[DepthMap], target: Cameras
) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "H W"]]:
    """The valid depth's points seen by another camera: colour and where anything is seen. Each point covers the four pixels around it; the nearest win."""
    h, w = images.shape[1:3]
    depth, keep = torch.stack([m.depth for m in maps]), torch.stack([m.valid for m in maps])
    uv, z = (t[0] for t in target.project(cameras.unproject_depth(depth)[keep]))
    colour = images[keep][z > 0]
    uv, z = uv[z > 0] - 0.5, z[z > 0]
    nearest = torch.full((h * w,), float("inf"))
    hits: list[tuple[Tensor, Tensor, Tensor]] = []
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        xy = uv.floor() + torch.tensor(corner)
        on = (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < w) & (xy[:, 1] < h)
        at = (xy[:, 1] * w + xy[:, 0]).long()[on]
        hits.append((at, on, (1 - (uv - xy).abs()).clamp(min=0).prod(-1)[on] + 1e-3))
        nearest.scatter_reduce_(0, at, z[on], "amin")
    total, weight = torch.zeros(h * w, 3), torch.zeros(h * w)
    for at, on, share in hits:
        front = z[on] < 1.02 * nearest[at]
        total.index_add_(0, at[front], colour[on][front] * share[front, None])
        weight.index_add_(0, at[front], share[front])
    return (total / weight.clamp(min=1e-9)[:, None]).reshape(h, w, 3), (weight > 0).reshape(h, w)


def measure(case: Case, backend: str) -> tuple[dict[str, Any], list[DepthMap], list[Tensor]]:
    """Scores of one case; the photos' own points (as in `handful reconstruct`) choose the depth range."""
    init = FromCapture().run(case.photos)
    cameras, images = _cameras(case.photos).to(dtype=torch.float32), case.photos.images()
    started = time.perf_counter()
    maps = StereoDepth(backend=backend).predict(case.photos.views, cameras, init.points)
    seconds = time.perf_counter() - started
    dense = [complete_depth(m.depth, m.confidence, images[i]) for i, m in enumerate(maps)]
    depth, sure = [m.depth for m in maps], [m.confidence for m in maps]
    out: dict[str, Any] = {"photos": len(maps), "size": [cameras.width, cameras.height], "seconds": seconds, "truth": sum(len(t[2]) for t in case.truth)}
    out["valid"] = sum(float(m.valid.float().mean()) for m in maps) / len(maps)
    for t in THRESHOLDS:
        keep = [(m.depth > 0) if t == 0 else m.valid & (m.confidence >= t) for m in maps]
        out["all" if t == 0 else f"above_{t:g}"] = score(depth, keep, None if t == 0 else sure, case.truth)
    out["dense"] = score(dense, [d > 0 for d in dense], None, case.truth)
    if case.held_out is not None:
        targets, cams = case.held_out.images(), _cameras(case.held_out).to(dtype=torch.float32)
        psnr, cover = [], []
        for k in range(len(cams)):
            seen, on = warp(images, cameras, maps, cams[k])
            psnr.append(float(-10 * torch.log10(((seen - targets[k]) ** 2).mean(-1)[on].mean())))
            cover.append(float(on.float().mean()))
        out |= {"warp_psnr": float(np.mean(psnr)), "warp_cover": float(np.mean(cover))}
    return out, maps, dense


def _table(name: str, r: dict[str, Any]) -> str:
    lines = [f"{name}: {r['photos']} photos of {r['size'][0]}x{r['size'][1]}, {r['seconds']:.2f} s, valid {100 * r['valid']:.1f} %, {r['truth']} true depths"]
    if "warp_psnr" in r:
        lines[0] += f"; unseen photos {r['warp_psnr']:.2f} dB over {100 * r['warp_cover']:.1f} %"
    for key, row in r.items():
        if isinstance(row, dict):
            within = " ".join(f"{100 * row[f'within_{p}']:5.1f}" for p in WITHIN)
            promise = f"  promised {100 * row['confidence']:5.1f}" if "confidence" in row else ""
            lines.append(f"  {key:10s} complete {100 * row['complete']:5.1f} %  median {100 * row['median']:5.2f} %  within 1/2/5/10 %: {within}{promise}")
    return "\n".join(lines)


def _picture(file: Path, images: Tensor, maps: list[DepthMap], dense: list[Tensor]) -> None:
    from PIL import Image

    from ..recon.colormap import colorize_depth, inverse_depth_range

    rows = []
    for i, m in enumerate(maps):
        scale = inverse_depth_range(dense[i])
        raw, full = colorize_depth(m.depth, scale), colorize_depth(dense[i], scale)
        rows.append(torch.cat([images[i], raw, raw * m.valid[..., None], m.confidence[..., None].expand(-1, -1, 3), full], 1))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((torch.cat(rows).clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()).save(file)


def run(args: Args) -> dict[str, Any]:
    unknown = [n for n in args.only if n not in CASES]
    if unknown:
        raise ConfigError(f"There is no case {unknown[0]!r}; choose from {', '.join(CASES)}.")
    out: dict[str, Any] = {}
    for name in args.only or tuple(CASES):
        folder, load = CASES[name]
        if not (args.data / folder).is_dir():
            print(f"{name}: left out, {args.data / folder} is not there", file=sys.stderr)
            continue
        case = load(args.data)
        out[name], maps, dense = measure(case, args.backend)
        if not args.quiet:
            print(_table(name, out[name]), flush=True)
        if args.pictures is not None:
            _picture(args.pictures / f"{name}.png", case.photos.images(), maps, dense)
    if not out:
        raise CaptureError(f"{args.data} holds none of the captures; give the folder that has {', '.join(sorted({f for f, _ in CASES.values()}))}.")
    return out


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    try:
        result = run(args)
        if args.json is not None:
            write_json(args.json, result)
            if not args.quiet:
                print(json.dumps({name: r["seconds"] for name, r in result.items()}))
    except (HandfulError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
