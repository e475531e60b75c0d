"""Every kind of made-up scene by its name."""

from __future__ import annotations

from collections.abc import Callable

from .clutter import still_life, toys
from .scenes import Stage, blank, plane, room, single_object, tabletop

__all__ = ["KINDS"]

KINDS: dict[str, Callable[[int], Stage]] = {
    "tabletop": tabletop, "room": room, "object": single_object, "still": still_life, "toys": toys, "plane": plane, "blank": blank,
}  # fmt: skip
