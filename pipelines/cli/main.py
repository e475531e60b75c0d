"""The command `handful`. Every subcommand is a dataclass in this folder whose `run` returns a flat summary."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import tyro

from ...recon.errors import HandfulError
from .common import write_summary
from .demo import Demo
from .doctor import Doctor
from .evaluate import Evaluate
from .export import Export
from .reconstruct import Reconstruct
from .render import RenderCommand
from .view import ViewCommand

__all__ = ["main"]

Command = (
    Annotated[Reconstruct, tyro.conf.subcommand("reconstruct")]
    | Annotated[ViewCommand, tyro.conf.subcommand("view")]
    | Annotated[RenderCommand, tyro.conf.subcommand("render")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(argv: list[str] | None = None) -> None:
    """Runs one command and exits: 0 done, 2 for input a user can mend (one sentence, no traceback), 130 interrupted."""
    sys.exit(_run(sys.argv[1:] if argv is None else argv))


def _run(argv: list[str]) -> int:
    command: Any = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        prog="handful",
        description="A handful of photos in, a 3D scene out. Try: handful demo",
        args=argv,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes),
    )
    try:
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
    except BrokenPipeError:
        return 0
    except OSError as e:
        if e.errno is None or e.filename is None and e.errno not in (28, 30):
            raise
        where = f" {e.filename}" if e.filename else ""
        print(f"handful: cannot read or write{where}: {e.strerror}.", file=sys.stderr)
        return 2


if __name__ == "__main__":
    main()
