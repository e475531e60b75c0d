"""Small networks that come with Handful, as files: half-precision weights and the settings they were built from, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..recon.errors import BackendUnavailable

__all__ = ["packed", "unpacked"]

Net = TypeVar("Net", bound=nn.Module)


def packed(net: nn.Module, config: Any) -> bytes:
    """The file's bytes. `config`: the dataclass that the network was built from. Half precision: the weights are small beside what they are added to."""
    from safetensors.torch import save

    tensors = {k: v.detach().half().contiguous() for k, v in net.state_dict().items()}
    return save(tensors, {"config": json.dumps(asdict(config))})


def unpacked(path: Path, build: Callable[..., Net], what: str, command: str) -> Net:
    """The network, ready to use. `build` takes the settings by name. Raises BackendUnavailable, which names `command`, where the weights are missing or of another shape."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as f:
            net = build(**json.loads((f.metadata() or {})["config"]))
            net.load_state_dict({k: f.get_tensor(k).float() for k in f.keys()})  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as e:
        raise BackendUnavailable(f"{path} holds no weights for {what} ({str(e).splitlines()[0]}); make them with `{command}`.") from e
    return net.eval()
