"""All loss terms of the NeRF methods. A new one is one file, one weight in FieldTermsConfig and one line here."""

from __future__ import annotations

from .occlusion import Occlusion
from .patches import SmoothPatches
from .photometric import Photometric
from .pictures import Pictures
from .protocol import FieldContext as FieldContext
from .protocol import FieldTerm as FieldTerm
from .protocol import Request as Request
from .protocol import Shown as Shown
from .ranking import Continuity, Ranking

FIELD_TERMS: tuple[FieldTerm, ...] = (Photometric(), Ranking(), Continuity(), SmoothPatches(), Occlusion(), Pictures())
