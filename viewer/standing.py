"""Where a browser stands: read, set, and put into a link. The browser is viser's; no viser import here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np
import torch

from ..recon.camera import Cameras
from .painter import window_camera
from .splats import SCENE_DEPTH, ViewFrame

__all__ = ["camera_of", "link_to", "move", "wait_for_reset"]

RESET_SECONDS = 1.5


def camera_of(client: Any, frame: ViewFrame) -> Cameras | None:
    """World frame; None without a browser, or with one that has not said anything yet."""
    try:
        c = client.camera
        return window_camera(c.wxyz, c.position, c.fov, c.image_width, c.image_height, frame) if c.image_height > 1 else None
    except (AttributeError, AssertionError):
        return None


def move(client: Any, camera: Cameras, frame: ViewFrame, up: tuple[float, ...] | None) -> None:
    """The same picture as the camera's; who turns from there turns about `up` (world frame), where somebody has said it."""
    camera = camera.to("cpu", torch.float64)
    R = camera.cam_from_world[0, :3, :3]
    position = frame.apply(camera.centers)[0]
    scene_up = -R[1] if up is None else torch.tensor(up, dtype=torch.float64)
    level = scene_up - (scene_up @ R[0]) * R[0]
    with client.atomic():
        client.camera.up_direction = (level if float(level @ -R[1]) > 0.05 else -R[1]).numpy()
        client.camera.position = position.numpy()
        client.camera.look_at = (position + R[2] * SCENE_DEPTH).numpy()
        client.camera.fov = 2 * float(torch.atan(camera.height / 2 / camera.K[0, 1, 1]))


def link_to(client: Any, url: str, token: str | None) -> str | None:
    """To this view; viser reads it when the page is opened. None where the browser has not said where it stands."""
    try:
        c = client.camera
        view = {"Position": c.position, "LookAt": c.look_at, "Up": c.up_direction}
        values = {f"initialCamera{name}": ",".join(f"{v:.5g}" for v in vector) for name, vector in view.items()}
        values["initialCameraFov"] = f"{c.fov:.4g}"
    except AssertionError:
        return None
    if token is not None:
        values["token"] = token
    return f"{url.split('/?')[0]}/?{urlencode(values, safe=',')}"


def wait_for_reset(clients: Sequence[Any], start: np.ndarray) -> None:
    """A browser that is told another up goes back to where it came in, at `start` (viewer units), some frames later; only then can it be put where it was."""
    end = time.monotonic() + RESET_SECONDS
    while time.monotonic() < end and any(np.linalg.norm(c.camera.position - start) > 1e-3 * SCENE_DEPTH for c in clients):
        time.sleep(0.05)
