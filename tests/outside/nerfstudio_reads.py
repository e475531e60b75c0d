"""Runs in nerfstudio's environment, not in ours: tells as JSON what its code understands of our files. Imports nothing of handful.

Requests, one JSON list a line:  ["transforms", FILE, METHOD, GRID]   cameras, and the rays of GRID x GRID pixels of each
                                 ["blender", FOLDER, GRID]            the same of its transforms_train.json
                                 ["colmap", FOLDER]                   a COLMAP model, by the reader nerfstudio carries
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def transforms(file: Path, method: str, grid: int) -> dict:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    center = "none" if method == "none" else "poses"
    config = NerfstudioDataParserConfig(
        data=file, eval_mode="all", orientation_method=method, center_method=center, auto_scale_poses=method != "none", downscale_factor=1
    )
    return told(config.setup().get_dataparser_outputs("train"), grid)


def blender(folder: Path, grid: int) -> dict:
    from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

    return told(BlenderDataParserConfig(data=folder).setup().get_dataparser_outputs("train"), grid)


def told(out, grid: int) -> dict:
    import torch

    cameras = out.cameras
    width, height = int(cameras.width[0]), int(cameras.height[0])
    x, y = torch.meshgrid((torch.arange(grid) + 0.5) / grid * width, (torch.arange(grid) + 0.5) / grid * height, indexing="xy")
    pixels = torch.stack([y, x], -1).reshape(-1, 2)  # nerfstudio's order is (row, column)
    rays = [cameras.generate_rays(camera_indices=i, coords=pixels) for i in range(len(cameras))]
    return {
        "files": [str(f) for f in out.image_filenames],
        "camera_to_world": cameras.camera_to_worlds.double().tolist(),
        "intrinsics": torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy], -1).double().tolist(),
        "sizes": torch.cat([cameras.width, cameras.height], -1).tolist(),
        "distortion": None if cameras.distortion_params is None else cameras.distortion_params.double().tolist(),
        "transform": out.dataparser_transform.double().tolist(),
        "scale": float(out.dataparser_scale),
        "pixels": pixels[:, [1, 0]].tolist(),
        "directions": [r.directions.double().tolist() for r in rays],
        "origins": [r.origins[0].double().tolist() for r in rays],
    }


def colmap(folder: Path) -> dict:
    from nerfstudio.data.utils.colmap_parsing_utils import read_model

    cameras, images, points = read_model(folder, ext=".bin")
    return {
        "images": {
            im.name: {
                "R": im.qvec2rotmat().tolist(),
                "t": im.tvec.tolist(),
                "model": cameras[im.camera_id].model,
                "params": cameras[im.camera_id].params.tolist(),
                "size": [cameras[im.camera_id].width, cameras[im.camera_id].height],
            }
            for im in images.values()
        },
        "points": [[*p.xyz.tolist(), *p.rgb.tolist()] for _, p in sorted(points.items())],
    }


def main() -> None:
    """Answers one line for each line on standard input: importing nerfstudio takes seconds, so one process answers all tests."""
    answers, sys.stdout = sys.stdout, sys.stderr  # the parser logs on standard output
    for line in sys.stdin:
        what, path, *rest = json.loads(line)
        print(json.dumps({"transforms": transforms, "blender": blender, "colmap": colmap}[what](Path(path), *rest)), file=answers, flush=True)


if __name__ == "__main__":
    main()
