"""Output that is either whole or not there: written beside its place, then renamed.

A run that is killed, or a disk that fills up, leaves what existed untouched; the left-over is a hidden temporary next to it, named
by machine and process, which the next writer of that folder clears away.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ..recon.errors import ConfigError, HandfulError

__all__ = [
    "atomic_file", "atomic_folder", "beside", "clear_leftovers", "ensure_folder", "ensure_place", "is_leftover", "new_folder", "refuse_filled", "write_bytes",
    "write_json", "write_text", "writing",
]  # fmt: skip

_MACHINE = f"{zlib.crc32(platform.node().encode()):08x}"
_PARTIAL = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.(partial|old)")
_LONG_AGO = 86400.0  # seconds: what nobody has touched for a day is left over, whoever wrote it
_swept: set[tuple[int, int]] = set()  # (device, inode) of the folders this process has cleared

_SENTENCES = {
    errno.ENOSPC: "the disk is full; free some space or choose another output folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another output folder",
    errno.EROFS: "the disk is read-only; choose another output folder",
    errno.EACCES: "you have no permission to write there; choose another output folder",
    errno.EPERM: "you have no permission to write there; choose another output folder",
    errno.ENOTDIR: "a part of this path is a file, not a folder; choose another output folder",
    errno.EISDIR: "a folder of that name is in the way; move it or choose another name",
    errno.EEXIST: "a file of that name is in the way; move it or choose another name",
    errno.ENAMETOOLONG: "the name is too long for this disk; choose a shorter one",
    errno.EFBIG: "the file would be larger than this disk or user may hold; choose another output folder",
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turns an OSError of the block into one sentence that names `path` (a full or read-only disk, no permission)."""
    try:
        yield
    except OSError as e:
        reason = _SENTENCES.get(e.errno or 0, f"{e.strerror or e}; choose another output folder")
        raise HandfulError(f"Cannot write {path}: {reason}.") from e


def beside(path: Path, kind: str = "partial") -> Path:
    """A hidden name next to `path` that no other process uses; it tells who writes, so that what a killed run leaves can be cleared."""
    path = path if path.name else path.resolve()  # "." has a name, too
    short = os.fsdecode(os.fsencode(path.name)[:200])  # file systems count bytes
    return path.with_name(f".{short}.{_MACHINE}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}")


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what a killed run left half written."""
    return _PARTIAL.fullmatch(name) is not None


def clear_leftovers(folder: Path, folders_too: bool = False, folders_of: str | None = None) -> None:
    """Removes hidden temporaries in `folder` whose process is gone (another machine's: untouched for a day). What cannot be removed stays.

    Args:
        folders_too: folders as well; among them may be the only whole version of one that was being replaced, so this is for after
            the new one is in place.
        folders_of: those beside this name only.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(e, m) for e in entries if (m := _PARTIAL.fullmatch(e.name))]
        for entry, match in found:
            untouched = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if untouched < _LONG_AGO and (match[1] != _MACHINE or _alive(int(match[2]))):
                continue
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
            elif folders_too or (folders_of is not None and entry.name.startswith(f".{folders_of}.")):
                shutil.rmtree(entry.path, ignore_errors=True)
    except OSError:
        return


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it belongs to somebody else, or is no process number at all: not ours to judge
        return True
    return True


def _clear_once(folder: Path) -> None:
    """`clear_leftovers`, the first time this process writes into `folder`: before the write, as they may be what fills the disk."""
    info = folder.stat()
    if (info.st_dev, info.st_ino) not in _swept:
        _swept.add((info.st_dev, info.st_ino))
        clear_leftovers(folder)


@contextmanager
def atomic_file(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to; it takes the place of `path` when the block ends well, and disappears when it does not.

    Missing parent folders are made. Raises HandfulError in one sentence when the disk is full or may not be written.
    """
    path = Path(path)
    partial = beside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_once(path.parent)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        try:
            with open(partial, mode, encoding=None if "b" in mode else "utf-8") as f:
                yield f
                f.flush()
                os.fsync(f.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, replace: bool = True) -> Iterator[Path]:
    """A new folder to fill; it takes the place of `path` (which may exist) when the block ends well, else it disappears.

    Args:
        replace: whether what the folder `path` holds then goes; else it has to be empty.
    """
    path = Path(path)
    partial, old = beside(path), beside(path, "old")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_once(path.parent)
        _refuse_file(path)
        partial.mkdir()
        try:
            yield partial
            _refuse_file(path)  # one that came meanwhile
            if not replace:
                with suppress(FileNotFoundError):
                    os.rmdir(path)
            if replace and path.exists():
                # two renames: between them nothing but the name is missing, both versions are whole
                os.rename(path, old)
                try:
                    os.rename(partial, path)
                except OSError:
                    os.rename(old, path)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.rename(partial, path)
            clear_leftovers(path.parent, folders_too=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _refuse_file(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file", str(path))


def refuse_filled(path: Path) -> None:
    """Raises ConfigError for a folder that holds anything, HandfulError for a file."""
    with writing(path):
        _refuse_file(path)
    if path.is_dir() and any(path.iterdir()):
        raise ConfigError(f"The folder {path} is not empty, and nothing in it is replaced; name a new one.")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """`atomic_folder` for a place that is new or empty, before the block and after it: what came there during a long copy stays."""
    path = Path(path)
    path = path.resolve() if path.is_symlink() else path
    refuse_filled(path)
    with atomic_folder(path, replace=False) as folder:
        yield folder
        refuse_filled(path)


def ensure_folder(path: str | Path) -> Path:
    """Makes `path` and proves that it can be written, before hours of work are spent. Raises HandfulError in one sentence."""
    path = Path(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        _clear_once(path)
        probe = beside(path / "probe")
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    return path


def ensure_place(path: str | Path, folder: bool = False) -> Path:
    """Proves that the file (or the new `folder`) `path` can be written: touches nothing and makes nothing. Raises HandfulError in one sentence."""
    path = Path(path)
    with writing(path):
        if folder:
            _refuse_file(path)
        elif path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        probe = beside(next(p for p in path.absolute().parents if p.exists()) / path.absolute().name)
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    return path


def write_bytes(path: str | Path, data: bytes) -> None:
    with atomic_file(path) as f:
        f.write(data)


def write_text(path: str | Path, text: str) -> None:
    with atomic_file(path, "w") as f:
        f.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """JSON that every reader takes: two-space indent, no NaN (ValueError)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
