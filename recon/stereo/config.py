"""Settings of the multi-view stereo."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StereoConfig"]


@dataclass(frozen=True)
class StereoConfig:
    """Plane sweep, semi-global aggregation and checks.

    Attributes:
        max_side: photos larger than this (longer side, pixels) are matched at this size; the depth is enlarged again.
        planes_min, planes_max: bounds of the number of inverse depths; in between one plane per `plane_step_px` of disparity.
        plane_step_px: disparity between two planes, in pixels of the source where it is largest.
        max_sources: photos compared with each photo at most.
        noise: grey-level noise in [0, 1]; windows with less texture than this match nowhere.
        second_weight: weight of the second-best source in the cost; the best has the rest.
        unknown_cost: cost in [0, 1] where no other photo sees the point.
        p1, p2, p2_min, p2_colour: penalties of the aggregation (cost units, 200 = no correlation) for a step of one plane and for a larger
            step; the latter falls from p2 to p2_min with the colour step exp(-step / p2_colour), step in 8-bit levels.
        paths: directions of the aggregation: 2, 4 or 8.
        refine_rounds: rounds of slanted-plane refinement, each before and after the views see each other's depth; 0 = none (native only).
        heal_rounds: rounds after what no view confirmed was replaced by the smooth continuation of the rest.
        heal_patch: only connected patches of this share of the photo or more are continued.
        heal_trust: how much the continuation counts against a match, relative to `prior_weight`.
        large_planes: number of large planes of the scene that every pixel tries.
        window: half width of the refinement's window, every second pixel used.
        colour_scale: a tap's weight falls by e for this mean channel difference to the centre (8-bit levels).
        prior_weight: cost of leaving the aggregated depth by two planes or more.
        smooth_weight: cost of leaving the planes of the neighbours of like colour by a plane step or more.
        agree_weight, agree_px: cost of disagreeing with the other view's depth by agree_px or more.
        check_px, check_relative: the largest reprojection error (pixels) and relative depth difference of two views that agree.
        valid_above: pixels of less confidence are not valid.
        speckle: connected patches of valid depth smaller than this many pixels are dropped.
    """

    max_side: int = 800
    planes_min: int = 64
    planes_max: int = 192
    plane_step_px: float = 0.75
    max_sources: int = 4
    noise: float = 0.004
    second_weight: float = 0.1
    unknown_cost: float = 0.8
    p1: int = 12
    p2: int = 90
    p2_min: int = 25
    p2_colour: float = 12.0
    paths: int = 8
    refine_rounds: int = 3
    heal_rounds: int = 2
    heal_patch: float = 0.002
    heal_trust: float = 2.0
    large_planes: int = 4
    window: int = 4
    colour_scale: float = 12.0
    prior_weight: float = 0.06
    smooth_weight: float = 0.15
    agree_weight: float = 0.3
    agree_px: float = 3.0
    check_px: float = 1.0
    check_relative: float = 0.02
    valid_above: float = 0.5
    speckle: int = 100
