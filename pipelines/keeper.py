"""What a visitor of the viewer does, kept in the scene's folder: edits.json, path.json, exports/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..data.atomic import ensure_folder
from ..data.edits_file import EDITS, write_edits
from ..data.image_io import encode_png
from ..data.splats import SPLAT_FORMATS, write_splats
from ..recon.camera_path import CameraPath
from ..recon.edits import EditStep
from ..recon.errors import HandfulError
from ..recon.gaussians import Gaussians
from .path_file import PATH, load_path, save_path

__all__ = ["EXPORTS", "FolderKeeper"]

EXPORTS = "exports"


class FolderKeeper:
    """The viewer's `Keeper` for a scene folder."""

    def __init__(self, folder: Path, ready: bool = True) -> None:
        """Not `ready`: the folder does not hold this scene yet, and perhaps another one; nothing is kept until it does."""
        self._folder, self.ready = folder, ready

    def save_edits(self, steps: Sequence[EditStep]) -> None:
        self._refuse_early()
        write_edits(self._folder / EDITS, steps)

    def save_path(self, path: CameraPath, steps: Sequence[EditStep] = ()) -> str:
        self._refuse_early()
        file = self._folder / PATH
        save_path(file, path, steps)
        return str(file)

    def load_path(self, steps: Sequence[EditStep] = ()) -> CameraPath | None:
        file = self._folder / PATH
        return load_path(file, steps) if file.exists() else None

    def _refuse_early(self) -> None:
        if not self.ready:
            raise HandfulError("The scene has not begun yet; wait for its first splats.")

    def formats(self, gaussians: Gaussians) -> dict[str, str]:
        n, rest = len(gaussians), 3 * (gaussians.sh.shape[1] - 1)
        exact = {"ply": n * 4 * (17 + rest), "compressed-ply": n * (16 + 72 / 256 + rest), "splat": n * 32, "glb": n * 4 * (15 + rest)}
        guess = {"spz": n * (12 + 0.13 * rest), "sog": n * (10 + 0.12 * rest)}  # they compress what repeats; measured in benchmarks/formats.py
        return {name: f"{size / 1e6:.1f} MB" for name, size in exact.items()} | {name: f"about {size / 1e6:.0f} MB" for name, size in guess.items()}

    def export(self, format: str, gaussians: Gaussians) -> tuple[str, bytes]:
        self._refuse_early()
        ensure_folder(self._folder / EXPORTS)
        file = self._folder / EXPORTS / f"scene{SPLAT_FORMATS[format].suffixes[0]}"
        write_splats(file, gaussians, format)
        return file.name, file.read_bytes()

    def png(self, picture: Float[Tensor, "H W 3"]) -> bytes:
        return encode_png(picture)
