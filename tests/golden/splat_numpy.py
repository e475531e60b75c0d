"""A second opinion: docs/raster_semantics.md in numpy and float64, one Gaussian after the other over the whole image.

Shares nothing with recon/: matrices are multiplied out, conics inverted, harmonics come from the Legendre recursion. Slow, plain, for tests only.
It also says how far a scene stays from the places where the picture jumps, per Gaussian.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import factorial

import numpy as np

ALPHA_MIN, ALPHA_MAX, T_MIN, BLUR, CLAMP = 1 / 255, 0.999, 1e-4, 0.3, 1.3


@dataclass
class Scene:
    means: np.ndarray  # N,3
    quats: np.ndarray  # N,4 wxyz
    log_scales: np.ndarray  # N,3
    logits: np.ndarray  # N
    sh: np.ndarray  # N,K,3
    cam_from_world: np.ndarray  # V,4,4
    K: np.ndarray  # V,3,3
    width: int
    height: int
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    antialiased: bool = False
    sh_degree: int | None = None
    near: float = 0.01
    opacity_scale: np.ndarray | None = None

    inputs = ("means", "quats", "log_scales", "logits", "sh", "cam_from_world", "K")

    def float64(self) -> Scene:
        kw = {k: np.asarray(getattr(self, k), np.float64) for k in self.inputs}
        return Scene(**{**self.__dict__, **kw})


@dataclass
class Images:
    color: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    # smallest distance of each Gaussian to any jump, over all cameras: logarithms for alpha and transmittance, else plain numbers
    margin: np.ndarray
    hit: dict[str, int] = field(default_factory=dict)  # how often each rule acted


def rotation(q: np.ndarray) -> np.ndarray:
    """Rodrigues' formula of the axis and angle a quaternion stands for."""
    q = q / np.sqrt(np.sum(q * q))
    s = np.sqrt(np.sum(q[1:] ** 2))
    axis = q[1:] / s if s > 0 else np.zeros(3)
    angle = 2 * np.arctan2(s, q[0])
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def harmonics(d: np.ndarray, degree: int) -> np.ndarray:
    """Real spherical harmonics with the Condon-Shortley phase, l = 0.., m = -l..l, by the associated Legendre recursion."""
    x, y, z = d
    theta_sin, phi = np.sqrt(x * x + y * y), np.arctan2(y, x)
    P: dict[tuple[int, int], float] = {(0, 0): 1.0}
    for m in range(degree + 1):
        if m > 0:
            P[m, m] = -(2 * m - 1) * theta_sin * P[m - 1, m - 1]
        if m + 1 <= degree:
            P[m + 1, m] = (2 * m + 1) * z * P[m, m]
        for n in range(m + 2, degree + 1):
            P[n, m] = ((2 * n - 1) * z * P[n - 1, m] - (n + m - 1) * P[n - 2, m]) / (n - m)
    out = []
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            a = abs(m)
            norm = np.sqrt((2 * n + 1) / (4 * np.pi) * factorial(n - a) / factorial(n + a)) * (np.sqrt(2) if a else 1)
            out.append(norm * P[n, a] * (np.cos(a * phi) if m >= 0 else np.sin(a * phi)))
    return np.array(out)


def _finite(s: Scene, i: int) -> bool:
    return all(np.all(np.isfinite(a[i])) for a in (s.means, s.quats, s.log_scales, s.logits, s.sh)) and bool(np.sum(s.quats[i] ** 2) > 0)


def _splat(s: Scene, i: int, w2c: np.ndarray, K: np.ndarray) -> dict | None:
    """Everything of one Gaussian in one camera; None where it is not drawn."""
    if not _finite(s, i):
        return None
    R, t = w2c[:3, :3], w2c[:3, 3]
    p = R @ s.means[i] + t
    x, y, z = p
    if not z > s.near:
        return None
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margins = [abs(z - s.near) / s.near]
    slope = []
    for a, f, c, n in ((x / z, fx, cx, s.width), (y / z, fy, cy, s.height)):
        m = (CLAMP - 1) * 0.5 * n / f
        lo, hi = -(c / f + m), (n - c) / f + m
        slope.append(min(max(a, lo), hi))
        margins.append(min(abs(a - lo), abs(a - hi)))
    J = np.array([[fx / z, 0, -fx * slope[0] / z], [0, fy / z, -fy * slope[1] / z]])
    Rq = rotation(s.quats[i])
    cov3 = Rq @ np.diag(np.exp(2 * s.log_scales[i])) @ Rq.T
    cov = J @ R @ cov3 @ R.T @ J.T
    blurred = cov + BLUR * np.eye(2)
    opacity = 1 / (1 + np.exp(-s.logits[i]))
    if s.opacity_scale is not None:
        opacity *= s.opacity_scale[i]
    if s.antialiased:
        opacity *= np.sqrt(max(np.linalg.det(cov) / np.linalg.det(blurred), 0))
    center = -R.T @ t
    d = s.means[i] - center
    degree = int(np.sqrt(s.sh.shape[1])) - 1
    degree = degree if s.sh_degree is None else min(s.sh_degree, degree)
    raw = 0.5 + harmonics(d / np.linalg.norm(d), degree) @ s.sh[i, : (degree + 1) ** 2]
    margins.append(np.min(np.abs(raw)))
    k = int(np.argmin(s.log_scales[i]))
    n = R @ Rq[:, k]
    margins.append(abs(n @ p) / np.linalg.norm(p))
    others = np.delete(s.log_scales[i], k)
    margins.append(np.min(others) - s.log_scales[i, k])
    return {
        "uv": np.array([fx * x / z + cx, fy * y / z + cy]),
        "conic": np.linalg.inv(blurred),
        "opacity": opacity,
        "rgb": np.maximum(raw, 0),
        "z": z,
        "normal": -n if n @ p > 0 else n,
        "margin": min(margins),
        "clamped": slope[0] != x / z or slope[1] != y / z,
        "dark": bool(np.any(raw < 0)),
    }


