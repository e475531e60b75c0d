"""What an image is, in numbers (docs/raster_semantics.md). A test holds these against the C++ header."""

from __future__ import annotations

ALPHA_MIN = 1.0 / 255.0  # a splat whose alpha at a pixel is below this does not contribute there
ALPHA_MAX = 0.999  # alpha of one splat at one pixel is capped here
TRANSMITTANCE_MIN = 1e-4  # compositing stops before the splat that would bring transmittance below this
COVARIANCE_BLUR = 0.3  # added to both diagonal entries of the 2D covariance, pixels^2
NEAR_PLANE = 0.01  # splats with z-depth at or below this are not drawn
FOV_CLAMP = 1.3  # the projection's linearisation point is clamped to 1.3 x the image's tangent (plus the centre's offset)
SURFEL_BLUR = 1.0  # a surfel is at least exp(-SURFEL_BLUR d^2) of its opacity at d pixels from its centre (2DGS: a standard deviation of sqrt(1/2))
SURFEL_GRAZING = 0.01  # surfels whose normal has a smaller cosine with the line of sight are not drawn
TILE_SIZE = 16  # pixels; not part of the semantics, shared so that benchmarks count the same pairs
