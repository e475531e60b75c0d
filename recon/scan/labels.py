"""What a return can come from."""

from __future__ import annotations

__all__ = ["LABELS"]

LABELS = ("ground", "structure", "movable", "noise")  # noise: leaves, and echoes of nothing
