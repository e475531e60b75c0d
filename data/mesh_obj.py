"""A mesh as Wavefront OBJ: vertices with their colours behind them, or a texture with its material. Our own writer: Open3D does not say when a disk is full."""

from __future__ import annotations

import io

import numpy as np
import torch

from ..recon.mesh import Mesh
from .image_io import encode_png

__all__ = ["obj_of_mesh"]


def obj_of_mesh(mesh: Mesh, stem: str) -> dict[str, bytes]:
    """Names and contents of the files, the .obj last."""
    files: dict[str, bytes] = {}
    out = io.StringIO()
    out.write("# made by Handful\n")
    faces = mesh.triangles + 1
    if mesh.texture is None or mesh.uvs is None:
        np.savetxt(out, np.c_[mesh.vertices, mesh.colors], "v %.9g %.9g %.9g %.4f %.4f %.4f")
        np.savetxt(out, faces, "f %d %d %d")
    else:
        name = f"{stem.replace(' ', '_')}_texture"  # a picture of the scene may well have the name of the mesh
        files[f"{name}.png"] = encode_png(torch.from_numpy(mesh.texture.astype(np.float32) / 255))
        files[f"{name}.mtl"] = f"newmtl photos\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nmap_Kd {name}.png\n".encode()
        out.write(f"mtllib {name}.mtl\n")
        np.savetxt(out, mesh.vertices, "v %.9g %.9g %.9g")
        np.savetxt(out, mesh.uvs.reshape(-1, 2), "vt %.7f %.7f")
        out.write("usemtl photos\n")
        corners = np.arange(1, 3 * len(mesh) + 1).reshape(-1, 3)
        np.savetxt(out, np.stack([faces, corners], -1).reshape(-1, 6), "f %d/%d %d/%d %d/%d")
    return files | {f"{stem}.obj": out.getvalue().encode()}
