"""What a job works on: the photos, the protocol with explicit names, and the identity of the job."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from ...data.protocol import LoadOptions
from ...recon.camera import Cameras
from ...recon.capture import Capture
from ..catalog import all_settings
from ..config import to_jsonable
from ..evaluate import held_out, training_capture
from ..protocols import EvalProtocol, load_benchmark, load_holdout, load_validation, pose_free, present
from ..scan.digest import measured_digest
from ..spread import spread
from .plan import Job, Place

__all__ = ["Material", "identity", "job_name", "load_material", "photo_digests"]

HOLDOUT_SIDE = 640  # longer side of one's own photos, unless the file says otherwise: what `reconstruct` takes on a CPU


@dataclass(frozen=True)
class Material:
    """A place, loaded.

    Attributes:
        capture: every photo that is there, with its camera.
        hidden: cameras of the protocol's test photos, in its order, at the size that is asked for, where the data set keeps (some of) the photos to
            itself: there is nothing to score then, only to submit.
        submit: names of the files of a submission, in the order of the test photos; empty where the data set takes none.
    """

    capture: Capture
    protocol: EvalProtocol
    hidden: Cameras | None = None
    submit: tuple[str, ...] = ()


def load_material(place: Place) -> Material:
    """Raises CaptureError or ConfigError in one sentence for what cannot be used."""
    path = Path(place.path)
    if place.dataset == "spare":
        return _spare(path, place)
    if place.dataset == "holdout":
        side = place.max_side if place.max_side is not None or place.downscale is not None else HOLDOUT_SIDE
        capture, protocol = load_holdout(path, place.every, place.views or None, LoadOptions(max_side=side, downscale=place.downscale))
    else:
        load = load_validation if place.validation else load_benchmark
        capture, protocol = load(place.dataset, path, place.views, place.downscale)
    protocol = replace(protocol, scene=place.scene)
    if place.spread:
        protocol = spread(protocol, capture)
    if place.poses != "given":
        protocol = pose_free(protocol, place.poses)
    held_out(capture, protocol)  # now, not after the training: are there cameras to render at?
    return Material(capture, protocol)


def _spare(root: Path, place: Place) -> Material:
    from ...data.spare import load_spare

    scene = load_spare(root, place.scene, place.views, place.split, LoadOptions(max_side=place.max_side))
    size = scene.capture.views[0].image.size
    protocol = EvalProtocol(f"spare-{place.views}", "spare", place.scene, scene.train, scene.test, 0, size)
    # a submission is full size and wants every test view, so it is rendered at these cameras whether or not there is something to score
    return Material(scene.capture, protocol, scene.test_cameras, tuple(f"{place.scene}/{name}" for name in scene.test))


def photo_digests(material: Material) -> dict[str, str]:
    """sha256 of every photo the result depends on, by name: training photos, and the test photos that are there."""
    capture, protocol = material.capture, material.protocol
    train = training_capture(capture, protocol)
    test = [v for v in capture.views if v.name in set(present(protocol.test, capture.names))]
    return {v.name: v.image.digest() for v in (*train.views, *test)}


def identity(job: Job, material: Material, digests: dict[str, str]) -> str:
    """sha256 over all that decides a result: the method and its settings, the protocol, the seed, the device, every photo and every camera.

    The code is not part of it: the commit is stored with each result, and the report says when results of several are mixed.
    """
    said = {
        "label": job.method.label,
        "method": job.method.method,
        "settings": all_settings(job.method.settings),
        "protocol": to_jsonable(material.protocol),
        "seed": job.seed,
        "device": job.device,
        "photos": digests,
    }
    h = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    h.update(measured_digest(training_capture(material.capture, material.protocol)).encode())
    for cameras in (material.capture.select(tuple(digests)).cameras, material.hidden):
        if cameras is not None:
            h.update(cameras.cam_from_world.double().numpy().tobytes() + cameras.K.double().numpy().tobytes())
    return h.hexdigest()


def job_name(job: Job, material: Material, digest: str) -> str:
    """Readable, fit for a file, and unique by the first digits of the identity."""
    p = material.protocol
    text = f"{p.id}-{p.scene}-{job.method.label}-seed{job.seed}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:120] + f"-{digest[:8]}"
