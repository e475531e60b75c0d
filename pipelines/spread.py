"""Training photos from all around an object: the same number and the same test photos as a benchmark's protocol, but spread by where the cameras stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

import torch
from jaxtyping import Float
from torch import Tensor

from ..data.files import natural_key
from ..recon.capture import Capture
from .protocols import EvalProtocol, load_protocol, resolve, stem, stored_path

__all__ = ["most_apart", "spread", "spread_by_rule"]


def spread(protocol: EvalProtocol, capture: Capture) -> EvalProtocol:
    """The stored choice where its photos are there (with more photos at hand the rule would choose others), else `spread_by_rule`."""
    path = stored_path(replace(protocol, id=_id(protocol)))
    if path.is_file():
        stored = load_protocol(path)
        if set(stored.train) <= {stem(n) for n in capture.names}:
            return replace(stored, scene=protocol.scene, size=protocol.size)
    return spread_by_rule(protocol, capture)


def spread_by_rule(protocol: EvalProtocol, capture: Capture) -> EvalProtocol:
    """As many training photos, those nearest to the means of as many groups of cameras (k-means of where they stand, as ZeroRF, Shi et al. 2024, picks its photos), among
    all photos of the folders the protocol trains on but for its test photos; the id says so. Raises CaptureError where there are too few."""
    folders = {PurePosixPath(n).parent for n in resolve(protocol.train, capture.names)}
    tested = set(resolve(protocol.test, capture.names))
    names = sorted((n for n in capture.names if PurePosixPath(n).parent in folders and n not in tested), key=natural_key)
    cameras = capture.select(tuple(names)).cameras
    assert cameras is not None, "a benchmark's capture has cameras"
    return replace(protocol, id=_id(protocol), train=tuple(stem(names[i]) for i in most_apart(cameras.centers, len(protocol.train))))


def _id(protocol: EvalProtocol) -> str:
    return f"{protocol.id}-spread"


def most_apart(places: Float[Tensor, "N 3"], k: int) -> Sequence[int]:
    """Indices, rising, of `k` places, each the nearest to the mean of its group by Lloyd's k-means; it starts from places each farthest from those before, the first
    nearest to the middle of all, so the same places give the same answer."""
    places = places.double()
    start = [int(torch.linalg.vector_norm(places - places.mean(0), dim=1).argmin())]
    while len(start) < k:
        start.append(int(torch.cdist(places, places[start]).amin(1).argmax()))
    means, group = places[start], torch.full((len(places),), -1)
    for _ in range(100):
        before, group = group, torch.cdist(places, means).argmin(1)
        if torch.equal(before, group):
            break
        means = torch.stack([places[group == j].mean(0) if bool((group == j).any()) else means[j] for j in range(k)])
    away, picked = torch.cdist(means, places), []
    for row in away:
        row = row.clone()
        row[picked] = torch.inf
        picked.append(int(row.argmin()))
    return sorted(picked)
