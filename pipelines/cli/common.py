"""What every command shares: options, output for people (rich on a terminal, plain lines elsewhere) and for scripts (--json)."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import tyro

if TYPE_CHECKING:
    import torch

    from ...recon.field.scene import FieldScene
    from ..scene_folder import SceneFolder

__all__ = ["CommonOptions", "Console", "show_log", "whole_field"]

PLAIN_EVERY = 5.0  # seconds between two progress lines where there is no terminal


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a flat summary that a script can read."""
    quiet: bool = False
    """Print errors only."""

    @property
    def console(self) -> Console:
        return Console(self.quiet)


@dataclass
class Console:
    """Prints for people. On a terminal one line is rewritten; elsewhere a plain line now and then."""

    quiet: bool = False
    _last: float = field(default=0.0, init=False)
    _open: bool = field(default=False, init=False)

    @property
    def terminal(self) -> bool:
        return sys.stdout.isatty()

    def say(self, text: str) -> None:
        if not self.quiet:
            self._close()
            self._print(text, sys.stdout)

    def warn(self, text: str) -> None:
        if not self.quiet:
            self._close()
            self._print(f"note: {text}", sys.stderr)

    def progress(self, text: str, final: bool = False) -> None:
        """A line that replaces the one before it on a terminal; elsewhere shown every few seconds and when `final`."""
        if self.quiet:
            return
        if self.terminal:
            import shutil

            width = shutil.get_terminal_size().columns
            sys.stdout.write("\r\x1b[K" + text[: width - 1])
            sys.stdout.flush()
            self._open = True
            if final:
                self._close()
        elif final or time.monotonic() - self._last >= PLAIN_EVERY:
            self._last = time.monotonic()
            self._print(text, sys.stdout)

    def _print(self, text: str, stream: TextIO) -> None:
        """A reader that goes away (`| head`) must not end hours of work: what follows goes nowhere."""
        try:
            print(text, file=stream, flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def _close(self) -> None:
        if self._open:
            sys.stdout.write("\n")
            self._open = False


class _Notes(logging.Handler):
    """The library's warnings as notes, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.said:
            self.said.add(text)
            Console().warn(text)


def show_log(quiet: bool) -> None:
    """From here on what the library logs is shown as the command's own notes are; nothing below an error when `quiet`."""
    logger = logging.getLogger(__package__.split(".")[0] if __package__ else "handful")
    logger.handlers[:] = [_Notes()]
    logger.setLevel(logging.ERROR if quiet else logging.NOTSET)


def duration(seconds: float) -> str:
    """1:05 for 65 seconds."""
    s = max(0, round(seconds))
    return f"{s // 3600}:{s % 3600 // 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"


def whole_field(folder: SceneFolder, unedited: bool, device: torch.device | str = "cpu") -> FieldScene:
    """The field of a scene for --field. Raises CaptureError where it has none, ConfigError where edits would be lost unsaid."""
    from ...recon.errors import ConfigError

    if not unedited and folder.edits():
        raise ConfigError(f"The edits of {folder.path} are of its splats, not of its field; add --unedited to take the field as it is.")
    return folder.field(device)


def check_summary(path: Path) -> None:
    """Raises HandfulError when the --json file could not be written: before the work, not after it."""
    from ...data.atomic import ensure_place

    ensure_place(path)


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Writes the --json file."""
    from ...data.atomic import write_json

    write_json(path, summary)
