"""SpaRe, the data of the AIM 2024 Sparse Neural Rendering Challenge (Nazarczuk et al. 2024; sparebenchmark.github.io, "Data structure").

A split file (Track1_split_test.json: 3 input views; Track2_...: 9) names for every scene `input_views`, `test_views` (indices from 0) and its
`dataset`. Index i is rect_{i+1:03d}_3_r5000.png (DTU) or cam_{i+1:03d}_3_0000.png (synthetic), 1600x1200, light 3 of the seven; its projection
matrix lies in pos_{i+1:03d}.txt. The photos of the test views are not given away; where they are there, they can be scored.

Not stated there, and assumed: the matrices' pixel centres are integers, as DTU's are; the calibration's folder has "dtu" or "synth" in its path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..recon.camera import Cameras
from ..recon.capture import Capture
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .axes import cam_from_world_of_projection, centers_at_half
from .files import read_json, read_text
from .protocol import LoadOptions

__all__ = ["SpareScene", "load_spare", "spare_scenes"]

SIZE = (1600, 1200)
LIGHT = 3
TRACK = {3: "Track1", 9: "Track2"}


@dataclass(frozen=True)
class SpareScene:
    """One scene of a split.

    Attributes:
        capture: the photos that are there, inputs first, with their cameras.
        train, test: names of the photos, as a submission names them.
        test_cameras: of `test`, in its order, at full size (1600x1200).
    """

    capture: Capture
    train: tuple[str, ...]
    test: tuple[str, ...]
    test_cameras: Cameras


def find_split(root: Path, views: int, split: str | None) -> Path:
    """The split file: `split` inside `root`, else the only one of the track with so many views."""
    if split is not None:
        return root / split
    track = TRACK.get(views)
    if track is None:
        raise CaptureError(f"SpaRe has a track with 3 and one with 9 views, not with {views}.")
    found = sorted(root.glob(f"{track}_split_*.json"))
    if len(found) != 1:
        what = f"no {track}_split_....json" if not found else f"{', '.join(f.name for f in found)}; name one of them as `split`"
        raise CaptureError(f"{root} holds {what}.")
    return found[0]


def spare_scenes(root: Path, views: int, split: str | None = None) -> tuple[str, ...]:
    """All scenes of the split."""
    return tuple(read_json(find_split(root, views, split)))


def load_spare(root: Path, scene: str, views: int, split: str | None = None, options: LoadOptions | None = None) -> SpareScene:
    """Raises CaptureError in one sentence for a scene, photo or camera that is not there."""
    file = find_split(root, views, split)
    entry = read_json(file).get(scene)
    if not isinstance(entry, dict):
        raise CaptureError(f"{file} has no scene {scene!r}.")
    dtu = str(entry.get("dataset", "")).lower().startswith("dtu")
    inputs, tests = (_indices(entry, key, file, scene) for key in ("input_views", "test_views"))
    if len(inputs) != views:
        raise CaptureError(f"{file}: {scene} has {len(inputs)} input views, not {views}.")
    folder = next((p for p in (root / scene, *sorted(root.glob(f"*/{scene}")), *sorted(root.glob(f"*/*/{scene}"))) if p.is_dir()), None)
    if folder is None:
        raise CaptureError(f"{root} has no folder {scene} with the photos of that scene.")
    calibration = _calibration(root, "dtu" if dtu else "synth")
    cameras = {i: _camera(calibration / f"pos_{i + 1:03d}.txt") for i in (*inputs, *tests)}
    names = {i: f"rect_{i + 1:03d}_{LIGHT}_r5000.png" if dtu else f"cam_{i + 1:03d}_{LIGHT}_0000.png" for i in cameras}
    missing = next((names[i] for i in inputs if not (folder / names[i]).is_file()), None)
    if missing is not None:
        raise CaptureError(f"{folder} lacks the input photo {missing}.")
    shots = [Shot(names[i], folder / names[i], cameras[i]) for i in (*inputs, *tests) if (folder / names[i]).is_file()]
    capture = assemble(shots, options or LoadOptions(), "spare")
    T = torch.tensor(np.stack([cameras[i].cam_from_world for i in tests]), dtype=torch.float32)
    K = torch.tensor([[[c.fx, 0, c.cx], [0, c.fy, c.cy], [0, 0, 1]] for c in (cameras[i] for i in tests)], dtype=torch.float32)
    return SpareScene(capture, tuple(names[i] for i in inputs), tuple(names[i] for i in tests), Cameras(T, K, *SIZE))


def _indices(entry: dict, key: str, file: Path, scene: str) -> list[int]:
    value = entry.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 1000 for i in value):
        raise CaptureError(f"{file}: {key} of {scene} is no list of view indices.")
    return value


def _calibration(root: Path, word: str) -> Path:
    found = sorted({p.parent for depth in ("*", "*/*", "*/*/*") for p in root.glob(f"{depth}/pos_001.txt")})
    named = [p for p in found if word in str(p.relative_to(root)).lower()] or (found if len(found) == 1 else [])
    if len(named) != 1:
        raise CaptureError(f"{root} holds {len(named)} folders with the {word} calibration (pos_001.txt, ...); unpack {word}_calibration.zip there, once.")
    return named[0]


def _camera(file: Path) -> GivenCamera:
    try:
        P = np.array([float(x) for x in read_text(file).split()]).reshape(3, 4)
    except ValueError as e:
        raise CaptureError(f"{file} is no 3 x 4 projection matrix.") from e
    K, T = cam_from_world_of_projection(P, str(file))
    K = centers_at_half(K)
    return GivenCamera(T, K[0, 0], K[1, 1], K[0, 2], K[1, 2], SIZE)
