"""Middlebury multi-view stereo (Seitz et al. 2006): NAME_par.txt with one line `photo k11..k33 r11..r33 t1 t2 t3` each, P = K [R | t]."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..recon.capture import Capture, Unplaced
from ..recon.errors import CaptureError
from .assemble import GivenCamera, Shot, assemble
from .axes import centers_at_half, rigid
from .files import MASK_FOLDERS, find_by_stem, find_mask, inside, list_photos, read_text
from .protocol import LoadOptions

__all__ = ["Middlebury"]


class Middlebury:
    """Photos beside the file or in images/; the file's names count by their stem (templeSR0001.png may be a .jpg)."""

    name = "middlebury"

    def recognises(self, path: Path) -> bool:
        return (path.is_file() and path.name.endswith("_par.txt")) or (path.is_dir() and len(list(path.glob("*_par.txt"))) == 1)

    def load(self, path: Path, options: LoadOptions) -> Capture:
        file = path if path.is_file() else next(iter(path.glob("*_par.txt")), None)
        if file is None:
            raise CaptureError(f"{path} holds no *_par.txt with cameras.")
        folder = next((f for f in (file.parent, file.parent / "images") if list_photos(f)), file.parent)
        masks = [file.parent / m for m in MASK_FOLDERS]
        shots, unplaced = [], []
        for name, camera in _cameras(file):
            photo = inside(folder, name, file)
            found = photo if photo.is_file() else find_by_stem(photo.with_suffix(""))
            if found is None:
                unplaced.append(Unplaced(name, f"{file.name} names it, but there is no such file"))
            else:
                shots.append(Shot(found.name, found, camera, find_mask(masks, found.name)))
        return assemble(shots, options, self.name, unplaced=unplaced)


def _cameras(file: Path) -> list[tuple[str, GivenCamera]]:
    rows = [line.split() for line in read_text(file).splitlines() if line.strip()]
    try:
        count = int(rows[0][0])
        table = [(row[0], np.array([float(x) for x in row[1:]])) for row in rows[1:]]
    except (IndexError, ValueError) as e:
        raise CaptureError(f"{file} is no Middlebury camera file: a count, then lines of a name and 21 numbers.") from e
    if len(table) != count or any(v.shape != (21,) for _, v in table):
        raise CaptureError(f"{file} promises {count} lines of a name and 21 numbers, but holds {sum(v.shape == (21,) for _, v in table)}.")
    out = []
    for name, v in table:
        K = centers_at_half(v[:9].reshape(3, 3))
        out.append((name, GivenCamera(rigid(v[9:18].reshape(3, 3), v[18:], f"{name} in {file}"), K[0, 0], K[1, 1], K[0, 2], K[1, 2])))
    return out
