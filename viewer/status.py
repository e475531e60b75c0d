"""What the page says about a run in progress. No viser here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LiveInfo", "duration", "live_text"]


@dataclass(frozen=True)
class LiveInfo:
    """State of the training, as far as it is known.

    Attributes:
        steps: how many there will be, 0 = unknown.
        psnr: of the training photos, dB; loss: the running mean of what is minimised.
        seconds_left: until the end.
        note: a short sentence to show beside it.
    """

    steps: int = 0
    psnr: float | None = None
    seconds_left: float | None = None
    note: str = ""
    loss: float | None = None


def live_text(step: int, splats: int, info: LiveInfo) -> str:
    """One line of Markdown."""
    parts = [f"**Training** step {step:,}" + (f" of {info.steps:,}" if info.steps else "")]
    if info.psnr is not None:
        parts.append(f"{info.psnr:.1f} dB")
    if splats:
        parts.append(f"{splats:,} splats")
    if info.seconds_left is not None:
        parts.append(f"{duration(info.seconds_left)} left")
    return " · ".join(parts) + (f"\n\n{info.note}" if info.note else "")


def duration(seconds: float) -> str:
    """1:05 for 65 seconds."""
    s = max(0, round(seconds))
    return f"{s // 3600}:{s % 3600 // 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"
