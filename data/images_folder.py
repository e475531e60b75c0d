"""A folder of photos without cameras, perhaps with masks/."""

from __future__ import annotations

from pathlib import Path

from ..recon.capture import Capture
from ..recon.errors import CaptureError
from .assemble import Shot, assemble
from .decode import is_photo
from .files import MASK_FOLDERS, find_mask, list_photos, natural_key
from .protocol import LoadOptions
from .video import VIDEO_SUFFIXES

__all__ = ["ImagesFolder", "photo_folder"]

PHOTO_FOLDERS = ("images", "photos", "rgb", "input")
RAW_SUFFIXES = frozenset(".dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .pef".split())


class ImagesFolder:
    """Photos directly in the folder, or in its images/ (photos/, rgb/, input/)."""

    name = "photos"

    def recognises(self, path: Path) -> bool:
        """Photos and no camera file: a specific format always wins over the plain folder."""
        from .registry import specific_adapters

        return photo_folder(path) is not None and not any(a.recognises(path) for a in specific_adapters(self.name))

    def load(self, path: Path, options: LoadOptions) -> Capture:
        folder = photo_folder(path)
        if folder is None and not path.is_dir():
            raise CaptureError(single_photo(path) or f"{path} is not a folder of photos.")
        if folder is None:
            raise CaptureError(photo_trouble(path) or f"The folder {path} holds no photos (.jpg, .png, .tif, .webp, .heic) and no images/ folder with some.")
        masks = [p / m for p in dict.fromkeys((folder, path, folder.parent if folder.name in PHOTO_FOLDERS else folder)) for m in MASK_FOLDERS]
        shots = [Shot(p.name, p, mask_file=find_mask(masks, p.name)) for p in list_photos(folder)]
        return assemble(shots, options, self.name, drop_duplicates=True, exif_upright=True)


def photo_folder(path: Path) -> Path | None:
    """Where the photos lie: `path` itself or its images/ (photos/, rgb/, input/); None when there are none."""
    if not path.is_dir():
        return None
    return next((f for f in (path, *(path / n for n in PHOTO_FOLDERS)) if list_photos(f)), None)


def photo_trouble(path: Path) -> str | None:
    """One sentence for a folder that can hold no capture of any kind; None when it only holds no photos."""
    try:
        entries = list(path.iterdir())
    except OSError as e:
        return f"The folder {path} cannot be read ({e.strerror or e})."
    if not entries:
        return f"The folder {path} is empty; put 2 to 30 photos of a scene into it."
    if any(p.suffix.lower() in RAW_SUFFIXES for p in entries):
        return f"{path} holds raw camera files only; develop them to JPEG, PNG or TIFF first."
    videos = sorted(p.name for p in entries if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith("."))
    if len(videos) > 1:
        return f"{path} holds {len(videos)} videos; give one of them, such as {path / videos[0]}."
    below = sorted((p for p in entries if p.is_dir() and not p.name.startswith(".") and list_photos(p)), key=lambda p: natural_key(p.name))
    if below:
        more = f" (and {len(below) - 1} more folder{'s' if len(below) > 2 else ''} do)" if len(below) > 1 else ""
        return f"{path} holds no photos itself, but {below[0]} does{more}; give the folder with the photos of one scene."
    return None


def single_photo(path: Path) -> str | None:
    """One sentence for a path that is one photo instead of a folder."""
    return f"{path} is a single photo; give the folder with all photos of the scene." if is_photo(path) else None
