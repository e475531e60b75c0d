"""Writes the stored protocols (pipelines/splits) from the names of the captures at hand: `python -m handful.benchmarks.make_splits DATA [OUT]`.

DATA holds llff_fern, dtu_scan24, ...; a protocol is written where all its photos exist at its scale.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from ..data.protocol import LoadOptions
from ..data.registry import load_capture
from ..pipelines.protocols import DATASETS, SPLITS, EvalProtocol, protocol_by_rule, resolve, save_protocol, stored_path
from ..pipelines.spread import spread_by_rule
from ..recon.capture import Capture
from ..recon.errors import CaptureError, HandfulError

SCENES = {"llff": ("fern", "flower", "fortress", "horns"), "dtu": ("scan24", "scan37"), "blender": ("lego",)}
SPREAD = (("blender", 6), ("blender", 8))


def _load(dataset: str, folder: Path, downscale: int) -> Capture:
    size = DATASETS[dataset].size
    return load_capture(folder, LoadOptions(downscale=downscale or None, max_side=max(size) if size else None))


def make(data: Path) -> list[EvalProtocol]:
    """All protocols that the captures in `data` allow."""
    out: list[EvalProtocol] = []
    for dataset, scenes in SCENES.items():
        for scene in scenes:
            folder = next((p for p in (data / f"{dataset}_{scene}", data / f"synthetic_{scene}") if p.is_dir()), None)
            if folder is None:
                raise CaptureError(f"There is no capture {dataset}_{scene} in {data}.")
            for downscale in DATASETS[dataset].downscale:
                capture = _load(dataset, folder, downscale)
                names = (*capture.names, *(u.name for u in capture.unplaced))
                for views in DATASETS[dataset].views:
                    protocol = protocol_by_rule(dataset, names, views, scene, downscale)
                    try:
                        resolve((*protocol.train, *protocol.test), capture.names)
                    except CaptureError:
                        continue  # the photos do not exist at this scale
                    out.append(replace(protocol, size=capture.views[0].image.size))
                    if (dataset, views) in SPREAD:
                        out.append(spread_by_rule(out[-1], capture))
    return out


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    if not 1 <= len(args) <= 2:
        print("usage: python -m handful.benchmarks.make_splits DATA [OUT]", file=sys.stderr)
        return 2
    out = Path(args[1]) if len(args) == 2 else SPLITS
    try:
        protocols = make(Path(args[0]))
        for p in protocols:
            save_protocol(out / stored_path(p).relative_to(SPLITS), p)
    except HandfulError as e:
        print(f"make_splits: {e}", file=sys.stderr)
        return 2
    print(f"{len(protocols)} protocols in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
