"""What moves Gaussians together. A new one is one file, its settings in MotionConfig and one line here."""

from __future__ import annotations

from collections.abc import Callable

from ..config import MotionConfig
from ..photos import Photos
from .charts import Charts
from .decoder import Decoder
from .protocol import Motion as Motion

__all__ = ["MOTIONS", "Motion"]

MOTIONS: dict[str, Callable[[MotionConfig, Photos, int], Motion]] = {"charts": Charts, "decoder": Decoder}
