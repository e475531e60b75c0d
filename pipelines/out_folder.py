"""The output folder before work begins: whose it is, and that it can be written. Nothing that Handful did not write is ever replaced."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..data.atomic import clear_leftovers, ensure_folder, is_leftover, writing
from ..data.edits_file import EDITS
from ..data.files import list_photos
from ..data.scene_mark import is_scene_folder
from ..recon.errors import CaptureError, CheckpointError
from .checkpoint import read_meta
from .path_file import PATH

__all__ = ["SCENE_FILES", "STATE", "START", "claim_out", "fingerprint_of", "make_room", "take_back"]

START, STATE = "checkpoint/start.safetensors", "checkpoint/state.safetensors"
LOCK = "checkpoint/lock"
# what a scene folder consists of, see scene_folder.py
SCENE_FILES = ("scene.ply", "images", "masks", "extents", "scans", "sparse", "transforms.json", "config.json", "metrics.json", "preview.png", "field.safetensors", "checkpoint")


def claim_out(out: Path, photos: Path, fingerprint: str, overwrite: bool) -> IO[str]:
    """Sees to it that the job with this fingerprint may write to `out`, or raises a HandfulError in one sentence that leaves it as it was.

    Returns the lock that keeps a second run out of the folder: it holds until it is closed, or the process ends in whatever way. Another scene that may be replaced
    stays whole until `make_room`.

    Args:
        photos: what the job reads; it must not lie where the job writes.
        overwrite: another job's result may be replaced. Files that Handful did not write never are.
    """
    if out.exists() and not out.is_dir():
        raise CaptureError(f"{out} is a file; give a folder with -o.")
    start = out / START
    _refuse_foreign(out, photos, ours=start.exists() or is_scene_folder(out))
    new = not out.exists()
    ensure_folder(out / "checkpoint")
    lock = _lock(out)
    try:
        _refuse_other(out, fingerprint, overwrite)
        clear_leftovers(out, folders_too=True)
    except BaseException:
        take_back(lock, out, new)
        raise
    return lock


def take_back(lock: IO[str], out: Path, new: bool) -> None:
    """Undoes a claim of a job that left nothing: its lock and folders go (`new`: the output folder too), but none that holds something else."""
    with suppress(OSError):
        (out / LOCK).unlink()
    lock.close()  # before its folder goes: some network disks keep a removed file's place while it is open
    for folder in (out / "checkpoint", out) if new else (out / "checkpoint",):
        with suppress(OSError):  # not empty
            folder.rmdir()


def _lock(out: Path) -> IO[str]:
    with writing(out):
        file = open(out / LOCK, "w")  # noqa: SIM115 - held for as long as the job
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise CheckpointError(f"Another run is writing to {out}; wait for it, or choose another folder with -o.") from None
    except OSError:
        pass  # a file system without locks
    return file


def _refuse_other(out: Path, fingerprint: str, overwrite: bool) -> None:
    if overwrite:
        return
    start = out / START
    if start.exists():
        if fingerprint_of(start) != fingerprint:
            raise CheckpointError(f"{out} holds a reconstruction of other photos or settings; choose another folder with -o, or add --overwrite.")
    elif (out / "scene.ply").exists():
        raise CheckpointError(f"{out} already holds a scene that this job did not make; choose another folder with -o, or add --overwrite.")


def make_room(out: Path) -> None:
    """What is kept of another job goes, and the edits made on its scene are set aside: this job, which has claimed `out`, has something to put in its place."""
    with writing(out):
        (out / STATE).unlink(missing_ok=True)  # first: a run that is killed between the two must not find it without its start
        (out / START).unlink(missing_ok=True)
        _set_edits_aside(out)


def _set_edits_aside(out: Path) -> None:
    """Edits and camera path belong to the scene they were made on: another one's world is another. They stay at hand under another name."""
    for name in (EDITS, PATH):
        if (out / name).exists():
            stem, i = name.removesuffix(".json"), 1
            while (aside := out / f"{stem}.before{i if i > 1 else ''}.json").exists():
                i += 1
            (out / name).replace(aside)


def fingerprint_of(file: Path) -> str | None:
    """Of the job that wrote a checkpoint file."""
    return read_meta(file).get("fingerprint")


def _refuse_foreign(out: Path, photos: Path, ours: bool) -> None:
    if not out.is_dir():
        return
    place, source = out.resolve(), photos.resolve()
    if source == place or any(source == place / name or place / name in source.parents for name in SCENE_FILES):
        raise CaptureError(f"{photos} lies where the scene would be written ({out}); choose another folder with -o.")
    if ours:
        return
    found = next((name for name in SCENE_FILES if (out / name).exists() and not _holds_nothing(out / name)), None)
    if found is not None:
        raise CaptureError(f"{out} holds {found!r}, which Handful did not write and would replace; choose another folder with -o.")
    if list_photos(out):
        raise CaptureError(f"{out} holds photos, and the scene's own pictures would lie among them; choose another folder with -o.")


def _holds_nothing(folder: Path) -> bool:
    """What a run leaves that is killed before it has anything to keep: at most its lock and what it had half written. It does not make the files beside it
    ours."""
    return folder.is_dir() and all(f"{folder.name}/{p.name}" == LOCK or is_leftover(p.name) for p in folder.iterdir())
