"""All priors by kind and name. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..recon.errors import ConfigError

__all__ = ["PRIORS", "get_prior"]

# kind -> name -> "module:Class"; the module is imported only when asked for
PRIORS: dict[str, dict[str, str]] = {
    "depth": {
        "stereo": "depth_stereo:StereoDepth",
        "oracle": "oracle:OracleDepth",
    },
    "flow": {
        "dis": "flow_dis:DisFlow",
        "gmflow": "flow_gmflow:GMFlow",
        "oracle": "oracle:OracleFlow",
    },
    "match": {
        "xfeat": "match_xfeat:XFeatMatches",
        "sift": "match_sift:SiftMatches",
        "disk-lightglue": "match_lightglue:DiskLightGlue",
        "aliked-lightglue": "match_lightglue:AlikedLightGlue",
        "oracle": "oracle:OracleMatches",
    },
}


def get_prior(kind: str, name: str, **options: Any) -> Any:
    """Builds the prior `name` of `kind` ("depth", "flow", "match"). Raises ConfigError for a name that is not there."""
    if kind not in PRIORS or name not in PRIORS[kind]:
        raise ConfigError(f"There is no {kind} prior {name!r}; choose one of {', '.join(PRIORS.get(kind, {}))}.")
    module, attr = PRIORS[kind][name].split(":")
    return getattr(import_module(f".{module}", __package__), attr)(**options)
