"""A mesh as binary glTF 2.0: y is up, colours per vertex (linear, as glTF wants them) or a texture (PNG, inside the file). Our own writer: Open3D 0.20 writes
files that it cannot read itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from ..recon.mesh import Mesh
from ..recon.srgb import linear_from_srgb
from .glb_file import glb_start, padding
from .image_io import encode_png

__all__ = ["glb_of_mesh", "vertex_normals"]

_FLOAT, _SHORT, _INT = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963


def vertex_normals(vertices: Float[np.ndarray, "N 3"], triangles: Int[np.ndarray, "M 3"]) -> Float[np.ndarray, "N 3"]:
    """Unit normals, each the mean of its triangles' by their areas; (0, 0, 1) where there are none."""
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    faces = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(normals, triangles[:, i], faces)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.where(length > 1e-30, normals / np.maximum(length, 1e-30), np.array([0.0, 0.0, 1.0]))


def glb_of_mesh(mesh: Mesh) -> bytes:
    """The file's content. Raises HandfulError for more than the 4 GiB that a .glb holds."""
    normals = vertex_normals(mesh.vertices, mesh.triangles)
    parts: list[tuple[bytes, int | None]] = []  # with what a buffer view is for
    accessors: list[dict[str, Any]] = []

    def add(values: np.ndarray, kind: str, component: int, target: int, **more: Any) -> int:
        parts.append((values.tobytes(), target))
        accessors.append({"bufferView": len(parts) - 1, "count": len(values), "type": kind, "componentType": component, **more})
        return len(accessors) - 1

    textured = mesh.texture is not None and mesh.uvs is not None
    at = mesh.triangles.reshape(-1) if textured else np.arange(len(mesh.vertices))  # a corner's place in the texture is its own
    place = mesh.vertices[at].astype("<f4")
    primitive: dict[str, Any] = {
        "attributes": {
            "POSITION": add(place, "VEC3", _FLOAT, _VERTICES, min=place.min(0).tolist(), max=place.max(0).tolist()),
            "NORMAL": add(normals[at].astype("<f4"), "VEC3", _FLOAT, _VERTICES),
        },
        "material": 0,
    }
    # rough and not metallic: photos have the light in them already
    material: dict[str, Any] = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}, "doubleSided": True}
    document: dict[str, Any] = {"asset": {"version": "2.0", "generator": "Handful"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}]}
    if textured and mesh.uvs is not None and mesh.texture is not None:
        uv = mesh.uvs.reshape(-1, 2).astype("<f4").copy()
        uv[:, 1] = 1 - uv[:, 1]  # glTF's v goes down
        primitive["attributes"]["TEXCOORD_0"] = add(uv, "VEC2", _FLOAT, _VERTICES)
        parts.append((encode_png(torch.from_numpy(mesh.texture.astype(np.float32) / 255)), None))
        document |= {"images": [{"bufferView": len(parts) - 1, "mimeType": "image/png"}], "textures": [{"source": 0}]}
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    else:
        linear = (linear_from_srgb(torch.from_numpy(mesh.colors)).numpy() * 65535).round()
        rgba = np.concatenate([linear, np.full((len(linear), 1), 65535.0)], 1).astype("<u2")
        primitive["attributes"]["COLOR_0"] = add(rgba, "VEC4", _SHORT, _VERTICES, normalized=True)
        primitive["indices"] = add(mesh.triangles.reshape(-1).astype("<u4"), "SCALAR", _INT, _INDICES)
    document |= {"meshes": [{"primitives": [primitive]}], "materials": [material], "accessors": accessors}
    return _packed(document, parts)


def _packed(document: dict[str, Any], parts: list[tuple[bytes, int | None]]) -> bytes:
    views, binary = [], bytearray()
    for content, target in parts:
        binary += b"\0" * padding(len(binary))
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(content)} | ({} if target is None else {"target": target}))
        binary += content
    binary += b"\0" * padding(len(binary))
    document = document | {"bufferViews": views, "buffers": [{"byteLength": len(binary)}]}
    return glb_start(document, len(binary), "This mesh", "write a .ply, or choose a coarser --resolution") + bytes(binary)
