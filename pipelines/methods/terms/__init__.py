"""All loss terms of the Gaussian methods. A new one is one file, one weight in TermsConfig and one line here."""

from __future__ import annotations

from .camera_prior import camera_prior
from .coherence import coherent_motion, flow_agreement
from .depth_agreement import depth_agreement
from .depth_continuity import depth_continuity
from .depth_correlation import depth_correlation
from .depth_ranking import depth_ranking
from .field_agreement import field_agreement
from .flat_surface import depth_distortion, normal_agreement
from .opaque import opaque
from .photometric import photometric
from .protocol import StepContext as StepContext
from .protocol import Term as Term
from .scan_depth import scan_depth
from .silhouette import silhouette
from .smoothness import smoothness
from .structure import chart_structure
from .uncertain_surface import uncertain_surface
from .virtual_view import virtual_view

TERMS: tuple[Term, ...] = (
    photometric, smoothness, depth_agreement, opaque, virtual_view, depth_correlation, depth_ranking, depth_continuity,
    coherent_motion, flow_agreement, camera_prior, uncertain_surface, field_agreement,
    depth_distortion, normal_agreement, chart_structure, silhouette, scan_depth,
)  # fmt: skip
