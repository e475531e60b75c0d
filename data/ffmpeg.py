"""Where ffmpeg is: the only file that imports imageio_ffmpeg (whose wheel carries the program)."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache

from ..recon.errors import BackendUnavailable

__all__ = ["ffmpeg_exe"]


@lru_cache(maxsize=1)
def ffmpeg_exe() -> str:
    """Absolute path of an ffmpeg program: the one that came by pip, else one on PATH. Raises BackendUnavailable when there is neither."""
    try:
        import imageio_ffmpeg

        named = imageio_ffmpeg.get_ffmpeg_exe()  # honours IMAGEIO_FFMPEG_EXE, whatever that says
    except (ImportError, RuntimeError) as e:
        found = shutil.which("ffmpeg")
        if found is None:
            raise BackendUnavailable(f"Videos need ffmpeg, which was not found ({e}); run `pip install imageio-ffmpeg`.") from e
        return os.path.abspath(found)
    found = shutil.which(named)
    if found is None:
        raise BackendUnavailable(f"Videos need ffmpeg, and {named} is no program that can be run; set IMAGEIO_FFMPEG_EXE to one, or to nothing.")
    return os.path.abspath(found)
