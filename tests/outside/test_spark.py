"""Spark, a viewer for browsers (World Labs, MIT), shows our files of splats: the same picture as our rasterizer's, from the same camera."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from handful.data.splats import write_splats
from handful.recon.camera import Cameras
from handful.recon.framing import look_at
from handful.recon.gaussians import Gaussians
from handful.recon.raster.protocol import RasterOptions
from handful.recon.raster.reference import ReferenceRasterizer
from handful.recon.sh import sh_dc_from_rgb
from PIL import Image

SIZE = (320, 240)
FOV = 40.0
PAGE = """<!doctype html><style>body { margin: 0; background: #000 } canvas { display: block }</style>
<script type="importmap">{"imports": {"three": "/modules/three/build/three.module.js", "three/addons/": "/modules/three/examples/jsm/",
"@sparkjsdev/spark": "/modules/@sparkjsdev/spark/dist/spark.module.js"}}</script>
<script type="module">
import * as THREE from "three";
import { SparkRenderer, SplatMesh } from "@sparkjsdev/spark";
const q = new URLSearchParams(location.search), renderer = new THREE.WebGLRenderer({ antialias: false, preserveDrawingBuffer: true });
renderer.setSize(innerWidth, innerHeight); renderer.setPixelRatio(1); document.body.appendChild(renderer.domElement);
const scene = new THREE.Scene(), camera = new THREE.PerspectiveCamera(Number(q.get("fov")), innerWidth / innerHeight, 0.05, 100);
camera.matrixAutoUpdate = false; camera.matrix.fromArray(JSON.parse(q.get("pose"))); camera.updateMatrixWorld(true);
scene.add(new SparkRenderer({ renderer }));
const splats = new SplatMesh({ url: "/files/" + q.get("file") }); scene.add(splats);
try { await splats.initialized; window.count = splats.numSplats ?? splats.packedSplats.numSplats; } catch (e) { window.failed = String(e); }
renderer.setAnimationLoop(() => renderer.render(scene, camera));
</script>"""


@pytest.fixture(scope="module")
def modules() -> Path:
    folder = os.environ.get("HANDFUL_SPARK")
    if not folder:
        pytest.skip("needs spark")
    return Path(folder)


@pytest.fixture
def site(modules: Path, tmp_path: Path) -> Iterator[str]:
    """Serves the page, the packages and the files on this machine alone."""
    (tmp_path / "index.html").write_text(PAGE)
    (tmp_path / "modules").symlink_to(modules)
    (tmp_path / "files").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def scene(degree: int) -> Gaussians:
    """A red ball left, a green one right, a blue one on top (y is down), discs of their own; with a degree, colours that change with the direction."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.tensor([[-0.6, 0.1, 0.0], [0.6, 0.1, 0.0], [0.0, -0.7, 0.2]])
    n = 500
    away = torch.nn.functional.normalize(torch.randn(3, n, 3, generator=generator), dim=-1)
    means = (centers[:, None] + 0.3 * away).flatten(0, 1)
    rgb = torch.tensor([[0.85, 0.15, 0.1], [0.15, 0.75, 0.2], [0.15, 0.25, 0.9]]).repeat_interleave(n, 0)
    sh = torch.zeros(3 * n, (degree + 1) ** 2, 3)
    sh[:, 0] = sh_dc_from_rgb(rgb)
    sh[:, 1:] = 0.25 * torch.randn(1, (degree + 1) ** 2 - 1, 3, generator=generator)
    quats = torch.nn.functional.normalize(torch.randn(3 * n, 4, generator=generator), dim=-1)
    scales = torch.tensor([0.05, 0.03, 0.02]).log().expand(3 * n, 3)
    return Gaussians(means, quats, scales.clone(), torch.full((3 * n,), 3.0), sh)


def eye() -> Cameras:
    """From the right, a little above."""
    focal = SIZE[1] / 2 / np.tan(np.radians(FOV) / 2)
    K = torch.tensor([[[focal, 0, SIZE[0] / 2], [0, focal, SIZE[1] / 2], [0, 0, 1]]], dtype=torch.float32)
    return Cameras(look_at(torch.tensor([[1.2, -0.8, -3.0]]), torch.tensor([[0.0, -0.1, 0.0]]), torch.tensor([0.0, -1, 0])), K, *SIZE)


def pose(camera: Cameras, turned: torch.Tensor) -> str:
    """three.js' matrix, column by column: it looks along -z, y up. `turned`: from our axes to those of the file."""
    world = turned @ camera.world_from_cam[0].double() @ torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
    return json.dumps(world.T.flatten().tolist())


# the file's axes from ours: a PLY keeps them, SPZ has y up (docs/formats.md)
SAME, ABOUT_X = (torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([1.0, 1, 1, 1], [1.0, -1, -1, 1]))


@pytest.mark.parametrize(
    ("format", "ending", "turned", "degree", "least"),
    [
        ("ply", ".ply", SAME, 0, 28), ("ply", ".ply", SAME, 3, 28), ("compressed-ply", ".compressed.ply", SAME, 3, 26), ("splat", ".splat", SAME, 0, 26),
        ("spz", ".spz", ABOUT_X, 0, 26), ("spz", ".spz", ABOUT_X, 3, 26), ("sog", ".sog", SAME, 3, 26),
    ],
)  # fmt: skip
def test_spark_shows_what_we_show(site: str, browser: Any, tmp_path: Path, format: str, ending: str, turned: torch.Tensor, degree: int, least: float) -> None:
    g, camera = scene(degree), eye()
    write_splats(tmp_path / "files" / f"scene{ending}", g, format)
    ours = ReferenceRasterizer().render(g, camera, RasterOptions()).color[0].clamp(0, 1)
    page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
    try:
        page.goto(f"{site}/index.html?file=scene{ending}&fov={FOV}&pose={pose(camera, turned)}")
        page.wait_for_function("window.count !== undefined || window.failed", timeout=60_000)
        assert page.evaluate("window.failed") is None and page.evaluate("window.count") == len(g)
        best, end = 0.0, time.monotonic() + 40
        while best < least and time.monotonic() < end:
            png = page.screenshot(timeout=60_000)
            theirs = torch.from_numpy(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.float32) / 255)
            best = max(best, float(-10 * torch.log10((theirs - ours).square().mean())))
            time.sleep(0.3)
        print(f"{format}, degree {degree}: {best:.1f} dB")
        if best < least:
            Image.fromarray((torch.cat([theirs, ours], 1) * 255).byte().numpy()).save(tmp_path / "seen.png")
        assert best >= least, tmp_path / "seen.png"
    finally:
        page.close()
