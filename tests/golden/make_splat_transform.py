"""Makes splat_transform.json: twenty splats as PlayCanvas' splat-transform 3.7.0 writes them in each format, for tests/data/test_splat_formats.py.

    tests/outside/splat_transform.sh FOLDER        (and export what it prints)
    python tests/golden/make_splat_transform.py
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FILES = {"scene.compressed.ply": (), "scene3.spz": ("--spz-version", "3"), "scene4.spz": (), "scene.sog": (), "scene.glb": ()}


def main() -> None:
    sys.path.insert(0, str(HERE.parent))
    from handful.data.ply import write_gaussians
    from splat_scenes import some_gaussians

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_gaussians(folder / "scene.ply", some_gaussians(20, 2))
        for file, options in FILES.items():
            subprocess.run([os.environ["HANDFUL_SPLAT_TRANSFORM"], "-q", "-g", "cpu", *options, str(folder / "scene.ply"), str(folder / file)], check=True)
        found = {file: base64.b64encode((folder / file).read_bytes()).decode() for file in ("scene.ply", *FILES)}
    (HERE / "splat_transform.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
