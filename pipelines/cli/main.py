"""The command `handful`. Every subcommand is a dataclass in this folder whose `run` returns a flat summary."""

from __future__ import annotations

import errno
import inspect
import io
import os
import re
import sys
from typing import Annotated, Any, Union

import tyro

from ...recon.errors import HandfulError
from ..version import version_of
from .align import Align
from .benchmark import Benchmark
from .common import check_summary, show_log, write_summary
from .demo import Demo
from .doctor import Doctor
from .evaluate import Evaluate
from .export import Export
from .mesh import MeshCommand
from .reconstruct import Reconstruct
from .refine import Refine
from .render import RenderCommand
from .view import ViewCommand

__all__ = ["main"]

COMMANDS: dict[str, type] = {
    "reconstruct": Reconstruct,
    "view": ViewCommand,
    "render": RenderCommand,
    "export": Export,
    "mesh": MeshCommand,
    "refine": Refine,
    "align": Align,
    "evaluate": Evaluate,
    "benchmark": Benchmark,
    "demo": Demo,
    "doctor": Doctor,
}


def _subcommand(name: str, command: type) -> Any:
    # the whole docstring: tyro's own reading would drop the examples
    return Annotated[command, tyro.conf.subcommand(name, description=inspect.getdoc(command))]


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 2 for input a user can mend (one sentence, no traceback), 130 interrupted."""
    sys.exit(_run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int:
    if argv in (["--version"], ["-V"]):
        print(f"handful {version_of('handful') or '(not installed: run from its source)'}")
        return 0
    command: Any = tyro.cli(
        Union[tuple(_subcommand(name, command) for name, command in COMMANDS.items())],  # noqa: UP007  # pyright: ignore
        prog="handful",
        description="A handful of photos in, a 3D scene out. Try: handful demo",
        args=argv,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold what this terminal cannot show
    show_log(command.quiet)
    try:
        if command.json is not None:
            check_summary(command.json)
        summary = command.run()
        if command.json is not None and summary is not None:
            write_summary(command.json, summary)
        return 0
    except HandfulError as e:
        print(f"handful: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("handful: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has heard enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at the end
        return 0
    except OSError as e:
        if e.errno is None or (e.filename is None and e.errno not in (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.ENOMEM)):
            raise
        where = f" {e.filename}" if e.filename else ""
        print(f"handful: Cannot read or write{where}: {e.strerror}.", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as e:
        if not isinstance(e, MemoryError) and not re.search("(can't|not enough|out of) (allocate )?memory", str(e)):
            raise
        print("handful: There is not enough memory for this; ask for less (--max-side, --max-photos, --size), or close other programs.", file=sys.stderr)
        return 2


if __name__ == "__main__":
    main()
