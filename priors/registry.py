"""All priors by kind and name. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch

from ..recon.errors import BackendUnavailable, ConfigError
from .weight_files import weight_path

__all__ = ["PRIORS", "get_prior"]

# kind -> name -> "module:Class"; the module is imported only when asked for
PRIORS: dict[str, dict[str, str]] = {
    "depth": {
        "stereo": "depth_stereo:StereoDepth",
        "epipolar": "depth_epipolar:EpipolarDepth",
        "depth-anything-v2": "depth_anything_v2:DepthAnythingV2",
        "depth-anything-3": "pointmap_da3:DepthAnything3",
        "oracle": "oracle:OracleDepth",
    },
    "flow": {
        "dis": "flow_dis:DisFlow",
        "gmflow": "flow_gmflow:GMFlow",
        "raft": "flow_raft:Raft",
        "sea-raft": "flow_sea_raft:SeaRaft",
        "oracle": "oracle:OracleFlow",
    },
    "match": {
        "xfeat": "match_xfeat:XFeatMatches",
        "sift": "match_sift:SiftMatches",
        "disk-lightglue": "match_lightglue:DiskLightGlue",
        "aliked-lightglue": "match_lightglue:AlikedLightGlue",
        "roma": "match_roma:RomaMatches",
        "oracle": "oracle:OracleMatches",
    },
    "pointmap": {
        "depth-anything-3": "pointmap_da3:DepthAnything3Points",
        "vggt": "pointmap_vggt:Vggt",
        "mapanything": "pointmap_mapanything:MapAnything",
        "oracle": "oracle:OraclePointMaps",
    },
}


def get_prior(kind: str, name: str, device: torch.device | None = None, **options: Any) -> Any:
    """Builds the prior `name` of `kind` ("depth", "flow", "match", "pointmap"); its network, where it has one, works on `device` (None: the CPU).

    Raises ConfigError for a name that is not there, BackendUnavailable at once (not after minutes of other work) where its package or weights are missing.
    """
    if kind not in PRIORS or name not in PRIORS[kind]:
        raise ConfigError(f"There is no {kind} prior {name!r}; choose one of {', '.join(PRIORS.get(kind, {}))}.")
    module, attr = PRIORS[kind][name].split(":")
    cls = getattr(import_module(f".{module}", __package__), attr)
    if device is not None and "device" in signature(cls).parameters:
        options["device"] = str(device)
    wanting = [p.name for p in signature(cls).parameters.values() if p.default is p.empty and p.name not in options]
    if wanting:
        raise ConfigError(f"The {kind} prior {name} cannot be had by its name alone: it is given {' and '.join(wanting)} from Python (it is for tests).")
    prior = cls(**options)
    for package, how in getattr(prior, "packages", {}).items():
        if find_spec(package) is None:
            raise BackendUnavailable(f"The {kind} prior {name} needs the package {package}; run `{how}`, or choose one of {', '.join(PRIORS[kind])}.")
    for weights in getattr(prior, "weights", ()):
        weight_path(weights)
    return prior
