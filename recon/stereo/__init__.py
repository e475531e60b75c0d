"""Depth from the photos themselves (multi-view stereo), native with a slow torch twin."""

from .config import StereoConfig as StereoConfig
from .depth import stereo_depth as stereo_depth

__all__ = ["StereoConfig", "stereo_depth"]
