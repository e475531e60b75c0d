"""Writes tests/golden/raster_*.npz: scenes, their images and directional derivatives, by the numpy program beside this file.

    python -m tests.golden.make_raster_golden        (from the repository's root)

Derivatives are central differences of a weighted sum of all images along random directions, at two step sizes that must agree.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .splat_numpy import Images, Scene, away_from_jumps, render

HERE = Path(__file__).resolve().parent
DIRECTIONS = 2


def _look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross([0.0, 1.0, 0.1], z)
    x /= np.linalg.norm(x)
    R = np.stack([x, np.cross(z, x), z])
    return np.block([[R, -(R @ eye)[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])


def _scene(seed: int, n: int, degree: int, scale: float, logit: float, size: tuple[int, int], **kw) -> Scene:
    rng = np.random.default_rng(seed)
    w, h = size
    eyes = np.array([[0.4, -0.3, -4.0], [-1.6, 0.5, -3.4]])
    K = np.array([[[0.9 * w, 0, 0.53 * w], [0, 0.95 * w, 0.46 * h], [0, 0, 1]], [[1.2 * w, 0, 0.5 * w], [0, 1.1 * w, 0.5 * h], [0, 0, 1]]])
    k = (degree + 1) ** 2
    means = rng.normal(0, 1, (n, 3)) * [1.6, 1.2, 0.9]
    means[:4] = [[0, 0, -9], [30, 2, 5], [-2.2, 0.1, -3.0], [3.4, 0, 0.5]]  # behind, far outside, beside a camera, at the border
    f = np.float32
    return Scene(
        means=means.astype(f),
        quats=rng.normal(0, 1, (n, 4)).astype(f),
        log_scales=(scale + rng.normal(0, 0.6, (n, 3))).astype(f),
        logits=(logit + rng.normal(0, 1.8, n)).astype(f),
        sh=(rng.normal(0, 1, (n, k, 3)) * np.where(np.arange(k) == 0, 0.8, 0.2)[:, None]).astype(f),
        cam_from_world=np.stack([_look_at(e, np.array([0.1, 0.0, 0.2])) for e in eyes]).astype(f),
        K=K.astype(f),
        width=w,
        height=h,
        **kw,
    )


SCENES = {
    "mixed": lambda: _scene(1, 60, 3, -1.6, 0.0, (40, 28), background=(0.2, 0.5, 0.9)),
    "antialiased": lambda: _scene(2, 80, 1, -3.6, 1.5, (37, 19), antialiased=True),  # below a pixel, a size no tile divides
    "opaque": lambda: _scene(3, 50, 0, -0.9, 5.5, (33, 24), background=(1.0, 1.0, 1.0)),  # alpha is capped, compositing stops
    "degree2": lambda: _scene(
        4, 40, 3, -1.3, 0.0, (24, 24), sh_degree=2, opacity_scale=np.float32(np.arange(40) % 5 != 0) / np.float32(0.8)
    ),
}


def weights(images: Images) -> dict[str, np.ndarray]:
    """One number per pixel and output, by a formula and not by a generator whose stream may change with numpy."""
    out = {}
    for i, k in enumerate(("color", "alpha", "depth", "normal")):
        shape = getattr(images, k).shape
        out[k] = np.sin(1.7 * np.arange(np.prod(shape)) + i).reshape(shape)
    return out


def loss(images: Images, w: dict[str, np.ndarray]) -> float:
    return float(sum((getattr(images, k) * v).sum() for k, v in w.items()))


def derivatives(scene: Scene, w: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    base = scene.float64()
    for name in Scene.inputs:
        value = getattr(base, name)
        free = np.ones_like(value)
        if name == "cam_from_world":
            free[:, 3] = 0
        if name == "K":
            free = np.broadcast_to(np.array([[1.0, 0, 1], [0, 1, 1], [0, 0, 0]]), value.shape)
        d = (rng.normal(size=(DIRECTIONS, *value.shape)) * free).astype(np.float32)
        slopes = []
        for step in (2e-6, 1e-6):
            ends = [[loss(render(Scene(**{**base.__dict__, name: value + sign * step * one})), w) for sign in (1, -1)] for one in d]
            slopes.append([(a - b) / (2 * step) for a, b in ends])
        np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-5, atol=1e-6 * np.abs(slopes[1]).max())
        out[f"direction_{name}"], out[f"slope_{name}"] = d, np.array(slopes[1])
    return out


def main() -> None:
    for name, make in SCENES.items():
        rng = np.random.default_rng(99)
        scene = away_from_jumps(make(), 1e-4, rng)
        images = render(scene)
        w = weights(images)
        data: dict[str, np.ndarray] = {k: getattr(scene, k) for k in Scene.inputs}
        data |= {k: getattr(images, k).astype(np.float32) for k in ("color", "alpha", "depth", "normal")}
        data |= {
            "size": np.array([scene.width, scene.height]),
            "background": np.array(scene.background),
            "antialiased": np.array(scene.antialiased),
        }
        data["sh_degree"] = np.array(-1 if scene.sh_degree is None else scene.sh_degree)
        data["opacity_scale"] = np.zeros(0, np.float32) if scene.opacity_scale is None else scene.opacity_scale
        data |= derivatives(scene, w, rng)
        np.savez_compressed(HERE / f"raster_{name}.npz", **data)  # pyright: ignore[reportArgumentType]
        print(name, images.hit, f"margin {images.margin.min():.1e}", f"{(HERE / f'raster_{name}.npz').stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