def render(scene: Scene) -> Images:
    s = scene.float64()
    n, v, w, h = len(s.means), len(s.cam_from_world), s.width, s.height
    px, py = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    out = Images(np.zeros((v, h, w, 3)), np.zeros((v, h, w)), np.zeros((v, h, w)), np.zeros((v, h, w, 3)), np.full(n, np.inf))
    hit = {"skipped": 0, "faint": 0, "capped": 0, "stopped": 0, "clamped": 0, "dark": 0}
    for c in range(v):
        splats = {i: d for i in range(n) if (d := _splat(s, i, s.cam_from_world[c], s.K[c])) is not None}
        hit["skipped"] += n - len(splats)
        order = sorted(splats, key=lambda i: (splats[i]["z"], i))
        for a, b in zip(order, order[1:], strict=False):
            gap = splats[b]["z"] - splats[a]["z"]
            out.margin[[a, b]] = np.minimum(out.margin[[a, b]], gap)
        T, stopped = np.ones((h, w)), np.zeros((h, w), bool)
        for i in order:
            g = splats[i]
            dx, dy = px - g["uv"][0], py - g["uv"][1]
            q = g["conic"][0, 0] * dx * dx + 2 * g["conic"][0, 1] * dx * dy + g["conic"][1, 1] * dy * dy
            with np.errstate(under="ignore"):
                raw = g["opacity"] * np.exp(-0.5 * q)
            alpha = np.minimum(raw, ALPHA_MAX)
            after = T * (1 - alpha)
            active = ~stopped & (alpha >= ALPHA_MIN)
            with np.errstate(divide="ignore"):
                near = [
                    np.abs(np.log(raw[~stopped] / ALPHA_MIN)),
                    np.abs(np.log(raw[~stopped] / ALPHA_MAX)),
                    np.abs(np.log(after[active] / T_MIN)),
                ]
            out.margin[i] = min(out.margin[i], g["margin"], *(m.min() for m in near if m.size))
            stopped |= active & (after < T_MIN)
            draw = active & ~stopped
            weight = np.where(draw, alpha * T, 0)
            out.color[c] += weight[..., None] * g["rgb"]
            out.normal[c] += weight[..., None] * g["normal"]
            out.alpha[c] += weight
            out.depth[c] += weight * g["z"]
            T = np.where(draw, after, T)
            hit["faint"] += int((~active).sum())
            hit["capped"] += int((draw & (raw > ALPHA_MAX)).sum())
            hit["clamped"] += int(g["clamped"] and draw.any())
            hit["dark"] += int(g["dark"] and draw.any())
        hit["stopped"] += int(stopped.sum())
        out.color[c] += T[..., None] * np.array(s.background)
        out.depth[c] = np.where(out.alpha[c] > 0, out.depth[c] / np.where(out.alpha[c] > 0, out.alpha[c], 1), 0)
    out.hit = hit
    return out


def away_from_jumps(scene: Scene, margin: float, rng: np.random.Generator, tries: int = 50) -> Scene:
    """The scene with those Gaussians that come closer than `margin` to a jump moved a little until none does.

    float32 shifts alpha by about 1e-6 relative: a margin of 1e-4 keeps every backend on the same side everywhere.
    """
    for _ in range(tries):
        bad = np.flatnonzero(render(scene).margin < margin)
        if not len(bad):
            return scene
        means, logits, quats = scene.means.copy(), scene.logits.copy(), scene.quats.copy()
        means[bad] += rng.normal(0, 0.01, (len(bad), 3)).astype(means.dtype)
        logits[bad] += rng.normal(0, 0.05, len(bad)).astype(logits.dtype)
        quats[bad] += rng.normal(0, 0.05, (len(bad), 4)).astype(quats.dtype)
        scene = Scene(**{**scene.__dict__, "means": means, "logits": logits, "quats": quats})
    raise RuntimeError(f"{len(bad)} Gaussians still within {margin} of a jump")
