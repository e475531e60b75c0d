"""Everything that adds or drops Gaussians during a run. A new one is one file, its settings in RefineConfig and one line here."""

from __future__ import annotations

from .co_prune import co_prune
from .densify import densify
from .protocol import Edit as Edit
from .protocol import RefineContext as RefineContext
from .protocol import Refinement as Refinement
from .prune_beyond import prune_beyond
from .prune_faded import prune_faded
from .unpool import unpool

REFINEMENTS: tuple[Refinement, ...] = (densify, unpool, co_prune, prune_beyond, prune_faded)
