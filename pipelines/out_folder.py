"""The output folder before work begins: whose it is, and that it can be written. Nothing that Handful did not write is ever replaced."""

from __future__ import annotations

from pathlib import Path

from ..data.atomic import clear_leftovers, ensure_folder, writing
from ..data.files import list_photos
from ..data.scene_mark import is_scene_folder
from ..recon.errors import CaptureError, CheckpointError
from .checkpoint import load_checkpoint

__all__ = ["SCENE_FILES", "STATE", "START", "claim_out"]

START, STATE = "checkpoint/start.safetensors", "checkpoint/state.safetensors"
# what a scene folder consists of, see scene_folder.py
SCENE_FILES = ("scene.ply", "images", "masks", "sparse", "transforms.json", "config.json", "metrics.json", "preview.png", "checkpoint")


def claim_out(out: Path, photos: Path, fingerprint: str, overwrite: bool) -> None:
    """Makes `out` ready for the job with this fingerprint, or raises a HandfulError in one sentence that leaves it as it was.

    Args:
        photos: what the job reads; it must not lie where the job writes.
        overwrite: another job's result may be replaced. Files that Handful did not write never are.
    """
    if out.exists() and not out.is_dir():
        raise CaptureError(f"{out} is a file; give a folder with -o.")
    start, state = out / START, out / STATE
    _refuse_foreign(out, photos, ours=start.exists() or is_scene_folder(out))
    if start.exists():
        if fingerprint_of(start) != fingerprint:
            if not overwrite:
                raise CheckpointError(f"{out} holds a reconstruction of other photos or settings; choose another folder with -o, or add --overwrite.")
            with writing(out):
                state.unlink(missing_ok=True)  # first: a run that is killed between the two must not find it without its start
                start.unlink()
    elif overwrite:
        with writing(out):
            state.unlink(missing_ok=True)
    elif (out / "scene.ply").exists():
        raise CheckpointError(f"{out} already holds a scene that this job did not make; choose another folder with -o, or add --overwrite.")
    ensure_folder(out)
    clear_leftovers(out, folders_too=True)


def fingerprint_of(file: Path) -> str | None:
    """Of the job that wrote a checkpoint file."""
    _, meta = load_checkpoint(file)
    return meta.get("fingerprint")


def _refuse_foreign(out: Path, photos: Path, ours: bool) -> None:
    if not out.is_dir():
        return
    place, source = out.resolve(), photos.resolve()
    if source == place or any(source == place / name or place / name in source.parents for name in SCENE_FILES):
        raise CaptureError(f"{photos} lies where the scene would be written ({out}); choose another folder with -o.")
    if ours:
        return
    found = next((name for name in SCENE_FILES if (out / name).exists()), None)
    if found is not None:
        raise CaptureError(f"{out} holds {found!r}, which Handful did not write and would replace; choose another folder with -o.")
    if list_photos(out):
        raise CaptureError(f"{out} holds photos, and the scene's own pictures would lie among them; choose another folder with -o.")
